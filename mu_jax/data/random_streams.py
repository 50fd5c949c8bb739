"""Independent random streams on the host, one a purpose."""

import zlib

import numpy as np


def host_stream(seed: int, purpose: str) -> np.random.Generator:
    """The NumPy generator of one purpose under one seed, independent of every other purpose's.

    The purpose enters by its CRC-32, not by `hash`, which changes from one Python process to the next.
    """
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])

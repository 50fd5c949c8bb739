"""Which examples each step sees.

An epoch is a fresh permutation of the run's examples, and the epochs form one endless stream that is cut into
batches. So every batch is full and holds real examples only (a filler of weight zero would still enter batch-norm
statistics), no example is dropped at the end of an epoch, and the first E epochs show each example exactly E times.
"""

import zlib
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

# NumPy pads seeds with zeros, so that [seed, x] and [seed, x, 0] are one stream: this sets batches apart from the
# streams that draw splits and label noise.
_STREAM = zlib.crc32(b"batches")


def batch_indices(
    index: Int[np.ndarray, "M"], batch_size: int, first: int, count: int, seed: Sequence[int]
) -> Int[np.ndarray, "count B"]:
    """Rows of the data in steps first … first + count − 1, the same however a run is cut into chunks.

    `seed` (non-negative integers) names the stream; epoch e's permutation depends on `seed`, e and `index` alone.
    """
    size = len(index)
    begin, end = first * batch_size, (first + count) * batch_size
    epochs = range(begin // size, -(-end // size))
    stream = np.concatenate(
        [np.random.default_rng([_STREAM, *seed, epoch]).permutation(index) for epoch in epochs] or [index[:0]]
    )
    offset = begin - epochs.start * size
    return stream[offset : offset + count * batch_size].reshape(count, batch_size).astype(np.int32)

"""All that the checkpoint of a step depends on, as a key: equal keys, equal parameters.

Public code leaves the seed, the settings and the remainder of a shard out of its keys, and so keeps models that have
seen a deleted example.
"""

import hashlib
import itertools
import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from mu_jax.config import InputError
from mu_jax.unlearning.sisa.sharding import Sharding, check_place


def slice_key(
    sharding: Sharding,
    shard: int,
    slice: int,
    *,
    fingerprint: Callable[[np.ndarray], bytes],
    seed: int,
    recipe: Mapping[str, Any],
) -> str:
    """SHA-256, in hexadecimal, of all that the checkpoint after step `slice` depends on: equal keys, equal parameters.

    That is `seed`, `shard`, the number of slices R, `recipe` (all else that training reads, as JSON: keys are strings;
    their order does not matter), and of each of slices 0 … `slice` by itself its positions and what `fingerprint`
    returns for them: a digest of the data, called with int64[n], sorted. Later slices do not enter, nor do other
    shards, nor anything deleted. InputError for a shard or slice that is not there, and for a recipe that JSON cannot
    hold.
    """
    check_place("slice", slice, len(sharding.slices[0]))
    return next(itertools.islice(_keys(sharding, shard, fingerprint, seed, recipe), slice, None))


def slice_keys(
    sharding: Sharding,
    shard: int,
    *,
    fingerprint: Callable[[np.ndarray], bytes],
    seed: int,
    recipe: Mapping[str, Any],
) -> tuple[str, ...]:
    """`slice_key` of every slice of a shard, reading the data once instead of R/2 times."""
    return tuple(_keys(sharding, shard, fingerprint, seed, recipe))


def _keys(
    sharding: Sharding,
    shard: int,
    fingerprint: Callable[[np.ndarray], bytes],
    seed: int,
    recipe: Mapping[str, Any],
) -> Iterator[str]:
    check_place("shard", shard, len(sharding.slices))
    slices = sharding.slices[shard]
    header = {"seed": int(seed), "shard": int(shard), "slices": len(slices), "recipe": recipe}
    try:
        text = json.dumps(header, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"recipe cannot be written as JSON ({error}), but expected strings, finite numbers, bool, None, lists and "
            "dicts; convert what is none of these."
        ) from None
    digest = hashlib.sha256(text.encode())
    for positions in slices:
        data = fingerprint(positions) if positions.size else b""
        # Lengths first: no two lists of slices may be one string of bytes.
        digest.update(np.array([positions.size, len(data)], "<i8").tobytes())
        digest.update(positions.astype("<i8").tobytes())
        digest.update(data)
        yield digest.hexdigest()

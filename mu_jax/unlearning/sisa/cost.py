"""What deletions from a SISA ensemble cost in retraining: expected in closed form, and simulated without training.

Bourtoule et al., "Machine Unlearning", 2021. N examples lie in S shards of R slices, all as even as whole numbers
allow. Step i of a shard trains on its first i slices, its *prefix* of m examples, for 2·e₀/(R + 1) epochs, and a
deletion retrains every step whose prefix held the example. The unit throughout is one example in training for the e₀
epochs that a single model trains: a pass over m examples in a step counts m·2/(R + 1). In it retraining one model on
all that is left costs as many as are left, and so, but for remainders, does fitting an ensemble.

Requests strike prefixes, each on its own account, so every figure here is a sum over prefixes. Only steps that are
retrained are counted: not the time to restore a checkpoint, and not the rounding of a slice's epochs to whole ones.
"""

import itertools
import math
from collections.abc import Sequence

import numpy as np
from jaxtyping import Int

from mu_jax.config import InputError

NEGLIGIBLE_LOG = -750.0
"""A probability below e to this power is 0 in float64."""


def expected_cost(
    examples: int, shards: int, slices: int, requests: int, *, batched: bool = True
) -> dict[str, float]:
    """The mean cost of K requests for distinct examples, all equally likely, and what that saves.

    With w = 2/(R + 1), and the sums over the prefixes of all shards, m examples each:

        batched:     w·Σ m·(1 − P₀(m)) − m·K/N,   P₀(m) = C(N − m, K) / C(N, K), no request in the prefix
        sequential:  w·Σ m·(m − 1) / (N·(N − 1)) · Σ_{k=1..K} (N − k)

    `examples_retrained` is the cost, `speed_up` that of retraining one model once for the batch (N − K) or once a
    request (Σ N − k) over it; it is inf where nothing is left to retrain. Sequential requests are carried out one by
    one, so their speed-up is the same for any K.

    Both are exact, for remainders too. The paper's forms, N(1 − (1 − 1/S)^K) − K and
    (N/S + 1/(2S) − 1)K − K²/(2S) at R = 1, draw each request's shard independently, as if examples came back;
    they are the limits for N much larger than K and S, and 8% too low for 5 requests to 20 examples in 4 shards.
    InputError for sizes that do not fit one another.

    >>> for requests in (8, 18, 39):
    ...     print(round(expected_cost(10_000_000, 20, 50, requests)["speed_up"], 2))
    4.23
    2.24
    1.42
    """
    examples, shards, slices = _checked_sizes(examples, shards, slices)
    requests = _checked_requests(requests, examples)
    lengths, shards_of_kind = _prefixes(examples, shards, slices)
    total = 0.0
    for length, how_many in zip(lengths, shards_of_kind, strict=True):
        for m in length.tolist():
            if batched:
                struck = -math.expm1(_log_chance_untouched(examples, requests, m))
                total += how_many * (m * struck - m * requests / examples)
            else:
                total += how_many * m * (m - 1) / (examples * (examples - 1))
    if not batched:
        total *= _full_cost(examples, requests, batched)
    # Where nothing is retrained the terms cancel up to their rounding.
    cost = 2 / (slices + 1) * total if total > 1e-12 * requests else 0.0
    return {"examples_retrained": cost, "speed_up": _ratio(_full_cost(examples, requests, batched), cost)}


def simulate_cost(
    examples: int,
    shards: int,
    slices: int,
    requests: int | Int[np.ndarray, "K"] | Int[np.ndarray, "runs K"],
    *,
    batched: bool = True,
    runs: int = 100,
    seed: int = 0,
) -> dict[str, float]:
    """`expected_cost` by counting, over requests drawn at random or given.

    A number draws that many distinct examples in each of `runs` runs. An array gives the examples themselves, one
    row a run, by their position when shards are laid end to end, slices in order, larger ones first
    (`even_sizes`): so requests may be as uneven as one likes; `runs` and `seed` are then not used. Under uniform
    sharding a given set costs no more or less than a random one, in the mean.

    Beside both means come their standard errors, `examples_retrained_error` and `speed_up_error` (first order); 0 for
    a single given row, which leaves nothing to chance. `speed_up` is over the mean cost. Memory grows with K and with
    the slices of the shards that are struck, and with N only where more than N/50 are requested at random: 5,000 of
    10 million examples in 1,000 shards of 50 slices took 1 ms a run on one core.
    """
    examples, shards, slices = _checked_sizes(examples, shards, slices)
    if isinstance(requests, np.ndarray):
        drawn = _checked_positions(requests, examples)
        count, given = drawn.shape[1], True
    else:
        _check_whole("runs", runs, 2, "a standard error needs two")
        rng, count, given = np.random.default_rng(seed), _checked_requests(requests, examples), False
        drawn = (rng.choice(examples, count, replace=False, shuffle=False) for _ in range(runs))
    costs = np.array([_cost(one, examples, shards, slices, batched) for one in drawn])
    mean = float(costs.mean())
    error = 0.0 if given and costs.size == 1 else float(costs.std(ddof=1) / math.sqrt(costs.size))
    speed_up = _ratio(_full_cost(examples, count, batched), mean)
    return {
        "examples_retrained": mean,
        "speed_up": speed_up,
        "examples_retrained_error": error,
        "speed_up_error": speed_up * error / mean if mean else 0.0,
    }


def speed_up_table(
    examples: int,
    shards: Sequence[int],
    slices: Sequence[int],
    requests: Sequence[int],
    *,
    batched: bool = True,
) -> list[dict[str, int | float]]:
    """`expected_cost` for every combination, one row each: a curve is the consecutive rows of one S and R.

    Rows have `examples`, `shards`, `slices`, `requests`, `examples_retrained` and `speed_up`; InputError where any
    combination does not fit.
    """
    return [
        {"examples": examples, "shards": s, "slices": r, "requests": k}
        | expected_cost(examples, s, r, k, batched=batched)
        for s, r, k in itertools.product(shards, slices, requests)
    ]


def even_sizes(total: int, parts: int) -> Int[np.ndarray, "parts"]:
    """`total` in whole parts that differ by at most one, the larger ones first, as `np.array_split` does.

    >>> even_sizes(11, 4)
    array([3, 3, 3, 2])
    """
    small, larger = divmod(total, parts)
    return small + (np.arange(parts) < larger)


def _prefixes(examples: int, shards: int, slices: int) -> tuple[Int[np.ndarray, "2 R"], tuple[int, int]]:
    """Prefix lengths of the larger and of the smaller shards, and how many shards there are of either kind."""
    small, larger = divmod(examples, shards)
    lengths = np.stack([np.cumsum(even_sizes(size, slices)) for size in (small + 1, small)])
    return lengths, (larger, shards - larger)


def _log_chance_untouched(examples: int, requests: int, length: int) -> float:
    """log of C(N − m, K) / C(N, K), to float64's relative precision also where it is almost 0."""
    few, many = sorted((requests, length))
    # It is at most −m·K/N: so products of more than some 10⁵ factors are never needed for 10 million examples.
    if few + many > examples or few * many > -NEGLIGIBLE_LOG * examples:
        return -math.inf
    # Differences of log-factorials would lose seven digits here.
    return float(np.log1p(-many / (examples - np.arange(few))).sum())


def _cost(positions: Int[np.ndarray, "K"], examples: int, shards: int, slices: int, batched: bool) -> float:
    """The cost of one set of requests; the order does not matter to it, even one by one."""
    lengths, (larger, _) = _prefixes(examples, shards, slices)
    ends = np.cumsum(even_sizes(examples, shards))
    shard = np.searchsorted(ends, positions, side="right")
    inside = positions - np.where(shard > 0, ends[shard - 1], 0)
    slice_of = np.where(shard < larger, *(np.searchsorted(kind, inside, side="right") for kind in lengths))
    struck, row = np.unique(shard, return_inverse=True)
    deleted = np.bincount(row * slices + slice_of, minlength=struck.size * slices)
    deleted = np.cumsum(deleted.reshape(-1, slices), axis=1)  # in each prefix
    length = lengths[(struck >= larger).astype(np.intp)]
    if batched:
        retrained = np.where(deleted > 0, length - deleted, 0)
    else:
        # The k-th request in a prefix leaves m − k of it to retrain.
        retrained = length * deleted - deleted * (deleted + 1) // 2
    return 2 / (slices + 1) * float(retrained.sum())


def _full_cost(examples: int, requests: int, batched: bool) -> float:
    """Retraining one model on all that is left, once or after each request."""
    if batched:
        return float(examples - requests)
    return requests * examples - requests * (requests + 1) / 2


def _ratio(full: float, cost: float) -> float:
    return full / cost if cost else math.inf


def _check_whole(name: str, value: object, low: int, why: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < low:
        raise InputError(f"{name} is {value!r}, but expected a whole number of at least {low}: {why}.")


def _checked_sizes(examples: object, shards: object, slices: object) -> tuple[int, int, int]:
    for name, value in (("examples", examples), ("shards", shards), ("slices", slices)):
        _check_whole(name, value, 1, "an ensemble without shards is 1 shard, and one without slices 1 slice")
    if shards * slices > examples:
        raise InputError(
            f"{shards} shards of {slices} slices were asked of {examples} examples, but expected at least one "
            "example a slice; use fewer shards or slices."
        )
    return int(examples), int(shards), int(slices)  # NumPy's own would overflow


def _checked_requests(requests: object, examples: int) -> int:
    _check_whole("requests", requests, 1, "without any there is no cost to compare")
    if requests >= examples:
        raise InputError(
            f"requests is {requests} of {examples} examples, but expected fewer, so that something is left to "
            "retrain; ask for fewer."
        )
    return int(requests)


def _checked_positions(requests: np.ndarray, examples: int) -> Int[np.ndarray, "runs K"]:
    rows = np.atleast_2d(requests)
    if rows.ndim != 2 or rows.dtype.kind not in "iu" or not 0 < rows.shape[1] < examples or not rows.size:
        raise InputError(
            f"requests has shape {requests.shape} and dtype {requests.dtype}, but expected integers [K] or [runs, K] "
            f"with K from 1 to {examples - 1}, fewer than the {examples} examples; give one row of positions a run."
        )
    if rows.min() < 0 or rows.max() >= examples:
        raise InputError(
            f"requests run from {rows.min()} to {rows.max()}, but expected positions from 0 to {examples - 1}; "
            "number the examples shard after shard."
        )
    ordered = np.sort(rows, axis=1)
    twice = ordered[:, 1:][ordered[:, 1:] == ordered[:, :-1]]
    if twice.size:
        raise InputError(
            f"position {twice[0]} is requested twice in a run, but expected distinct examples, because one can "
            "be deleted only once; drop the repeats."
        )
    return rows.astype(np.int64)

"""Which digits each model learns, and which pairs are attacked: drawn once, and read by both sides."""

import pathlib

import numpy as np

from benchmarks.leaks_case import BLOCK, EXAMPLES, SIDES, LeaksCase
from mu_jax.data import Dataset

_SEED = 0
_MEMBER_SHARE = 0.8
"""Of a side's digits, those that its models may learn, as the public code of UnlearningLeaks has it."""


def write_plan(path: pathlib.Path, case: LeaksCase, dataset: Dataset) -> None:
    """The file that `LeaksCase.file` names.

    | array | |
    |---|---|
    | `images` uint8[N,8,8,1], `labels` int32[N] | all digits; a side has Q = ⌊N/2⌋ of them |
    | `side_rows` int64[2,Q], `side` int64[K] | the digits of each side, and each model's side |
    | `rows` int64[K,EXAMPLES] | the digits that a model learns; −1 stands in a deleted one's place |
    | `before`, `after` int64[P] | the two models of a pair |
    | `place` int64[P], `is_member` bool[P] | its digit, among its side's, and whether it was deleted |
    | `never` int64[V] | places of the digits that no model of a side learns |
    """
    random = np.random.default_rng(_SEED)
    number = len(dataset.labels) // len(SIDES)
    side_rows = random.permutation(len(dataset.labels))[: len(SIDES) * number].reshape(len(SIDES), number)
    members = round(_MEMBER_SHARE * number)
    never = np.arange(members, number)
    rows, pairs = [], []
    for original in range(0, case.models, BLOCK):
        of_side = side_rows[original // BLOCK % len(SIDES)]
        learned = random.choice(members, EXAMPLES, replace=False)
        rows.append(of_side[learned])
        # Learned by neither model of a pair; no digit is asked twice of one original.
        deleted, others = random.permutation(EXAMPLES), random.permutation(never)
        for number_after in range(BLOCK - 1):
            after, place = original + 1 + number_after, deleted[number_after]
            rows.append(np.where(np.arange(EXAMPLES) == place, -1, of_side[learned]))
            pairs += [(original, after, learned[place], True), (original, after, others[number_after], False)]
    before, after, place, is_member = (np.array(column) for column in zip(*pairs, strict=True))
    np.savez(
        path,
        images=dataset.images,
        labels=dataset.labels,
        classes=np.int64(dataset.num_classes),
        side_rows=side_rows,
        side=np.arange(case.models) // BLOCK % len(SIDES),
        rows=np.stack(rows),
        before=before,
        after=after,
        place=place,
        is_member=is_member,
        never=never,
    )

"""What the terminal shows of membership attacks, beside their table."""

import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from mu_jax.experiments.sweep_table import Summary


def attacks_title(rows: Sequence[Mapping[str, Any]]) -> str:
    """How many targets, members and non-members the attacks' table is about."""
    first = rows[0]
    number = first["targets"]
    return (
        f"Attacks on {number:,} target{'' if number == 1 else 's'}: {first['members']:,} members, "
        f"{first['nonmembers']:,} non-members"
    )


def audit_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> Summary:
    """An audit has no table but that of its attacks; the files with every score and the most exposed examples."""
    a = results["attack"]["offline_a"]
    searched = [f"RMIA offline: a = {', '.join(f'{one:g}' for one in a)}"] if a else []
    return "", None, [*searched, f"scores: {workdir / 'scores.npz'}"]

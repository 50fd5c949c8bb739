"""What the benchmark of the start prints."""

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.table import DISTURBED, aligned


def case_lines(forms: Mapping[str, Mapping[str, Any]], breakdowns: Mapping[str, Mapping[str, Any]]) -> str:
    """One case: seconds of every form, and the parts of ours."""
    rows = [("how", "seconds", "lowest", "highest")]
    for form, one in forms.items():
        times = one["rounds"]
        rows.append((form, *(f"{value:.2f}" for value in (one["seconds"], min(times), max(times)))))
    lines = [aligned(rows, 1)]
    parts = list(next(iter(breakdowns.values()))["seconds"])
    table = [("where, seconds", *breakdowns)]
    for part in parts:
        table.append((part, *(f"{one['seconds'][part]:.2f}" for one in breakdowns.values())))
    table.append(("in all, with the account", *(f"{one['whole']:.2f}" for one in breakdowns.values())))
    table.append(("programs", *(str(one["programs"]) for one in breakdowns.values())))
    table.append(
        ("of them read from the cache", *(str(one["read_from_cache"]) for one in breakdowns.values()))
    )
    lines += ["", aligned(table, 1)]
    disturbed = max(one["others_share"] for one in forms.values())
    if disturbed > DISTURBED:
        lines.append(
            f"WARNING: other programs used up to {disturbed:.0%} of the cores in a round; measure again on a quiet "
            "machine."
        )
    return "\n".join(lines)


def summary(rows: Sequence[Mapping[str, Any]]) -> str:
    """All cases as a Markdown table, in seconds."""
    names = list(dict.fromkeys(form for row in rows for form in row["details"]["forms"]))
    lines = [f"| case | {' | '.join(names)} | ratio |", "|" + "---|" * (len(names) + 2)]
    for row in rows:
        forms = row["details"]["forms"]
        cells = [f"{forms[name]['seconds']:.1f}" if name in forms else "–" for name in names]
        ratio = "–" if row["ratio"] is None else f"{row['ratio']:.2f}"
        lines.append(f"| {row['case']} | {' | '.join(cells)} | {ratio} |")
    return "\n".join(lines)

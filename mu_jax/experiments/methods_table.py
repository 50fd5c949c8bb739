"""What the terminal shows of the comparison of unlearning methods: the models by their gap, and the answer in words."""

import pathlib
from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.methods_answer import methods_answer
from mu_jax.evaluation.report.methods_tables import has_pool, methods_by_gap, methods_table, rows_of
from mu_jax.evaluation.report.tables import count
from mu_jax.experiments.sweep_table import Summary


def methods_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> Summary:
    """A row a model, retrained and original ones first, then the methods by gap; rates in percent.

    `workdir` is not named in the lines: what there is to open is the report.
    """
    facts, models = results["data"], results["models"]
    methods = methods_by_gap(models)
    runs = sorted({models[name].get("n", 1) for name in methods}) or [1]
    shown = f"n = {runs[0]}" if len(runs) == 1 else f"n = {runs[0]} to {runs[-1]}"
    title = (
        f"{facts['name']}: {count(facts['forget'])} of {count(facts['train'])} images deleted (%, {shown})"
    )
    answer = methods_answer(results)
    lines = [f"nearest to retraining: {answer.verdict}. {answer.sentence}".strip(), *answer.details[:1]]
    attack = "RMIA" if has_pool(results) else "the loss attack"
    lines.append(
        f"gap: mean difference from retrain over unlearn, retain, test and {attack}'s AUC, in points; "
        "time includes preparation"
    )
    if lost := rows_of(results, "diverged"):
        names = ", ".join(dict.fromkeys(row["method"] for row in lost))
        lines.append(f"diverged: {len(lost):,} runs, left out of the table ({names})")
    if lacking := rows_of(results, "left_out"):
        names = ", ".join(dict.fromkeys(row["method"] for row in lacking))
        lines.append(f"no adversarial neighbours: {len(lacking):,} runs left out ({names})")
    return title, methods_table(results, compact=True), lines

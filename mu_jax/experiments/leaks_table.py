"""What the terminal shows of the attack on pairs of models."""

import pathlib
from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.leaks_answer import sentences, verdict
from mu_jax.evaluation.report.leaks_page import study_words
from mu_jax.evaluation.report.leaks_remarks import remarks
from mu_jax.evaluation.report.leaks_tables import main_table
from mu_jax.experiments.sweep_table import Summary


def leaks_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> Summary:
    """A row a kind of model and defence, and what was found."""
    del workdir
    lines = [verdict(results), *sentences(results), *remarks(results)]
    return f"{results['data']['name']}: {study_words(results)}", main_table(results, compact=True), lines

"""What the terminal shows of class unlearning."""

import pathlib
from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.class_answer import sentences, verdict
from mu_jax.evaluation.report.class_page import forgotten_words
from mu_jax.evaluation.report.class_remarks import remarks
from mu_jax.evaluation.report.class_tables import main_table
from mu_jax.experiments.sweep_table import Summary


def class_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> Summary:
    """A row a model, and what came of the comparison."""
    del workdir
    facts, study = results["data"], results["study"]
    title = f"{facts['name']}: {forgotten_words(results)}, {study['models']} models of each row"
    lines = [verdict(results), *sentences(results), *remarks(results)]
    return title, main_table(results, compact=True), lines

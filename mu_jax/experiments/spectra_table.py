"""What the terminal shows of a model's layers."""

import pathlib
from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.spectra_tables import layers_table, sentences
from mu_jax.experiments.sweep_table import Summary


def spectra_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> Summary:
    """A row a layer: its norm, and what each method claims with its ratio to that."""
    del workdir
    shape = "×".join(map(str, results["data"]["image_shape"]))
    title = f"{results['spectra']['name']}: norms of {len(results['tables']['layers'])} layers on images of {shape}"
    return title, layers_table(results, compact=True), sentences(results)

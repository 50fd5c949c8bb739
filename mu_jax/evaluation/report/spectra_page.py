"""The page of a model's layers: their norms, what other methods claim, and how long each takes."""

import functools
import pathlib
from collections.abc import Mapping
from html import escape
from typing import Any

from mu_jax.evaluation.report import html
from mu_jax.evaluation.report.spectra_figures import claimed_against_true
from mu_jax.evaluation.report.spectra_tables import (
    composed_table,
    layers_table,
    method_names,
    number,
    seconds_table,
    sentences,
)


def write_spectra_report(
    directory: pathlib.Path, results: Mapping[str, Any], config: Mapping[str, Any]
) -> pathlib.Path:
    """Write `figures/*.png` and then `report.html` in `directory`; returns the page's path."""
    drawings = {"claimed_against_true": functools.partial(claimed_against_true, results)}
    return html.write_page(directory, drawings, functools.partial(render_spectra_page, results, config))


def render_spectra_page(
    results: Mapping[str, Any], config: Mapping[str, Any], images: Mapping[str, bytes]
) -> str:
    """The page as HTML, with the figure's PNG bytes embedded."""
    facts, model, spectra = results["data"], results["model"], results["spectra"]
    shape = "×".join(map(str, facts["image_shape"]))
    network = f"{model['name']} of width {model['width']}"
    where = f"{spectra['name']} · {network} · images of {shape} · seed {results['seed']}"
    composed = composed_table(results)
    batch_norm = [
        "<h3>With batch-norm</h3>",
        html.table(composed),
        "<p class=note>A layer and the batch-norm behind it, in eval mode, are one linear map. Its norm is at most the "
        "product of the two, which Gouk et al. use.</p>",
    ]
    body = [
        *html.header("Norms of a model's layers", where, results["question"]),
        _answer(results),
        "<section><h2>Norm by layer, measured and claimed</h2>",
        html.table(layers_table(results)),
        html.notes(_terms(results)),
        "</section>",
        html.figure(
            "claimed_against_true",
            "Claimed against measured",
            "Left: each layer's norm. Right: what a method claims, divided by it, on a logarithmic axis; right of the "
            "line at one the claim is above the true norm, left of it below. Only marks that cannot lie on the left "
            "are bounds.",
            images["claimed_against_true"],
        ),
        "<section><h2>Further numbers</h2><h3>Time</h3>",
        html.table(seconds_table(results)),
        f"<p class=note>After compilation, the median of {spectra['repeats']} calls.</p>",
        *(batch_norm if composed[1] else []),
        "</section>",
        *html.setting(
            {
                "Checkpoint": {key: value or "–" for key, value in results["checkpoint"].items()},
                "Model": model,
                "Environment": results["environment"],
            },
            config,
        ),
    ]
    return html.page("Norms of layers", spectra["name"], body)


def _answer(results: Mapping[str, Any]) -> str:
    layers = results["tables"]["layers"]
    largest = max(layers, key=lambda row: row["norm"])
    verdict = f"The largest norm of {len(layers)} layers is {number(largest['norm'])}, of {largest['layer']}"
    details = "".join(f"<li>{escape(line)}.</li>" for line in sentences(results))
    return f"<section class=answer><p class=verdict>{escape(verdict)}</p><ul>{details}</ul></section>"


def _terms(results: Mapping[str, Any]) -> dict[str, str]:
    names = method_names(results)
    return {
        "Norm": "the largest singular value of the layer as the linear map that it is, with its stride and padding by "
        f"zeros, to a relative error of {results['spectra']['tolerance']:g} by its estimate.",
        "In parentheses": "the claim divided by the norm.",
        names[
            "miyato"
        ]: "norm of the kernel as a matrix [E, h·w·D], where Miyato's iteration settles. At most the norm, "
        "where a patch fits into the image; of a dense layer, the norm.",
        names[
            "reshaped_bound"
        ]: "the same times the root of the number of patches that a pixel lies in (√(h·w) at stride "
        "1): never below the norm.",
        names[
            "miyato_started"
        ]: "the same kernel, iterated so often from a random vector, as at a training's first step.",
        names["gouk"]: "power iterations on the layer itself, from a random vector: never above the norm.",
        names[
            "fourier"
        ]: "exact for a periodic image without a stride (Sedghi et al.); for zeros around the image no "
        "bound from either side.",
        names[
            "fourier_bound"
        ]: "exact for the smallest periodic image, with the stride, that holds the layer's image and "
        "its zeros: never below the norm.",
    }

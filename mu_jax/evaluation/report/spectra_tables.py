"""Norms of layers and what other methods claim, as rows of strings and as sentences."""

from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.tables import MISSING, Table

METHODS = ("miyato", "reshaped_bound", "miyato_started", "gouk", "fourier", "fourier_bound")
"""In the order of the columns."""


def method_names(results: Mapping[str, Any], compact: bool = False) -> dict[str, str]:
    """Each method's words, by its key in results.json; `compact` leaves out what does not fit a terminal."""
    spectra = results["spectra"]
    gouk = spectra["gouk_iterations"]
    if compact:
        return {
            "miyato": "Miyato",
            "reshaped_bound": "Its bound",
            "gouk": f"Gouk\n{gouk} it.",
            "fourier": "Fourier",
            "fourier_bound": "Its bound",
        }
    return {
        "miyato": "Reshaped kernel (Miyato)",
        "reshaped_bound": "Reshaped kernel × √patches",
        "miyato_started": f"Miyato, {_iterations(spectra['miyato_iterations'])}",
        "gouk": f"Gouk, {_iterations(gouk)}",
        "fourier": "Fourier, on the image",
        "fourier_bound": "Fourier, on a ring with zeros",
    }


def layers_table(results: Mapping[str, Any], compact: bool = False) -> Table:
    """A row a layer: its measured norm, with and without batch-norm, and each method's claim with its ratio to that.

    `compact` is for the terminal: it ends in a row of the seconds that each method took for all layers.
    """
    names = method_names(results, compact)
    claims = _by_layer(results)
    # Folded by hand: where rich folds cells, it makes the table wider than the terminal.
    fold = "\n" if compact else " "
    header = [
        "Layer", f"Kernel{fold}/stride", "Norm", "With BN" if compact else "With batch-norm", *names.values()
    ]  # fmt: skip
    rows = [
        [
            row["layer"],
            "×".join(map(str, row["kernel_shape"]))
            + (f"{fold}/{row['stride']}" if row["stride"] > 1 else ""),
            number(row["norm"]),
            number(row["composed"]),
            *(_claim(claims[row["layer"]].get(method), fold) for method in names),
        ]
        for row in results["tables"]["layers"]
    ]
    if compact:
        total = total_seconds(results)
        rows.append(
            ["all, seconds", "", _seconds(total["measured"]), "", *(_seconds(total[name]) for name in names)]
        )
    return header, rows


def seconds_table(results: Mapping[str, Any]) -> Table:
    """Milliseconds of each method on each layer, after compilation, and of all layers."""
    names = method_names(results)
    claims = _by_layer(results)
    header = ["Layer", "Measured, ms", *(f"{name}, ms" for name in names.values())]
    rows = [
        [
            row["layer"],
            _milliseconds(row["seconds"]),
            *(_milliseconds(claims[row["layer"]].get(method, {}).get("seconds")) for method in names),
        ]
        for row in results["tables"]["layers"]
    ]
    total = total_seconds(results)
    rows.append(["all layers", *(_milliseconds(total[name]) for name in ("measured", *names))])
    return header, rows


def composed_table(results: Mapping[str, Any]) -> Table:
    """Layers that batch-norm follows: the norm of both as one map, and the product of the two norms."""
    header = ["Layer", "Norm", "Largest of |γ|/√(σ² + ε)", "Product (Gouk)", "Norm of both", "Product / norm"]
    rows = [
        [row["layer"], *map(number, (row["norm"], row["batch_norm"], row["product"], row["composed"])),
         _times(row["product_ratio"])]
        for row in results["tables"]["layers"]
        if row["composed"] is not None
    ]  # fmt: skip
    return header, rows


def total_seconds(results: Mapping[str, Any]) -> dict[str, float]:
    """Of all layers together, by method, and `measured`."""
    tables = results["tables"]
    total = {"measured": sum(row["seconds"] for row in tables["layers"])}
    for method in METHODS:
        total[method] = sum(row["seconds"] for row in tables["claims"] if row["method"] == method)
    return total


def sentences(results: Mapping[str, Any]) -> list[str]:
    """What the figures say, over the convolutions whose norm is not zero."""
    tables = results["tables"]
    convolutions = {row["layer"] for row in tables["layers"] if row["kind"] == "conv"}
    names, lines = method_names(results), []
    for method in METHODS:
        ratios = [
            row["ratio"]
            for row in tables["claims"]
            if row["method"] == method and row["layer"] in convolutions and row["ratio"] is not None
        ]
        if ratios:
            lines.append(f"{names[method]}: {_range(ratios)} of the convolutions' norms")
    products = [row["product_ratio"] for row in tables["layers"] if row["product_ratio"] is not None]
    if products:
        lines.append(
            f"A layer's norm times its batch-norm's: {_range(products)} of the norm of both together"
        )
    tolerance = results["spectra"]["tolerance"]
    rough = [
        row["layer"]
        for row in tables["layers"]
        if max(row["error"], row["composed_error"] or 0.0) > tolerance
    ]
    if rough:
        lines.append(
            f"Of {len(rough)} of {len(tables['layers'])} layers the estimated error is above the tolerance of "
            f"{tolerance:g}, at most {max(_errors(tables['layers'])):.1g}"
        )
    return lines


def number(value: float | None) -> str:
    """A norm with four digits."""
    return MISSING if value is None else f"{value:#.4g}" if value else "0"


def _errors(rows: list[Mapping[str, Any]]) -> list[float]:
    return [error for row in rows for error in (row["error"], row["composed_error"]) if error is not None]


def _by_layer(results: Mapping[str, Any]) -> dict[str, dict[str, Mapping[str, Any]]]:
    found: dict[str, dict[str, Mapping[str, Any]]] = {row["layer"]: {} for row in results["tables"]["layers"]}
    for row in results["tables"]["claims"]:
        found[row["layer"]][row["method"]] = row
    return found


def _claim(row: Mapping[str, Any] | None, fold: str) -> str:
    if row is None:
        return MISSING
    return f"{number(row['claimed'])}{fold}({_times(row['ratio'])})"


def _times(ratio: float | None) -> str:
    return MISSING if ratio is None else f"{ratio:.2f}×" if ratio < 99.5 else f"{ratio:.0f}×"


def _range(ratios: list[float]) -> str:
    low, high = (f"{value:.3f}" for value in (min(ratios), max(ratios)))
    return low if low == high else f"{low} to {high}"


def _iterations(count: int) -> str:
    return f"{count} iteration{'' if count == 1 else 's'}"


def _seconds(value: float) -> str:
    return f"{value:.3g}"


def _milliseconds(value: float | None) -> str:
    return MISSING if value is None else f"{1000 * value:,.{2 if value < 0.01 else 1 if value < 0.1 else 0}f}"

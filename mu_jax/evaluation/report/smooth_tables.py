"""The study of smooth models as rows of strings, the same for the page and for the terminal."""

from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.tables import MISSING, Table, percent

Row = Mapping[str, Any]
NORMS = {"batch": "batch-norm", "none": "no norm"}


def clip_words(clip: float) -> str:
    """`none`, or the number."""
    return f"{clip:g}" if clip else "none"


def kinds_table(results: Mapping[str, Any], compact: bool = False) -> Table:
    """A row a kind of model, in the order of the study; means ± sd over its models, without sd where `compact`."""
    header = [
        "Model",
        "Clip",
        "Test %",
        "Largest norm",
        "L bound",
        "Robust %",
        "Transfer %",
        "δ",
        "AMUN gap pp",
    ]
    header += ["Floor pp"]
    if not compact:
        header = ["Model", "Clipped at", "Test %", "Largest layer norm", "with batch-norm", "Lipschitz bound"]
        header += [
            "Robust %",
            "Attack's success %",
            "Transfer %",
            "Transfer, same label %",
            "δ of neighbours",
        ]
        header += ["AMUN's gap, pp", "Original's gap, pp", "Two retrainings, pp", "Failed"]
    rows = []
    for row in results["tables"]["kinds"]:

        def cell(key: str, scale: float, digits: int, row: Row = row) -> str:
            return with_spread(row[key], None if compact else row[f"{key}_sd"], scale, digits)

        cells = [
            NORMS[row["norm"]],
            clip_words(row["clip"]),
            cell("test", 100.0, 1),
            cell("largest_norm", 1.0, 3),
        ]
        if not compact:
            cells.append(cell("largest_composed", 1.0, 3) if row["norm"] == "batch" else MISSING)
        cells += [scientific(row["lipschitz_bound"]), cell("robust_accuracy", 100.0, 1)]
        if not compact:
            cells.append(cell("success", 100.0, 1))
        cells.append(cell("transfer", 100.0, 1))
        if not compact:
            cells.append(cell("same_label", 100.0, 1))
        cells += [cell("distance", 1.0, 3), cell("gap_amun", 100.0, 2)]
        if not compact:
            cells.append(cell("gap_original", 100.0, 2))
        cells.append(cell("gap_retrain_again", 100.0, 2))
        if not compact:
            cells.append(f"{row['diverged'] + row['stuck']} of {3 * row['models']}")
        rows.append(cells)
    return header, rows


def runs_table(results: Mapping[str, Any]) -> Table:
    """Every model by itself."""
    header = [
        "Model",
        "Retain %",
        "Forget %",
        "Test %",
        "before last clipping",
        "Loss attack's AUC %",
        "Gap, pp",
    ]
    header += ["Largest norm", "before last clipping", "Lipschitz bound", "Time, s"]
    rows = []
    for row in results["tables"]["runs"]:
        name = f"{row['role']}@{row['kind']}_{row['number']}"
        if row["diverged_step"] is not None:
            rows.append([name, f"diverged at step {row['diverged_step']:,}", *[MISSING] * 9])
            continue
        rows.append(
            [
                name,
                *(
                    percent(row[key])
                    for key in ("retain", "forget", "test", "test_before_clipping", "loss_auc")
                ),
                MISSING if row["gap"] is None else f"{100 * row['gap']:.2f}",
                f"{row['largest_norm']:.3f}",
                f"{row['largest_norm_before_clipping']:.3f}",
                scientific(row["lipschitz_bound"]),
                f"{row['seconds']:.1f}",
            ]
        )
    return header, rows


def layers_table(results: Mapping[str, Any]) -> Table:
    """The measured norm of every layer: a row a layer, a column a kind; with batch-norm in parentheses."""
    kinds = list(dict.fromkeys(row["kind"] for row in results["tables"]["layers"]))
    layers = list(dict.fromkeys(row["layer"] for row in results["tables"]["layers"]))
    found = {(row["layer"], row["kind"]): row for row in results["tables"]["layers"]}

    def cell(row: Row | None) -> str:
        if row is None:
            return MISSING
        composed = "" if row["composed"] is None else f" ({row['composed']:.2f})"
        return f"{row['norm']:.3f}{composed}"

    return ["Layer", *kinds], [
        [layer, *(cell(found.get((layer, kind))) for kind in kinds)] for layer in layers
    ]


def remarks(results: Mapping[str, Any]) -> list[str]:
    """What must be known before the figures are believed, a sentence each."""
    study, rows = results["study"], results["tables"]["kinds"]
    found = [
        f"n = {study['models']} models of each kind: standard deviations are rough, and kinds that differ by less than "
        "theirs are not told apart"
    ]
    for row in rows:
        if row["clip"] and row["largest_norm"] is not None:
            over = row["largest_norm"] / row["clip"]
            if over > 1.02:
                found.append(
                    f"{row['kind']} is not within the bound: its largest norm is {over:.3f} times the clip"
                )
        if row["diverged"]:
            found.append(f"{row['kind']}: {row['diverged']} of {3 * row['models']} models diverged")
        if row["stuck"]:
            found.append(
                f"{row['kind']}: {row['stuck']} of {3 * row['models']} models ({row['stuck_originals']} of them "
                "originals) never learned to tell the classes apart, and are left out of the means"
            )
    if any(row["norm"] == "batch" and row["clip"] for row in rows):
        found.append(
            "with batch-norm a layer's own norm says little: batch-norm divides by the deviation of what the layer "
            "gives, and so undoes its scale; see the norm with batch-norm and the Lipschitz bound"
        )
    return found


def with_spread(value: float | None, sd: float | None, scale: float, digits: int) -> str:
    """`12.3 ± 0.4`."""
    if value is None:
        return MISSING
    shown = f"{scale * value:.{digits}f}"
    return shown if sd is None else f"{shown} ± {scale * sd:.{digits}f}"


def scientific(value: float | None) -> str:
    """Three digits, or a power of ten where those would not tell much."""
    if value is None:
        return MISSING
    return f"{value:.3g}" if 1e-2 <= value < 1e4 else f"{value:.1e}"

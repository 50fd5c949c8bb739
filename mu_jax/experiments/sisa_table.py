"""What the terminal shows of the SISA experiments: the models, and what deletions cost."""

import json
import pathlib
from collections.abc import Mapping
from typing import Any

from mu_jax.evaluation.report.sisa_answer import accuracy_answer, retraining_answer
from mu_jax.evaluation.report.sisa_delete_page import delete_answer, request_rows, requests_table
from mu_jax.evaluation.report.sisa_tables import RETAIN, Row, attack_names, measures, with_unit
from mu_jax.evaluation.report.tables import MISSING, count, percent, seconds
from mu_jax.experiments.sweep_table import Summary

_SHOWN = 8


def sisa_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> Summary:
    """A row a model, in percent: accuracies, and AUC, balanced accuracy and advantage of the first attack.

    `workdir` is not named in the lines: what there is to open is the report.
    """
    sisa, models = results["sisa"], results["models"]
    title = (
        f"{results['data']['name']}: {sisa['shards']} shards × {sisa['slices']} slices, "
        f"{results['data']['forget']:,} examples deleted (%)"
    )
    names = attack_names(models)
    attack = names[0] if names else ""
    header = [
        "Model",
        "Retain",
        "Forget",
        "Test",
        "Deleted AUC/bal/adv",
        "Retained AUC/bal/adv",
        "Examples",
        "Time s",
    ]
    rows = [
        [
            name,
            *(percent(model.get("accuracy", {}).get(part)) for part in ("retain", "forget", "test")),
            _three(model, attack),
            _three(model, attack + RETAIN),
            count(model.get("trained_samples")),
            seconds(model.get("seconds")),
        ]
        for name, model in models.items()
    ]
    lines = [
        f"{answer.method} {answer.verdict}."
        for answer in (accuracy_answer(results), retraining_answer(results))
    ]
    if attack:
        lines.append(
            f"attack: {attack}, deleted (retained) against test images; AUC, balanced accuracy, advantage in points"
        )
    return title, (header, rows), lines


def sisa_delete_summary(results: Mapping[str, Any], workdir: pathlib.Path) -> Summary:
    """A row a request, how accurate the ensemble is now, and the certificate of this call's request."""
    rows = request_rows(results)
    title = f"{results['data']['name']}: deletions from {results['sisa']['shards']} shards"
    model = results["models"].get("sisa", {})
    accuracy, bounds = model.get("accuracy", {}), model.get("accuracy_interval", {})
    shown = [f"{part} {with_unit(accuracy.get(part), bounds.get(part))}" for part in ("retain", "test")]
    lines = [f"{delete_answer(results).verdict}.", f"accuracy now: {', '.join(shown)}"]
    if not rows:
        return title, None, lines
    lines.append(f"last certificate: {rows[-1].get('certificate_sha256') or MISSING}")
    header = ["Request", "Certified", "Deleted", "Shards", "Steps", "Retrained", "Expected", "Time s"]
    table = requests_table(rows)[1]
    # Seconds and a time zone are for the page.
    for certificate in results.get("certificates", ()):
        lines += ["certificate:", json.dumps(_abridged(certificate), indent=2)]
    return title, (header, [[row[0], row[1][:16], *row[2:]] for row in table]), lines


def _abridged(value: Any) -> Any:
    """The certificate with the first few of long lists; the file has all."""
    if isinstance(value, Mapping):
        return {key: _abridged(item) for key, item in value.items()}
    if isinstance(value, list):
        more = [f"and {len(value) - _SHOWN:,} more"] if len(value) > _SHOWN else []
        return [*map(_abridged, value[:_SHOWN]), *more]
    return value


def _three(model: Row, attack: str) -> str:
    block = model.get("attacks", {}).get(attack)
    if block is None:
        return MISSING
    found = measures(block)
    return " ".join(percent(found[name].value) for name in ("auc", "balanced_accuracy", "advantage"))

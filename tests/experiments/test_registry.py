import io
import pathlib

import pytest
from rich.console import Console

from mu_jax.experiments import registry

MODEL = {
    "accuracy": {"retain": 1.0, "forget": 0.915, "test": 0.712},
    "attacks": {
        "loss_threshold": {
            "auc": 0.7213, "auc_distance": 0.2213, "accuracy": 0.6, "best_accuracy": 0.61, "advantage": 0.2,
            "tpr_at_fpr": [{"fpr": 0.01, "tpr": 0.025, "false_positives": 4, "interval": [0.0, 0.1]}],
            "interval": {"auc": [0.6882, 0.7567], "accuracy": [0.5, 0.7], "level": 0.95},
            "members": 200, "nonmembers": 500,
        },
        "loss_logistic": {
            "accuracy": 0.6675, "split_accuracy_sd": 0.04, "advantage": 0.33,
            "interval": {"accuracy": [0.6, 0.7], "level": 0.95}, "members": 200, "nonmembers": 200,
        },
    },
    "accuracy_interval": {"retain": [0.99, 1.0], "forget": [0.8, 0.95], "test": [0.6, 0.8]},
    "gap_to_retrain": 0.146, "gap_parts": {}, "seconds": 17.6, "compile_seconds": 9.0, "trained_samples": 32000,
}  # fmt: skip
RESULTS = {
    "data": {"name": "npz:[red]digits.npz", "forget": 200},
    "models": dict.fromkeys(("original", "finetune", "retrain", "retrain_again"), MODEL),
}


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_the_table_shows_every_figure_at_any_usual_width(width):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    registry.print_results(RESULTS, pathlib.Path("runs/[bold]x"), False, console)
    text = file.getvalue()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    for figure in ("retrain_again", "72.1", "[68.8,", "75.7]", "91.5", "71.2", "66.8", "14.6", "(4)", "17.6"):
        assert text.count(figure) >= (1 if figure == "retrain_again" else 4), figure
    assert "npz:[red]digits.npz" in text
    assert "report: runs/[bold]x/report.html" in text

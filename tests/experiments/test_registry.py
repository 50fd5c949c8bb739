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


SWEEP = {
    "experiment": "shadow_sweep",
    "data": {"name": "npz:[red]digits.npz"},
    "models": {
        f"shadow_{i:04d}": {
            "accuracy": {"member": 0.98 + 0.01 * i, "nonmember": 0.60 + 0.02 * i},
            "diverged_step": 12 if i == 3 else None,
        }
        for i in range(4)
    },
    "sweep": {
        "seconds": 41.2, "query_seconds": 3.12, "compile_seconds": 123.4, "images_per_second": 37864.4,
        "models_per_minute": 93.6,
    },
}  # fmt: skip


def printed(results, width=80, done_before=False):
    file = io.StringIO()
    console = Console(file=file, width=width, force_terminal=True, color_system=None)
    registry.print_results(results, pathlib.Path("runs/[bold]x"), done_before, console)
    return file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 120, 200])
def test_a_sweep_shows_accuracies_speed_and_where_its_signals_lie(width):
    lines = printed(SWEEP, width).splitlines()
    assert max(map(len, lines)) <= width and "…" not in "".join(lines)
    assert any(line.strip() == "npz:[red]digits.npz: 4 shadow models" for line in lines)
    words = [" ".join(line.replace("│", " ").split()) for line in lines]
    assert "Members 99.0 ± 1.0 98.0 100.0" in words and "Non-members 62.0 ± 2.0 60.0 64.0" in words
    assert lines[-5:] == [
        "speed: 93.6 models per minute, 37,864 images/s",
        "time: 41 s training, 3.1 s querying, 2.1 min compiling",
        "diverged: 1 of 4 models, left out of the table",
        "signals: runs/[bold]x/signals",
        "report: runs/[bold]x/report.html",
    ]


def test_a_sweep_without_trouble_says_nothing_of_it():
    models = {"shadow_0000": SWEEP["models"]["shadow_0000"]}
    text = printed(SWEEP | {"models": models}, done_before=True)
    assert "its results stand in runs/[bold]x." in text and "digits.npz: 1 shadow model " in text
    assert "diverged" not in text and "±" in text and "98.0" in text


def test_a_sweep_of_which_nothing_is_left_is_still_printed():
    models = {name: model | {"diverged_step": 1} for name, model in SWEEP["models"].items()}
    assert "diverged: 4 of 4 models" in printed(SWEEP | {"models": models})


def test_results_that_name_another_experiment_are_a_comparison():
    assert "200 examples forgotten" in printed(RESULTS | {"experiment": "unlearning_comparison"})

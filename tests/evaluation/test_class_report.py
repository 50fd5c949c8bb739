"""The page of class unlearning: what its words, tables and figures say, and that no results make them lie."""

import base64
import copy
import html
import io
import re

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.patches import Rectangle
from PIL import Image
from rich.console import Console

from mu_jax.evaluation.report import drawing
from mu_jax.evaluation.report.class_answer import sentences, verdict
from mu_jax.evaluation.report.class_figures import nearest_neighbour_figure, ulira_figure
from mu_jax.evaluation.report.class_heat_maps import (
    class_matrix_figure,
    confusion_figure,
    nearest_of,
    shares_of,
    shown_columns,
)
from mu_jax.evaluation.report.class_page import figures_of, render_class_page, write_class_report
from mu_jax.evaluation.report.class_remarks import alarm_limit, alarms, remarks
from mu_jax.evaluation.report.class_tables import (
    accuracy_table,
    classes_table,
    in_order,
    main_table,
    methods_by_rank,
    row_styles,
    runs_table,
    short_name,
)
from mu_jax.experiments.class_table import class_summary
from mu_jax.experiments.registry import print_results

CLASS_NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
NEAREST = {0: 8, 1: 9, 2: 4, 3: 5, 4: 7, 5: 3, 6: 2, 7: 4, 8: 0, 9: 1}
SETTINGS = "trw:temperature=0.5,directions=3,optimization.epochs=1"
# Invented: MIA-NN's leak, AUC of U-LiRA, total variation, how much of the class is still known.
FIGURES = {
    "original": (0.30, 1.00, 0.90, 0.88),
    "retrain": (0.01, 0.50, 0.04, 0.0),
    "finetune": (0.12, 0.95, 0.45, 0.31),
    "delete": (0.05, 0.80, 0.22, 0.02),
    "trw": (0.02, 0.62, 0.12, 0.0),
    SETTINGS: (0.03, 0.70, 0.15, 0.0),
}
MODELS = 4


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    """A third of the resolution: the same drawing in a fraction of the time."""
    monkeypatch.setattr(drawing, "_DPI", 50)


def make_results(classes: tuple[int, ...] = (3,), models: int = MODELS) -> dict:
    """Invented results with the keys and the sums that the experiment gives them."""
    rng = np.random.default_rng(0)
    rows, confusion, runs, summaries = [], [], [], {}
    for label in classes:
        retrained = 0.7 + 0.02 * rng.normal(size=models)
        retrained_sd = float(retrained.std(ddof=1))
        for name, (leak, auc, variation, left) in FIGURES.items():
            accuracies = (
                retrained if name == "retrain" else retrained.mean() + leak + 0.01 * rng.normal(size=models)
            )
            variations = variation + 0.01 * rng.uniform(size=models)
            shares = np.full(10, 0.1 * (1 - left) / 8)
            shares[NEAREST[label]] = 0.9 * (1 - left)
            shares[label] = left
            accuracy = {"retain": 0.99, "forget": left, "test": 0.91, "test_forget": left}
            rows.append(
                {
                    "model": name,
                    "class": label,
                    "class_name": CLASS_NAMES[label],
                    "nearest": NEAREST[label],
                    "nearest_name": CLASS_NAMES[NEAREST[label]],
                    "models": models,
                    "accuracy": accuracy,
                    "accuracy_sd": dict.fromkeys(accuracy, 0.004),
                    "loss_auc": 0.5,
                    "mia_nn_accuracy": float(accuracies.mean()),
                    "mia_nn_accuracy_sd": float(accuracies.std(ddof=1)),
                    "mia_nn_retrain": float(retrained.mean()),
                    "mia_nn_retrain_sd": retrained_sd,
                    "mia_nn_leak": leak,
                    "mia_nn_z": leak / 0.02,
                    "ulira_auc": auc,
                    "ulira_interval": [auc - 0.05, min(auc + 0.05, 1.0)],
                    "ulira_accuracy": auc,
                    "total_variation": float(variations.mean()),
                    "total_variation_sd": float(variations.std(ddof=1)),
                    "kl": 3 * variation,
                }
            )
            confusion.append({"model": name, "class": label, "shares": shares.tolist()})
            for number in range(models):
                runs.append(
                    {
                        "model": name,
                        "class": label,
                        "number": number,
                        "diverged_step": None,
                        "seconds": 2.0,
                        "trained_samples": 4000,
                        "read_samples": 4000,
                        "accuracy": accuracy,
                        "loss_auc": 0.5,
                        "mia_nn_accuracy": float(accuracies[number]),
                        "mia_nn_leak": leak,
                        "total_variation": float(variations[number]),
                    }
                )
    ranks = {"trw": 1.0, SETTINGS: 2.0, "delete": 3.0, "finetune": 4.0}
    for name, (leak, auc, variation, left) in FIGURES.items():
        accuracy = {"retain": 0.99, "forget": left, "test": 0.91, "test_forget": left}
        summaries[name] = {
            "n": len(classes),
            "diverged": 0,
            "accuracy": accuracy,
            "accuracy_sd": dict.fromkeys(accuracy, 0.004),
            "attacks": {
                "mia_nn": {
                    "accuracy": 0.7 + leak,
                    "retrain_accuracy": 0.7,
                    "leak": leak,
                    "leak_sd": 0.008,
                    "z": leak / 0.02,
                },
                "ulira": {
                    "auc": auc,
                    "auc_distance": abs(auc - 0.5),
                    "interval": [auc - 0.05, min(auc + 0.05, 1.0)] if len(classes) == 1 else None,
                    "accuracy": auc,
                },
                "loss_threshold": {"auc": 0.5},
            },
            "total_variation": variation,
            "total_variation_sd": 0.005,
            "kl": 3 * variation,
            "gap_to_retrain": 0.25 * left,
            "gap_parts": {"unlearn": left, "retain": 0.0, "test": 0.0, "forget_vs_test_auc": 0.0},
            "rank": ranks.get(name),
            "seconds": 2.0,
            "trained_samples": 4000.0,
        }
    return {
        "experiment": "class_unlearning",
        "question": "Can one <tell> that a class was forgotten?",
        "seed": 7,
        "data": {
            "source": "tfds:cifar10",
            "name": "CIFAR-10",
            "classes": 10,
            "image_shape": [32, 32, 3],
            "label_noise": 0.0,
            "class_names": CLASS_NAMES,
            "train": 50_000,
            "test": 10_000,
        },
        "model": {
            "name": "resnet18",
            "width": 64,
            "parameters": 11_173_962,
            "compute_dtype": "float32",
            "convolution": "xla",
        },
        "study": {
            "models": models,
            "classes": list(classes),
            "nearest_neighbour": {
                "features": "logits",
                "against": "nearest",
                "trained_on": "own",
                "max_each_side": 1000,
            },
            "ulira": {"images": "train", "variance": "per_example"},
            "interval_level": 0.95,
            "compile_seconds": {"train": 4.0, "trw of class 3": 2.0},
        },
        "models": summaries,
        "tables": {"classes": rows, "confusion": confusion, "runs": runs},
        "environment": {"jax": "0.10.2", "device": "1 × gpu"},
    }


def lost(results: dict, name: str) -> dict:
    """A row of which every model diverged: what the experiment says of it then."""
    results["models"][name] = {
        "n": 0,
        "diverged": MODELS,
        "seconds": 2.0,
        "trained_samples": 4000.0,
        "accuracy": {},
        "attacks": {},
        "gap_to_retrain": None,
        "rank": None,
    }
    for table in ("classes", "confusion"):
        results["tables"][table] = [row for row in results["tables"][table] if row["model"] != name]
    for place, row in enumerate(results["tables"]["runs"]):
        if row["model"] == name:
            kept = ("model", "class", "number", "seconds", "trained_samples", "read_samples")
            results["tables"]["runs"][place] = {key: row[key] for key in kept} | {"diverged_step": 1_234}
    return results


def figure_of(draw, results: dict):
    with drawing.drawing():
        return draw(results)


def visible(text: str) -> str:
    """The page's words, as a reader sees them."""
    text = re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def test_retrained_models_come_first_then_methods_by_rank_and_the_original_last():
    results = make_results()
    assert in_order(results["models"]) == ["retrain", "trw", SETTINGS, "delete", "finetune", "original"]
    results["models"]["trw"]["rank"] = None
    assert methods_by_rank(results["models"]) == [SETTINGS, "delete", "finetune", "trw"]


def test_main_table_by_hand():
    results = make_results()
    header, rows = main_table(results)
    cells = dict(zip(header, next(row for row in rows if row[0] == "delete"), strict=True))
    assert cells == {
        "Model": "delete",
        "Mean rank": "3.00",
        "Retained classes, test %": "91.0 (± 0.4)",
        "Forgotten class, test %": "2.0 (± 0.4)",
        "MIA-NN accuracy %": "75.0",
        "MIA-NN leak, pp": "5.00 (± 0.80)",
        "in sd of retrained": "+2.5",
        "U-LiRA AUC %": "80.0 [75.0, 85.0]",
        "Total variation %": "22.0 (± 0.5)",
        "KL, nats": "0.660",
        "Gap to retrain, pp": "0.50",
        "Time, s": "2.00",
    }
    header, rows = main_table(results, compact=True)
    assert rows[0] == ["retrain", "99.0", "91.0", "0.0", "71.0", "1.00", "50.0", "4.0", "2.00"]
    assert len(rows[0]) == len(header)


def test_further_tables_by_hand():
    results = make_results((3, 5))
    header, rows = classes_table(results)
    assert [row[:4] for row in rows[:2]] == [["retrain", "cat", "dog", "4"], ["trw", "cat", "dog", "4"]]
    assert [row[1] for row in rows] == ["cat"] * 6 + ["dog"] * 6
    assert rows[3][header.index("U-LiRA AUC %")] == "80.0 [75.0, 85.0]"
    header, rows = accuracy_table(results)
    cells = dict(zip(header, rows[4], strict=True))
    assert cells["Model"] == "finetune" and cells["Forgotten class, test %"] == "31.0 (± 0.4)"
    assert cells["Gap: forgotten class, training, pp"] == "31.00" and cells["Examples trained"] == "4,000"
    header, rows = runs_table(lost(results, "trw"))
    assert len(rows) == 2 * 6 * MODELS and all(len(row) == len(header) for row in rows)
    assert [row[0] for row in rows].count("trw: diverged at step 1,234") == 2 * MODELS


def test_a_row_without_figures_has_its_place_in_every_table():
    results = lost(make_results(), "trw")
    for content in (main_table(results), main_table(results, compact=True), accuracy_table(results)):
        (row,) = (row for row in content[1] if row[0] == "trw")
        assert row.count("–") >= 6
    assert not any(row[0] == "trw" for row in classes_table(results)[1])
    assert methods_by_rank(results["models"])[-1] == "trw"


def test_long_names_are_cut_in_the_middle_and_stay_apart():
    assert short_name("delete", 6) == "delete"
    one, other = (short_name(f"{SETTINGS}{end}", 24) for end in (0, 1))
    assert len(one) == 24 and one.startswith("trw:temp") and one != other


def test_the_answer_names_the_nearest_under_each_measure():
    results = make_results()
    assert verdict(results) == "trw comes nearest to retraining: mean rank 1.00 among 4 methods"
    nearest = sentences(results)[0]
    assert "under MIA-NN trw, with a leak of 2.00 points, then trw:" in nearest
    assert "under U-LiRA trw, with |AUC − 50%| of 12.00 points" in nearest
    assert "under total variation trw, with a distance of 12.0%" in nearest
    # 1.00 point apart, with standard deviations of 0.80; then of 1.10.
    assert "standard deviation" not in nearest
    results["models"]["trw"]["attacks"]["mia_nn"]["leak_sd"] = 0.011
    assert sentences(results)[0].count("less than a standard deviation apart") == 1


def test_an_auc_below_one_half_is_as_far_as_one_above():
    results = make_results()
    results["models"]["delete"]["attacks"]["ulira"] = {"auc": 0.45, "interval": [0.4, 0.49], "accuracy": 0.5}
    assert "under U-LiRA delete, with |AUC − 50%| of 5.00 points" in sentences(results)[0]


def test_methods_of_one_rank_share_the_verdict():
    results = make_results()
    results["models"]["delete"]["rank"] = 1.0
    assert verdict(results).startswith("delete and trw come nearest")


def test_tilted_reweighting_beside_the_best_other_row():
    results = make_results()
    tilted = sentences(results)[1]
    assert "the best of 2 settings by these very figures" in tilted
    # 2 against 5 points, 12 against 30, 12% against 22%.
    assert "2.00 points against 5.00 points of delete (60% less)" in tilted
    assert "12.00 points against 30.00 points of delete (60% less)" in tilted
    assert "12.0% against 22.0% of delete (45% less)" in tilted
    results["models"].pop(SETTINGS)
    results["models"]["trw"]["attacks"]["mia_nn"]["leak"] = 0.06
    tilted = sentences(results)[1]
    assert "6.00 points against 5.00 points of delete (20% more)" in tilted and "settings" not in tilted
    results["models"].pop("trw")
    assert not any("Tilted" in sentence for sentence in sentences(results))


def test_the_floor_and_who_is_within_it():
    results = make_results()
    floor = sentences(results)[2]
    assert "by 1.00 points under MIA-NN, 0.00 points under U-LiRA and 4.0% under total variation" in floor
    assert floor.endswith("every method is above it")
    results["models"]["trw"]["total_variation"] = 0.04
    assert sentences(results)[2].endswith("within it trw under total variation")
    # Four retrained models are too few to be halved.
    nothing = {"auc": None, "auc_distance": None, "interval": None, "accuracy": None}
    results["models"]["retrain"]["attacks"]["ulira"] = nothing
    floor = sentences(results)[2]
    assert (
        "1.00 points under MIA-NN and 4.0% under total variation (too few models for one under U-LiRA)"
        in floor
    )
    assert "nobody knows the floor" in sentences(lost(results, "retrain"))[2]


def test_the_alarm_on_the_originals():
    results = make_results()
    assert alarms(results, "original") == {"MIA-NN": True, "U-LiRA": True}
    assert alarms(results, "retrain") == {"MIA-NN": False, "U-LiRA": False}
    assert "MIA-NN sounds (a leak of 30.00 points, +15.0 sd of retrained models)" in sentences(results)[3]
    # At an end of its interval one half is still inside.
    row = next(row for row in results["tables"]["classes"] if row["model"] == "original")
    row["ulira_interval"] = [0.5, 0.9]
    assert alarms(results, "original")["U-LiRA"] is False
    assert "U-LiRA is silent" in sentences(results)[3] and "no sign of forgetting" in sentences(results)[3]
    row["mia_nn_z"] = None
    assert alarms(results, "original")["MIA-NN"] is None
    assert "MIA-NN cannot be judged" in sentences(results)[3]
    # Four retrained models: Student's t with three degrees of freedom, 3.18, times √1.25.
    row["mia_nn_z"] = -3.5
    assert verdict(results).startswith("No verdict: the attacks do not even tell the originals")
    row["mia_nn_z"] = -3.6
    assert alarms(results, "original")["MIA-NN"] is True


@pytest.mark.parametrize("retrained", [4, 8])
def test_one_more_retrained_model_sounds_the_alarm_as_often_as_its_level_says(retrained):
    draws = np.random.default_rng(0).normal(size=(40_000, retrained + 1))
    mean, deviation = draws[:, 1:].mean(axis=1), draws[:, 1:].std(axis=1, ddof=1)
    sounds = np.abs(draws[:, 0] - mean) / deviation > alarm_limit(retrained, 0.9)
    assert sounds.mean() == pytest.approx(0.1, abs=0.005)


@pytest.mark.parametrize(
    "attack, key, value", [("U-LiRA", "ulira_interval", [0.45, 0.6]), ("MIA-NN", "mia_nn_z", 3.0)]
)
def test_one_class_without_an_alarm_silences_it(attack, key, value):
    results = make_results((3, 5))
    assert alarms(results, "original") == {"MIA-NN": True, "U-LiRA": True}
    row = next(
        row for row in results["tables"]["classes"] if row["model"] == "original" and row["class"] == 5
    )
    row[key] = value
    assert alarms(results, "original") == {"MIA-NN": True, "U-LiRA": True} | {attack: False}


def test_remarks_say_what_weakens_the_figures():
    results = make_results()
    found = " | ".join(remarks(results))
    assert "each side has 4 models only" in found
    assert "not forgotten, in more than 5% of the class's test images: finetune (31.0%)" in found
    assert "diverged" not in found and "null fails" not in found and "below retraining" not in found
    assert "models only" not in " ".join(remarks(make_results(models=8)))
    results["models"]["trw"]["diverged"] = 1
    results["models"]["delete"]["accuracy"]["test"] = 0.85
    next(row for row in results["tables"]["classes"] if row["model"] == "retrain")["ulira_interval"] = [
        0.51,
        0.6,
    ]
    found = " | ".join(remarks(lost(results, "finetune")))
    assert "1 of 4 models of trw" in found and "4 of 4 models of finetune" in found
    assert "no figures, because too few models came through: finetune" in found
    assert "the null fails for cat" in found
    assert "below retraining: delete (85.0% against 91.0%)" in found


def test_an_original_that_diverged_is_counted_once_for_all_classes():
    results = make_results((3, 5, 7))
    for row in results["tables"]["runs"]:
        if row["model"] == "original" and row["number"] == 2:
            row["diverged_step"] = 9
    results["models"]["original"]["diverged"] = 3
    assert "diverged, and left out: 1 of 4 models of original" in remarks(results)
    assert "of an original that diverged no method has a model" in remarks(results)
    results["models"]["delete"] |= {"n": 2, "diverged": 4}
    found = remarks(results)
    assert "diverged, and left out: 1 of 4 models of original and 4 of 12 models of delete" in found
    assert "figures of some classes only: delete (2 of 3)" in found


def test_report_writes_one_page_with_all_in_it(tmp_path):
    results = make_results((3, 5))
    path = write_class_report(tmp_path, results, {"seed": 7, "data": {"source": "digits </pre>"}})
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    names = {"confusion", "nearest_neighbour", "ulira"}
    assert {file.stem for file in (tmp_path / "figures").iterdir()} == names
    for name in names:
        png = (tmp_path / "figures" / f"{name}.png").read_bytes()
        assert base64.b64encode(png).decode() in text
        with Image.open(io.BytesIO(png)) as image:
            assert np.ptp(np.asarray(image.convert("RGB"))) > 100
    assert not re.search(r'(?:src|href)="(?!data:)', text) and "<script" not in text
    assert "<tell>" not in text and "digits </pre>" not in text.replace("</pre></details>", "")
    words = visible(text)
    assert "Can one <tell> that a class was forgotten?" in words
    assert "trw comes nearest to retraining" in words and "the noise floor" in words
    assert "2 classes forgotten in turn · 4 models of each row and class" in words
    assert "forgotten in turn cat, dog" in words and "compiling 6.0 s" in words
    assert "python -m mu_jax.main --config=configs/class_unlearning.py" in words
    assert "±" in words and "standard deviation over forgotten classes" in words


@pytest.mark.parametrize(
    "group, key, value, words",
    [
        ("nearest_neighbour", "features", "posteriors", "kernel on posteriors without the forgotten class"),
        ("nearest_neighbour", "against", "every", "of every other class in turn"),
        ("nearest_neighbour", "trained_on", "retrained", "from a retrained model's outputs"),
        ("nearest_neighbour", "max_each_side", 77, "at most 77 images a side"),
        ("ulira", "images", "test", "Asked about test images"),
        ("ulira", "variance", "global", "one variance a side"),
    ],
)
def test_the_page_says_how_it_was_measured(group, key, value, words):
    results = make_results()
    assert words not in visible(render_class_page(results, {}, {}))
    results["study"][group][key] = value
    assert words in visible(render_class_page(results, {}, {}))


def test_a_page_of_nothing_says_so():
    results = make_results()
    for name in FIGURES:
        lost(results, name)
    assert figures_of(results) == {}
    words = visible(render_class_page(results, {}, {}))
    assert "No method could be compared with retraining" in words and "No figures, because too few" in words


def test_the_heat_map_marks_the_forgotten_and_the_nearest_class():
    axes = figure_of(confusion_figure, make_results()).axes[0]
    shown = np.asarray(axes.images[0].get_array())
    assert [text.get_text() for text in axes.get_yticklabels()][:2] == ["retrain", "trw"]
    assert [text.get_text() for text in axes.get_xticklabels()] == CLASS_NAMES
    assert shown.shape == (6, 10) and shown[0, 5] == pytest.approx(0.9) and shown[4, 3] == pytest.approx(0.31)
    cells = {text.get_position(): text.get_text() for text in axes.texts}
    assert cells[5, 0] == "90" and cells[3, 4] == "31" and (3, 0) not in cells
    outlines = {round(patch.get_x() + 0.46): to_hex(patch.get_edgecolor()) for patch in axes.patches}
    assert outlines == {3: "#d55e00", 5: "#222222"}
    assert all(isinstance(patch, Rectangle) and patch.get_height() > 5 for patch in axes.patches)


def test_a_row_without_figures_is_not_in_the_heat_map():
    results = lost(make_results((3, 5)), "trw")
    assert "trw" not in shares_of(results, 3) and len(shares_of(results, 3)) == 5
    figure = figure_of(confusion_figure, results)
    assert [len(axes.get_yticks()) for axes in figure.axes] == [5, 5]


def test_of_many_classes_those_that_matter_have_columns_and_the_others_share_one():
    results = make_results()
    results["data"] |= {"classes": 100, "class_names": [f"class {i}" for i in range(100)]}
    rng = np.random.default_rng(1)
    for row in results["tables"]["confusion"]:
        shares = np.zeros(100)
        shares[[60, 99]] = 0.3, 0.2
        shares[10:30] = 0.5 * rng.dirichlet(np.ones(20))
        row["shares"] = shares.tolist()
    columns = shown_columns(shares_of(results, 3), [3, 5])
    assert len(columns) == 14 and {3, 5, 60, 99} < set(columns) and columns == sorted(columns)
    axes = figure_of(confusion_figure, results).axes[0]
    shown = np.asarray(axes.images[0].get_array())
    assert shown.shape == (6, 15) and shown.sum(axis=1) == pytest.approx(np.ones(6))
    assert axes.get_xticklabels()[-1].get_text() == "86 others"


def test_of_many_forgotten_classes_four_have_panels_and_a_matrix_has_all():
    results = make_results(tuple(range(10)))
    assert list(figures_of(results)) == ["confusion", "class_matrix", "nearest_neighbour", "ulira"]
    assert len(figure_of(confusion_figure, results).axes) == 4
    panels = figure_of(class_matrix_figure, results).axes
    assert [axes.get_title() for axes in panels] == ["retrain", "trw", "finetune"]
    for axes, name in zip(panels, ("retrain", "trw", "finetune"), strict=True):
        shown = np.asarray(axes.images[0].get_array())
        assert shown.diagonal() == pytest.approx(np.full(10, FIGURES[name][3]))
        assert len(axes.patches) == 20
    assert nearest_of(results, 6) == 2 and nearest_of(results, 11) is None
    assert "Of 10 forgotten classes, the first 4." in visible(
        render_class_page(results, {}, {"confusion": b"png"})
    )
    assert "class_matrix" not in figures_of(make_results((3, 5)))


def test_the_matrix_leaves_the_row_of_a_class_without_figures_empty():
    results = make_results(tuple(range(10)))
    rows = results["tables"]["confusion"]
    results["tables"]["confusion"] = [row for row in rows if (row["model"], row["class"]) != ("trw", 4)]
    shown = figure_of(class_matrix_figure, results).axes[1].images[0].get_array()
    assert np.isnan(np.ma.filled(shown, np.nan)).all(axis=1).tolist() == [i == 4 for i in range(10)]


def test_the_figure_of_mia_nn_has_a_point_a_model_beside_the_band_of_retrained_ones():
    results = make_results((3, 5))
    panels = figure_of(nearest_neighbour_figure, results).axes
    assert [axes.get_title() for axes in panels] == ["cat (nearest: dog)", "dog (nearest: cat)"]
    runs = [row for row in results["tables"]["runs"] if row["class"] == 5]
    for place, name in enumerate(in_order(results["models"])):
        expected = [100 * row["mia_nn_accuracy"] for row in runs if row["model"] == name]
        drawn = np.asarray(panels[1].collections[place].get_offsets())
        assert drawn[:, 0] == pytest.approx(expected)
        assert np.abs(drawn[:, 1] - place).max() < 0.3
    retrained = 100 * np.array([row["mia_nn_accuracy"] for row in runs if row["model"] == "retrain"])
    (band,) = panels[1].patches
    ends = [band.get_x(), band.get_x() + band.get_width()]
    assert ends == pytest.approx(
        [retrained.mean() - retrained.std(ddof=1), retrained.mean() + retrained.std(ddof=1)]
    )


def test_of_many_classes_the_figure_of_mia_nn_shows_differences():
    results = make_results(tuple(range(6)))
    (axes,) = figure_of(nearest_neighbour_figure, results).axes
    rows = [row for row in results["tables"]["classes"] if row["model"] == "trw"]
    expected = [100 * (row["mia_nn_accuracy"] - row["mia_nn_retrain"]) for row in rows]
    assert np.asarray(axes.collections[1].get_offsets())[:, 0] == pytest.approx(expected)
    (band,) = axes.patches
    assert band.get_x() == pytest.approx(-band.get_width() / 2)


def test_the_figure_of_ulira_has_intervals_beside_one_half():
    results = make_results()
    results["tables"]["classes"][2]["ulira_interval"] = None  # fine-tuning's
    (axes,) = figure_of(ulira_figure, results).axes
    lines = [list(line.get_xdata()) for line in axes.lines]
    assert lines[0] == [50, 50] and len(lines) == 1 + 5
    assert lines[2] == pytest.approx([57, 67])
    assert [float(points.get_offsets()[0, 0]) for points in axes.collections] == pytest.approx(
        [50, 62, 70, 80, 95, 100]
    )
    (axes,) = figure_of(ulira_figure, make_results(tuple(range(6)))).axes
    assert np.asarray(axes.collections[1].get_offsets())[:, 0] == pytest.approx(np.full(6, 62))


def test_names_are_no_formulas_and_no_markup():
    results = make_results()
    results["data"] |= {"class_names": [f"${i}^$ <b> 猫" for i in range(10)]}
    for row in results["tables"]["classes"]:
        row |= {"class_name": "$3^$ <b> 猫", "nearest_name": "$5^$ <b> 猫"}
    for draw in (confusion_figure, nearest_neighbour_figure, ulira_figure):
        with drawing.drawing():
            assert drawing.as_png(draw(results))
    assert "<b>" not in render_class_page(results, {}, {})


def test_figures_tell_kinds_of_rows_apart_by_colours_of_the_palette():
    styles = row_styles(list(FIGURES))
    assert styles["trw"] == styles[SETTINGS] and styles["finetune"] == styles["delete"]
    assert len({styles[name].color for name in ("retrain", "original", "trw", "delete")}) == 4


def test_summary_for_the_terminal(tmp_path):
    results = make_results((3, 5))
    title, (header, rows), lines = class_summary(results, tmp_path)
    assert title == "CIFAR-10: 2 classes forgotten in turn, 4 models of each row"
    assert [len(row) for row in rows] == [len(header)] * 6
    assert lines[0] == verdict(results) and any("noise floor" in line for line in lines)
    assert class_summary(make_results(), tmp_path)[0].startswith("CIFAR-10: class cat forgotten")
    console = Console(width=120, file=io.StringIO())
    print_results(copy.deepcopy(results), tmp_path, done_before=False, console=console)
    printed = console.file.getvalue().splitlines()
    table = [line for line in printed if line.startswith(("┃", "│", "┏", "┡", "└"))]
    assert len(table) >= 9 and max(map(len, table)) <= 120
    assert any(line.startswith("│ trw:temperature") for line in table)
    assert printed[-1] == f"report: {tmp_path / 'report.html'}"

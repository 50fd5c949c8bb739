"""The comparison of unlearning methods: what its words, tables and figures say, and that no results make them lie."""

import base64
import copy
import dataclasses
import html
import io
import re
from collections import defaultdict

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text
from PIL import Image
from rich.console import Console

from mu_jax.config import InputError
from mu_jax.evaluation.report import MethodsReportData, NeighbourPair, drawing, write_methods_report
from mu_jax.evaluation.report.methods_answer import methods_answer, paired
from mu_jax.evaluation.report.methods_bound_figures import (
    bound_panels,
    bound_terms_figure,
    epsilon_histogram,
    neighbour_gallery,
)
from mu_jax.evaluation.report.methods_figures import (
    gap_against_time,
    gap_by_method,
    label_points,
    model_marker,
    requests_in_turn,
    training,
)
from mu_jax.evaluation.report.methods_page import figures_of, render_methods_page
from mu_jax.evaluation.report.methods_tables import (
    bound_table,
    cost_table,
    in_order,
    methods_by_gap,
    methods_table,
    neighbours_table,
    parts_table,
    requests_table,
    runs_table,
)
from mu_jax.evaluation.report.palette import model_styles
from mu_jax.experiments.methods_table import methods_summary
from mu_jax.experiments.registry import _print_table as print_table

# Invented, in percent: unlearn, retain and test accuracy, FT AUC, and seconds of training and preparation.
FIGURES = {
    "original": (100.0, 100.0, 94.5, 62.5, 610.0, 0.0),
    "retrain": (94.5, 100.0, 94.3, 50.0, 560.0, 0.0),
    "retrain_again": (94.4, 100.0, 94.4, 50.1, 562.0, 0.0),
    "finetune": (95.2, 96.6, 92.2, 52.1, 31.0, 0.1),
    "gradient_ascent": (60.9, 61.2, 58.4, 61.0, 2.1, 0.1),
    "random_labels": (95.5, 97.5, 92.2, 51.3, 33.5, 0.2),
    "boundary_shrink": (99.1, 99.9, 93.0, 57.9, 34.0, 1.2),
    "l1_sparse": (94.3, 95.6, 91.6, 51.2, 32.7, 0.1),
    "salun": (96.3, 98.1, 93.1, 50.9, 35.1, 1.9),
    "scrub": (97.9, 99.2, 93.4, 55.0, 22.0, 0.5),
    "negative_gradient_plus": (96.0, 98.8, 92.8, 53.3, 30.9, 0.1),
    "amun": (95.0, 99.6, 93.5, 50.2, 36.0, 48.0),
    "amun_salun": (95.1, 99.6, 93.3, 50.7, 36.4, 49.9),
}
METHODS = [name for name in FIGURES if name not in ("original", "retrain", "retrain_again")]
PARTS = ("unlearn", "retain", "test", "forget_vs_test_auc")


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    """A third of the resolution: the same drawing in a fraction of the time."""
    monkeypatch.setattr(drawing, "_DPI", 50)


def make_results(
    bases: int = 1, sets: int = 1, runs: int = 1, pool: bool = True, noise: float = 0.15
) -> dict:
    """Invented results: every mean and spread is that of the rows of `tables.runs`."""
    rng = np.random.default_rng(0)
    rows, parts, bound = [], defaultdict(list), []
    for base in range(bases):
        for forget_set in range(sets):
            where = {"base": base, "forget_set": forget_set}
            drawn = {}
            for name in FIGURES:
                number = 1 if name in ("original", "retrain", "retrain_again") else runs
                drawn[name] = np.array(FIGURES[name][:4]) + noise * rng.normal(size=(number, 4))
            for name, values in drawn.items():
                for run, value in enumerate(np.minimum(values, 100) / 100):
                    differences = np.abs(value - np.minimum(drawn["retrain"][0], 100) / 100)
                    parts[name].append(differences)
                    unlearn, retain, test, auc = map(float, value)
                    rows.append(
                        {
                            **where,
                            "run": run,
                            "model": name,
                            "retain": retain,
                            "forget": unlearn,
                            "test": test,
                            "ft_auc": auc if pool else None,
                            "fr_auc": 1.145 - auc if pool else None,
                            "rt_auc": 0.645 if pool else None,
                            "loss_auc": auc + 0.01,
                            "svc_confidence": 1.12 - unlearn,
                            "robust_accuracy": 0.31 + 0.1 * test,
                            "gap": float(differences.mean()),
                            "seconds": FIGURES[name][4],
                        }
                    )
                    if name != "original":
                        bound.append(
                            {
                                **where,
                                "run": run,
                                "model": name,
                                "distance": 0.21 + 0.02 * forget_set + 0.01 * base,
                                "transfer": 0.31 - 0.03 * forget_set,
                                "loss_original": 1.1,
                                "loss_unlearned": 0.4 + 30 * float(differences.mean()),
                                "loss_retrained": 0.2,
                                "loss_retrained_adversarial": 2.3 + 0.2 * forget_set,
                                "c": -1.1 + 30 * float(differences.mean()),
                                "weights_distance": 4.0 + FIGURES[name][4] / 10,
                                "gap": float(differences.mean()),
                            }
                        )
    return {
        "experiment": "unlearning_methods",
        "question": "Which method leaves a model <like> retraining, & at what cost?",
        "seed": 7,
        "data": {
            "source": "tfds:cifar10",
            "name": "CIFAR-10",
            "train": 50_000,
            "retain": 45_000,
            "forget": 5_000,
            "test": 10_000,
            "validation": 0,
            "nonmembers": 10_000,
            "classes": 10,
            "image_shape": [32, 32, 3],
            "label_noise": 0.0,
        },
        "model": {"name": "resnet18", "width": 64, "parameters": 11_173_962, "compute_dtype": "float32"},
        "study": {"base_models": bases, "forget_sets": sets, "runs": runs, "retained_data": True},
        "pool": {"models": 128, "member_accuracy": 0.999, "nonmember_accuracy": 0.92} if pool else None,
        "models": {
            name: summary([row for row in rows if row["model"] == name], parts[name]) for name in FIGURES
        },
        "neighbours": [
            {
                "kind": kind,
                "base": base,
                "forget_set": forget_set,
                "norm": "l2",
                "examples": 4_993 - 40 * (kind == "transferred"),
                "not_flipped": [17, 4_711],
                "flipped_back": [3, 99, 1_234, 2_500, 40_001],
                "misclassified": 12,
                "epsilon": [0.04, 0.08, 0.16, 0.32, 0.64, 1.28],
                "count": [310, 1_020, 2_121 - 40 * (kind == "transferred"), 1_180, 320, 30],
                "mean_distance": 0.2134,
                "seconds": 47.9,
            }
            for kind in ("own", "transferred")
            for base in range(bases)
            for forget_set in range(sets)
        ],
        "tables": {"runs": rows, "bound": bound, "requests": make_requests(pool)},
        "environment": {"jax": "0.10.2", "python": "3.11.9", "device": "1 × gpu", "git": "abc1234"},
    }


def summary(rows: list[dict], parts: list[np.ndarray]) -> dict:
    def spread(key: str) -> tuple[float | None, float | None]:
        values = [row[key] for row in rows if row[key] is not None]
        if not values:
            return None, None
        return float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None

    def area(key: str) -> dict:
        return dict(zip(("auc", "auc_sd"), spread(key), strict=True))

    accuracy = {part: spread(part) for part in ("retain", "forget", "test")}
    attacks = {"loss_threshold": area("loss_auc")}
    if rows[0]["ft_auc"] is not None:
        names = {"forget_vs_test": "ft_auc", "forget_vs_retain": "fr_auc", "retain_vs_test": "rt_auc"}
        attacks |= {f"rmia_{name}": area(key) for name, key in names.items()}
    svc = spread("svc_confidence")
    features = ("confidence", "entropy", "modified_entropy", "correctness")
    attacks["svc"] = dict.fromkeys(features, svc[0]) | {f"{feature}_sd": svc[1] for feature in features}
    gap, robust, name = spread("gap"), spread("robust_accuracy"), rows[0]["model"]
    return {
        "n": len(rows),
        "accuracy": {part: value for part, (value, _) in accuracy.items()},
        "accuracy_sd": {part: deviation for part, (_, deviation) in accuracy.items()},
        "attacks": attacks,
        "robust_accuracy": robust[0],
        "robust_accuracy_sd": robust[1],
        "gap_to_retrain": gap[0],
        "gap_sd": gap[1],
        "gap_parts": dict(zip(PARTS, map(float, np.mean(parts, axis=0)), strict=True)),
        "seconds": FIGURES[name][4],
        "preparation_seconds": FIGURES[name][5],
        "compile_seconds": 4.2,
        "trained_samples": 550_000.0,
    }


def make_requests(pool: bool) -> list[dict]:
    return [
        {
            "kind": kind,
            "request": request,
            "deleted": 1_000 * request,
            "ft_auc": 0.5 + 0.004 * request if pool else None,
            "fr_auc": 0.64 - 0.01 * request + 0.004 * (kind == "amun_adaptive") * request if pool else None,
            "fr_minus_ft": 0.14 - 0.014 * request + 0.004 * (kind == "amun_adaptive") * request
            if pool
            else None,
            "forget": 0.95,
            "retain": 0.99,
            "test": 0.935 - 0.002 * request,
        }
        for kind in ("amun", "amun_adaptive")
        for request in range(1, 6)
    ]


def make_curves(runs: int = 1) -> list[dict]:
    lines = []
    for place, name in enumerate(FIGURES):
        for run in range(runs):
            scratch = name in ("original", "retrain", "retrain_again")
            for step in range(1, 13):
                lines.append(
                    {
                        "model": name if run == 0 else f"{name}@0.0.{run}",
                        "step": 40 * step,
                        "epoch": step * (16.0 if scratch else 0.8),
                        "loss": (2.0 if scratch else 0.6) / step + 0.01 * place + 0.02 * run,
                        "accuracy": 1 - 0.7 / (step + 1),
                    }
                )
    return lines


def make_gallery(number: int = 8, size: int = 8, depth: int = 1) -> list[NeighbourPair]:
    rng = np.random.default_rng(1)
    pairs = []
    for i in range(number):
        image = rng.integers(20, 230, (size, size, depth), dtype=np.uint8)
        change = rng.integers(-9, 10, image.shape)
        neighbour = (image + change).astype(np.uint8)
        distance = float(np.linalg.norm(change / 255))
        pairs.append(NeighbourPair(image, neighbour, f"class {i} $x$", f"class {(i + 3) % 10}", distance))
    return pairs


MADE = {}


@pytest.fixture(autouse=True, scope="module")
def made_once():
    """Nothing is made on import; every test works on a copy."""
    MADE["one"] = make_results()
    MADE["many"] = make_results(bases=2, sets=3, runs=2)


def make_data(which: str = "one") -> MethodsReportData:
    return MethodsReportData(
        results=copy.deepcopy(MADE[which]),
        config={"seed": 7, "data": {"source": "digits </pre>"}},
        curves=make_curves(),
        gallery=make_gallery(),
    )


def render(data: MethodsReportData) -> str:
    return render_methods_page(data, dict.fromkeys(figures_of(data), b"png"))


def visible(text: str) -> str:
    """The page's words, as a reader sees them."""
    text = re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def drawn_pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def png_of(draw, data: MethodsReportData) -> bytes:
    with drawing.drawing():
        return drawing.as_png(draw(data))


def texts_of(draw, data: MethodsReportData) -> list[str]:
    with drawing.drawing():
        return [text.get_text() for text in draw(data).findobj(Text) if text.get_text()]


def has_color(png: bytes, color: str) -> bool:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((drawn_pixels(png) == wanted).all(axis=-1).any())


def with_gaps(gaps: dict[str, float], spread: float | None = None, n: int = 1) -> dict:
    """Results with these gaps alone, as fractions, and no runs to pair."""
    results = copy.deepcopy(MADE["one"])
    results["models"] = {name: results["models"][name] for name in gaps}
    for name, gap in gaps.items():
        results["models"][name] |= {"gap_to_retrain": gap, "gap_sd": spread, "n": n}
    results["tables"]["runs"] = []
    return results


def test_references_stand_apart_and_methods_follow_by_gap():
    models = MADE["many"]["models"]
    order = in_order(models)
    assert order[:3] == ["retrain", "retrain_again", "original"]
    gaps = [models[name]["gap_to_retrain"] for name in order[3:]]
    assert gaps == sorted(gaps) and sorted(order[3:]) == sorted(METHODS)
    assert [row[0] for row in methods_table(MADE["many"])[1]] == order


def test_methods_table_by_hand():
    results = copy.deepcopy(MADE["many"])
    model = results["models"]["amun"]
    model |= {"gap_to_retrain": 0.00621, "gap_sd": 0.000449, "seconds": 36.0, "preparation_seconds": 20.0}
    model |= {"robust_accuracy": 0.402, "robust_accuracy_sd": 0.0149, "n": 27}
    model["accuracy"] = {"forget": 0.9545, "retain": 0.9957, "test": 0.9345}
    model["accuracy_sd"] = {"forget": 0.0019, "retain": 0.0, "test": 0.0022}
    model["attacks"]["rmia_forget_vs_test"] = {"auc": 0.5018, "auc_sd": 0.0036}
    model["attacks"]["svc"] |= {"confidence": 0.1255, "confidence_sd": 0.001}
    header, rows = methods_table(results)
    cells = dict(zip(header, next(row for row in rows if row[0] == "amun"), strict=True))
    assert cells["n"] == "27" and cells["Gap to retrain, pp"] == "0.62 (± 0.04)"
    assert [cells[f"{part} %"] for part in ("Unlearn", "Retain", "Test")] == [
        "95.5 (± 0.2)",
        "99.6 (± 0.0)",
        "93.5 (± 0.2)",
    ]
    assert cells["FT AUC %"] == "50.2 (± 0.4)" and cells["SVC %"] == "12.6 (± 0.1)"
    assert cells["Robust %"] == "40.2 (± 1.5)"
    # 56 of 560 seconds.
    assert cells["Time, s (of it before training)"] == "56.0 (20.0)" and cells["Of retrain's"] == "10%"


def test_no_spread_where_there_is_one_run_and_none_of_retrain_from_itself():
    assert not any("±" in cell for row in methods_table(MADE["one"])[1] for cell in row)
    header, rows = methods_table(MADE["many"])
    assert rows[0][header.index("Gap to retrain, pp")] == "0.00"
    assert "±" in rows[0][header.index("Test %")]


def test_without_a_pool_the_loss_attack_takes_the_place_of_rmia():
    results = make_results(pool=False)
    header, rows = methods_table(results)
    assert "Loss AUC %" in header and not any(word in " ".join(header) for word in ("FT", "FR", "RT"))
    expected = f"{100 * results['models']['original']['attacks']['loss_threshold']['auc']:.1f}"
    assert rows[2][header.index("Loss AUC %")] == expected
    text = visible(render(dataclasses.replace(make_data(), results=results)))
    assert "no pool of references" in text and not re.search(r"\b(FT|FR|RT)\b", text)


def test_robust_accuracy_has_no_column_where_it_was_not_measured():
    results = copy.deepcopy(MADE["one"])
    for model in results["models"].values():
        model["robust_accuracy"] = model["robust_accuracy_sd"] = None
    for compact in (False, True):
        header, rows = methods_table(results, compact)
        assert not any("Robust" in name for name in header)
        assert all(len(row) == len(header) for row in rows)


def test_further_tables_by_hand():
    results = MADE["one"]
    header, rows = parts_table(results)
    values = [float(cell) for cell in next(row for row in rows if row[0] == "scrub")[1:]]
    assert values[-1] == pytest.approx(np.mean(values[:-1]), abs=0.011)
    header, rows = cost_table(results)
    assert next(row for row in rows if row[0] == "amun") == [
        "amun",
        "36.0",
        "48.0",
        "4.20",
        "6.67×",
        "550,000",
    ]
    assert rows[0][4] == "–"
    assert neighbours_table(results)[1][0] == [
        *("PGD, original model", "0", "0", "4,993", "12", "2", "5", "0.213 (l2)", "47.9"),
    ]
    header, rows = bound_table(results)
    assert rows[0][:4] == ["retrain", "0.21", "31.0", "1.1"] and rows[0][-1] == "0.00"
    header, rows = requests_table(results)
    assert rows[9][:3] == ["AMUN-A: current model", "5", "5,000"]
    assert rows[9][header.index("FR − FT, pp")] == "+9.00"
    assert len(runs_table(MADE["many"])[1]) == len(MADE["many"]["tables"]["runs"]) == 6 * 3 + 12 * 10


def test_answer_names_the_nearest_method_its_n_and_its_spread():
    answer = methods_answer(
        with_gaps({"retrain_again": 0.0039, "original": 0.05, "amun": 0.0062, "scrub": 0.01}, 0.0005, 27)
    )
    assert answer.verdict == "amun, with a gap of 0.62 ± 0.05 points (n = 27)"
    assert "1.6 times the noise floor" in answer.sentence and "0.39 ± 0.05 points (n = 27)" in answer.sentence
    assert "standard deviation" in answer.details[0]
    assert any("Next comes scrub with 1.00" in detail and "0.38 more" in detail for detail in answer.details)


@pytest.mark.parametrize(
    ("floor", "spread", "words"),
    [
        (0.007, 0.0005, "within the noise floor"),
        (0.0062, None, "within the noise floor"),
        (0.0060, 0.0005, "by less than the floor's own standard deviation"),
        (0.0031, 0.0005, "2.0 times the noise floor"),
        (0.0031, None, "nobody knows how far the floor itself varies"),
    ],
)
def test_answer_beside_the_noise_floor(floor, spread, words):
    answer = methods_answer(with_gaps({"retrain_again": floor, "original": 0.05, "amun": 0.0062}, spread, 27))
    assert words in answer.sentence


def test_answer_beside_fine_tuning_is_taken_run_by_run():
    results = copy.deepcopy(MADE["many"])
    differences = paired(results, "finetune", "amun")
    assert len(differences) == 12 and min(differences) > 0
    sentence = methods_answer(results).sentence
    assert f"{100 * np.mean(differences):.2f} ± {100 * np.std(differences, ddof=1):.2f} more" in sentence
    assert "the larger gap in all 12 runs" in sentence
    # Where fine-tuning has the smaller gap in one of them, all is too much to say.
    row = next(row for row in results["tables"]["runs"] if row["model"] == "finetune")
    row["gap"] = 0.0
    assert "in 11 of 12 runs only" in methods_answer(results).sentence


def test_answer_where_fine_tuning_is_the_nearest():
    sentence = methods_answer(with_gaps({"retrain_again": 0.001, "finetune": 0.005, "amun": 0.006})).sentence
    assert "no method that is made to forget comes nearer" in sentence


def test_one_run_has_no_spread_and_the_answer_says_so():
    answer = methods_answer(MADE["one"])
    assert "±" not in answer.verdict + answer.sentence and "n = 1" in answer.verdict
    assert "no spread" in answer.details[0] and "in one run" in answer.sentence


def test_no_verdict_where_doing_nothing_is_as_near():
    blind = methods_answer(with_gaps({"retrain_again": 0.01, "original": 0.009, "amun": 0.002}))
    assert blind.verdict.startswith("No verdict") and "nothing to forget" in blind.verdict
    worse = methods_answer(with_gaps({"retrain_again": 0.001, "original": 0.02, "amun": 0.03}))
    assert worse.verdict.startswith("None: the best, amun with 3.00")
    assert methods_answer(with_gaps({"retrain": 0.0})).verdict == "No method was compared"


def test_report_writes_one_page_with_all_in_it(tmp_path):
    data = make_data()
    path = write_methods_report(tmp_path, data)
    text = path.read_text(encoding="utf-8")
    assert path == tmp_path / "report.html"
    names = list(figures_of(data))
    assert len(names) == 7
    for name in names:
        png = (tmp_path / "figures" / f"{name}.png").read_bytes()
        assert base64.b64encode(png).decode() in text and np.ptp(drawn_pixels(png)) > 0
    assert not re.search(r'(?:src|href)="(?!data:)', text) and "<script" not in text
    assert "<like>" not in text and "digits </pre>" not in text.replace("</pre></details>", "")
    words = visible(text)
    assert "Which method leaves a model <like> retraining, & at what cost?" in words
    assert (
        "1 base model × 1 forget set × 1 run" in words and "5,000 of 50,000 training images deleted" in words
    )


def test_page_leaves_out_what_there_is_nothing_of():
    results = copy.deepcopy(MADE["one"])
    results |= {"neighbours": [], "pool": None, "environment": {}}
    results["tables"] = {"runs": results["tables"]["runs"], "bound": [], "requests": []}
    data = dataclasses.replace(make_data(), results=results, curves=[], gallery=[])
    assert list(figures_of(data)) == ["gap_by_method", "gap_against_time"]
    text = visible(render(data))
    for heading in ("One request after another", "How near the neighbours are", "Training curves", "theorem"):
        assert heading not in text


def test_page_warns_of_diverged_runs_and_of_neighbours_that_are_missing():
    data = make_data()
    assert "class=warning" not in render(data)
    data.results["neighbours"][0] |= {"not_flipped": list(range(100, 700)), "examples": 4_395}
    data.results["neighbours"] = data.results["neighbours"][:1]
    lost = {
        "method": "gradient_ascent",
        "base": 0,
        "forget_set": 0,
        "run": 0,
        "reason": "loss is NaN at step 3",
    }
    data.results["tables"]["diverged"] = [lost]
    text = visible(render(data))
    assert (
        "Diverged, and without figures: gradient_ascent (1 run)" in text and "loss is NaN at step 3" in text
    )
    assert (
        "12.1% of the forgotten images have no neighbour (training images 3, 99, 100, 101, 102 and 600 more)"
        in text
    )


def test_a_double_line_sets_the_methods_apart():
    text = render(make_data())
    before, after = text.split('<tr style="border-top: 3px double var(--dim)">')[:2]
    assert "</i>original" in before.rpartition("<thead>")[2] and after.partition("</th>")[0].endswith("amun")


def test_gap_figure_shows_parts_floor_and_cut_bars():
    data = make_data("many")
    png = png_of(gap_by_method, data)
    for color in ("#0072b2", "#56b4e9", "#009e73", "#e69f00"):
        assert has_color(png, color)
    texts = texts_of(gap_by_method, data)
    # gradient_ascent is far off, and cut.
    assert texts.count("» ") == 1
    gap, spread = (100 * data.results["models"]["amun"][key] for key in ("gap_to_retrain", "gap_sd"))
    assert f"{gap:.2f} ± {spread:.2f}" in texts
    assert any(text.startswith("noise floor (retrain_again): 0.") for text in texts)
    with drawing.drawing():
        axes = gap_by_method(data).axes[0]
    widths = [bar.get_width() for bar in axes.patches if abs(bar.get_y() + bar.get_height() / 2) < 1e-9]
    assert sum(widths) == pytest.approx(gap)


def test_time_figure_names_every_method_and_where_its_training_alone_would_be():
    data = make_data()
    texts = texts_of(gap_against_time, data)
    assert set(METHODS) <= set(texts) and "retrain" in texts
    with drawing.drawing():
        lines = gap_against_time(data).axes[0].lines
    assert any(np.array_equal(line.get_xdata(), [36.0, 84.0]) for line in lines)


def test_labels_do_not_hide_one_another():
    with drawing.drawing():
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        axes.set(xlim=(0, 1), ylim=(0, 1))
        names = [f"method_{i}" for i in range(6)]
        label_points(axes, dict.fromkeys(names, (0.5, 0.5)), dict.fromkeys(names, "#222222"))
        FigureCanvasAgg(figure).draw()
        # Of the words alone, without the lines to their points.
        boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert len(axes.texts) == 6
    assert not any(one.overlaps(other) for i, one in enumerate(boxes) for other in boxes[:i])


def test_bound_figure_leaves_out_what_all_models_share_and_says_it_in_words():
    one, many = make_data(), make_data("many")
    assert bound_panels(one) == ["loss_unlearned", "c", "weights_distance"]
    assert len(bound_panels(many)) == 6
    assert "all share δ = 0.21, transfer = 31%, ℓ(f_u(x′), y′) = 2.3 nats" in visible(render(one))
    with drawing.drawing():
        figure = bound_terms_figure(many)
    assert sum(axes.get_visible() for axes in figure.axes) == 6
    named = {text.get_text() for text in figure.legends[0].get_texts()}
    assert named == set(METHODS) | {"retrain_again", "retrain (gap 0)"}


def test_epsilon_histogram_counts_those_that_are_left_out():
    data = make_data()
    texts = texts_of(epsilon_histogram, data)
    assert "PGD, original model: 7 of 5,000 left out" in texts
    assert {"310", "2,121", "12", "2", "5", "0.16", "1.28", "not\nflipped"} <= set(texts)
    # No set of neighbours but one that was left out as a whole.
    data.results["neighbours"] = [
        data.results["neighbours"][0] | {"epsilon": [], "count": [], "misclassified": 0}
    ]
    assert "PGD, original model: 7 of 7 left out" in texts_of(epsilon_histogram, data)


def test_requests_figure_has_a_line_a_kind_and_only_accuracy_without_a_pool():
    with drawing.drawing():
        figure = requests_in_turn(make_data())
    assert [len(axes.get_legend().get_texts()) for axes in figure.axes] == [2, 2]
    assert figure.axes[0].lines[0].get_ydata() == pytest.approx([12.6, 11.2, 9.8, 8.4, 7.0])
    without = dataclasses.replace(make_data(), results=make_results(pool=False))
    with drawing.drawing():
        assert len(requests_in_turn(without).axes) == 1


def test_gallery_stretches_the_change_between_image_and_neighbour():
    image = np.full((4, 4, 1), 100, np.uint8)
    neighbour = image.copy()
    neighbour[0, 0, 0], neighbour[1, 1, 0] = 104, 98
    pair = NeighbourPair(image, neighbour, "cat", "dog", 0.0175)
    data = dataclasses.replace(make_data(), gallery=[pair])
    with drawing.drawing():
        axes = neighbour_gallery(data).axes[0]
    shown = [picture.get_array() for picture in axes.images]
    assert np.array_equal(shown[1], neighbour[..., 0])
    assert shown[2][0, 0] == 255 and shown[2][1, 1] == 64 and shown[2][3, 3] == 128
    texts = [text.get_text() for text in axes.texts]
    assert texts == ["cat → dog", "distance 0.0175"]
    same = dataclasses.replace(data, gallery=[NeighbourPair(image, image, "cat", "cat", 0.0)])
    assert len(png_of(neighbour_gallery, same)) > 0


def test_training_figure_puts_scratch_above_methods_and_joins_runs():
    data = dataclasses.replace(make_data("many"), curves=[*make_curves(3), {"model": "amun_request_1"}])
    with drawing.drawing():
        figure = training(data)
    scratch, methods = (figure.axes[i].lines for i in (0, 2))
    assert len(scratch) == 9 and len(methods) == 30
    legends = [axes.get_legend() for axes in (figure.axes[1], figure.axes[3])]
    assert [len(box.get_texts()) for box in legends] == [3, 10]


def test_markers_and_colors_tell_all_methods_apart():
    styles = model_styles(MADE["one"]["models"])
    assert len({(style.color, model_marker(style)) for style in styles.values()}) == len(styles)


def test_summary_for_the_terminal(tmp_path):
    title, (header, rows), lines = methods_summary(MADE["many"], tmp_path)
    assert title == "CIFAR-10: 5,000 of 50,000 images deleted (%, n = 12)"
    assert header[:2] == ["Model", "Gap pp"] and rows[0][0] == "retrain"
    assert rows[3] == [""] * len(header) and rows[4][0] == methods_by_gap(MADE["many"]["models"])[0]
    assert lines[0].startswith("nearest to retraining: amun, with a gap of 0.")
    console = Console(width=120, file=io.StringIO())
    print_table(console, title, (header, rows))
    printed = console.file.getvalue()
    assert max(map(len, printed.splitlines())) <= 120 and "negative_gradient_plus" in printed


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"neighbour": np.zeros((8, 8, 3), np.uint8)}, "its neighbour (8, 8, 3)"),
        (
            {"image": np.zeros((2, 8, 8), np.uint8), "neighbour": np.zeros((2, 8, 8), np.uint8)},
            "channels last",
        ),
        ({"distance": float("nan")}, "distance nan"),
    ],
)
def test_a_pair_that_does_not_fit_is_refused_in_one_sentence(change, words):
    pair = {"image": np.zeros((8, 8, 1), np.uint8), "neighbour": np.zeros((8, 8, 1), np.uint8)}
    with pytest.raises(InputError, match=re.escape(words)):
        NeighbourPair(**(pair | {"label": "a", "adversarial_label": "b", "distance": 0.1} | change))


def test_results_without_models_are_refused():
    with pytest.raises(InputError, match="no models"):
        MethodsReportData(results={"models": {}}, config={}, curves=[], gallery=[])

"""The report: what its page, its tables and its figures say, and that no input makes them break or lie."""

import base64
import copy
import dataclasses
import html
import io
import re

import numpy as np
import pytest
from PIL import Image

from mu_jax.config import InputError
from mu_jax.evaluation.report import ReportData, comparison_table, drawing, gallery, write_report
from mu_jax.evaluation.report import page as report_page
from mu_jax.evaluation.report.answer import answers
from mu_jax.evaluation.report.drawing import printable
from mu_jax.evaluation.report.figures import loss_histograms, roc_figure, training_curves
from mu_jax.evaluation.report.gallery import forgotten_images
from mu_jax.evaluation.report.palette import model_styles
from mu_jax.evaluation.report.tables import percent, seconds
from mu_jax.evaluation.roc import auc

NAMES = ("original", "finetune", "retrain", "retrain_again")
DRAWN = (loss_histograms, roc_figure, forgotten_images, training_curves)


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    """Half the resolution: the same drawing in a fraction of the time."""
    monkeypatch.setattr(drawing, "_DPI", 80)


def make_model(i: int, members: np.ndarray, nonmembers: np.ndarray) -> dict:
    """Numbers that all differ, so that one in the wrong place is seen."""
    area = auc(np.r_[members, nonmembers], np.arange(members.size + nonmembers.size) < members.size)
    points = [
        {"fpr": fpr, "tpr": 0.011 * (i + 1) + fpr, "false_positives": n, "interval": [0.0, 0.5 + 0.01 * i]}
        for fpr, n in ((0.001, 0), (0.01, 3 + i), (0.1, 40 + i))
    ]
    return {
        "accuracy": {"retain": 0.991 + 0.001 * i, "forget": 0.95 - 0.013 * i, "test": 0.931 - 0.011 * i},
        "accuracy_interval": {"retain": [0.98, 1.0], "forget": [0.87, 0.983], "test": [0.904, 0.952]},
        "attacks": {
            "loss_threshold": {
                "auc": area,
                "auc_distance": abs(area - 0.5),
                "accuracy": 0.561 + 0.01 * i,
                "best_accuracy": 0.602 + 0.01 * i,
                "advantage": 0.122 + 0.02 * i,
                "tpr_at_fpr": points,
                "interval": {"auc": [area - 0.04, area + 0.03], "accuracy": [0.51, 0.62], "level": 0.9},
                "members": members.size,
                "nonmembers": nonmembers.size,
            },
            "loss_logistic": {
                "accuracy": 0.573 + 0.01 * i,
                "split_accuracy_sd": 0.061,
                "advantage": 0.146 + 0.02 * i,
                "interval": {"accuracy": [0.518, 0.627], "level": 0.9},
                "members": members.size,
                "nonmembers": members.size,
            },
        },
        "gap_to_retrain": (0.051, 0.018, 0.0, 0.027)[i],
        "gap_parts": {"unlearn": 0.033, "retain": 0.002, "test": 0.007, "forget_vs_test_auc": 0.013 * i},
        "seconds": (41.2, 3.3, 37.4, 36.9)[i],
        "compile_seconds": 2.5 + i,
        "trained_samples": (12_000, 1_600, 9_600, 9_601)[i],
    }


def make_data(
    shifts: tuple[float, ...] = (1.5, 0.0, 0.0, 0.0), forgotten: int = 60, channels: int = 1, images: int = 3
) -> ReportData:
    """Models whose forgotten examples score higher than unseen ones by `shifts` standard deviations."""
    rng = np.random.default_rng(0)
    examples = rng.normal(size=forgotten), rng.normal(size=200)
    members, nonmembers = {}, {}
    for name, shift in zip(NAMES, shifts, strict=True):
        noisy = [x + 0.3 * rng.normal(size=x.size) for x in examples]
        members[name], nonmembers[name] = -np.exp(-noisy[0] - shift), -np.exp(-noisy[1])
    results = {
        "experiment": "unlearning_comparison",
        "question": "Does it hide & forget?",
        "seed": 7,
        "data": {
            "source": "digits",
            "name": "digits (scikit-learn)",
            "train": 400,
            "retain": 400 - forgotten,
            "forget": forgotten,
            "validation": 0,
            "test": 200,
            "nonmembers": 200,
            "classes": 10,
            "label_noise": 0.0,
            "image_shape": [8, 8, channels],
        },
        "model": {"name": "mlp", "width": 16, "parameters": 701466, "compute_dtype": "float32"},
        "models": {n: make_model(i, members[n], nonmembers[n]) for i, n in enumerate(NAMES)},
        "tables": {},
        "environment": {"jax": "0.10.2", "python": "3.11.9", "device": "cpu", "git": "abc1234"},
    }
    curves = [
        {"model": name, "step": 10 * s, "epoch": 0.5 * s, "loss": 2 / s, "accuracy": 1 - 0.9 / s}
        for name in NAMES
        for s in range(1, 4)
    ]
    return ReportData(
        results=results,
        config={"seed": 7, "data": {"source": "digits </pre>"}},
        curves=curves,
        member_scores=members,
        nonmember_scores=nonmembers,
        gallery_images=rng.integers(0, 256, (images, 8, 8, channels)).astype(np.uint8),
        gallery_labels=["three"] * images,
        gallery_confidence={name: rng.random(images) for name in NAMES},
    )


def with_results(data: ReportData, /, **changes: dict) -> ReportData:
    """A copy whose results differ in the given entries, one level deep."""
    results = copy.deepcopy(data.results)
    for key, values in changes.items():
        results[key] |= values
    return dataclasses.replace(data, results=results)


def render(data: ReportData) -> str:
    return report_page.render_page(data, {name: b"png" for name, *_ in report_page._FIGURES})


def visible(text: str) -> str:
    """The page's words, as a reader sees them."""
    return " ".join(
        html.unescape(re.sub(r"<[^>]*>", "", re.sub(r"<style>.*?</style>", "", text, flags=re.S))).split()
    )


def drawn_pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def has_color(png: bytes, color: str) -> bool:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((drawn_pixels(png) == wanted).all(axis=-1).any())


def test_comparison_table_by_hand():
    data = make_data()
    data.results["models"]["finetune"]["attacks"]["loss_threshold"] |= {"auc": 0.579, "auc_distance": 0.079}
    data.results["models"]["finetune"]["attacks"]["loss_threshold"]["interval"]["auc"] = [0.541, 0.616]
    header, rows = comparison_table(data.results)
    assert header == [
        "Model",
        "Retain %",
        "Forget %",
        "Test %",
        "Attack accuracy %",
        "Attack AUC %",
        "|AUC−50|",
        "TPR % at 1% FPR (false positives)",
        "Gap to retrain, pp",
        "Time, s",
        "Examples trained",
    ]
    assert [row[0] for row in rows] == list(NAMES)
    assert rows[1] == [
        "finetune",
        "99.2 [98.0, 100.0]",
        "93.7 [87.0, 98.3]",
        "92.0 [90.4, 95.2]",
        "58.3 [51.8, 62.7]",
        "57.9 [54.1, 61.6]",
        "7.9",
        "3.2 (4)",
        "1.8",
        "3.30 (11×)",
        "1,600",
    ]
    assert rows[2][9] == "37.4"  # a reference is not compared with itself


def test_compact_table_fits_a_terminal():
    data = make_data()
    full_header, full = comparison_table(data.results)
    header, rows = comparison_table(data.results, compact=True)
    assert rows[1][:5] == ["finetune", "99.2", "93.7", "92.0", "58.3"]
    assert [rows[1][5], *rows[1][6:]] == [full[1][5], full[1][7], full[1][8], full[1][9]]
    assert len(header) < len(full_header) and all(len(row) == len(header) for row in rows)
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    assert sum(widths) + 3 * len(widths) + 1 <= 120


def test_tables_without_some_numbers():
    data = make_data()
    for model in data.results["models"].values():
        del model["attacks"]["loss_logistic"]
        model["attacks"]["loss_threshold"]["tpr_at_fpr"] = []
    data.results["models"]["finetune"]["seconds"] = 0.0
    del data.results["models"]["retrain"]
    _, rows = comparison_table(data.results)
    assert rows[1][4] == "–" and rows[1][7] == "–" and rows[1][9] == "0.00"
    assert "finetune" in render(data)


def test_nearest_false_positive_rate_is_shown():
    data = make_data()
    for model in data.results["models"].values():
        del model["attacks"]["loss_threshold"]["tpr_at_fpr"][1]
    header, rows = comparison_table(data.results)
    assert header[7].startswith("TPR % at 0.1% FPR") or header[7].startswith("TPR % at 10% FPR")
    assert rows[0][7] in ("1.2 (0)", "11.1 (40)")


def test_numbers_as_strings():
    assert percent(-0.0001) == "0.0" and percent(None) == "–" and percent(float("nan")) == "–"
    assert percent(1.0, [0.951, 1.0]) == "100.0 [95.1, 100.0]"
    assert [seconds(x) for x in (0.123, 12.34, 1234.5)] == ["0.12", "12.3", "1,234"]


def test_report_is_written_whole_and_holds_everything(tmp_path):
    data = make_data()
    path = write_report(tmp_path / "run", data)
    assert path == tmp_path / "run" / "report.html"
    text = path.read_text(encoding="utf-8")
    embedded = [base64.b64decode(found) for found in re.findall(r'src="data:image/png;base64,([^"]*)"', text)]
    names = ("loss_histograms", "roc", "forgotten_images", "training_curves")
    assert embedded == [(tmp_path / "run" / "figures" / f"{name}.png").read_bytes() for name in names]
    assert all(drawn_pixels(png).std() > 1 for png in embedded)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["figures", "report.html"]
    assert len(re.findall("src=", text)) == 4
    for outside in ("http:", "https:", "<script", "<link", "url(", "@import"):
        assert outside not in re.sub(r'"data:[^"]*"', "", text)
    words = visible(text)
    for row in comparison_table(data.results)[1]:
        for cell in row:
            assert cell in words
    for word in ("90% intervals", "noise floor", "Below 50 leaks too", "701,466", "abc1234", "8 × 8 × 1"):
        assert word in words


def test_a_failed_figure_leaves_the_old_page(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")

    def fail(data):
        raise RuntimeError("no ink")

    monkeypatch.setattr(report_page, "_FIGURES", (("roc", fail, "ROC", "caption"),))
    with pytest.raises(RuntimeError):
        write_report(tmp_path, make_data())
    assert (tmp_path / "report.html").read_text() == "old"


def test_text_is_escaped():
    data = with_results(
        make_data(), data={"name": "<script>x</script>"}, tables={"a<b": [{"k<": "<i>", "n": 0.25}]}
    )
    data = dataclasses.replace(data, gallery_labels=["<b>", 'say "x"', "$\\frac{$"])
    data.results["models"]["<u>method"] = data.results["models"]["finetune"]
    text = render(data)
    for raw in ("<script>", "<b>", "<u>method", "a<b", "k<<", "<i>", '</pre>"'):
        assert raw not in text
    for shown in (
        "&lt;script&gt;",
        "&lt;b&gt;",
        "&lt;u&gt;method",
        "a&lt;b",
        "digits &lt;/pre&gt;",
        "hide &amp; forget",
    ):
        assert shown in text
    assert text.count("</pre>") == 1


def test_label_noise_and_synthetic_data_are_said_first():
    assert "Label noise" not in render(make_data())
    noisy = render(with_results(make_data(), data={"label_noise": 0.1, "source": "synthetic:8,8,1,10,99,99"}))
    assert "probability 10%" in noisy and "Synthetic data" in noisy
    assert noisy.index("Label noise") < noisy.index("After finetune")


@pytest.mark.parametrize(
    ("shifts", "verdict", "words"),
    [
        ((1.5, 0.9, 0.0, 0.0), "Still leaks", "above retraining"),
        ((1.5, 0.0, 0.0, 0.0), "Not told apart from retraining by this attack", "cannot be told from zero"),
        ((1.5, -0.9, 0.0, 0.0), "Leaves another trace", "less familiar"),
        ((1.5, 0.6, 0.0, 0.9), "Within the noise of retraining", "other random numbers"),
        ((0.0, 0.0, 0.0, 0.0), "No verdict", "neither can the original model's"),
    ],
)
def test_the_answer_follows_the_numbers(shifts, verdict, words):
    data = make_data(shifts)
    (answer,) = answers(data)
    assert (answer.method, answer.verdict) == ("finetune", verdict)
    assert words in answer.details[0]
    shown = percent(data.results["models"]["finetune"]["attacks"]["loss_threshold"]["auc"])
    assert f"with AUC {shown}% [" in answer.sentence
    assert f"finetune: {verdict}" in visible(render(data))


def test_the_answer_names_noise_floor_and_cost():
    data = make_data()
    _, floor, cost = answers(data)[0].details
    assert "1.8 points, no more than the 2.7 points between two retrainings" in floor
    assert "1.1 points above retraining's" in cost and "9% of the time of retraining (3.30 of 37.4 s)" in cost
    data.results["models"]["finetune"]["gap_to_retrain"] = 0.05
    assert "5.0 points, more than the 2.7 points" in answers(data)[0].details[1]


def test_the_answer_without_retraining():
    data = make_data()
    for name in ("retrain", "retrain_again"):
        del data.results["models"][name], data.member_scores[name], data.nonmember_scores[name]
    assert answers(data)[0].verdict == "No verdict" and "no retrained model" in visible(render(data))


def test_colors_are_fixed_and_distinct():
    many = [*NAMES, *(f"method{i}" for i in range(19))]
    styles = model_styles(many)
    assert len({(style.color, style.line) for style in styles.values()}) == len(many)
    assert model_styles(["finetune", "retrain"])["retrain"] == styles["retrain"]


@pytest.mark.parametrize("channels", [1, 3])
def test_gallery_shows_the_images(channels):
    data = make_data(channels=channels, images=1)
    pixels = drawn_pixels(forgotten_images(data))
    # The middles of the image's 64 squares: neither blurred, nor mirrored, nor stretched in contrast.
    image = np.broadcast_to(data.gallery_images[0], (8, 8, 3)).astype(int)
    dpi = drawing._DPI
    side = gallery._IMAGE * dpi / 8
    middles = (np.arange(8) + 0.5) * side
    rows = ((0.05 + gallery._TITLE) * dpi + middles).astype(int)
    columns = (0.1 * dpi + middles).astype(int)
    assert np.abs(pixels[np.ix_(rows, columns)].astype(int) - image).max() <= 1


def test_bars_grow_with_confidence():
    data = make_data(images=1)
    color = [int(model_styles(NAMES)["finetune"].color[i : i + 2], 16) for i in (1, 3, 5)]

    def filled(confidence):
        shown = data.gallery_confidence | {"finetune": np.array([confidence])}
        pixels = drawn_pixels(forgotten_images(dataclasses.replace(data, gallery_confidence=shown)))
        return int((pixels == color).all(axis=-1).sum())

    assert filled(0.0) == 0
    assert filled(0.9) == pytest.approx(3 * filled(0.3), rel=0.1)


def test_a_model_without_curves_is_left_out():
    data = make_data()
    finetune = model_styles(NAMES)["finetune"].color
    assert has_color(training_curves(data), finetune)
    without = dataclasses.replace(data, curves=[c for c in data.curves if c["model"] != "finetune"])
    assert not has_color(training_curves(without), finetune)
    assert drawn_pixels(training_curves(dataclasses.replace(data, curves=[]))).std() > 0


@pytest.mark.parametrize("value", [0.0, -np.inf])
def test_constant_scores_are_drawn(value):
    data = make_data()
    for scores in (data.member_scores, data.nonmember_scores):
        scores["finetune"] = np.full_like(scores["finetune"], value)
    for draw in (loss_histograms, roc_figure):
        assert drawn_pixels(draw(data)).std() > 1
    only = dataclasses.replace(
        data,
        member_scores={"finetune": data.member_scores["finetune"]},
        nonmember_scores={"finetune": data.nonmember_scores["finetune"]},
    )
    assert drawn_pixels(loss_histograms(only)).std() > 1


def test_odd_names_draw_without_warnings():
    data = make_data(images=3)
    data = dataclasses.replace(data, gallery_labels=["深\n鹿", "$x", "_\\frac$" * 20])
    for attribute in (
        data.results["models"],
        data.member_scores,
        data.nonmember_scores,
        data.gallery_confidence,
    ):
        attribute["_a$b$ \\c 深"] = attribute["finetune"]
    for draw in DRAWN:
        assert drawn_pixels(draw(data)).std() > 1
    assert printable("深\n鹿 deer") == "? ? deer" and printable("abcdef", 4) == "abc…"


def test_bad_data_is_refused():
    data = make_data()
    cases = [
        ({"gallery_images": data.gallery_images[..., [0, 0]]}, "channels"),
        ({"gallery_labels": ["one"]}, "one an image"),
        ({"gallery_confidence": {"finetune": np.zeros(2)}}, "one probability an image"),
        ({"member_scores": {"finetune": data.member_scores["finetune"]}}, "same models"),
        ({"member_scores": data.member_scores | {"finetune": np.full(60, np.nan)}}, "'finetune'"),
    ]
    for change, words in cases:
        with pytest.raises(InputError, match=words):
            dataclasses.replace(data, **change)

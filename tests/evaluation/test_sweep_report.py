"""The page of a sweep: what its words, tables and figures say, and that no sweep makes them break or lie."""

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
from mu_jax.evaluation.report import SweepReportData, drawing, sweep_page, write_sweep_report
from mu_jax.evaluation.report.sweep_figures import (
    accuracies,
    example_means,
    signal_histogram,
    training_losses,
)
from mu_jax.evaluation.report.sweep_page import answer
from mu_jax.evaluation.report.sweep_tables import diverged, mean, over_models, speed_table, summary_table
from mu_jax.evaluation.report.tables import duration

DRAWN = (signal_histogram, example_means, accuracies, training_losses)
MEMBER_COLOR, NONMEMBER_COLOR, LINE_COLOR = "#0072b2", "#555555", "#d55e00"


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    """Half the resolution: the same drawing in a fraction of the time."""
    monkeypatch.setattr(drawing, "_DPI", 80)


def make_model(i: int, step: int | None = None) -> dict:
    """The i-th model: accuracies 0.980 + i/100 and 0.600 + i/50; one that diverged has no loss."""
    return {
        "accuracy": {"member": 0.98 + 0.01 * i, "nonmember": 0.60 + 0.02 * i} if step is None else {},
        "attacks": {},
        "members": 1000 + 10 * i,
        "loss": 0.012 + 0.001 * i if step is None else None,
        "diverged_step": step,
        "seconds": 0.6,
        "trained_samples": 4800,
    }


def make_data(
    models: int = 3, lost: tuple[int, ...] = (), groups: int = 2, images: int = 40
) -> SweepReportData:
    rng = np.random.default_rng(0)
    results = {
        "experiment": "shadow_sweep",
        "question": "Who was <in>?",
        "seed": 7,
        "data": {
            "source": "digits",
            "name": "digits (scikit-learn)",
            "train": 1500,
            "test": 297,
            "examples": 1797,
            "candidates": 1796,
            "classes": 10,
            "image_shape": [8, 8, 1],
            "label_noise": 0.0,
        },
        "model": {
            "name": "resnet18",
            "width": 16,
            "parameters": 701466,
            "compute_dtype": "float32",
            "convolution": "patches",
        },
        "models": {
            f"shadow_{i:04d}": make_model(i % 3, 41 + i if i in lost else None) for i in range(models)
        },
        "sweep": {
            "models": models,
            "membership": "half",
            "candidates": "train+test",
            "queries": 18,
            "mapping": "vmap",
            "devices": 2,
            "models_per_device": 31,
            "groups": groups,
            "processes": 5,
            "seconds": 41.2,
            "query_seconds": 3.12,
            "compile_seconds": 123.4,
            "images_per_second": 37864.4,
            "models_per_minute": 93.6,
            "diverged": len(lost),
        },
        "tables": {},
        "environment": {"jax": "0.10.2", "python": "3.11.9", "device": "2 × gpu (H100)", "git": "abc1234"},
    }
    curves = [
        {
            "group": group,
            "models": [2 * group, 2 * group + 1],
            "step": 10 * s,
            "steps": 30,
            "epoch": 0.5 * s,
            "loss": 2 / s + 0.01 * group,
            "accuracy": 1 - 0.9 / s,
            "loss_low": 1.8 / s,
            "loss_high": 2.4 / s,
            "learning_rate": 0.1,
            "seconds": 0.5,
            "images_per_second": 1000.0,
        }
        for group in range(groups)
        for s in range(1, 4)
    ]
    left = models - len(lost)
    outside = rng.normal(2, 3, images if left else 0)
    return SweepReportData(
        results=results,
        config={"seed": 7, "data": {"source": "digits </pre>"}},
        curves=curves,
        member_phi=rng.normal(5, 2, 60 * left).astype(np.float32),
        nonmember_phi=rng.normal(2, 2, 60 * left).astype(np.float32),
        example_in_mean=outside + rng.exponential(3, outside.size),
        example_out_mean=outside,
    )


def with_results(data: SweepReportData, /, **changes: dict) -> SweepReportData:
    """A copy whose results differ in the given entries, one level deep."""
    results = copy.deepcopy(data.results)
    for key, values in changes.items():
        results[key] |= values
    return dataclasses.replace(data, results=results)


def render(data: SweepReportData) -> str:
    return sweep_page.render_sweep_page(data, {name: b"png" for name, *_ in sweep_page._FIGURES})


def visible(text: str) -> str:
    """The page's words, as a reader sees them."""
    text = re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def drawn_pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def count_color(png: bytes, color: str) -> int:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((drawn_pixels(png) == wanted).all(axis=-1).sum())


def test_summary_by_hand():
    header, rows = summary_table(make_data().results)
    assert header == ["", "Mean ± SD over 3 models", "Lowest", "Highest"]
    assert rows == [
        ["Accuracy on members, %", "99.0 ± 1.0", "98.0", "100.0"],
        ["Accuracy on non-members, %", "62.0 ± 2.0", "60.0", "64.0"],
        ["Difference, pp", "37.0 ± 1.0", "36.0", "38.0"],
        ["Members of a model", "1,010 ± 10", "1,000", "1,020"],
        ["Last training loss, nats", "0.0130 ± 0.0010", "0.0120", "0.0140"],
    ]
    assert summary_table(make_data().results, compact=True) == (
        ["Accuracy %", "Mean ± SD", "Lowest", "Highest"],
        [["Members", "99.0 ± 1.0", "98.0", "100.0"], ["Non-members", "62.0 ± 2.0", "60.0", "64.0"]],
    )


def test_small_losses_keep_their_digits():
    results = make_data().results
    for i, model in enumerate(results["models"].values()):
        model["loss"] = (2.0e-5, 3.0e-5, 4.0e-5)[i]
    assert summary_table(results)[1][-1][1:] == ["3.0e-05 ± 1.0e-05", "2.0e-05", "4.0e-05"]


def test_speed_by_hand():
    header, rows = speed_table(make_data().results)
    assert rows == [
        ["This run", "41.2", "3.12", "123", "37,864", "93.6", "vmap", "2", "31", "2", "5"],
    ]
    assert len(header) == len(rows[0]) and header[5] == "Models a minute" and header[10] == "Processes"


def test_one_model_has_no_deviation():
    header, rows = summary_table(make_data(models=1).results)
    assert header[1] == "Mean ± SD over 1 model" and rows[0][1:] == ["98.0", "98.0", "98.0"]
    assert "1 shadow model of ResNet-18" in visible(render(make_data(models=1)))


def test_models_that_diverged_are_left_out_of_every_figure():
    results = make_data(lost=(1,)).results
    # Whatever numbers stand there, they are of a model that is none.
    results["models"]["shadow_0001"] |= {"accuracy": {"member": 0.1, "nonmember": 0.1}, "loss": 9e9}
    assert diverged(results) == {"shadow_0001": 42}
    np.testing.assert_array_equal(over_models(results, "accuracy", "member"), [0.98, np.nan, 1.0])
    assert mean(over_models(results, "accuracy", "nonmember")) == pytest.approx(0.62)
    header, rows = summary_table(results)
    assert header[1] == "Mean ± SD over 2 models" and rows[0][2] == "98.0" and rows[4][3] == "0.0140"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.04, "0.0 s"), (9.96, "10 s"), (41.2, "41 s"), (119.4, "119 s"), (119.6, "2.0 min"), (754.0, "13 min"),
        (7169.0, "119 min"), (7171.0, "2.0 h"), (4e6, "1,111.1 h"),
    ],
)  # fmt: skip
def test_durations_in_the_unit_a_person_would_use(seconds, shown):
    assert duration(seconds) == shown


def test_answer_says_what_was_made_how_fast_and_the_gap():
    assert answer(make_data(models=64).results) == (
        "64 shadow models of ResNet-18 (width 16) in 41 s: 93.6 models per minute. On what it trained on, a model "
        "is right on 99.0%, and on the rest on 62.0%: that gap is what membership attacks feed on."
    )
    data = with_results(make_data(), model={"name": "vit"}, sweep={"seconds": 0.0, "models_per_minute": None})
    for model in data.results["models"].values():
        model["accuracy"] = {"member": 0.705, "nonmember": 0.70}
    assert answer(data.results) == (
        "3 shadow models of vit (width 16). On what it trained on, a model is right on 70.5%, and on the rest on "
        "70.0%: no gap in accuracy to speak of, though attacks may find one in how sure the models are."
    )
    assert answer(make_data(lost=(0, 1, 2)).results).endswith(
        "All of them diverged, so there are no signals to attack with."
    )


def test_report_is_written_whole_and_holds_everything(tmp_path):
    data = make_data()
    path = write_sweep_report(tmp_path / "run", data)
    assert path == tmp_path / "run" / "report.html"
    text = path.read_text(encoding="utf-8")
    embedded = [base64.b64decode(found) for found in re.findall(r'src="data:image/png;base64,([^"]*)"', text)]
    names = ("signals", "examples", "accuracies", "training_losses")
    assert embedded == [(tmp_path / "run" / "figures" / f"{name}.png").read_bytes() for name in names]
    assert all(drawn_pixels(png).std() > 1 for png in embedded)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["figures", "report.html"]
    for outside in ("http:", "https:", "<script", "<link", "url(", "@import"):
        assert outside not in re.sub(r'"data:[^"]*"', "", text)
    words = visible(text)
    for table in (summary_table(data.results), speed_table(data.results)):
        for cell in (cell for row in table[1] for cell in row):
            assert cell in words
    for word in (
        "Shadow sweep",
        "digits (scikit-learn) · 3 shadow models · 1,796 of 1,797 images are candidates · seed 7",
        "Timings are of this run on 2 × gpu (H100)",
        "under 18 queries",
        "membership half",
        "701,466",
        "abc1234",
        "8 × 8 × 1",
    ):
        assert word in words
    assert "diverged" not in words.replace("had not diverged by then", "")


def test_one_query_is_one_query():
    assert "under 1 query," in visible(render(with_results(make_data(), sweep={"queries": 1})))


def test_a_failed_figure_leaves_the_old_page(tmp_path, monkeypatch):
    (tmp_path / "report.html").write_text("old")

    def fail(data):
        raise RuntimeError("no ink")

    monkeypatch.setattr(sweep_page, "_FIGURES", (("signals", fail, "Signals", "caption"),))
    with pytest.raises(RuntimeError):
        write_sweep_report(tmp_path, make_data())
    assert (tmp_path / "report.html").read_text() == "old"


def test_warnings_stand_before_the_answer():
    data = make_data(models=9, lost=(1, 2, 3, 4, 5, 6, 7))
    words = visible(
        render(with_results(data, data={"label_noise": 0.1, "source": "synthetic:8,8,1,10,99,99"}))
    )
    lost = (
        "7 of 9 models diverged and are left out of tables and figures; their rows among the signals are kept"
    )
    for warning in ("probability 10%", "Synthetic data", lost):
        assert 0 < words.index(warning) < words.index("9 shadow models of ResNet-18")
    assert "(shadow_0001 at step 42, " in words and "shadow_0005 at step 46 and 2 more)" in words
    assert "Label noise" not in render(data)


def test_a_sweep_of_which_nothing_is_left(tmp_path):
    data = dataclasses.replace(make_data(lost=(0, 1, 2)), curves=[])
    assert data.member_phi.size == data.example_in_mean.size == 0
    words = visible(write_sweep_report(tmp_path, data).read_text(encoding="utf-8"))
    assert "3 of 3 models diverged" in words and "Mean ± SD over 0 models" in words
    assert all(drawn_pixels(draw(data)).std() > 0 for draw in DRAWN)


def test_text_is_escaped():
    data = with_results(
        make_data(), data={"name": "<script>x</script>"}, tables={"a<b": [{"k<": "<i>", "n": 0.25}]}
    )
    text = render(data)
    for raw in ("<script>", "<in>", "a<b", "k<<", "<i>"):
        assert raw not in text
    for shown in ("&lt;script&gt;", "Who was &lt;in&gt;?", "a&lt;b", "digits &lt;/pre&gt;"):
        assert shown in text
    assert text.count("</pre>") == 1


def test_figures_show_both_sides(monkeypatch):
    monkeypatch.setattr(drawing, "_DPI", 240)  # thin lines have no pixel of their pure colour on a coarse one
    data = make_data()
    members_only = dataclasses.replace(data, nonmember_phi=data.nonmember_phi[:0])
    # Letters have a few gray pixels too.
    outlined, alone = (count_color(signal_histogram(x), NONMEMBER_COLOR) for x in (data, members_only))
    assert outlined > 10 * alone
    assert count_color(accuracies(data), LINE_COLOR) and count_color(example_means(data), LINE_COLOR)
    assert count_color(training_losses(data), MEMBER_COLOR)


def test_extreme_signals_do_not_set_the_scale():
    data = make_data(models=40)
    wild = data.member_phi.copy()
    wild[0], wild[1] = np.finfo(np.float32).max, np.finfo(np.float32).min
    filled = [
        (drawn_pixels(signal_histogram(dataclasses.replace(data, member_phi=phi))) < 230).any(axis=-1).sum()
        for phi in (data.member_phi, wild)
    ]
    # A scale of 10³⁸ would leave one bin, so hardly any ink.
    assert filled[1] == pytest.approx(filled[0], rel=0.1)


@pytest.mark.parametrize("value", [0.0, -3.5, np.finfo(np.float32).max])
@pytest.mark.parametrize("images", [1, 40, 4000])
def test_constant_signals_are_drawn(value, images):
    data = make_data(images=images)
    changes = {
        field: np.full_like(getattr(data, field), value)
        for field in ("member_phi", "nonmember_phi", "example_in_mean", "example_out_mean")
    }
    for draw in (signal_histogram, example_means):
        assert drawn_pixels(draw(dataclasses.replace(data, **changes))).std() > 1


def test_a_candidate_without_models_on_one_side_is_left_out():
    data = make_data()
    inside, outside = data.example_in_mean.copy(), data.example_out_mean.copy()
    inside[0], outside[1] = np.nan, np.nan
    fewer = dataclasses.replace(data, example_in_mean=inside, example_out_mean=outside)
    without = dataclasses.replace(data, example_in_mean=inside[2:], example_out_mean=outside[2:])
    assert example_means(fewer) == example_means(without) != example_means(data)
    none = dataclasses.replace(data, example_in_mean=np.full(40, np.nan))
    assert drawn_pixels(example_means(none)).std() > 0


@pytest.mark.parametrize(("models", "groups", "images"), [(1, 1, 1), (260, 52, 5000)])
def test_small_and_large_sweeps_are_drawn(models, groups, images):
    data = make_data(models=models, groups=groups, images=images)
    assert all(drawn_pixels(draw(data)).std() > 1 for draw in DRAWN)


def test_a_diverging_group_is_drawn_as_far_as_it_goes():
    data = make_data(groups=3)
    for line in data.curves:
        if line["group"] == 1 and line["step"] > 10:
            line |= {"loss": None, "loss_low": None, "loss_high": None}
        if line["group"] == 2 and line["step"] > 10:
            line |= {"loss_high": 1e30}
    assert count_color(training_losses(data), MEMBER_COLOR)
    gone = dataclasses.replace(data, curves=[line | {"loss": float("nan")} for line in data.curves])
    assert not count_color(training_losses(gone), MEMBER_COLOR)


def test_groups_with_epochs_of_their_own_share_a_grid():
    data = make_data(groups=60)
    curves = [
        line | {"epoch": line["epoch"] * (1 + 1e-3 * line["group"]) + step / 100}
        for line in data.curves
        for step in range(20)
    ]
    assert drawn_pixels(training_losses(dataclasses.replace(data, curves=curves))).std() > 1


def test_bad_data_is_refused():
    data = make_data()
    cases = [
        ({"example_in_mean": data.example_in_mean[:3]}, "same candidates"),
        ({"member_phi": np.array([0.0, np.nan], np.float32)}, "member_phi .* 1 values that are not finite"),
        ({"nonmember_phi": np.array([np.inf], np.float32)}, "models that diverged"),
    ]
    for change, words in cases:
        with pytest.raises(InputError, match=words):
            dataclasses.replace(data, **change)

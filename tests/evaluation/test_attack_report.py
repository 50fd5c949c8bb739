"""The pages of membership attacks: what words, tables and figures say, and that no scores make them break or lie."""

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
from mu_jax.evaluation import intervals, roc
from mu_jax.evaluation.report import (
    AttackReportData,
    AttackScores,
    SweepReportData,
    attack_table,
    drawing,
    write_audit_report,
    write_sweep_report,
)
from mu_jax.evaluation.report.attack_answer import alarms, attack_answer, in_words
from mu_jax.evaluation.report.attack_data import by_strength
from mu_jax.evaluation.report.attack_figures import (
    attack_roc,
    attack_scores,
    score_range,
    target_bands,
    thinned,
)
from mu_jax.evaluation.report.attack_gallery import exposed, exposed_images, exposure_tables
from mu_jax.evaluation.report.attack_section import attack_figure_drawings, attack_sections, left_out
from mu_jax.evaluation.report.attack_tables import (
    detail_table,
    fine_percent,
    headline_fpr,
    learned_on,
    operating_table,
    target_aucs,
    transfer_table,
)
from mu_jax.evaluation.report.audit_page import render_audit_page
from mu_jax.evaluation.report.sweep_page import render_sweep_page

FORMS = (
    ("lira", "online", "global"),
    ("lira", "offline", "per_example"),
    ("rmia", "online", None),
    ("calibrated_loss", None, None),
    ("loss", None, None),
)
SWEEP_FIGURES = ("signals", "examples", "accuracies", "training_losses")
FIRST_COLOR, SECOND_COLOR = "#0072b2", "#009e73"


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    """A third of the resolution: the same drawing in a fraction of the time."""
    monkeypatch.setattr(drawing, "_DPI", 50)


def make_row(**changes) -> dict:
    """Numbers that all differ, so that one in the wrong place is seen."""
    row = {
        "attack": "lira",
        "mode": "online",
        "variance": "global",
        "auc": 0.712,
        "auc_distance": 0.212,
        "accuracy": 0.651,
        "best_accuracy": 0.655,
        "advantage": 0.302,
        "interval": {"auc": [0.708, 0.716], "accuracy": [0.645, 0.657], "level": 0.9},
        "tpr_at_fpr": [
            {"fpr": 0.0001, "tpr": 0.0012, "false_positives": 0, "interval": [0.0, 0.004]},
            {"fpr": 0.001, "tpr": 0.123, "false_positives": 13, "interval": [0.11, 0.14]},
            {"fpr": 0.01, "tpr": 0.234, "false_positives": 1432, "interval": [0.22, 0.25]},
        ],
        "per_target": {"auc": [0.70, 0.72], "auc_sd": 0.1},
        "members": 14_400,
        "nonmembers": 14_500,
        "targets": 16,
        "ppv": [
            {"fpr": fpr, "prior": prior, "ppv": ppv}
            for fpr in (0.001, 0.01)
            for prior, ppv in ((0.01, 0.554), (0.1, 0.932), (0.5, 0.992))
        ],
        "stability": {"rank_correlation": 0.58, "top_jaccard": 0.41},
    }
    return copy.deepcopy(row | changes)


def make_data(
    targets: int = 8, examples: int = 60, attacks: int = 5, shift: float = 1.0, **changes
) -> AttackReportData:
    rng = np.random.default_rng(0)
    member = rng.random((targets, examples)) < 0.5
    found = []
    for i, (attack, mode, variance) in enumerate(FORMS[:attacks]):
        scores = rng.normal(size=member.shape) + shift * member / (i + 1)
        found.append(make_attack(scores, member, attack, mode, variance))
    exposure = rng.uniform(-1, 1, examples) if targets > 1 else np.full(examples, np.nan)
    data = AttackReportData(
        attacks=found,
        is_member=member,
        exposure=exposure,
        examples=1000 + np.arange(examples),
        labels=np.arange(examples) % 3,
        class_names=("cat", "dog", "<deer>"),
        images=rng.integers(0, 256, (examples, 8, 8, 1)).astype(np.uint8),
    )
    return dataclasses.replace(data, **changes)


def make_attack(scores, member, attack="lira", mode="online", variance="global") -> AttackScores:
    flat, truth = scores.ravel(), member.ravel()
    area = roc.auc(flat, truth)
    points = [(rate, roc.operating_point(flat, truth, rate)) for rate in (0.001, 0.01, 0.1)]
    row = make_row(
        attack=attack,
        mode=mode,
        variance=variance,
        auc=area,
        auc_distance=abs(area - 0.5),
        interval={
            "auc": list(intervals.auc_interval(flat, truth, samples=50)),
            "accuracy": None,
            "level": 0.95,
        },
        tpr_at_fpr=[{"fpr": rate, "tpr": p.tpr, "false_positives": p.false_positives} for rate, p in points],
        targets=len(member),
        members=int(truth.sum()),
        nonmembers=int((~truth).sum()),
    )
    return AttackScores(row, np.asarray(scores, np.float64))


def make_results(data: AttackReportData, **changes) -> dict:
    return {
        "experiment": "audit",
        "question": "Who was <in>?",
        "seed": 7,
        "data": {
            "name": "their <model>",
            "examples": data.is_member.shape[1],
            "targets": len(data.is_member),
            "shadows": 63,
        },
        "tables": {
            "attacks": [attack.row for attack in data.attacks],
            "leftover": [{"k<": "<i>", "n": 0.25}],
        },
        "environment": {"jax": "0.10.2", "device": "cpu", "git": "abc1234"},
    } | changes


def make_sweep(attacks: AttackReportData | None) -> SweepReportData:
    model = {
        "accuracy": {"member": 0.99, "nonmember": 0.6},
        "members": 30,
        "loss": 0.01,
        "diverged_step": None,
    }
    results = {
        "experiment": "shadow_sweep",
        "question": "Who was in?",
        "seed": 7,
        "data": {"source": "digits", "name": "digits", "train": 50, "examples": 60, "candidates": 60},
        "model": {"name": "mlp", "width": 16},
        "models": {f"shadow_{i:04d}": model for i in range(3)},
        "sweep": {"models": 3, "candidates": "train+test", "queries": 1},
        "tables": {
            "attacks": [{"attack": "lira", "secret": "row printed twice"}],
            "exposed": [{"x": "printed twice too"}],
            "leftover": [{"n": 0.25}],
        },
        "environment": {"device": "cpu"},
    }
    nothing = np.zeros(0)
    return SweepReportData(results, {}, [], nothing, nothing, nothing, nothing, attacks)


def render(data: AttackReportData, **changes) -> str:
    images = dict.fromkeys(attack_figure_drawings(data), b"png")
    return render_audit_page(data, make_results(data, **changes), images)


def visible(text: str) -> str:
    """The page's words, as a reader sees them."""
    text = re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def drawn_pixels(png: bytes) -> np.ndarray:
    assert png.startswith(b"\x89PNG")
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def count_color(png: bytes, color: str) -> int:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return int((drawn_pixels(png) == wanted).all(axis=-1).sum())


def draw_all(data: AttackReportData) -> dict[str, bytes]:
    drawn = {name: draw() for name, draw in attack_figure_drawings(data).items()}
    assert all(drawn_pixels(png).std() > 1 for png in drawn.values())
    return drawn


# Tables.


def test_attack_table_by_hand():
    header, rows = attack_table([make_row()])
    assert header == [
        "Attack",
        "AUC %",
        "TPR % at 0.01% FPR",
        "TPR % at 0.1% FPR",
        "TPR % at 1% FPR",
        "Balanced accuracy %",
        "PPV % at 0.1% FPR, prior 1% (10% / 50%)",
    ]
    assert rows == [
        [
            "LiRA, online, global variance",
            "71.2 [70.8, 71.6]",
            "0.12 (no FP)",
            "12.3 (13 FP)",
            "23.4 (1,432 FP)",
            "65.1 [64.5, 65.7]",
            "55.4 (93.2 / 99.2)",
        ]
    ]
    header, rows = attack_table([make_row()], compact=True)
    assert header == ["Attack", "AUC %", "TPR@0.1% (FP)", "TPR@1% (FP)", "Accuracy %"]
    assert rows == [["LiRA online, global", "71.2 [70.8, 71.6]", "12.3 (13)", "23.4 (1,432)", "65.1"]]


def test_few_false_positives_are_marked():
    row = make_row()
    row["tpr_at_fpr"][1]["false_positives"] = 9
    assert attack_table([row])[1][0][3] == "12.3 (only 9 FP)"
    assert attack_table([row], compact=True)[1][0][2] == "~12.3 (9)"


@pytest.mark.parametrize(
    ("false_positives", "value", "wanted"),
    [
        (10, 0.554, "55.4 (93.2 / 99.2)"),
        (9, 0.554, "~55.4 (93.2 / 99.2)"),
        (0, None, "–"),
        (0, 1.0, "–"),
        (None, None, "– (93.2 / 99.2)"),
    ],
)
def test_predictive_values_say_on_how_little_they_stand(false_positives, value, wanted):
    row = make_row()
    for entry in row["ppv"]:
        entry["false_positives"] = false_positives
        entry["ppv"] = value if entry["prior"] == 0.01 or false_positives == 0 else entry["ppv"]
    assert attack_table([row])[1][0][-1] == wanted


def test_compact_table_fits_a_terminal():
    rows = [make_row(attack=a, mode=m, variance=v) for a, m, v in FORMS]
    header, cells = attack_table(rows, compact=True)
    widths = [max(map(len, column)) for column in zip(header, *cells, strict=True)]
    assert sum(widths) + 3 * len(widths) + 1 <= 100
    assert [row[0] for row in cells] == [
        "LiRA online, global",
        "LiRA offline, per example",
        "RMIA online",
        "calibrated loss",
        "loss",
    ]


def test_other_tables_by_hand():
    row = make_row()
    assert operating_table([row])[1][0][1:] == ["0.12 [0.0, 0.40]", "12.3 [11.0, 14.0]", "23.4 [22.0, 25.0]"]
    assert transfer_table([row]) is None
    row["tpr_at_fpr"][2] |= {"shadow_threshold_tpr": 0.25, "shadow_threshold_fpr": 0.0071}
    header, cells = transfer_table([row, make_row(attack="rmia")])
    assert [cell[1:] for cell in cells] == [["25.0 (0.71%)"], ["–"]] and "1% FPR" in header[1]
    for number, shown in ((1432, "1,432 FP"), (9, "only 9 FP"), (0, "no FP")):
        row["tpr_at_fpr"][2]["shadow_threshold_false_positives"] = number
        assert transfer_table([row])[1][0][1] == f"25.0 (0.71%, {shown})"
    # The SD of 70 and 72 is √2.
    assert detail_table([row])[1][0][1:] == ["71.0 ± 1.4", "70.0", "72.0", "21.2", "65.5", "30.2"]


@pytest.mark.parametrize(
    ("block", "wanted"),
    [
        ([0.5, 0.6], [0.5, 0.6]),
        ({"auc": [0.5, None]}, [0.5]),
        ({"auc": {"values": [0.5], "sd": 0.0}}, [0.5]),
        (None, []),
        ({"auc": 0.5}, []),
        ({}, []),
    ],
)
def test_aucs_of_targets_in_any_form(block, wanted):
    assert target_aucs({"per_target": block}) == wanted


def test_rows_that_hold_hardly_anything():
    row = {"attack": "loss"}
    assert attack_table([row]) == (["Attack", "AUC %", "Balanced accuracy %"], [["loss", "–", "–"]])
    assert detail_table([row])[1] == [["loss", *6 * ["–"]]]
    assert attack_answer([row]) and attack_answer([row | {"auc": None, "interval": {"auc": [0.6, 0.7]}}, row])
    bare = make_row(ppv=None, stability=None, per_target=None, tpr_at_fpr=[{"fpr": 0.01, "tpr": 0.1}])
    data = make_data(attacks=1)
    data = dataclasses.replace(data, attacks=[AttackScores(bare, data.attacks[0].scores)])
    words = visible(render(data))
    assert "PPV" not in words and "stable" not in words and "71.2" in words


def test_what_thresholds_were_learned_on():
    rows = [{"thresholds": "shadow models"}, {"thresholds": "other targets"}, {"thresholds": "shadow models"}]
    assert learned_on(rows, 1) == "shadow models or other targets"
    assert learned_on([{"thresholds": "cross-fitted"}], 1) == "other examples of the same target"
    # Rows of older runs do not say.
    assert [learned_on([{}], targets) for targets in (1, 2)] == [
        "other examples of the same target",
        "other targets",
    ]


@pytest.mark.parametrize("source", ["shadow models", "other targets", "cross-fitted"])
def test_the_page_says_what_thresholds_were_learned_on(source):
    data = make_data(targets=1, attacks=1)
    row = data.attacks[0].row | {"thresholds": source}
    if source != "cross-fitted":
        row["tpr_at_fpr"][1] |= {"shadow_threshold_tpr": 0.25, "shadow_threshold_fpr": 0.0071}
    words = visible(render(dataclasses.replace(data, attacks=[AttackScores(row, data.attacks[0].scores)])))
    named = {"cross-fitted": "other examples of the same target"}.get(source, source)
    assert f"by a threshold learned on {named}; 50%" in words
    assert f"by thresholds learned on {named}." in words
    assert ("With thresholds learned on" in words) == (source != "cross-fitted")
    assert (f"It is that of a threshold learned on {named}" in words) == (source != "cross-fitted")
    assert "– stands where it has no false positive" in words
    for other in {"shadow models", "other targets"} - {source}:
        assert f"learned on {other}" not in words


def test_small_rates_keep_a_second_digit():
    values = (0.0, 0.0012, 0.0099, 0.00996, 0.123, None, float("nan"))
    assert [fine_percent(x) for x in values] == ["0.0", "0.12", "0.99", "1.0", "12.3", "–", "–"]


@pytest.mark.parametrize(
    ("nonmembers", "wanted"), [(10**6, 0.001), (10_000, 0.001), (9_999, 0.01), (1_000, 0.01), (50, 0.1)]
)
def test_the_headline_rate_allows_ten_false_positives(nonmembers, wanted):
    points = [{"fpr": rate, "tpr": 0.2} for rate in (0.0001, 0.001, 0.01, 0.1)]
    assert headline_fpr([make_row(tpr_at_fpr=points, nonmembers=nonmembers)]) == wanted


# The answer.


def test_the_answer_by_hand():
    rows = [make_row(attack="loss", mode=None, variance=None, auc=0.6), make_row()]
    assert attack_answer(rows)[0] == (
        "The strongest of 2 attacks, LiRA online with global variance, tells members from non-members with AUC 71.2% "
        "[70.8, 71.6], and finds 12.3% of the members at one false alarm in a thousand."
    )
    assert attack_answer([make_row()])[0].startswith(
        "The attack, LiRA online with global variance, tells members"
    )
    assert not any("flatters" in sentence for sentence in attack_answer([make_row()]))


def test_an_interval_that_holds_one_half_shows_neither_leak_nor_privacy():
    interval = {"auc": [0.496, 0.512], "level": 0.95}
    null = make_row(auc=0.504, interval=interval, tpr_at_fpr=[])
    assert attack_answer([null]) == [
        "The attack, LiRA online with global variance, is not shown to tell members from non-members here: the AUC is "
        "50.4%, and the AUC interval [49.6, 51.2] contains 50%, which is a guess.",
        "That this attack found no evidence is no proof of privacy: another attack, or more targets, examples or "
        "shadow models, may find some.",
    ]
    verdict, caution, *_ = attack_answer([null, null | {"attack": "rmia", "auc": 0.502}])
    assert verdict == (
        "None of the 2 attacks is shown to tell members from non-members here: the AUC of the strongest, LiRA online "
        "with global variance, is 50.4%, and the AUC interval [49.6, 51.2] contains 50%, which is a guess."
    )
    assert caution.startswith("That these attacks found no evidence is no proof of privacy")
    assert not any("no proof" in sentence for sentence in attack_answer([null, make_row()]))
    # Without an interval nothing is claimed either way.
    bare = attack_answer([null | {"auc": 0.9, "interval": None}])
    assert "is not shown" in bare[0] and "the AUC is 90.0%, and there is no interval" in bare[0]
    # What the AUC averages away is said, unless it hangs on a handful of false positives.
    point = {"fpr": 0.01, "tpr": 0.03, "false_positives": 140, "interval": [0.025, 0.035]}
    leak = attack_answer([null | {"tpr_at_fpr": [point]}])
    assert any("finds 3.0% [2.5, 3.5] of the members at one false alarm in a hundred" in s for s in leak)
    # Of many rates some interval misses the guess by chance.
    chance = null | {"tpr_at_fpr": [point | {"tpr": 0.0125, "interval": [0.0103, 0.015]}]}
    assert any("the 1 rate looked at" in s for s in attack_answer([chance]))
    assert not any(sentence.startswith("Yet") for sentence in attack_answer([chance, chance]))
    few = attack_answer([null | {"tpr_at_fpr": [point | {"false_positives": 9}]}])
    assert not any(sentence.startswith("Yet") for sentence in few)


def test_the_strongest_of_many_may_be_chance():
    # The bounds of 5 intervals at 95% lie 2.576 / 1.960 times as far off.
    rows = [make_row(auc=0.5, interval={"auc": [0.49, 0.51], "level": 0.95})] * 4
    for sign in (1, -1):
        for half_width, chance in ((0.0151, False), (0.0153, True)):
            value = 0.5 + 0.02 * sign
            bounds = [value - half_width, value + half_width]
            row = make_row(auc=value, interval={"auc": bounds, "level": 0.95})
            assert any("may be chance" in said for said in attack_answer([row, *rows])) == chance
            assert not any("may be chance" in said for said in attack_answer([row]))


def test_an_auc_below_one_half_leaks_too():
    below = make_row(auc=0.40, interval={"auc": [0.39, 0.41]})
    (verdict, *_) = attack_answer([below])
    assert "AUC 40.0% [39.0, 41.0], which lies below 50%: that is leakage too" in verdict
    sentences = attack_answer([make_row(), below | {"attack": "rmia", "variance": None}])
    assert "LiRA" in sentences[0] and any(s.startswith("Below 50%") and "RMIA online" in s for s in sentences)


def test_the_strongest_is_the_surest_and_then_the_farthest_from_one_half():
    nothing = np.zeros((1, 1))
    weak, strong = make_row(), make_row(auc=0.2, interval={"auc": [0.19, 0.21]})
    unsure = make_row(auc=0.9, interval={"auc": [0.4, 1.0]})
    bare, alike = make_row(auc=0.95, interval=None), make_row()
    rows = [bare, weak, unsure, strong, alike]
    attacks = [AttackScores(row, nothing) for row in rows]
    ordered = by_strength(attacks)
    # Those alike stay in the order given, and the list handed in stays as it was.
    assert [rows.index(attack.row) for attack in ordered[:1]] == [3]
    assert [id(attack.row) for attack in ordered] == [id(row) for row in (strong, weak, alike, bare, unsure)]
    assert [attack.row for attack in attacks] == rows
    assert "AUC 20.0%" in attack_answer(rows)[0]


def test_the_page_orders_attacks_as_its_verdict_does():
    data = make_data(attacks=3)
    turned = dataclasses.replace(data, attacks=data.attacks[::-1])
    names = [attack.name for attack in by_strength(turned.attacks)]
    assert names[0] == "LiRA, online, global variance" and turned.attacks[0].name != names[0]
    words = visible(render(turned))
    assert words.index(names[0]) < words.index(names[1]) < words.index(names[2])
    assert attack_roc(turned) == attack_roc(data)


def test_few_false_positives_and_one_target_are_said():
    sentences = attack_answer([make_row(targets=1)])
    assert any("one target model" in sentence for sentence in sentences)
    assert any("At a false-positive rate of 0.01% fewer than 10" in sentence for sentence in sentences)
    sentences = attack_answer([make_row(nonmembers=50)])
    assert any("rates up to 1% fewer than 10" in s and "no higher one is reported" in s for s in sentences)
    assert not any("fewer than" in sentence for sentence in attack_answer([make_row(nonmembers=10**6)]))


def test_words():
    assert [alarms(x) for x in (0.001, 0.1, 0.005)] == [
        "one false alarm in a thousand",
        "one false alarm in ten",
        "a false-positive rate of 0.5%",
    ]
    assert in_words({"attack": "mine", "mode": "offline"}) == "mine offline"


# Figures.


def test_thinned_curves_stay_close():
    rng = np.random.default_rng(0)
    member = rng.random(40_000) < 0.5
    curve = roc.roc_curve(rng.normal(size=member.size) + member, member)
    kept = thinned(curve)
    assert curve.fpr.size > 20_000 and kept.size <= 2_002 and kept[0] == 0 and kept[-1] == curve.fpr.size - 1
    assert np.abs(np.interp(curve.fpr, curve.fpr[kept], curve.tpr[kept]) - curve.tpr).max() < 0.005
    small = roc.roc_curve(np.arange(9.0), np.arange(9) > 4)
    np.testing.assert_array_equal(thinned(small), np.arange(10))


def test_bands_by_hand():
    # One target perfect, one the wrong way round; the 5th and the 95th percentile lie straight between two.
    member = np.array([[True, True, False, False]] * 3)
    scores = np.array([[4.0, 3, 2, 1], [1, 2, 3, 4], [0, 0, 0, 0]])
    np.testing.assert_allclose(
        target_bands(scores[:2], member[:2], np.array([0.0, 0.5, 1.0]), steps=True),
        [[0.05, 0.05, 1], [0.95, 0.95, 1]],
    )
    # All tied: nothing within the FPR for an attacker, and straight to the corner for the AUC.
    for steps, wanted in ((True, [0.0, 0.0, 1.0]), (False, [0.0, 0.5, 1.0])):
        band = target_bands(scores[2:], member[2:], np.array([0.0, 0.5, 1.0]), steps=steps)
        np.testing.assert_allclose(band, [wanted, wanted])
    # A target without non-members has no curve.
    member[0] = True
    np.testing.assert_array_equal(
        target_bands(scores, member, np.array([0.5]), steps=True),
        target_bands(scores[1:], member[1:], np.array([0.5]), steps=True),
    )
    assert np.isnan(target_bands(scores[:1], member[:1], np.array([0.5]), steps=True)).all()


def test_few_scores_do_not_set_the_range():
    scores = np.concatenate([np.linspace(0, 1, 10_000), [np.inf, -np.inf, 1e300, -1e300]])
    low, high = score_range(scores)
    assert -0.05 < low < 0 and 1 < high < 1.05
    assert score_range(np.array([np.inf, -np.inf])) == (-1.0, 1.0)
    low, high = score_range(np.full(9, 1e30))
    assert low < 1e30 < high


def test_each_attack_has_its_color(monkeypatch):
    monkeypatch.setattr(drawing, "_DPI", 160)  # thin lines have no pixel of their pure colour on a coarse one
    one, two = (attack_roc(make_data(attacks=n)) for n in (1, 2))
    assert (
        count_color(one, FIRST_COLOR)
        and not count_color(one, SECOND_COLOR)
        and count_color(two, SECOND_COLOR)
    )


@pytest.mark.parametrize(("targets", "attacks"), [(1, 5), (2, 1), (3, 2), (8, 5)])
def test_any_number_of_targets_and_attacks_is_drawn(targets, attacks):
    data = make_data(targets=targets, attacks=attacks)
    drawn = draw_all(data)
    assert ("attack_exposed" in drawn) == (targets > 1)


@pytest.mark.parametrize(("value", "targets"), [(0.0, 1), (np.inf, 4), (-np.inf, 1), (1e300, 4)])
def test_ties_everywhere_are_drawn(value, targets):
    data = make_data(targets=targets)
    tied = make_attack(np.full(data.is_member.shape, value), data.is_member)
    data = dataclasses.replace(data, attacks=[tied])
    draw_all(data)
    words = visible(render(data))
    assert "is not shown to tell members from non-members here: the AUC is 50.0%" in words
    assert "cannot tell" not in words and "no proof of privacy" in words


def test_infinite_scores_are_drawn():
    data = make_data()
    scores = data.attacks[0].scores.copy()
    scores[data.is_member & (scores > 2)] = np.inf
    scores[~data.is_member & (scores < -1)] = -np.inf
    draw_all(dataclasses.replace(data, attacks=[make_attack(scores, data.is_member), *data.attacks[1:]]))


def test_perfect_attacks_and_those_below_one_half_are_drawn():
    data = make_data(attacks=1)
    for sign in (1.0, -1.0):
        perfect = make_attack(sign * data.is_member, data.is_member)
        assert drawn_pixels(attack_roc(dataclasses.replace(data, attacks=[perfect]))).std() > 1


def test_one_target_of_three_without_non_members():
    data = make_data(targets=3)
    member = data.is_member.copy()
    member[1] = True
    draw_all(dataclasses.replace(data, is_member=member))


def test_extremes_are_the_most_and_the_least_exposed():
    exposure = np.array([0.5, np.nan, -0.25, 1.0, 0.5, 0.0])
    images = np.zeros((6, 8, 8, 3), np.uint8)
    data = make_data(examples=6, exposure=exposure, images=images)
    assert [part.tolist() for part in exposed(data, 2)] == [[3, 0], [2, 5]]
    # Never the same example on both sides, and ties by position.
    assert [part.tolist() for part in exposed(data, 9)] == [[3, 0, 4], [2, 5]]
    (header, most), (_, least) = exposure_tables(data)
    assert header == ["Example", "Label", "Exposure"]
    assert most == [["#1003", "cat", "+1.00"], ["#1000", "cat", "+0.50"], ["#1004", "dog", "+0.50"]]
    assert least == [["#1002", "<deer>", "−0.25"], ["#1005", "<deer>", "0.00"]]
    lone = dataclasses.replace(data, exposure=np.array([np.nan] * 5 + [0.3]), class_names=())
    assert exposure_tables(lone)[0][1] == [["#1005", "2", "+0.30"]] and exposure_tables(lone)[1][1] == []
    assert drawn_pixels(exposed_images(lone)).std() > 0


def test_examples_without_labels_show_none():
    data = make_data(labels=None, examples=6, exposure=np.array([0.5, np.nan, -0.25, 1.0, 0.5, 0.0]))
    (header, most), _ = exposure_tables(data)
    assert header == ["Example", "Exposure"] and most[0] == ["#1003", "+1.00"]
    labelled = make_data(examples=6, exposure=data.exposure)
    assert drawn_pixels(exposed_images(data)).shape[0] < drawn_pixels(exposed_images(labelled)).shape[0]
    assert "cat" not in visible(render(dataclasses.replace(data, images=None)))


def test_the_histogram_shows_both_sides():
    data = make_data(attacks=1, examples=400)
    # Its fill is half transparent: two fifths of the way to white.
    moved = dataclasses.replace(data, is_member=~data.is_member)
    assert attack_scores(data) != attack_scores(moved)


# Pages.


@pytest.mark.parametrize("targets", [1, 8])
def test_audit_report_is_written_whole_and_holds_everything(tmp_path, targets):
    data = make_data(targets=targets)
    path = write_audit_report(tmp_path / "run", data, make_results(data))
    assert path == tmp_path / "run" / "report.html"
    text = path.read_text(encoding="utf-8")
    embedded = [base64.b64decode(found) for found in re.findall(r'src="data:image/png;base64,([^"]*)"', text)]
    names = ["attack_roc", "attack_scores", "attack_exposed"][: 3 if targets > 1 else 2]
    assert embedded == [(tmp_path / "run" / "figures" / f"{name}.png").read_bytes() for name in names]
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["figures", "report.html"]
    for outside in ("http:", "https:", "<script", "<link", "url(", "@import"):
        assert outside not in re.sub(r'"data:[^"]*"', "", text)
    words = visible(text)
    rows = [attack.row for attack in data.attacks]
    for table in (attack_table(rows), operating_table(rows), detail_table(rows)):
        for cell in (cell for row in table[1] for cell in row):
            assert cell in words
    for word in (
        f"their <model> · 60 examples · {targets} target",
        "63 shadow models",
        attack_answer(rows)[0],
        f"over the pairs of {targets} target",
        f"{data.is_member.sum()} in which the target trained on the example",
        "leftover",
        "abc1234",
    ):
        assert word in words
    assert ("they resample the targets and the examples" in words) == (targets > 1)
    assert ("rank correlation is 0.58" in words) == ("41% are in both" in words) == (targets > 1)
    assert ("none has an exposure" in words) == (targets == 1)
    # The rows of tables.attacks are shown once, in words.
    assert "per_example" not in words and "shadow_threshold" not in words


def test_without_images_there_is_a_table():
    data = make_data(images=None)
    assert list(attack_figure_drawings(data)) == ["attack_roc", "attack_scores"]
    words = visible(render(data))
    top = int(np.argmax(data.exposure))
    assert "Most exposed" in words and "Least exposed" in words
    assert f"#{1000 + top} {data.class_names[top % 3]} +{data.exposure[top]:.2f}" in words


def test_shared_exposures_are_said():
    data = make_data(exposure=np.round(np.linspace(-1, 1, 60)))
    assert "The highest exposure is shared by 15;" in visible(render(data))
    assert "is shared by" not in visible(render(make_data()))


def test_text_is_escaped():
    text = render(make_data(images=None))
    for raw in ("<in>", "<model>", "<deer>", "k<<", "<i>"):
        assert raw not in text
    for shown in ("Who was &lt;in&gt;?", "their &lt;model&gt;", "&lt;deer&gt;"):
        assert shown in text


def test_sections_stand_alone():
    data = make_data()
    parts = attack_sections(data, dict.fromkeys(attack_figure_drawings(data), b"png"))
    assert parts[0].startswith("<section class=answer>")
    text = "".join(parts)
    assert text.count("<section") == text.count("</section>") and text.count("<p") == text.count("</p>")


def test_a_sweep_page_shows_its_attacks_after_the_answer(tmp_path):
    data = make_data()
    path = write_sweep_report(tmp_path / "with", make_sweep(data))
    words = visible(path.read_text(encoding="utf-8"))
    verdict = attack_answer([attack.row for attack in data.attacks])[0]
    assert words.index("3 shadow models of MLP") < words.index(verdict) < words.index("Last training loss")
    assert "printed twice" not in words and "leftover" in words
    figures = {p.stem for p in (tmp_path / "with" / "figures").iterdir()}
    assert {"attack_roc", "attack_scores", "attack_exposed", "signals"} <= figures


def test_a_sweep_page_without_attacks(tmp_path):
    sweep = make_sweep(None)
    path = write_sweep_report(tmp_path, sweep)
    words = visible(path.read_text(encoding="utf-8"))
    assert "ROC curves" not in words and not list((tmp_path / "figures").glob("attack*"))
    # Rows without their scores are shown as a table of attacks, not as they are stored.
    assert "Balanced accuracy %" in words and "row printed twice" not in words
    sweep.results["tables"] = {"attacks": [make_row()], "impossible_attacks": []}
    words = visible(render_sweep_page(sweep, dict.fromkeys(SWEEP_FIGURES, b"png")))
    assert "71.2 [70.8, 71.6]" in words and "tpr_at_fpr" not in words and "Left out" not in words
    assert "Further numbers" not in words
    for tables in ({}, {"attacks": [], "impossible_attacks": []}):
        sweep.results["tables"] = tables
        words = visible(render_sweep_page(sweep, dict.fromkeys(SWEEP_FIGURES, b"png")))
        assert "Attacks" not in words


def test_attacks_left_out_are_said_with_the_reason():
    impossible = [
        {"attack": "lira", "mode": "online", "variance": "per_example", "reason": "Too few: 3 < 4."},
        {"attack": "rmia", "mode": "online", "variance": None, "reason": "Too few: 3 < 4."},
        {"attack": "loss", "reason": "Another."},
        {"attack": "loss"},
    ]
    assert left_out(impossible) == [
        "<p class=note>Left out: LiRA online, per example; RMIA online: Too few: 3 &lt; 4.</p>",
        "<p class=note>Left out: loss: Another.</p>",
        "<p class=note>Left out: loss: no reason was given.</p>",
    ]
    said = "Left out: LiRA online, per example; RMIA online: Too few: 3 < 4."
    data = make_data(attacks=1)
    tables = {"attacks": [attack.row for attack in data.attacks], "impossible_attacks": impossible}
    pages = [render(data, tables=tables)]
    for attacks, held in ((data, tables), (None, {"impossible_attacks": impossible})):
        sweep = make_sweep(attacks)
        sweep.results["tables"] = held
        names = [*SWEEP_FIGURES, *(attack_figure_drawings(data) if attacks else [])]
        pages.append(render_sweep_page(sweep, dict.fromkeys(names, b"png")))
    for words in map(visible, pages):
        assert words.count(said) == 1 and "impossible_attacks" not in words and "Further numbers" not in words


def test_bad_data_is_refused():
    data = make_data(attacks=1)
    cases = [
        ({"attacks": []}, "no attack to report"),
        ({"is_member": data.is_member[1:]}, "Scores of LiRA, online, global variance have shape"),
    ]
    for change, words in cases:
        with pytest.raises(InputError, match=words):
            dataclasses.replace(data, **change)

"""The pages of SISA: what their words, tables and figures say, and that no experiment makes them break or lie."""

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
from mu_jax.evaluation.decisions import evaluate_decisions
from mu_jax.evaluation.membership import evaluate_scores
from mu_jax.evaluation.report import drawing, sisa_page
from mu_jax.evaluation.report.sisa_answer import (
    accuracy_answer,
    accuracy_difference,
    retraining_answer,
    sisa_answers,
)
from mu_jax.evaluation.report.sisa_attack_answer import attack_answer, unequal
from mu_jax.evaluation.report.sisa_cost_figures import deletion_cost, plan, request_costs
from mu_jax.evaluation.report.sisa_data import SisaReportData
from mu_jax.evaluation.report.sisa_delete_page import delete_answer, requests_table, write_sisa_delete_report
from mu_jax.evaluation.report.sisa_figures import accuracy_by_shards, posterior_histograms, sisa_styles
from mu_jax.evaluation.report.sisa_page import render_sisa_page, write_sisa_report
from mu_jax.evaluation.report.sisa_tables import (
    attack_names,
    attack_table,
    auc_table,
    cost_table,
    measures,
    models_table,
    points,
    shards_table,
    speed_up_pivot,
    times,
)
from mu_jax.experiments.sisa_table import sisa_delete_summary, sisa_summary
from mu_jax.unlearning.sisa.cost import expected_cost, simulate_cost, speed_up_table

NAMES = ("base", "base_retrained", "sisa", "sisa_unlearned", "sisa_retrained", "sisa_retrained_again")
ATTACKS = ("posterior_1", "posterior_1_ensemble", "posterior_2", "posterior_3", "loss_threshold")
# How much surer a model is of what it was trained on, in standard deviations, and how sure of anything.
REMEMBERS = {name: (1.0 if name.startswith("base") else 0.5) for name in NAMES}
TRAIN, FORGET, TEST, SHARDS, SLICES = 1400, 140, 397, 10, 20
ACCURACY = {
    "base": (1.0, 0.99, 0.962),
    "base_retrained": (1.0, 0.95, 0.957),
    "sisa": (0.93, 0.925, 0.889),
    "sisa_unlearned": (0.931, 0.893, 0.886),
    "sisa_retrained": (0.931, 0.893, 0.886),
    "sisa_retrained_again": (0.928, 0.886, 0.894),
}
SAMPLES = (28_000, 25_200, 28_400, 24_600, 25_560, 25_550)
HISTOGRAM_COLORS = ("#d55e00", "#0072b2", "#009e73", "#222222")


@pytest.fixture(autouse=True)
def coarse_figures(monkeypatch):
    """A third of the resolution: the same drawing in a fraction of the time."""
    monkeypatch.setattr(drawing, "_DPI", 50)


def interval(value: float, half: float = 0.03) -> list[float]:
    return [max(value - half, 0.0), min(value + half, 1.0)]


def make_attacks(logit: dict[str, np.ndarray], seed: int) -> dict:
    """Attacks of one model, with decisions by a fixed threshold; no two attacks are alike."""
    attacks = {}
    for suffix, part in (("", "forget"), ("_retain", "retain")):
        scores = np.concatenate([logit[part], logit["test"]])
        member = np.arange(scores.size) < logit[part].size
        for place, name in enumerate(ATTACKS):
            rng = np.random.default_rng([seed, place])
            noisy = scores + 0.4 * (place + 1) * rng.normal(size=scores.size)
            if name == "loss_threshold":
                block = evaluate_scores(noisy, member, samples=40)
            else:
                block = evaluate_decisions(noisy, noisy > 2.8, member, samples=40)
            attacks[name + suffix] = block
    return attacks


def make_results() -> tuple[dict, dict]:
    """Results, and largest posteriors, of an ensemble that deletes exactly."""
    sizes = {"forget": FORGET, "retain": TRAIN - FORGET, "test": TEST}
    rng = np.random.default_rng(0)
    examples = {part: rng.normal(size=size) for part, size in sizes.items()}
    models, posterior = {}, {}
    for place, name in enumerate(NAMES):
        # Training draws its chance from a seed; what deletes exactly has that of a fit without the deleted.
        seed = {"sisa_retrained": 3}.get(name, place)
        chance = np.random.default_rng([1, seed])
        trained_on = {"forget": name in ("base", "sisa"), "retain": True, "test": False}
        logit = {
            part: (3.2 if name.startswith("base") else 1.6)
            + 1.2 * values
            + 0.3 * chance.normal(size=values.size)
            + REMEMBERS[name] * trained_on[part]
            for part, values in examples.items()
        }
        posterior[name] = {part: (1 / (1 + np.exp(-x))).astype(np.float32) for part, x in logit.items()}
        accuracy = dict(zip(("retain", "forget", "test"), ACCURACY[name], strict=True))
        models[name] = {
            "accuracy": accuracy,
            "accuracy_interval": {part: interval(value) for part, value in accuracy.items()},
            "attacks": make_attacks(logit, seed),
            "gap_to_retrain": (0.031, 0.0, 0.029, 0.0, 0.0, 0.012)[place],
            "gap_parts": {
                "unlearn": 0.033,
                "retain": 0.002,
                "test": 0.007,
                "forget_vs_test_auc": 0.01 * place,
            },
            "seconds": (41.2, 37.4, 30.1, 26.3, 27.2, 27.3)[place],
            "compile_seconds": 0.0,
            "trained_samples": SAMPLES[place],
        }
    results = {
        "experiment": "sisa_posterior",
        "question": "What does cheap deletion cost & save?",
        "seed": 7,
        "data": {
            "source": "digits",
            "name": "digits (scikit-learn)",
            "train": TRAIN,
            **sizes,
            "validation": 0,
            "nonmembers": TEST,
            "classes": 10,
            "image_shape": [8, 8, 1],
            "label_noise": 0.0,
            "shadow_members": 150,
            "shadow_nonmembers": 149,
        },
        "model": {"name": "cnn", "width": 16, "parameters": 701466, "compute_dtype": "float32"},
        "sisa": {
            "shards": SHARDS,
            "slices": SLICES,
            "sharding": "uniform",
            "aggregation": "mean_posterior",
            "devices": 2,
            "models_per_device": 5,
        },
        "models": models,
        "tables": make_tables(),
        "environment": {"jax": "0.10.2", "python": "3.11.9", "device": "2 × cpu", "git": "abc1234"},
    }
    return results, posterior


def make_tables() -> dict:
    shards = []
    for slices in (1, SLICES):
        for s in (1, 2, 5, 10, 20):
            for place, name in enumerate(("majority_vote", "mean_posterior", "mean_logits")):
                value = 0.96 - 0.035 * np.log2(s) / 2 - 0.004 * place - 0.01 * (slices > 1)
                shards.append(
                    {
                        "shards": s,
                        "slices": slices,
                        "aggregation": name,
                        "test_accuracy": float(value),
                        "test_interval": interval(value, 0.02),
                        "train_accuracy": float(value) + 0.03,
                        "constituent_test": float(0.95 - 0.07 * np.log2(s) / 2),
                        "constituent_test_sd": 0.02 if s > 1 else 0.0,
                        "constituent_train": 1.0,
                    }
                )
    cost = []
    for k in (1, 10, 30):
        draws = [
            simulate_cost(TRAIN, SHARDS, SLICES, k, runs=2, seed=i)["examples_retrained"] for i in range(20)
        ]
        expected = expected_cost(TRAIN, SHARDS, SLICES, k)
        cost.append(
            {
                "requests": k,
                "shards": SHARDS,
                "slices": SLICES,
                "draws": 20,
                "examples_retrained": float(np.mean(draws)),
                "examples_retrained_sd": float(np.std(draws, ddof=1)),
                "expected_examples": expected["examples_retrained"],
                "speed_up": (TRAIN - k) / float(np.mean(draws)),
                "expected_speed_up": expected["speed_up"],
                "trained": False,
                "seconds": None,
            }
        )
    expected = expected_cost(TRAIN, SHARDS, SLICES, FORGET)
    cost.append(
        {
            "requests": FORGET,
            "shards": SHARDS,
            "slices": SLICES,
            "draws": 1,
            "examples_retrained": 1230.0,
            "examples_retrained_sd": 0.0,
            "expected_examples": expected["examples_retrained"],
            "speed_up": 1260 / 1230,
            "expected_speed_up": expected["speed_up"],
            "trained": True,
            "seconds": 26.3,
            "seconds_full": 37.4,
        }
    )
    requests = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000]
    own = speed_up_table(TRAIN, (2, 5, 10, 20), (1, 5, 20), requests)
    large = speed_up_table(10_000_000, (10, 100, 1000), (1, 10, 50), [1, 10, 100, 1000, 5000])
    return {
        "accuracy_by_shards": shards,
        "constituents": [
            {
                "model": "sisa",
                "shard": i,
                "examples": TRAIN // SHARDS,
                "train_accuracy": 0.99,
                "test_accuracy": 0.70 + 0.01 * i,
            }
            for i in range(SHARDS)
        ],
        "deletion_cost": cost,
        "expected_speed_up": [*own, *large],
    }


RESULTS, POSTERIOR = {}, {}


@pytest.fixture(autouse=True, scope="module")
def made_once():
    """Nothing is made on import; every test works on a copy."""
    results, posterior = make_results()
    RESULTS.update(results)
    POSTERIOR.update(posterior)


def make_data() -> SisaReportData:
    return SisaReportData(
        copy.deepcopy(RESULTS), {"seed": 7, "data": {"source": "digits </pre>"}}, dict(POSTERIOR)
    )


def make_deletions(requests: int = 3) -> dict:
    results = copy.deepcopy(RESULTS)
    rows = [
        {
            "request": i + 1,
            "indices": 2 * i + 1,
            "shards": i + 1,
            "steps": 12 + i,
            "examples_retrained": 100.0 + 50 * i,
            "expected_examples": 120.0 + 40 * i,
            "seconds": 2.5 + i,
            "certified": f"2026-11-2{i + 1}T10:00:00+00:00",
            "certificate_sha256": f"{i:064x}",
        }
        for i in range(requests)
    ]
    model = {
        "accuracy": {"retain": 0.931, "test": 0.886},
        "accuracy_interval": {"retain": [0.92, 0.94], "test": [0.85, 0.91]},
        "attacks": {},
        "seconds": 5.0,
        "trained_samples": 3000,
    }
    kept = {key: results[key] for key in ("data", "model", "sisa")}
    return {"experiment": "sisa_delete", **kept, "models": {"sisa": model}, "tables": {"requests": rows}}


def render(data: SisaReportData) -> str:
    return render_sisa_page(data, dict.fromkeys(sisa_page._drawings(data), b"png"))


def visible(text: str) -> str:
    """The page's words, as a reader sees them."""
    text = re.sub(r"<style>.*?</style>", "", text, flags=re.S)
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", text)).split())


def drawn_pixels(png: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(png)) as image:
        return np.asarray(image.convert("RGB"))


def has_color(png: bytes, color: str) -> bool:
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return bool((drawn_pixels(png) == wanted).all(axis=-1).any())


def test_models_table_by_hand():
    header, rows = models_table(make_data().results)
    assert header == [
        "Model",
        "Retained %",
        "Deleted %",
        "Test %",
        "Gap to retrained, pp",
        "Examples trained",
        "Time, s",
    ]
    assert [row[0] for row in rows] == list(NAMES)
    cells = ["93.0 [90.0, 96.0]", "92.5 [89.5, 95.5]", "88.9 [85.9, 91.9]", "2.9", "28,400", "30.1"]
    assert rows[2] == ["sisa", *cells]


def test_attack_table_puts_the_three_accuracies_side_by_side():
    results = make_data().results
    block = {
        "accuracy": 0.85,
        "balanced_accuracy": 0.585,
        "advantage": 0.17,
        "precision": None,
        "recall": 0.2,
    }
    block |= {"auc": 0.6, "interval": {"auc": [0.55, 0.651], "precision": None, "level": 0.95}}
    results["models"]["base"]["attacks"] = {"posterior_1": block}
    header, rows = attack_table(results, "posterior_1")
    assert header[1:4] == ["Accuracy %", "Balanced accuracy %", "Advantage, pp"]
    assert rows[0] == ["base", "85.0", "58.5", "17.0", "–", "20.0", "60.0 [55.0, 65.1]"]


def test_an_attack_that_only_scores_has_a_balanced_accuracy_alone():
    block = {
        "auc": 0.6,
        "accuracy": 0.58,
        "advantage": 0.16,
        "interval": {"auc": [0.5, 0.7], "accuracy": [0.53, 0.62]},
    }
    found = measures(block)
    assert found["accuracy"].value is None and found["balanced_accuracy"] == (0.58, [0.53, 0.62])
    assert found["advantage"].value == 0.16 and found["advantage"].bounds == pytest.approx([0.06, 0.24])
    block |= {"accuracy": None, "advantage": None, "interval": {"auc": [0.5, 0.7], "accuracy": None}}
    assert measures(block)["balanced_accuracy"] == measures(block)["advantage"] == (None, None)


def test_attacks_stand_in_one_order_and_an_unknown_one_last():
    models = {
        "sisa": {"attacks": dict.fromkeys(["mine", "loss_threshold", "posterior_1", "posterior_1_retain"])}
    }
    assert attack_names(models) == ["posterior_1", "loss_threshold", "mine"]
    assert attack_names(models, retained=True) == ["posterior_1_retain"]


def test_auc_table_leaves_gaps():
    results = make_data().results
    del results["models"]["sisa"]["attacks"]["posterior_2"]
    results["models"]["sisa"]["attacks"]["posterior_3"] = {"auc": 0.5432}
    results["models"]["base"]["attacks"] = {}
    header, rows = auc_table(results)
    assert header[3:5] == [
        "Adversary 2, a shadow of other data",
        "Adversary 3, the largest posterior",
    ]
    assert [row[0] for row in rows] == list(NAMES[1:])
    assert rows[1][3:5] == ["–", "54.3"]


def test_cost_tables_by_hand():
    tables = make_data().results["tables"]
    _, rows = cost_table(tables["deletion_cost"][-1:])
    expected = tables["deletion_cost"][-1]["expected_examples"]
    assert rows[0][:4] == ["140, carried out", "10 × 20", "1", "1,230"]
    assert rows[0][4] == f"{expected:,.0f}" and rows[0][6] == "1.02×" and rows[0][8:] == ["26.3", "37.4"]
    row = tables["deletion_cost"][0] | {
        "examples_retrained": 94.4,
        "examples_retrained_sd": 31.6,
        "seconds": None,
        "simulated_examples": 95.2,
        "simulated_error": 3.4,
    }
    assert cost_table([row])[1][0][5] == "95 ± 3"
    assert cost_table([row])[1][0][3] == "94 ± 32" and cost_table([row])[1][0][8:] == ["–", "–"]
    header, rows = shards_table(tables["accuracy_by_shards"][1:2])
    assert rows == [["1 × 1, mean posterior", "95.6 [93.6, 97.6]", "98.6", "95.0", "100.0"]]
    assert len(header) == len(rows[0])


def test_the_table_of_speed_ups_has_ends_and_few_columns():
    header, rows = speed_up_pivot(speed_up_table(1000, (1, 10), (1, 50), range(1, 100)))
    assert header[1] == "1 request" and header[-1] == "99 requests" and len(header) == 9
    assert [row[0] for row in rows] == ["1 × 1", "1 × 50", "10 × 1", "10 × 50"]
    assert rows[0][1:] == ["1.00×"] * 8  # one model without slices is what retraining is compared with
    assert rows[2][1] == "10×"


def test_numbers_as_strings():
    assert [times(x) for x in (0.5, 1.024, 3.44, 14.6, 12345.0, None, float("inf"))] == [
        "0.50×",
        "1.02×",
        "3.4×",
        "15×",
        "12,345×",
        "–",
        "–",
    ]
    assert [points(x) for x in (-0.0321, 0.0004, 0.011)] == ["−3.2", "0.0", "+1.1"]


def test_difference_of_accuracies_by_hand():
    models = {
        "sisa": {"accuracy": {"test": 0.90}, "accuracy_interval": {"test": [0.85, 0.94]}},
        "base": {"accuracy": {"test": 0.95}, "accuracy_interval": {"test": [0.91, 0.98]}},
    }
    found = accuracy_difference(models, "sisa", "base")
    assert found == pytest.approx((-0.05, -0.05 - 0.0583095, -0.05 + 0.0565685), abs=1e-6)
    del models["base"]["accuracy_interval"]
    assert accuracy_difference(models, "sisa", "base") == (pytest.approx(-0.05), None, None)
    assert accuracy_difference(models, "sisa", "other") is None


@pytest.mark.parametrize(
    ("ensemble", "verdict"),
    [
        (0.889, "−7.3 points of test accuracy [−11.5, −3.1]"),
        (0.952, "No price is shown: −1.0 points of test accuracy [−5.2, +3.2] cannot be told from zero"),
        (None, "−7.3 points of test accuracy, without an interval to say how sure that is"),
    ],
)
def test_the_price_in_accuracy_is_what_the_interval_carries(ensemble, verdict):
    results = make_data().results
    sisa = results["models"]["sisa"]
    if ensemble is None:
        del sisa["accuracy_interval"]
    else:
        sisa["accuracy"]["test"] = ensemble
        sisa["accuracy_interval"]["test"] = [ensemble - 0.03, ensemble + 0.03]
    results["models"]["base"]["accuracy_interval"]["test"] = [0.932, 0.992]
    answer = accuracy_answer(results)
    assert answer.verdict == verdict
    assert "On 397 test images one model is right on 96.2% [93.2, 99.2]" in answer.sentence
    compatible = "A loss of up to 5.2 points" in " ".join(answer.details)
    assert compatible == (ensemble == 0.952)


def test_a_gain_in_accuracy_is_called_one():
    results = make_data().results
    for name, value in (("sisa", 0.95), ("base", 0.8)):
        results["models"][name]["accuracy"]["test"] = value
        results["models"][name]["accuracy_interval"]["test"] = [value - 0.01, value + 0.01]
    assert (
        accuracy_answer(results).verdict
        == "None: the ensemble gains +15.0 points of test accuracy [+13.6, +16.4]"
    )


def test_the_answer_on_accuracy_names_what_it_rests_on():
    details = " ".join(accuracy_answer(make_data().results).details)
    assert "the ensemble is at 88.6% [85.6, 91.6]" in details and "−7.1 points [" in details
    # Ten shards at 70 to 79%: mean 74.5, deviation 3.03.
    assert "right on 74.5 ± 3.0% of the test images" in details and "over 10" in details
    assert "(mean posterior, 20 slices): 1: 94.6%, 2: 92.8%" in details
    assert "another seed moved the ensemble's test accuracy by +0.8 points" in details


def test_the_saving_is_counted_and_told_from_what_is_expected_of_one():
    results = make_data().results
    answer = retraining_answer(results)
    one = expected_cost(TRAIN, SHARDS, SLICES, 1)["speed_up"]
    assert answer.verdict == f"1.02× for 140 deletions at once; {one:.0f}× expected for one alone"
    assert "put 24,600 images through gradient steps, against 25,200" in answer.sentence
    assert "nothing is saved" in answer.sentence
    details = " ".join(answer.details)
    assert "26.3 s and one model for 37.4 s: 1.42×" in details
    assert "up to 10 deletions at once should save half of the work or more, 20 no longer" in details
    results["models"]["sisa_unlearned"]["trained_samples"] = 2_520
    answer = retraining_answer(results)
    del results["tables"]["deletion_cost"][0]["expected_speed_up"]
    assert "at random: 14× for 1, 2.0× for 10 (expected 2.0×)" in " ".join(retraining_answer(results).details)
    assert answer.verdict.startswith("10× for 140") and "nothing is saved" not in answer.sentence
    results["models"]["sisa_unlearned"]["trained_samples"] = 50_400
    assert "cost more than retraining" in retraining_answer(results).sentence


def test_the_saving_without_a_model_to_compare_with():
    results = make_data().results
    del results["models"]["base_retrained"]
    # The table of costs still counts what was carried out.
    answer = retraining_answer(results)
    assert answer.verdict.startswith("1.02× for 140 deletions") and "counted as 1.02× less" in answer.sentence
    del results["tables"]["deletion_cost"]
    assert retraining_answer(results).verdict.startswith("Not measured; 1")
    del results["tables"]["expected_speed_up"]
    assert retraining_answer(results).verdict == "Not measured"


def with_aucs(data: SisaReportData, name: str, bounds: dict[str, list[float]]) -> None:
    """Give a model's attacks on deleted images these AUC intervals, and balanced accuracies that are a guess."""
    for attack in ATTACKS:
        low, high = bounds.get(attack, [0.45, 0.55])
        block = data.results["models"][name]["attacks"][attack]
        block["auc"] = (low + high) / 2
        key = "accuracy" if attack == "loss_threshold" else "balanced_accuracy"
        block[key] = 0.5
        block["interval"] |= {"auc": [low, high], key: [0.45, 0.55]}


@pytest.mark.parametrize(
    ("bounds", "exact", "verdict", "words"),
    [
        (
            {},
            True,
            "Not shown by any of 5 attacks, and all figures are those of an ensemble that never saw them",
            "no proof",
        ),
        ({}, False, "Not shown by any of 5 attacks", "not exact here"),
        (
            {"posterior_3": [0.505, 0.6]},
            True,
            "Perhaps: more than a guess, but chance may explain it",
            "Allowing for",
        ),
        (
            {"posterior_3": [0.6, 0.7]},
            True,
            "It tells them apart, but not by memory of them",
            "and not memory",
        ),
        ({"posterior_3": [0.6, 0.7]}, False, "Yes", "“Adversary 3, the largest posterior”"),
        ({"posterior_2": [0.3, 0.4]}, False, "Yes", "“Adversary 2, a shadow of other data”"),
    ],
)
def test_the_verdict_on_attacks_follows_the_intervals(bounds, exact, verdict, words):
    data = make_data()
    with_aucs(data, "sisa_unlearned", bounds)
    if exact:
        with_aucs(data, "sisa_retrained", bounds)
    answer = attack_answer(data)
    assert answer.verdict == verdict
    assert words in " ".join(answer.details)
    assert "can compare the two" in answer.details[-1]


def test_attacks_that_saw_nothing_before_do_not_praise_the_deletion():
    data = make_data()
    for name in ("sisa_unlearned", "sisa_retrained"):
        with_aucs(data, name, {})
    assert "Nor is any of them shown" not in " ".join(attack_answer(data).details)
    with_aucs(data, "sisa", {})
    assert "Nor is any of them shown" in attack_answer(data).details[1]


def test_the_answer_on_attacks_gives_figures_before_and_after():
    data = make_data()
    answer = attack_answer(data)
    block = data.results["models"]["sisa_unlearned"]["attacks"]["posterior_1"]
    assert f"AUC {100 * block['auc']:.1f}% [" in answer.sentence
    assert f"advantage {abs(100 * block['advantage']):.1f} points [" in answer.sentence
    details = " ".join(answer.details)
    base = data.results["models"]["base"]["attacks"]["posterior_1"]
    assert f"on one model AUC {100 * base['auc']:.1f}%" in details
    retained = data.results["models"]["sisa_unlearned"]["attacks"]["posterior_1_retain"]
    assert f"the same attack has AUC {100 * retained['auc']:.1f}%" in details
    # The ensemble remembered by half a deviation what it now forgets.
    assert re.search(r"changed the AUC by −\d+\.\d points \[−\d+\.\d, −\d+\.\d\].*: it took away", details)
    same = dict(data.largest_posterior) | {"sisa": data.largest_posterior["sisa_unlearned"]}
    unchanged = dataclasses.replace(data, largest_posterior=same)
    assert "0.0 points [0.0, 0.0] on the same images, which cannot be told" in " ".join(
        attack_answer(unchanged).details
    )


def test_exactness_is_checked_to_the_last_bit():
    data = make_data()
    assert unequal(data) == [] and "something went wrong" not in visible(render(data))
    data.results["models"]["sisa_retrained"]["attacks"]["posterior_3"]["auc"] += 1e-16
    data.results["models"]["sisa_retrained"]["attacks"]["posterior_3"]["auc"] *= 1 + 1e-15
    assert unequal(data) == ["attacks posterior_3 auc"]
    changed = data.largest_posterior["sisa_retrained"]["test"].copy()
    changed[5] = np.nextafter(changed[5], np.float32(0))
    parts = data.largest_posterior["sisa_retrained"] | {"test": changed}
    data = dataclasses.replace(data, largest_posterior=data.largest_posterior | {"sisa_retrained": parts})
    assert unequal(data) == ["attacks posterior_3 auc", "largest posterior test"]
    words = visible(render(data))
    assert words.index("in 2 figures") < words.index("How much accuracy do I pay?")
    assert "not exact here: 2 figures differ" in words
    del data.results["models"]["sisa_retrained"]
    assert unequal(data) is None and "no ensemble fitted without" in visible(render(data))


def test_report_is_written_whole_and_holds_everything(tmp_path):
    data = make_data()
    path = write_sisa_report(tmp_path / "run", data)
    assert path == tmp_path / "run" / "report.html"
    text = path.read_text(encoding="utf-8")
    embedded = [base64.b64decode(found) for found in re.findall(r'src="data:image/png;base64,([^"]*)"', text)]
    names = ("accuracy_by_shards", "deletion_cost", "plan", "posterior_histograms")
    assert embedded == [(tmp_path / "run" / "figures" / f"{name}.png").read_bytes() for name in names]
    assert all(drawn_pixels(png).std() > 1 for png in embedded)
    assert sorted(p.name for p in (tmp_path / "run").iterdir()) == ["figures", "report.html"]
    for outside in ("http:", "https:", "<script", "<link", "url(", "@import"):
        assert outside not in re.sub(r'"data:[^"]*"', "", text)
    words = visible(text)
    results = data.results
    shown = [
        models_table(results),
        *(attack_table(results, name + suffix) for name in ATTACKS for suffix in ("", "_retain")),
        cost_table(results["tables"]["deletion_cost"]),
        shards_table(results["tables"]["accuracy_by_shards"]),
    ]
    for cell in {cell for _, rows in shown for row in rows for cell in row}:
        assert cell in words
    for word in (
        "10 shards × 20 slices · 140 of 1,400 training images deleted · seed 7",
        "95% intervals",
        "noise floor",
        "10,000,000 examples",
        "150 images of the same kind, holds 149 out",
        "gives 73.9%",  # 397 of 537: always naming the larger side
        "701,466",
        "abc1234",
        "8 × 8 × 1",
    ):
        assert word in words


def test_the_answers_come_first_and_in_order():
    words = visible(render(make_data()))
    places = [words.index(answer.method) for answer in sisa_answers(make_data())]
    assert places == sorted(places) and places[-1] < words.index("Gap to retrained")
    assert words.index("What does cheap deletion cost & save?") < places[0]


@pytest.mark.parametrize(
    "missing", ["accuracy_by_shards", "constituents", "deletion_cost", "expected_speed_up", None]
)
def test_a_table_may_be_absent(tmp_path, missing):
    data = make_data()
    tables = data.results["tables"]
    data.results["tables"] = {k: v for k, v in tables.items() if missing is not None and k != missing}
    wanted = {"accuracy_by_shards", "deletion_cost", "plan", "posterior_histograms"}
    gone = {
        "accuracy_by_shards": {"accuracy_by_shards"},
        "expected_speed_up": {"plan"},
        None: wanted - {"posterior_histograms"},
    }
    drawings = sisa_page._drawings(data)
    assert set(drawings) == wanted - gone.get(missing, set())
    if "deletion_cost" in drawings and missing in ("deletion_cost", "expected_speed_up"):
        assert drawn_pixels(drawings["deletion_cost"]()).std() > 1  # of points alone, of curves alone
    assert "How much accuracy do I pay?" in visible(render(data))
    title, table, lines = sisa_summary(data.results, tmp_path)
    assert title and len(table[1]) == 6 and lines


def test_attacks_intervals_and_models_may_be_absent(tmp_path):
    data = make_data()
    for model in data.results["models"].values():
        model["attacks"] = {k: v for k, v in model["attacks"].items() if k.startswith("posterior_1")}
        del model["accuracy_interval"]
        for block in model["attacks"].values():
            del block["interval"]
    del data.results["models"]["sisa_retrained_again"]
    words = visible(write_sisa_report(tmp_path, dataclasses.replace(data, largest_posterior={})).read_text())
    assert "Adversary 2" not in words and "Adversary 3" not in words and "Adversary 1" in words
    assert "No attack on the ensemble after the deletion has an interval" in words
    assert not (tmp_path / "figures" / "posterior_histograms.png").exists()
    for model in data.results["models"].values():
        model["attacks"] = {}
    assert "Not measured" in visible(render(data))
    data.results.update(models={"base": data.results["models"]["base"]}, tables={})
    assert visible(render(dataclasses.replace(data, largest_posterior={}))).count("Not measured") == 3


def test_text_is_escaped():
    data = make_data()
    data.results["data"] |= {"name": "<script>x</script>", "label_noise": 0.1, "source": "synthetic:8"}
    data.results["tables"]["a<b"] = [{"k<": "<i>", "n": 0.25}]
    data.results["models"]["<u>more"] = copy.deepcopy(data.results["models"]["sisa"])
    data.results["models"]["<u>more"]["attacks"]["<b>"] = {"auc": 0.5}
    text = render(data)
    for raw in ("<script>", "<b>", "<u>", "a<b", "k<<", "<i>", '</pre>"'):
        assert raw not in text
    for shown in (
        "&lt;script&gt;",
        "&lt;u&gt;more",
        "a&lt;b",
        "digits &lt;/pre&gt;",
        "cost &amp; save",
        "&lt;b&gt;",
    ):
        assert shown in text
    assert "probability 10%" in text and "Synthetic data" in text


def test_figures_show_what_they_say(monkeypatch):
    monkeypatch.setattr(drawing, "_DPI", 160)  # thin lines have no pixel of their pure colour on a coarse one
    data = make_data()
    with_all = accuracy_by_shards(data)
    assert all(has_color(with_all, color) for color in ("#0072b2", "#009e73", "#cc79a7", "#d55e00"))
    data.results["tables"]["accuracy_by_shards"] = [
        row for row in data.results["tables"]["accuracy_by_shards"] if row["aggregation"] == "mean_posterior"
    ]
    without = accuracy_by_shards(data)
    assert has_color(without, "#0072b2") and not has_color(without, "#cc79a7")
    monkeypatch.setattr(drawing, "_DPI", 50)
    marked = deletion_cost(data)
    data.results["tables"]["deletion_cost"].pop()
    assert marked != deletion_cost(data)
    shown = {"sisa": data.largest_posterior["sisa"]}
    both = (
        posterior_histograms(data),
        posterior_histograms(dataclasses.replace(data, largest_posterior=shown)),
    )
    assert both[0] != both[1] and min(drawn_pixels(png).std() for png in both) > 1


def test_odd_numbers_are_drawn():
    data = make_data()
    rows = data.results["tables"]["accuracy_by_shards"][1:2]
    data.results["tables"]["accuracy_by_shards"] = [
        rows[0] | {"test_interval": None, "constituent_test": None}
    ]
    data.results["tables"]["deletion_cost"] = [
        data.results["tables"]["deletion_cost"][0] | {"examples_retrained_sd": 1e9},
        data.results["tables"]["deletion_cost"][1] | {"speed_up": None, "shards": 3},
    ]
    data.results["tables"]["expected_speed_up"] = speed_up_table(
        10**6, range(1, 12), (1, 2, 3, 4, 5, 6), (1, 5)
    )
    data.results["tables"]["expected_speed_up"][0]["speed_up"] = None
    ones = {part: np.ones(5, np.float32) for part in ("forget", "retain", "test")}
    halves = {part: np.full(1, 0.1) for part in ones}
    for posterior in (ones, halves):
        shown = dataclasses.replace(data, largest_posterior={"sisa": posterior, "sisa_unlearned": posterior})
        assert drawn_pixels(posterior_histograms(shown)).std() > 1 and attack_answer(shown).details
    assert all(drawn_pixels(draw(data)).std() > 1 for draw in (accuracy_by_shards, deletion_cost, plan))
    assert "–" in visible(render(data))


def test_colors_tell_the_models_apart():
    styles = sisa_styles([*NAMES, "other"])
    assert len({style.color for style in styles.values()}) >= 6 and set(styles) == {*NAMES, "other"}
    assert [styles[name].color for name in ("base", "sisa", "sisa_unlearned", "sisa_retrained")] == list(
        HISTOGRAM_COLORS
    )


def test_bad_data_is_refused():
    data = make_data()
    parts = data.largest_posterior["sisa"]
    cases = [
        ({"forget": parts["forget"]}, "has forget, but expected forget, retain, test"),
        (parts | {"test": np.zeros(0)}, r"on test has shape \(0,\)"),
        (parts | {"test": np.array([0.5, np.nan])}, "1 NaN"),
        (parts | {"retain": np.array([0.5, 3.2])}, "from 0.5 to 3.2, but expected probabilities"),
    ]
    for change, words in cases:
        with pytest.raises(InputError, match=words):
            dataclasses.replace(data, largest_posterior={"sisa": change})


def test_summary_fits_a_terminal(tmp_path):
    data = make_data()
    title, (header, rows), lines = sisa_summary(data.results, tmp_path)
    assert title == "digits (scikit-learn): 10 shards × 20 slices, 140 examples deleted (%)"
    block = data.results["models"]["sisa"]["attacks"]["posterior_1"]
    shown = " ".join(f"{100 * block[key]:.1f}" for key in ("auc", "balanced_accuracy", "advantage"))
    assert rows[2][:5] == ["sisa", "93.0", "92.5", "88.9", shown] and rows[2][6:] == ["28,400", "30.1"]
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    assert sum(widths) + 3 * len(widths) + 1 <= 120
    assert lines[0].startswith("How much accuracy do I pay? −7.3 points")
    assert lines[2].startswith("attack: posterior_1, deleted (retained) against test")
    del data.results["models"]["sisa"]["attacks"]["posterior_1_retain"]
    assert sisa_summary(data.results, tmp_path)[1][1][2][5] == "–"


def test_deletions_for_an_auditor(tmp_path):
    results = make_deletions()
    path = write_sisa_delete_report(tmp_path, results, {"seed": 7})
    assert (tmp_path / "figures" / "request_costs.png").exists()
    words = visible(path.read_text())
    for row in requests_table(results["tables"]["requests"])[1]:
        assert " ".join(row) in words
    assert requests_table(results["tables"]["requests"])[1][1] == [
        "2",
        "2026-11-22T10:00:00+00:00",
        "3",
        "2",
        "13",
        "150",
        "160",
        "3.50",
    ]
    for word in (
        "9 examples in 3 requests, each request with its certificate",
        "retrained 450 examples in 10.5 s; 480 were expected, so 93.8% of that",
        f"certificates/request_000003.json {2:064x}",
        "right on 88.6% [85.0, 91.0] of 397 test images",
        "93.1 [92.0, 94.0]",
        "first was certified at 2026-11-21T10:00:00+00:00, the last at 2026-11-23T10:00:00+00:00",
    ):
        assert word in words


def test_deletions_before_any_and_with_gaps(tmp_path):
    results = make_deletions(0)
    assert "Nothing has been deleted yet" in visible(
        write_sisa_delete_report(tmp_path, results, {}).read_text()
    )
    title, table, lines = sisa_delete_summary(results, tmp_path)
    assert table is None and lines[0] == "Nothing has been deleted yet." and "10 shards" in title
    results = make_deletions(1)
    results["tables"]["requests"][0] |= {
        "certificate_sha256": None,
        "expected_examples": None,
        "seconds": None,
    }
    del results["models"]["sisa"]["accuracy_interval"]
    words = visible(write_sisa_delete_report(tmp_path, results, {}).read_text())
    assert "1 example in 1 request, not every request with a certificate" in words
    assert "were expected" not in words and delete_answer(results).method.startswith("What was deleted")
    assert drawn_pixels(request_costs(results["tables"]["requests"])).std() > 1


def test_summary_of_deletions(tmp_path):
    title, (header, rows), lines = sisa_delete_summary(make_deletions(), tmp_path)
    assert title == "digits (scikit-learn): deletions from 10 shards"
    assert rows[0] == ["1", "2026-11-21T10:00", "1", "1", "12", "100", "120", "2.50"]
    assert lines[1] == "accuracy now: retain 93.1% [92.0, 94.0], test 88.6% [85.0, 91.0]"
    assert lines[2] == f"last certificate: {2:064x}"
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    assert sum(widths) + 3 * len(widths) + 1 <= 120

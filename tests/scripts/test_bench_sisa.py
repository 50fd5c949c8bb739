"""The benchmark of SISA as a user meets it, with cases as small as a ResNet allows."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.orchestrator import Contender
from benchmarks.sisa_case import SisaCase, learning_rates
from benchmarks.sisa_data import deletion_order, write_case
from benchmarks.sisa_deletions import deletion_figures
from benchmarks.sisa_names import ALL, TABLE, parse_case, parse_cases
from benchmarks.sisa_table import check_steps, deletion_lines, summary
from benchmarks.sweep_data import load_images
from mu_jax.config import InputError, OptimizationConfig
from mu_jax.training import schedules
from mu_jax.unlearning.sisa.cost import expected_cost
from mu_jax.unlearning.sisa.sharding import Sharding, uniform_sharding

ROOT = pathlib.Path(__file__).parents[2]


def bench(*flags):
    command = [sys.executable, "scripts/bench_sisa.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def written(path, name):
    """The case of this name with its file, on the digits."""
    case = parse_case(name)
    dataset, _ = load_images("digits", None)
    write_case(path / "case.npz", case, dataset)
    return dataclasses.replace(case, file=str(path / "case.npz"))


def test_case_names_round_trip():
    for name in (*ALL, "fit_s2_r1_w1_e0.5", "delete_one_w64", "cifar_fit_s100_r20_w64", "delete_one_r1_e3"):
        assert parse_case(name).name == name
    assert parse_case("fit_s10") == SisaCase("fit", "digits", 10, 4, 16, 20.0)
    assert parse_case("delete_one") == SisaCase("delete_one", "digits", 10, 4, 16, 20.0)
    assert parse_case("cifar_delete_one_s5_r2_w8") == SisaCase("delete_one", "cifar", 5, 2, 8, 10.0)
    assert (parse_case("fit_s10").batch, parse_case("cifar_fit_s10").batch) == (32, 64)
    assert parse_case("delete_one_s10_r4_w16_e20").name == "delete_one"
    assert parse_case("fit_s10_e3", epochs=2.5).name == "fit_s10_e2.5"


def test_cases_without_names_are_the_table():
    assert TABLE == ("fit_s10", "delete_one")
    assert [case.name for case in parse_cases([])] == list(TABLE)
    assert [case.name for case in parse_cases(["all"], 2.5)] == [f"{name}_e2.5" for name in ALL]


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["fitt_s10"], "did you mean 'fit_s10'?"),
        (["fit"], "expected [cifar_]fit_sSHARDS or [cifar_]delete_one[_sSHARDS]"),
        (["mnist_fit_s10_w16"], "expected [cifar_]fit_sSHARDS"),
        (["fit_s10_w16_r4"], "expected [cifar_]fit_sSHARDS"),
        (["fit_s1"], "has shards 1, but expected 2 to 1000; change it in its name."),
        (["delete_one_s0"], "has shards 0, but expected 2 to 1000; change it in its name."),
        (["fit_s10_r0"], "has slices 0, but expected 1 to 1000; change it in its name."),
        (["fit_s2_w0"], "has width 0, but expected 1 to 1024; change it in its name."),
        (["fit_s500"], "has 2000 slices in all, but expected at most one for each of 1797 examples"),
        (["delete_one_e0"], "has 0 epochs, but expected more than 0 and at most 1000"),
        (["fit_s10_e0.01"], "which is less than half a batch of 32, but expected at least one step"),
        (["delete_one", "delete_one_s10"], "'delete_one' stands twice"),
    ],
)
def test_bad_cases_are_one_sentence(names, sentence):
    with pytest.raises(InputError) as raised:
        parse_cases(names)
    assert sentence in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--cases=fit_10"], "The case is 'fit_10', but expected [cifar_]fit_sSHARDS"),
        (["--epochs=nan"], "--epochs is nan, but expected more than 0"),
        (["--deletions=0"], "--deletions is 0 in each of 3 rounds, but expected 1 to 299, so that"),
        (["--deletions=90", "--rounds=10"], "expected 1 to 89, so that at least half of 1797 examples stay"),
    ],
)
def test_bad_flags_are_one_sentence(flags, sentence):
    done = bench(*flags)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_every_image_lies_in_one_slice_and_the_file_is_a_sharding(tmp_path):
    case = written(tmp_path, "fit_s10")
    with np.load(case.file) as arrays:
        assert arrays["x_train"].shape == (1797, 8, 8, 1) and arrays["y_train"].shape == (1797,)
    sharding, expected = Sharding.load(case.file), uniform_sharding(np.arange(1797), 10, 4, 0)
    np.testing.assert_array_equal(sharding.examples, np.arange(1797))
    np.testing.assert_array_equal(sharding.sizes, expected.sizes)
    for part, same in zip(sharding.slices[3], expected.slices[3], strict=True):
        np.testing.assert_array_equal(part, same)


def test_deletions_are_of_distinct_examples_and_always_the_same():
    order = deletion_order(1797)
    np.testing.assert_array_equal(np.sort(order), np.arange(1797))
    np.testing.assert_array_equal(order, deletion_order(1797))
    assert not np.array_equal(order, np.arange(1797))


def test_steps_by_hand():
    # a = 2·5/(4 + 1) = 2 epochs a slice: 2·m/32 steps for m = 45, 90, 135, 180, which end at 2.8125, 8.4375, 16.875
    # and 28.125.
    assert SisaCase("fit", "digits", 10, 4, 16, 5.0).steps([45, 45, 45, 45]) == [3, 5, 9, 11]
    # A slice of less than half a step has none, and no step is lost: 0.25, 0.75 and 1.5 up to the end of each.
    assert SisaCase("fit", "digits", 2, 3, 1, 2.0).steps([8, 8, 8]) == [0, 1, 1]


@pytest.mark.parametrize("name", ["fit_s10", "fit_s7_r5_e1.3", "fit_s3_r1_e2", "fit_s449_r4"])
def test_both_sides_have_the_librarys_steps(tmp_path, name):
    from benchmarks.jax_sisa_worker import _setting
    from mu_jax.training.placement import Placement

    case = written(tmp_path, name)
    setting, sharding = _setting(case, "one"), Sharding.load(case.file)
    models = setting.models(tmp_path / "models", setting.make_trainer(Placement("one", 1, 1)))
    ours = [[step.trained_samples // case.batch for step in shard] for shard in models.steps(sharding)]
    assert [case.steps(sizes) for sizes in sharding.sizes.tolist()] == ours


def test_pytorch_has_our_learning_rates():
    config = OptimizationConfig(epochs=7 * 32 / 45, batch_size=32, learning_rate=0.1, schedule="cosine")
    assert schedules.total_steps(config, 45) == 7
    np.testing.assert_allclose(
        learning_rates(7), schedules.learning_rates(config, 45, 0, 7), rtol=1e-6, atol=1e-9
    )


def figures_of(**changed):
    given = {
        "seconds": [1.0, 2.0, 3.0],
        "training_seconds": [0.5, 1.0, 1.5],
        "examples_retrained": [10.0, 20.0, 18.0],
        "retrain_seconds": 8.0,
        "refit_seconds": 5.0,
    }
    return deletion_figures(SisaCase("delete_one", "digits", 4, 2, 1, 1.0), 100, **(given | changed))


def test_the_figures_of_deletions_by_hand():
    figures = figures_of()
    assert (figures["deletions"], figures["seconds"], figures["training_seconds"]) == (3, 2.0, 1.0)
    assert figures["seconds_error"] == pytest.approx(1 / math.sqrt(3), abs=1e-4)
    assert figures["examples_retrained"] == 16.0
    assert (figures["retrain_seconds"], figures["refit_seconds"]) == (8.0, 5.0)
    # One model would train on 99, then 98, then 97.
    assert figures["speed_up"]["examples"] == pytest.approx(294 / 48, abs=1e-3)
    assert (figures["speed_up"]["seconds"], figures["speed_up"]["seconds_over_refit"]) == (4.0, 2.5)
    # A shard of 25 has slices of 13 and 12: 2/3·(4·25·24 + 4·13·12)/100 = 20.16 examples, and 99/20.16.
    assert figures["predicted_examples_retrained"] == 20.16
    assert figures["speed_up"]["predicted"] == pytest.approx(99 / 20.16, abs=1e-3)
    assert expected_cost(100, 4, 2, 1)["examples_retrained"] == pytest.approx(20.16)


def test_one_deletion_has_no_error_and_none_retrained_no_speed_up():
    figures = figures_of(seconds=[2.0], training_seconds=[0.0], examples_retrained=[0.0])
    assert figures["seconds_error"] is None and figures["examples_retrained_error"] is None
    assert figures["speed_up"]["examples"] is None
    lines = deletion_lines(figures)
    assert "1 deletions, one a request: 2 s each, 0 s of it training" in lines
    assert lines.splitlines()[2].split()[-2:] == ["0", "20.2"]
    assert lines.splitlines()[3].split()[-2:] == ["–", "4.9×"]


def test_other_numbers_of_steps_are_refused():
    def of(label, steps):
        return Contender(label, None, {}, facts={"steps_of_shards": steps})

    ours = of("side by side", {"0": 5, "1": 6})
    check_steps([ours, of("one after another", {"0": 5, "1": 6})], [of("eager", {"1": 6})])
    with pytest.raises(RuntimeError, match="Shard 1 had 5 steps in 'eager', but 6 in 'side by side'"):
        check_steps([ours], [of("eager", {"1": 5})])


def test_the_summary_has_a_table_of_fits_and_one_of_deletions():
    fit = {"case": "fit_s10", "ours": 60.0, "torch": None, "ratio": None, "unit": "shards/min"}
    fit["details"] = {
        "data": "digits",
        "side_by_side": 60.0,
        "one_after_another": None,
        "ours": {"side by side (map)": {"compile_seconds": 14.6}},
        "ours_best": "side by side (map)",
        "torch_reference": None,
        "memory": {"JAX": {"peak_bytes": 3 * 2**29, "device_peak_bytes": None}},
    }
    beside = fit | {"torch": 40.0, "details": fit["details"] | {"torch_reference": "eager float32"}}
    deleted = {"case": "delete_one", "unit": "deletions/min", "torch": None}
    deleted["details"] = {"data": "digits", "deletion": figures_of()}
    theirs = deleted | {"torch": 15.0, "ratio": 2.0}
    theirs["details"] = deleted["details"] | {"torch_reference": "eager float32"}
    lines = summary([fit, deleted, beside, theirs]).splitlines()
    assert lines[2] == "| fit_s10 on digits | 60 | – | – | – | – | 14.6 | 1.50 GiB / – |"
    assert lines[3] == "| fit_s10 on digits | 60 | – | 40 | 1.50 | eager float32 | 14.6 | 1.50 GiB / – |"
    assert lines[4] == ""
    assert lines[7] == "| delete_one on digits | 3 | 2 | 1 | 8 | 5 | 4.0× | 6.1× | 4.9× | – | – |"
    assert lines[8].endswith("| 4.9× | 4 (eager float32) | 2.00 |")
    assert all(line.count("|") == lines[0].count("|") for line in lines[:4])
    assert all(line.count("|") == lines[5].count("|") for line in lines[5:])


@pytest.mark.slow
def test_a_fit_and_deletions_without_torch(tmp_path):
    path = tmp_path / "rows.json"
    flags = ["--torch=none", "--rounds=1", "--deletions=2", "--epochs=0.2", f"--json={path}"]
    done = bench("--cases=fit_s2_r2_w1,delete_one_s2_r2_w1", *flags)
    assert done.returncode == 0, done.stderr
    fit, deleted = json.loads(path.read_text())

    assert list(fit) == ["case", "ours", "torch", "ratio", "unit", "device", "details"] == list(deleted)
    assert (fit["case"], fit["unit"]) == ("fit_s2_r2_w1_e0.2", "shards/min")
    assert fit["ours"] > 0 and fit["torch"] is None and fit["ratio"] is None
    details = fit["details"]
    assert (details["data"], details["synthetic"]) == ("digits (scikit-learn)", False)
    assert [details[key] for key in ("examples", "shards", "slices", "width", "epochs")] == [
        1797,
        2,
        2,
        1,
        0.2,
    ]
    together, in_turn = details["ours"]
    assert together.startswith("side by side (") and in_turn == "one after another"
    assert details["ours"][in_turn]["placement"] == {"mapping": "one", "devices": 1, "models_per_device": 1}
    for one in details["ours"].values():
        # 2·0.2/3·(449 or 450)/32 = 1.9, and as many again for both slices together: 5.6.
        assert one["steps_of_shards"] == {"0": 6, "1": 6}
        assert one["compile_seconds"] > 0 and 0 < one["member_accuracy"] < 0.7
    assert fit["ours"] == pytest.approx(max(details["side_by_side"], details["one_after_another"]), abs=0.01)

    assert (deleted["case"], deleted["unit"]) == ("delete_one_s2_r2_w1_e0.2", "deletions/min")
    assert deleted["torch"] is None and deleted["ratio"] is None
    figures = deleted["details"]["deletion"]
    assert figures["deletions"] == 2 and figures["seconds"] > figures["training_seconds"] > 0
    assert deleted["ours"] == pytest.approx(60 / figures["seconds"], rel=1e-3)
    assert figures["predicted_examples_retrained"] == round(
        expected_cost(1797, 2, 2, 1)["examples_retrained"], 2
    )
    # 4 or 6 steps of 32, by the slice; both placements delete the same.
    assert 4 * 32 / 0.2 <= figures["examples_retrained"] <= 6 * 32 / 0.2
    other = deleted["details"]["deletion_one_after_another"]
    assert other["examples_retrained"] == figures["examples_retrained"]
    speed_up = figures["speed_up"]
    assert speed_up["seconds"] == pytest.approx(figures["retrain_seconds"] / figures["seconds"], rel=0.02)
    assert speed_up["examples"] == pytest.approx((1796 + 1795) / 2 / figures["examples_retrained"], rel=0.01)
    lines = done.stdout.rstrip().splitlines()
    assert lines[-1].startswith("| delete_one_s2_r2_w1_e0.2 on digits (scikit-learn) | 2 | ")


@pytest.mark.slow
@pytest.mark.torch
def test_both_sides_fit_the_digits(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "rows.json"
    flags = ["--torch=eager", "--rounds=1", "--seconds=0.01", "--epochs=3", f"--json={path}"]
    done = bench("--cases=fit_s2_r2_w2", *flags)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())
    assert row["ratio"] == pytest.approx(row["ours"] / row["torch"], rel=0.02)
    details = row["details"]
    assert details["torch_reference"] == "eager float32"
    theirs, ours = details["torch"]["eager float32"], details["ours"][details["ours_best"]]
    assert theirs["models_a_round"] == 1 and ours["models_a_round"] == 2
    (shard,) = theirs["steps_of_shards"]
    assert theirs["steps_of_shards"][shard] == ours["steps_of_shards"][shard] > 80
    for facts in (ours, theirs):
        assert facts["member_accuracy"] > 0.8 and facts["nonmember_accuracy"] > 0.7


@pytest.mark.torch
def test_pytorch_trains_shard_after_shard_and_slice_after_slice(tmp_path):
    torch = pytest.importorskip("torch")
    from benchmarks.torch_sisa_worker import Shards, prepare

    case = written(tmp_path, "fit_s2_r2_w1_e0.2")
    variant = {"do": "fit", "execution": "eager", "dtype": "float32", "channels_last": True, "device": "cpu"}
    prepared = prepare(case, variant)
    assert (prepared.items_a_step, prepared.most) == (1, 2)

    shards, sharding, seen = Shards(case, variant), Sharding.load(case.file), []
    batches = shards._batches
    shards._batches = lambda examples, steps: seen.append((examples, batches(examples, steps))) or seen[-1][1]
    shards.run(3)
    # The third shard is the first again: from its own fresh weights, with its own batches.
    assert len(seen) == 6
    for (examples, rows), (shard, slice_) in zip(
        seen, [(0, 0), (0, 1), (1, 0), (1, 1), (0, 0), (0, 1)], strict=True
    ):
        np.testing.assert_array_equal(np.sort(examples), sharding.prefix(shard, slice_))
        assert np.isin(rows.numpy(), examples).all() and rows.shape[1] == 32
        assert len(rows) == case.steps(sharding.sizes[shard].tolist())[slice_] == (2, 4)[slice_]
    assert torch.equal(seen[0][1], seen[4][1])
    assert shards.found["steps_of_shards"] == {"0": 6, "1": 6}
    learned = shards.learned()
    assert 0.05 < learned["member_accuracy"] < 0.7 and 0.05 < learned["nonmember_accuracy"] < 0.7
    # What a slice leaves, optimizer and all, is on disk, and the next slice goes on from it.
    first, last = (
        torch.load(shards.folder / f"shard_0001_slice_000{r}.pt", weights_only=True) for r in (0, 1)
    )
    assert set(first) == {"network", "optimizer"}
    counted = [state["network"]["stem_norm.num_batches_tracked"].item() for state in (first, last)]
    assert counted == [2, 6]
    assert not torch.equal(first["network"]["head.weight"], last["network"]["head.weight"])
    assert last["optimizer"]["state"][0]["momentum_buffer"].abs().max() > 0


@pytest.mark.torch
def test_pytorch_deletes_from_the_slice_on(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    from benchmarks import torch_sisa_worker
    from benchmarks.torch_sisa_worker import Deletions

    case = written(tmp_path, "delete_one_s2_r2_w1_e0.2")
    variant = {
        "do": "delete",
        "deletions": 2,
        "execution": "eager",
        "dtype": "float32",
        "channels_last": False,
    }
    variant["device"] = "cpu"
    deletions, sharding, seen = Deletions(case, variant), Sharding.load(case.file), []
    monkeypatch.setattr(torch_sisa_worker, "Deletions", lambda *_: deletions)
    prepared = torch_sisa_worker.prepare(case, variant)
    assert (prepared.items_a_step, prepared.most) == (2, 1)
    files = sorted(deletions.folder.iterdir())
    assert len(files) == 4
    before = {file.name: torch.load(file, weights_only=True)["network"]["head.weight"] for file in files}
    batches = deletions._batches
    deletions._batches = lambda examples, steps: seen.append(examples) or batches(examples, steps)
    # One of a first slice, whose whole shard is trained anew, and one of a last slice.
    places = {(0, 0): int(sharding.slices[0][0][3]), (1, 1): int(sharding.slices[1][1][3])}
    deletions._order = iter(places.values())
    prepared.run_steps(1)
    assert [len(examples) for examples in seen] == [len(sharding.prefix(0, 0)) - 1, len(sharding.prefix(0, 1)) - 1,
                                                    len(sharding.prefix(1, 1)) - 1]  # fmt: skip
    assert places[0, 0] not in np.concatenate(seen[:2]) and places[1, 1] not in seen[2]
    after = {file.name: torch.load(file, weights_only=True)["network"]["head.weight"] for file in files}
    changed = [name for name in before if not torch.equal(before[name], after[name])]
    assert changed == [
        f"shard_{shard:04d}_slice_{slice_:04d}.pt" for shard, slice_ in ((0, 0), (0, 1), (1, 1))
    ]
    # 6 steps of 32, and 4, in units of e₀ = 0.2 epochs.
    assert deletions.found["examples_retrained"] == [960.0, 640.0] and len(deletions.found["seconds"]) == 2

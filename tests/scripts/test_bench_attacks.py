"""The benchmark of attacks as a user meets it, at tiny sizes; its definitions by hand; what it says of them."""

import dataclasses
import json
import math
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks import attack_definitions, attack_worker, free_memory
from benchmarks.attack_case import TABLE, AttackCase, parse_case, parse_cases
from benchmarks.attack_inputs import make_inputs
from benchmarks.attack_table import agree, compare, duration, summary
from benchmarks.serving import BadRequest, Unavailable
from mu_jax.config import InputError

ROOT = pathlib.Path(__file__).parents[2]
TINY = ("lira_8x50x2", "rmia_40x20", "forgetting_8x5", "forgetting_9", "leave_one_out_lira_8x40x2")


def bench(*flags):
    command = [sys.executable, "scripts/bench_attacks.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def test_case_names_round_trip():
    for name in (*TABLE, *TINY):
        assert parse_case(name).name == name
    assert parse_case("lira_256x60000x18") == AttackCase("lira", 256, 60000, 18)
    assert parse_case("rmia_40x20") == AttackCase("rmia", 128, 40, population=20)
    assert parse_case("forgetting_512x5000") == AttackCase("forgetting", 512, 5000)
    assert parse_case("forgetting_128") == AttackCase("forgetting", 128, 1000, per_example=True)
    assert parse_case("leave_one_out_lira_64x60000x2") == AttackCase("leave_one_out_lira", 64, 60000, 2)


def test_pieces_that_stand_for_the_whole():
    pieces = {name: (parse_case(name).definition_items, parse_case(name).items) for name in (*TINY, *TABLE)}
    assert pieces["lira_8x50x2"] == pieces["rmia_40x20"] == (1, 1)
    assert pieces["forgetting_8x5"] == (5, 5)
    assert pieces["forgetting_512x5000"] == (16, 5000)
    assert pieces["forgetting_128"] == (16, 1000)
    assert pieces["leave_one_out_lira_64x60000x2"] == (2, 64)


def test_cases_without_names_are_the_table():
    assert [case.name for case in parse_cases([])] == [case.name for case in parse_cases(["all"])] == [*TABLE]


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["rmia_20000"], "did you mean 'rmia_20000x5000'?"),
        (["svc"], "expected lira_KxNxA, rmia_NxZ, forgetting_MxN or forgetting_M, leave_one_out_lira_KxNxA"),
        (["lira_8x50"], "expected lira_KxNxA"),
        (["lira_2x50x2"], "has a number of models of 2, but expected 4 to 8,192"),
        (["lira_9x50x2"], "has 9 models, but expected an even number"),
        (["leave_one_out_lira_4x50x2"], "has a number of models of 4, but expected 6 to 8,192"),
        (["lira_8x0x2"], "has a number of examples of 0, but expected 1 to 10,000,000"),
        (["lira_8x50x257"], "has a number of augmentations of 257, but expected 1 to 256"),
        (["rmia_40x0"], "has a population of 0"),
        (["forgetting_2x5"], "has a number of models of 2, but expected 3 to 8,192"),
        (["rmia_40x20", "rmia_040x20"], "stands twice"),
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
        (["--cases=lira_256x60000"], "did you mean 'lira_256x60000x18'?"),
        (
            ["--seconds=1"],
            "--seconds is given, but expected --cases, --rounds, --json, --torch, --torch-python or",
        ),
        (["--memory-gib=-1"], "--memory-gib is -1, but expected 0 or more"),
        (["--json=no/such/folder/rows.json"], "expected a file in a folder that exists"),
    ],
)
def test_bad_flags_are_one_sentence(flags, sentence):
    done = bench(*flags)
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_tiny_cases_agree(tmp_path):
    path = tmp_path / "rows.json"
    done = bench(f"--cases={','.join(TINY)}", "--rounds=1", "--torch=none", f"--json={path}")
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())
    assert [row["case"] for row in rows] == list(TINY)
    for row in rows:
        assert list(row) == ["case", "ours", "definition", "ratio", "unit", "device", "details"]
        assert row["ours"] > 0 and row["definition"] > 0
        assert row["ratio"] == pytest.approx(row["definition"] / row["ours"], rel=0.01)
        assert row["unit"] == ("s/example" if row["case"] == "forgetting_9" else "s")
        assert "numpy" in row["device"] and "GiB of memory" in row["device"]
        details = row["details"]
        assert details["max_difference"] < 1e-6 and details["agree"] is True
        assert details["inputs_bytes"] == parse_case(row["case"]).inputs_bytes
        assert details["rounds"] == 1 and len(details["load_average"]) == 3
        for side in ("ours", "definition"):
            assert len(details[side]["seconds_of_rounds"]) == 1
            assert 0 <= details[side]["above_inputs_bytes"] < details[side]["peak_bytes"]
    assert rows[1]["details"]["counts_differ"] == 0
    table = done.stdout.splitlines()
    assert [line.split(" | ")[0] for line in table if line.startswith("| ")] == [
        "| case",
        *(f"| {name}" for name in TINY),
    ]
    assert "load average" in done.stdout
    assert "2 of 8 targets, each a call of lira_scores, times 4." in done.stdout
    assert "16 of 1,000 examples, over 16." in done.stdout


def test_a_definition_that_does_not_fit_is_skipped_with_a_reason(tmp_path):
    path = tmp_path / "rows.json"
    flags = ["--rounds=1", "--memory-gib=1e-6", "--torch=none", f"--json={path}"]
    done = bench("--cases=lira_8x50x2", *flags)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text())
    assert row["ours"] > 0 and row["definition"] is None and row["ratio"] is None
    assert "more than --memory-gib allows" in row["details"]["definition"]["unavailable"]
    assert "max_difference" not in row["details"]
    assert "lira_8x50x2: the definition was skipped: it needs about" in done.stdout


def test_what_is_larger_than_the_free_memory_is_not_started(monkeypatch):
    case = parse_case("lira_8x5000x2")
    variant = {"memory_bytes": None}
    monkeypatch.setattr(attack_worker, "make_inputs", lambda _: pytest.fail("memory was taken"))
    for version, free in (("definition", case.definition_bytes), ("ours", case.inputs_bytes)):
        monkeypatch.setattr(attack_worker, "available_bytes", lambda free=free: free)
        with pytest.raises(Unavailable, match="for its inputs.* of memory are free"):
            attack_worker.prepare(case, variant | {"version": version})


def test_what_the_attack_refuses_blames_the_request(monkeypatch, tmp_path):
    case = dataclasses.replace(parse_case("lira_8x50x2"), folder=str(tmp_path))
    inputs = make_inputs(case)
    inputs["phi"][0, 0, 0] = np.nan
    monkeypatch.setattr(attack_worker, "make_inputs", lambda _: inputs)
    with pytest.raises(BadRequest, match="not finite"):
        attack_worker.prepare(case, {"version": "ours", "memory_bytes": None})


def test_a_case_without_room_for_its_inputs_is_refused():
    done = bench("--cases=lira_8192x10000000x256", "--torch=none")
    assert done.returncode == 2
    assert "cannot run here: it needs" in done.stderr and "make it smaller" in done.stderr


def test_the_definitions_process_and_the_orchestrator_need_no_jax():
    program = "import sys, bench_attacks, benchmarks.attack_worker; sys.exit('jax' in sys.modules)"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT / "scripts"), str(ROOT)])}
    assert subprocess.run([sys.executable, "-c", program], env=environment, check=False).returncode == 0


@pytest.mark.parametrize("name", TINY)
def test_inputs_are_alike_in_every_process_and_as_large_as_said(name):
    case = parse_case(name)
    inputs, again = make_inputs(case), make_inputs(case)
    for key, array in inputs.items():
        np.testing.assert_array_equal(array, again[key])
        assert array.dtype in (np.float32, bool)
    assert sum(array.nbytes for array in inputs.values()) == case.inputs_bytes


def test_membership_is_half_and_pairs_are_complementary():
    for name, key in (("lira_8x500x1", "member"), ("rmia_50x30", "population_member")):
        assert set(make_inputs(parse_case(name))[key].mean(axis=0)) == {0.5}
    member = make_inputs(parse_case("leave_one_out_lira_6x500x1"))["member"]
    np.testing.assert_array_equal(member[::2], ~member[1::2])
    # `lira_scores` needs two models on a side when a pair is gone.
    assert member.sum(axis=0).min() >= 3


def test_members_have_higher_signals():
    lira = make_inputs(parse_case("lira_8x2000x1"))
    rmia = make_inputs(parse_case("rmia_2000x10"))
    for values, member in ((lira["phi"][..., 0], lira["member"]), (rmia["reference"], rmia["member"])):
        assert values[member].mean() > values[~member].mean() + 0.1


def test_lira_by_hand():
    # IN 1, 3: mean 2, variance 2. OUT −1, 3: mean 1, variance 8. φ = 4: −4/4 − ½log 2 + 9/16 + ½log 8.
    shadow, member = np.array([1.0, -1.0, 3.0, 3.0]), np.array([True, False, True, False])
    got = attack_definitions.lira(np.array([[4.0]]), shadow[:, None, None], member[:, None])
    assert got == pytest.approx([-7 / 16 + math.log(2)])


def test_rmia_by_hand():
    # p(x) = ½(0.6 + 0.2) and so ratio 2; p(z) = 0.4 each and so ratios ¼, ¾ and 1, the last times γ = 2 not exceeded.
    member = np.array([[True], [False]])
    z_member, z_reference = np.repeat(member, 3, axis=1), np.full((2, 3), 0.4)
    got = attack_definitions.rmia(
        np.array([0.8]),
        np.array([[0.6], [0.2]]),
        member,
        np.array([0.1, 0.3, 0.4]),
        z_reference,
        z_member,
        2.0,
    )
    assert got == pytest.approx([2 / 3])


def test_epsilon_and_forgetting_by_hand():
    def epsilon(u, r, delta=0.0):
        return attack_definitions.epsilons(np.array(u)[:, None], np.array(r)[:, None], delta)

    assert epsilon([0.0, 1, 2], [0.5, 1.5, 2.5]) == pytest.approx([math.log(2)])
    assert epsilon([0.0, 1, 2], [0.5, 1.5, 2.5], 0.1) == pytest.approx([math.log((2 / 3 - 0.1) * 3)])
    assert epsilon([0.0, 1], [2.0, 3]) == [50]
    # An interval alone; the peaky; [−1, 1] holds 3 of 4 and 1 of 4.
    assert epsilon([1.0, 2], [0.0, 3, -5, 9]) == [50]
    assert epsilon([0.0, 0.001], [-5.0, 5]) == [50]
    assert epsilon([-1.0, 0, 1, 4], [-3.0, 0.5, 3, 5]) == pytest.approx([math.log(3)])
    # An interval's right end may lie 2 beyond the largest of the narrow ones, 3, but no further.
    assert epsilon([0.0, 1, 2, 3], [-20, 0.5, 0.5, 4.9, 20]) == pytest.approx([math.log(3.75)])
    assert epsilon([0.0, 1, 2, 3], [-20, 0.5, 0.5, 5.1, 20]) == pytest.approx([math.log(2.4)])
    # ⌈log 31⌉ = 4: ε from 4 on is worth nothing.
    assert attack_definitions.forgetting(np.array([0.0, 0.6, 3.9, 4.0]), 32) == (1 + 0.5 + 0.5**7) / 4


def test_differences_are_found():
    rmia, lira = parse_case("rmia_40x20"), parse_case("lira_8x50x2")
    ours = np.array([0.5, 0.75])
    assert compare(rmia, ours, ours) == {"max_difference": 0, "counts_differ": 0, "agree": True}
    found = compare(rmia, ours, np.array([0.5, 0.8]))
    assert (found["counts_differ"], found["agree"]) == (1, False)
    assert compare(lira, ours, ours + 9e-7)["agree"] is True
    assert compare(lira, ours, ours + 2e-6)["agree"] is False
    assert compare(lira, ours, np.array([0.5, np.nan]))["agree"] is False


def row(**details):
    side = {
        "seconds": 0.01,
        "above_inputs_bytes": 2**29,
        "others_share": 0.0,
        "items_a_run": 1,
    }
    details = {
        "kind": "lira",
        "models": 8,
        "items": 1,
        "inputs_bytes": 2**30,
        "ours": side,
        "definition": side,
        "max_difference": 0.0,
    } | details
    return {"case": "a", "ours": 0.01, "definition": 12.3, "ratio": 1230.0, "unit": "s", "details": details}


def test_the_summary_warns():
    busy = row()["details"]["ours"] | {"others_share": 0.4}
    assert "WARNING: a: other programs used up to 40% of the cores" in summary([row(ours=busy)])
    assert "WARNING" not in summary([row(ours=busy | {"others_share": 0.1})])
    text = summary([row(agree=False, max_difference=0.5, counts_differ=3)])
    assert text.splitlines()[2] == (
        "| a | 10 ms | 12.3 s | 1,230× | – | – | 0.50 / 0.50 | 1.00 | 5.0e-01 (3 counts differ) |"
    )
    assert "WARNING: a: the two versions disagree: 5.0e-01 (3 counts differ)." in text
    theirs = {"seconds": 0.02, "max_difference": 0.0, "agree": True}
    forms = {"torch pairs": theirs, "torch sorted": {"unavailable": "no memory"}}
    text = summary([row(torch=forms, torch_reference="torch pairs")])
    assert "| 20 ms (pairs) | 2× |" in text and "a: torch sorted was skipped: no memory." in text
    assert agree(row(torch=forms)["details"])
    forms["torch pairs"] = theirs | {"agree": False, "max_difference": 0.25}
    assert not agree(row(torch=forms)["details"])
    assert "WARNING: a: torch pairs disagrees with ours: 2.5e-01." in summary([row(torch=forms)])


def test_durations():
    assert [duration(s, "s") for s in (0.00123, 0.5, 1.0, 123.4)] == ["1.23 ms", "500 ms", "1 s", "123 s"]
    assert duration(0.002, "s/example") == "2 ms/example"


def test_versions_that_disagree_end_with_exit_code_1(tmp_path):
    # The worker of the definition is off by 0.001.
    program = (
        "import sys, numpy as np\n"
        "from benchmarks import attack_definitions, attack_worker\n"
        "right = attack_definitions.lira\n"
        "attack_definitions.lira = lambda *a: right(*a) + 1e-3\n"
        "from benchmarks.serving import serve\n"
        "serve(attack_worker.AttackCase, attack_worker.describe, attack_worker.prepare, lambda: None)\n"
    )
    (tmp_path / "wrong_worker.py").write_text(program)
    launch = (
        "import sys; sys.argv = ['bench_attacks.py', '--cases=lira_8x50x2', '--rounds=1', '--torch=none']\n"
        "import bench_attacks\n"
        "real = bench_attacks.Worker\n"
        "bench_attacks.Worker = lambda name, python, module, environment: real(\n"
        "    name, python, 'wrong_worker' if name == 'definition' else module, environment)\n"
        "bench_attacks.shell.run(bench_attacks.main)\n"
    )
    search = os.pathsep.join([str(tmp_path), str(ROOT / "scripts"), str(ROOT)])
    done = subprocess.run(
        [sys.executable, "-c", launch],
        env=os.environ | {"PYTHONPATH": search},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "the versions disagree in lira_8x50x2; one of them is wrong." in done.stderr
    assert "WARNING: lira_8x50x2: the two versions disagree: 1.0e-03." in done.stdout


def test_free_memory_is_that_of_the_tighter_limit(monkeypatch, tmp_path):
    assert free_memory.total_bytes() > 2**28
    limit, usage = tmp_path / "max", tmp_path / "current"
    monkeypatch.setattr(free_memory, "_LIMITS", ((str(limit), str(usage)),))
    without = free_memory.available_bytes()
    usage.write_text("1000\n")
    limit.write_text("max\n")
    assert free_memory.available_bytes() == pytest.approx(without, rel=0.2)
    limit.write_text("5000\n")
    assert free_memory.available_bytes() == 4000


@pytest.mark.torch
@pytest.mark.parametrize(
    "name, form", [("lira_8x50x2", "blocks"), ("rmia_40x20", "pairs"), ("rmia_40x20", "sorted")]
)
def test_pytorchs_forms_are_the_definitions(tmp_path, name, form, monkeypatch):
    pytest.importorskip("torch")
    from benchmarks import torch_attack_worker

    # Several blocks of examples, the last one shorter.
    monkeypatch.setattr(torch_attack_worker, "_BLOCK", 320)
    case = dataclasses.replace(parse_case(name), folder=str(tmp_path))
    prepared = torch_attack_worker.prepare(case, {"form": form})
    prepared.run_steps(1)
    attack_worker.prepare(case, {"version": "definition", "memory_bytes": None})
    found = compare(case, np.load(tmp_path / f"torch {form}.npy"), np.load(tmp_path / "definition.npy"))
    assert found["agree"], found


@pytest.mark.slow
@pytest.mark.torch
def test_attacks_beside_pytorch(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "rows.json"
    done = bench("--cases=lira_8x50x2,rmia_40x20", "--rounds=1", "--torch=eager", f"--json={path}")
    assert done.returncode == 0, done.stderr
    lira, rmia = (one["details"] for one in json.loads(path.read_text()))
    assert list(lira["torch"]) == ["torch blocks"] and list(rmia["torch"]) == ["torch pairs", "torch sorted"]
    assert rmia["torch_reference"] in rmia["torch"]
    for one in (*lira["torch"].values(), *rmia["torch"].values()):
        assert one["seconds"] > 0 and one["agree"] and one["peak_bytes"] > 0

"""The one benchmark: its rows, the scripts that it runs, and its page, from figures made by hand."""

import html
import json
import os
import pathlib
import re
import subprocess
import sys

import pytest

from benchmarks import (
    adversarial_names,
    attack_case,
    case_names,
    data_names,
    fastclip_names,
    inference_names,
    leaks_names,
    sisa_names,
    suite,
    sweep_names,
    ulira_names,
)
from benchmarks.suite import KINDS, ROWS, SCRIPTS, chosen_rows
from benchmarks.suite_figure import ratio_bars, standing
from benchmarks.suite_page import write_page
from benchmarks.suite_reading import NUMPY, PYTORCH, as_row, read
from benchmarks.suite_run import Outcome, Settings, failure_of, flags_of, key_of, measure_rows
from benchmarks.suite_table import lines, remarks, verdict
from mu_jax.config import InputError

ROOT = pathlib.Path(__file__).parents[2]
BY_NAME = {row.name: row for row in ROWS}
MEMORY = {
    "JAX": {"peak_bytes": 2**30, "device_peak_bytes": None},
    "JAX pmap": {"peak_bytes": 2**29, "device_peak_bytes": None},
    "PyTorch": {"peak_bytes": 3 * 2**29, "device_peak_bytes": None},
}


def benchmark(*flags):
    command = [sys.executable, "scripts/benchmark.py", *flags]
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, env=environment)


def form(rate, others_share=0.0, **facts):
    return {"rate": rate, "rates": [rate], "others_share": others_share, "prepare_seconds": 4.0, **facts}


def measured(ours, torch, /, case="a", unit="images/s", **details):
    """A script's own row, of rates."""
    forms = {"eager": form(torch), "compiled": {"unavailable": "no compiler"}} if torch else {}
    details = {
        "ours": {"patches": form(ours)},
        "torch": forms,
        "ours_best": "patches",
        "torch_reference": "eager" if torch else None,
        "memory": MEMORY,
        "environment": {},
    } | details
    ratio = torch and round(ours / torch, 3)
    return {"case": case, "ours": ours, "torch": torch, "ratio": ratio, "unit": unit, "device": "a CPU, 2 cores",
            "details": details}  # fmt: skip


def reading(name, row, failure=None):
    return read(Outcome(BY_NAME[name], row, failure))


@pytest.fixture
def readings():
    """A win, a loss, a sweep short of its target, a row without PyTorch, a failed script, a disturbed win."""
    return [
        reading("step_w16", measured(1200.0, 1000.0)),
        reading("step_w64", measured(90.0, 120.0)),
        reading("sweep_digits", measured(20.0, 10.0, unit="models/min")),
        reading("epoch_w16", measured(300.0, None)),
        reading("inference_w16", None, "bench_inference.py ended with 1: The JAX worker died."),
        reading("pgd", measured(40.0, 10.0, ours={"patches": form(40.0, others_share=0.37)})),
    ]


def test_rows_have_names_of_their_own_and_all_kinds():
    names = [row.name for row in ROWS]
    assert len(set(names)) == len(names)
    assert all(re.fullmatch("[a-z0-9_]+", name) for name in names)
    assert {row.kind for row in ROWS} == set(KINDS)
    assert all(row.says and row.full != row.smoke for row in ROWS)
    assert all(row.target in (1.0, suite.SWEEP_TARGET) for row in ROWS)


def parsed_name(script, case, flags):
    """The name that the script's own parser gives the case back."""
    if script == "bench_unlearning.py":
        methods, cases = ulira_names.split_cases([case], 1, 1.0, 1.0)
        return (methods or [one.name for one in cases])[0]
    parse = {
        "bench_ops.py": case_names.parse_case,
        "bench_data.py": data_names.parse_case,
        "bench_inference.py": inference_names.parse_case,
        "bench_sweep.py": sweep_names.parse_case,
        "bench_sisa.py": sisa_names.parse_case,
        "bench_adversarial.py": adversarial_names.parse_case,
        "bench_fastclip.py": fastclip_names.parse_case,
        "bench_leaks.py": leaks_names.parse_case,
        "bench_attacks.py": attack_case.parse_case,
    }[script]
    return parse(case).name


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
@pytest.mark.parametrize("smoke", [False, True])
def test_each_script_knows_its_rows_case_and_flags(row, smoke):
    size = row.size(smoke)
    name = parsed_name(row.script, size.case, size.flags)
    # A parser that is told a share or a width may name them.
    assert name.startswith(size.case) if row.script == "bench_unlearning.py" else name == size.case
    settings = Settings(
        pathlib.Path("x"), smoke, rounds=2, seconds=1.5, torch="none", torch_python="p", data="digits"
    )
    text = (ROOT / "scripts" / row.script).read_text()
    shared = (ROOT / "scripts" / "benchmarks" / "shell.py").read_text()
    known = set(re.findall(r'DEFINE_\w+\(\s*"([a-z-]+)"', text + shared))
    refused = re.search(r"_FOREIGN = \((.*)\)", text)
    known -= set(re.findall(r'"([a-z-]+)"', refused[1])) if refused else set()
    used = {flag.removeprefix("--").partition("=")[0] for flag in flags_of(row, settings)}
    assert used <= known
    assert SCRIPTS[row.script].workdir == ("workdir" in known)
    assert SCRIPTS[row.script].data == next((name for name in ("cifar", "data") if name in known), None)
    assert set(SCRIPTS[row.script].shared) == known & {"rounds", "seconds", "torch", "torch-python"}


def test_only_smoke_sizes_are_shared():
    full = [(row.script, row.full) for row in ROWS]
    assert len(set(full)) == len(full)
    # A case by two kinds of flags would be measured twice.
    smoke = {(row.script, row.smoke) for row in ROWS}
    assert len({(script, size.case) for script, size in smoke}) == len(smoke)


def test_rows_are_chosen_by_name():
    assert chosen_rows([]) == chosen_rows(["all"]) == list(ROWS)
    assert [row.name for row in chosen_rows(["rmia", "step_w16"])] == ["step_w16", "rmia"]
    for names, sentence in ((["step_16"], "did you mean 'step_w16'?"), (["lira", "lira"], "stands twice")):
        with pytest.raises(InputError, match=re.escape(sentence)):
            chosen_rows(names)


def test_flags_reach_the_scripts_that_know_them():
    settings = Settings(
        pathlib.Path("x"), rounds=2, seconds=0.5, torch="eager", torch_python="p", data="npz:a"
    )
    assert flags_of(BY_NAME["sweep_cifar"], settings) == [
        *("--rounds=2", "--seconds=0.5", "--torch=eager", "--torch-python=p", "--cifar=npz:a")
    ]
    assert flags_of(BY_NAME["lira"], settings) == ["--rounds=2", "--torch=eager", "--torch-python=p"]
    assert flags_of(BY_NAME["lira"], Settings(pathlib.Path("x"))) == []
    # The command's own flag stands last, so that it counts.
    smoke = flags_of(BY_NAME["pgd"], Settings(pathlib.Path("x"), smoke=True, rounds=3))
    assert smoke == [
        *("--trial=8", "--data=digits", "--rounds=1", "--seconds=0.02", "--torch=eager", "--rounds=3")
    ]


FAKE = """
import json, os, sys
flags = dict(word.removeprefix("--").split("=", 1) for word in sys.argv[1:])
with open(os.environ["CALLS"], "a") as calls:
    calls.write(flags["cases"] + "\\n")
rows = []
for case in flags["cases"].split(","):
    if case in os.environ.get("BROKEN", "").split(","):
        print("bench_ops.py: The JAX worker died by SIGKILL;\\nits last words", file=sys.stderr)
        sys.exit(1)
    rows.append({"case": case, "ours": 2.0})
    json.dump(rows, open(flags["json"], "w"))
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Settings whose scripts write a row a case, and what they were called for."""
    scripts = tmp_path / "scripts"
    scripts.mkdir()
    for script in ("bench_ops.py", "bench_attacks.py"):
        (scripts / script).write_text(FAKE)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))

    def calls():
        found = (tmp_path / "calls").read_text().split()
        (tmp_path / "calls").write_text("")
        return found

    (tmp_path / "calls").write_text("")
    return Settings(tmp_path / "out", scripts=scripts), calls


def test_rows_are_measured_once_by_few_processes(fake):
    settings, calls = fake
    rows = chosen_rows(["step_w16", "step_w64", "lira"])
    said, told = [], []
    outcomes = measure_rows(rows, settings, again=False, say=said.append, changed=told.append)
    assert calls() == ["32x32_w16_chunk,32x32_w64_chunk", "lira_256x60000x18"]
    assert [one.measured["case"] for one in outcomes] == [row.full.case for row in rows]
    assert [len(one) for one in told] == [2, 3] and said[-1] == "lira: bench_attacks.py"
    # A further row, and nothing of what is there.
    again = measure_rows([*rows[:2], BY_NAME["steps_k8"], rows[2]], settings, again=False, say=said.append)
    assert calls() == ["32x32_w16_k8"]
    assert [one.kept for one in again] == [True, True, False, True]
    # Other flags are another measurement, and so is whatever is asked for again.
    measure_rows(
        rows[:1], Settings(settings.folder, rounds=3, scripts=settings.scripts), again=False, say=said.append
    )
    measure_rows(rows[:1], settings, again=False, say=said.append)
    measure_rows(rows[1:2], settings, again=True, say=said.append)
    assert calls() == ["32x32_w16_chunk"] * 2 + ["32x32_w64_chunk"]
    (settings.folder / "rows" / "lira.json").write_text("half a r")
    measure_rows(rows[2:], settings, again=False, say=said.append)
    assert calls() == ["lira_256x60000x18"]


def test_rows_of_one_case_are_measured_once(fake):
    settings, calls = fake
    smoke = Settings(settings.folder, smoke=True, scripts=settings.scripts)
    outcomes = measure_rows(chosen_rows(["step_w16", "step_w64"]), smoke, again=False, say=lambda _: None)
    assert calls() == ["8x8_w1_chunk_b2"]
    assert [one.measured["ours"] for one in outcomes] == [2.0, 2.0]


def test_a_script_that_fails_costs_one_row(fake, monkeypatch):
    settings, calls = fake
    monkeypatch.setenv("BROKEN", "32x32_w64_chunk")
    rows = chosen_rows(["step_w16", "step_w64", "lira"])
    rows.insert(2, BY_NAME["steps_k8"])
    outcomes = measure_rows(rows, settings, again=False, say=lambda _: None)
    assert calls()[:2] == ["32x32_w16_chunk,32x32_w64_chunk,32x32_w16_k8", "32x32_w16_k8"]
    assert [one.measured is None for one in outcomes] == [False, True, False, False]
    assert outcomes[1].failure == "bench_ops.py ended with 1: The JAX worker died by SIGKILL; its last words"
    monkeypatch.delenv("BROKEN")
    assert measure_rows(rows, settings, again=False, say=lambda _: None)[1].measured["ours"] == 2.0
    assert calls() == ["32x32_w64_chunk"]


def test_why_a_script_failed():
    assert failure_of("b.py", -9, "") == "b.py was ended by SIGKILL and said nothing."
    assert failure_of("b.py", 3, "round 1\nValueError: no\n") == "b.py ended with 3: ValueError: no"
    assert len(failure_of("b.py", 1, "b.py: " + "x" * 9999)) < 500


def test_a_rows_key_has_all_that_its_figures_depend_on():
    small, large = (key_of(BY_NAME["pgd"], Settings(pathlib.Path("x"), smoke)) for smoke in (True, False))
    assert small != large and small["case"] == "pgd2_w1_n16_e0.05"
    assert set(large) == {"case", "flags", "environment", "device", "python", "jax"}


def test_the_ratio_divides_by_pytorchs_fastest_form_of_the_same_format():
    torch = {
        "eager float32": form(800.0, dtype="float32"),
        "eager float32 channels-last": form(1100.0, dtype="float32"),
        "eager bfloat16": form(1700.0, dtype="bfloat16"),
        "compiled float32": {"unavailable": "no compiler"},
    }
    best = {"ours": {"winograd, pmap_map": form(1320.0)}, "ours_best": "winograd, pmap_map", "torch": torch}
    got = reading("steps_k8", measured(1320.0, 800.0, **best))
    assert (got.ratio, got.theirs.how) == (1.2, "eager float32 channels-last")
    assert got.note == "PyTorch's bfloat16: 1,700 (eager bfloat16)"
    assert (got.ours.memory_bytes, got.theirs.memory_bytes, got.ours.cold_seconds) == (2**29, 3 * 2**29, 4.0)
    rounded = reading("steps_k8", measured(850.0, 800.0, case="32x32_w64_k8_bf16", **best | {"ours": {
        "winograd, pmap_map": form(850.0)}}))  # fmt: skip
    assert (rounded.ratio, rounded.note) == (0.5, "")


def test_seconds_of_a_method():
    side = {"seconds": 36.0, "prepare_seconds": 12.0}
    details = {"ours": side, "torch": side | {"prepare_seconds": 1.0}, "torch_form": "eager float32"}
    row = measured(100.0, 80.0, **details, lowering="winograd", others_share=0.2)
    del row["details"]["ours_best"]
    got = reading("amun", row)
    assert (got.ratio, got.met, got.disturbed) == (1.25, True, True)
    assert (got.ours.how, got.theirs.how, got.ours.cold_seconds) == ("winograd", "eager float32", 12.0)
    alone = reading("amun", row | {"torch": None})
    assert (alone.ratio, alone.theirs, alone.met) == (None, None, None)


def test_milliseconds_of_fastclip_and_norms_that_disagree():
    training = {
        "ours": {name: form(200.0) for name in ("plain", "track", "fastclip")},
        "torch": {name: form(100.0) for name in ("plain", "track", "fastclip")},
        "ms_a_step": {"plain": 2.0, "track": 2.0, "fastclip": 2.5},
        "ratio": 1.25,
        "torch_ratio": 1.5,
    }
    got = reading("fastclip_step", measured(2.5, 5.0, unit="ms/step", **training))
    assert (got.ratio, got.met, got.theirs.how) == (2.0, True, "fastclip")
    assert got.note == "1.25 times our plain step; PyTorch's is 1.50 times its own"
    measuring = {
        "ours": {name: form(60.0) for name in ("measure", "power")},
        "torch": {"measure": form(20.0), "measure channels-last": form(30.0), "power": form(900.0)},
        "agreement": {"largest": 1e-6},
    }
    got = reading("fastclip_measure", measured(1.0, 2.0, unit="s", **measuring))
    assert (got.ratio, got.theirs.how, got.failure) == (2.0, "measure channels-last", "")
    measuring["agreement"] = {"largest": 1e-3}
    wrong = reading("fastclip_measure", measured(1.0, 2.0, unit="s", **measuring))
    assert wrong.failure == "The two sides' results disagree." and wrong.met is None
    assert "not to be trusted: The two sides' results disagree." in lines([wrong])


def test_a_deletion_says_what_it_saves():
    forms = {"a deletion (pmap_map)": form(60.0), "one model anew": form(10.0)}
    details = {
        "ours": forms,
        "ours_best": "a deletion (pmap_map)",
        "deletion": {"speed_up": {"seconds": 6.8}},
    }
    # The row's own figure is a mean over deletions, its form's a median over rounds.
    details["torch"] = {"eager": form(29.0)}
    got = reading("sisa_deletion", measured(60.0, 30.0, unit="deletions/min", **details))
    assert (got.ratio, got.theirs.value, got.met) == (2.0, 30.0, True)
    assert got.note == "6.8 times as fast as training one model anew, both ours"


def test_seconds_of_an_attack():
    side = {"seconds": 0.5, "peak_bytes": 2**30, "others_share": 0.0, "prepare_seconds": 1.0}
    torch = {
        "torch blocks": side | {"seconds": 1.0, "agree": True},
        "torch blocks compiled": {"unavailable": "no"},
    }
    details = {"ours": side, "definition": side | {"seconds": 4.0}, "agree": True, "torch": torch}
    details["torch_reference"] = "torch blocks"
    row = {
        "case": "lira",
        "ours": 0.5,
        "definition": 4.0,
        "ratio": 8.0,
        "unit": "s",
        "device": "d",
        "details": details,
    }
    got = reading("lira", row)
    assert (got.beside, got.ratio, got.theirs.memory_bytes, got.met) == (PYTORCH, 2.0, 2**30, True)
    assert got.note == "its definition in NumPy takes 8 times as long as ours"
    apart = {"torch blocks": torch["torch blocks"] | {"agree": False}}
    for wrong in ({"agree": False}, {"torch": apart}):
        assert (
            reading("lira", row | {"details": details | wrong}).failure == "The two sides' results disagree."
        )
    # Without PyTorch the definition stands there, and no target is judged.
    alone = details | {"torch": {}, "torch_reference": None}
    got = reading("lira", row | {"details": alone})
    assert (got.beside, got.ratio, got.met) == (NUMPY, 8.0, None)
    assert as_row(got)["torch"] is None and as_row(got)["ratio"] is None
    skipped = alone | {"definition": {"unavailable": "it needs about 4 GiB"}}
    got = reading("lira", row | {"definition": None, "ratio": None, "details": skipped})
    assert (got.ratio, got.theirs, got.note) == (None, None, "it needs about 4 GiB")


def test_a_line_a_row(readings):
    assert lines(readings).splitlines() == [
        "step_w16       ours 1,200 images/s  PyTorch 1,000   1.2×  target 1×: met",
        "step_w64          ours 90 images/s    PyTorch 120  0.75×  target 1×: missed",
        "sweep_digits    ours 20 models/min     PyTorch 10     2×  target 3×: missed",
        "epoch_w16        ours 300 images/s      PyTorch –      –  target 1×",
        "inference_w16                                          –  "
        "not measured: bench_inference.py ended with 1: The JAX worker died.",
        "pgd               ours 40 images/s     PyTorch 10     4×  target 1×: met, disturbed (37%)",
    ]


def test_losses_are_said_as_plainly_as_wins(readings):
    assert verdict(readings) == "2 of 4 rows beside PyTorch reach their target."
    assert remarks(readings) == [
        "PyTorch is the faster in step_w64 (0.75×).",
        "Faster than PyTorch, but short of the target: sweep_digits (2×).",
        "Failed: inference_w16 (not measured: bench_inference.py ended with 1: The JAX worker died.)",
        "PyTorch was not measured in epoch_w16.",
        "Other programs used the cores, so that the ratio says little, in pgd (37%).",
    ]
    assert verdict(readings[3:5]) == "No row was measured beside PyTorch."


def test_where_bars_stand(readings):
    assert [standing(one) for one in readings if one.ratio] == [
        "reaches its target",
        "slower than PyTorch",
        "faster, short of its target",
        "reaches its target",
    ]
    assert ratio_bars(readings).startswith(b"\x89PNG") and ratio_bars([]).startswith(b"\x89PNG")


def test_the_page_has_every_row_and_nothing_from_outside(readings, tmp_path):
    write_page(tmp_path, readings, {"rounds": "3"}, smoke=False)
    assert {path.name for path in tmp_path.iterdir()} == {"benchmark.html", "benchmark.json", "benchmark.png"}
    page = (tmp_path / "benchmark.html").read_text()
    assert "data:image/png;base64," in page and "<script" not in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    for one in readings:
        assert f"<th scope=row>{one.row.name}</th>" in page and html.escape(one.row.says) in page
    assert "2 of 4 rows beside PyTorch reach their target." in page
    assert "PyTorch is the faster in step_w64 (0.75×)." in page
    assert "The JAX worker died." in page and "disturbed: others used 37% of the cores" in page
    assert "Smoke sizes" not in page
    write_page(tmp_path, readings, {}, smoke=True)
    assert "Smoke sizes" in (tmp_path / "benchmark.html").read_text()
    rows = json.loads((tmp_path / "benchmark.json").read_text())
    assert [list(row) for row in rows] == [
        ["case", "ours", "torch", "ratio", "unit", "device", "details"]
    ] * 6
    assert [row["ratio"] for row in rows] == [1.2, 0.75, 2.0, None, None, 4.0]
    assert [row["details"]["met"] for row in rows] == [True, False, False, None, None, True]
    assert rows[4]["details"]["failure"].endswith("The JAX worker died.") and rows[4]["ours"] is None
    assert rows[0]["details"]["beside"] == PYTORCH and rows[0]["details"]["measured"]["ours"] == 1200.0


@pytest.mark.parametrize(
    "flags, sentence",
    [
        (["--cases=step_16"], "did you mean 'step_w16'?"),
        (
            ["--data=digits"],
            "--data is 'digits', with 1297 training images of 8×8×1, but expected at least 2048",
        ),
    ],
)
def test_bad_flags_are_one_sentence(flags, sentence, tmp_path):
    done = benchmark(*flags, f"--workdir={tmp_path / 'out'}")
    assert done.returncode == 2
    assert sentence in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_one_quick_row_from_the_command_to_the_page(tmp_path):
    path = tmp_path / "rows.json"
    flags = (
        "--smoke",
        "--cases=rmia",
        "--torch=none",
        f"--workdir={tmp_path / 'out'}",
        f"--json={path}",
    )
    done = benchmark(*flags)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())
    assert [row["case"] for row in rows] == ["rmia"]
    assert all(row["ours"] > 0 and row["details"]["beside"] == "NumPy" for row in rows)
    assert done.stdout.splitlines()[-1].split()[:2] == ["rmia", "ours"]
    assert (tmp_path / "out" / "benchmark.html").exists()
    again = benchmark(*flags)
    assert again.returncode == 0 and "rmia: kept from before" in again.stderr
    assert json.loads(path.read_text())[0]["ours"] == rows[0]["ours"]


@pytest.mark.slow
@pytest.mark.torch
def test_smoke_measures_every_row(tmp_path):
    pytest.importorskip("torch")
    path = tmp_path / "rows.json"
    done = benchmark("--smoke", f"--workdir={tmp_path / 'out'}", f"--json={path}")
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())
    assert [row["case"] for row in rows] == [row.name for row in ROWS]
    for row in rows:
        assert row["ours"] > 0 and row["torch"] > 0 and row["ratio"] > 0
        assert row["details"]["beside"] == PYTORCH and row["details"]["failure"] is None
    last = done.stdout.splitlines()[-len(ROWS) :]
    assert [line.split()[0] for line in last] == [row.name for row in ROWS]

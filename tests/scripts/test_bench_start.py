"""The benchmark of the start: names, where the seconds went, and commands that step or end before."""

import json
import os
import pathlib
import subprocess
import sys

import pytest

from benchmarks.start_breakdown import Span, breakdown, shared_out
from benchmarks.start_case import StartCase
from benchmarks.start_names import ALL, TABLE, parse_case, parse_cases
from benchmarks.start_process import environment, until_first_step
from benchmarks.start_table import case_lines, summary
from benchmarks.worker_process import WorkerDied
from mu_jax.config import InputError

ROOT = pathlib.Path(__file__).parents[2]


def test_case_names_round_trip():
    for name in (*ALL, "sweep_w1"):
        assert parse_case(name).name == name
    assert parse_case("quickstart_w16") == StartCase("quickstart", 16)
    assert [case.name for case in parse_cases([])] == list(TABLE)
    assert [case.name for case in parse_cases(["all"])] == list(ALL)


@pytest.mark.parametrize(
    "names, sentence",
    [
        (["quickstart_16"], "did you mean 'quickstart_w16'?"),
        (
            ["pgd"],
            "expected quickstart_wWIDTH or sweep_wWIDTH, such as quickstart_w16; change it in --cases.",
        ),
        (["sweep_w0"], "has a width of 0, but expected 1 to 1024; change it in its name."),
        (["sweep_w1", "sweep_w01"], "stands twice"),
    ],
)
def test_bad_cases_are_one_sentence(names, sentence):
    with pytest.raises(InputError) as error:
        parse_cases(names)
    assert sentence in str(error.value)


def test_moments_belong_to_the_inner_work():
    spans = [
        Span("tracing", 0.0, 10.0),
        Span("tracing", 2.0, 4.0),  # a jit within a jit counts once
        Span("lowering", 10.0, 11.0),
        Span("compiling", 5.0, 6.0),  # a constant computed while tracing
        Span("compiling", 12.0, 20.0),
        Span("data", 14.0, 30.0),
    ]
    seconds = shared_out(spans, until=16.0)
    assert seconds == {"compiling": 1.0 + 4.0, "lowering": 1.0, "tracing": 9.0, "data": 0.0}
    assert shared_out(spans, until=100.0)["data"] == 10.0
    assert sum(shared_out([], until=1.0).values()) == 0.0


def test_the_parts_add_up_to_the_whole():
    found = {
        "began": 100.0,
        "entered": 100.25,
        "imported": 102.0,
        "spans": [
            ["compiling", 101.0, 101.5],  # among the imports
            ["data", 102.0, 102.5],
            ["tracing", 103.0, 104.0],
            ["compiling", 104.0, 106.0],
            ["compiling", 107.0, 109.0],  # after the first step
        ],
        "cache_hits": [105.0, 109.0],
    }
    parts = breakdown(found, until=106.5)
    assert parts["seconds"] == {
        "interpreter": 0.25, "imports": 1.75, "compiling": 2.0, "lowering": 0.0, "tracing": 1.0, "data": 0.5,
        "the rest": 1.0,
    }  # fmt: skip
    assert (parts["whole"], parts["programs"], parts["read_from_cache"]) == (6.5, 2, 1)


def test_a_command_is_timed_to_its_step_and_interrupted():
    program = "import time\ntime.sleep(0.3)\nprint('first step 1.0', flush=True)\ntime.sleep(60)"
    start = until_first_step(
        "ours", [sys.executable, "-c", program], environment({}), lambda said: "step" in said
    )
    assert 0.3 <= start.seconds < 20
    assert start.said.split() == ["first", "step", "1.0"]


def test_a_command_that_ends_before_its_step_says_why():
    command = [sys.executable, "-c", "raise SystemExit('no such thing')"]
    with pytest.raises(WorkerDied) as error:
        until_first_step("ours", command, environment({}), lambda said: False)
    assert "ours ended with exit code 1 before its first step" in str(error.value)
    assert "no such thing" in str(error.value)
    with pytest.raises(InputError, match="does not start"):
        until_first_step("PyTorch", ["/no/python"], environment({}), lambda said: False)


def test_where_programs_are_kept_is_not_inherited(monkeypatch):
    monkeypatch.setenv("JAX_COMPILATION_CACHE_DIR", "/elsewhere")
    monkeypatch.setenv("JAX_ENABLE_COMPILATION_CACHE", "0")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "5")
    found = environment({"XDG_CACHE_HOME": "/here"})
    assert found["XDG_CACHE_HOME"] == "/here"
    assert not [name for name in found if name.startswith(("JAX_COMPILATION", "JAX_ENABLE", "JAX_PERSIST"))]
    assert found["PATH"] == os.environ["PATH"]


def test_tables_show_every_form_and_say_when_a_round_was_disturbed():
    forms = {
        "cold": {"seconds": 12.0, "rounds": [11.0, 12.0, 13.0], "others_share": 0.01},
        "warm": {"seconds": 4.5, "rounds": [4.0, 4.5, 5.0], "others_share": 0.4},
    }
    parts = {
        "seconds": {"imports": 2.0, "the rest": 1.0},
        "whole": 3.0,
        "programs": 71,
        "read_from_cache": 70,
    }
    text = case_lines(forms, {"cold": parts, "warm": parts})
    for words in ("12.00", "4.50", "13.00", "imports", "71", "70", "used up to 40% of the cores"):
        assert words in text
    row = {"case": "quickstart_w16", "ratio": None, "details": {"forms": forms}}
    assert summary([row]).splitlines()[-1] == "| quickstart_w16 | 12.0 | 4.5 | – |"


def bench(*flags):
    command = [sys.executable, "scripts/bench_start.py", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_bad_flags_are_one_sentence():
    done = bench("--cases=quickstart_16")
    assert done.returncode == 2
    assert done.stderr.startswith("bench_start.py: The case is 'quickstart_16'")
    assert len(done.stderr.strip().splitlines()) == 1


@pytest.mark.slow
def test_a_small_case_is_measured_end_to_end(tmp_path):
    done = bench("--cases=quickstart_w1", "--rounds=1", "--torch=none", f"--json={tmp_path / 'rows.json'}")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads((tmp_path / "rows.json").read_text())
    assert (row["case"], row["unit"], row["torch"], row["ratio"]) == ("quickstart_w1", "s", None, None)
    parts = row["details"]["breakdown"]
    for one in parts.values():
        assert sum(one["seconds"].values()) == pytest.approx(one["whole"], abs=0.01)
        assert one["seconds"]["imports"] > 0 and one["seconds"]["data"] > 0
    assert parts["cold"]["read_from_cache"] == 0 < parts["warm"]["read_from_cache"]
    assert row["details"]["cache"]["programs"] >= parts["warm"]["read_from_cache"]
    assert (
        row["ours"] == row["details"]["forms"]["warm"]["seconds"] < row["details"]["forms"]["cold"]["seconds"]
    )

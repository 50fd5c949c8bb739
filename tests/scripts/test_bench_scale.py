"""The benchmark of scale: its points, the cost model and the memory's line by hand, and all of it at its smallest."""

import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from benchmarks.jax_scale_worker import core_of
from benchmarks.scale_analysis import (
    Measured,
    fit_costs,
    large_sweeps,
    memory_rows,
    scaling_efficiency,
)
from benchmarks.scale_case import ScaleCase
from benchmarks.scale_figure import devices_figure, examples_figure, models_figure, width_figure
from benchmarks.scale_fit import Cost, Work, fit_cost, relative_residuals
from benchmarks.scale_hosts import HOSTS, LargeSweep, Machine, host_seconds
from benchmarks.scale_memory import MemoryLine, fit_memory, largest_models
from benchmarks.scale_plan import AXES, MODELS, Point, plan
from benchmarks.scale_process import combined, measure_point
from benchmarks.scale_table import (
    costs_lines,
    hosts_table,
    memory_table,
    networks_table,
    points_table,
    remarks,
    resident_line,
)
from benchmarks.worker_process import WorkerDied
from mu_jax.config import InputError

ROOT = pathlib.Path(__file__).parents[2]
FIGURES = tuple(f"scale_{axis}.png" for axis in AXES)
COST = Cost(call=0.5, model=0.02, unit=1e-4)


def process(case, cost=COST, **changes):
    """What a process of a point would say that takes exactly what `cost` says."""
    models = case.models // case.processes
    steps = round(case.epochs * case.examples / 2 / case.batch)
    train = cost.seconds(1, models, models * steps)
    query = cost.seconds(1, models, models * 2 * case.examples)
    each = case.models_per_device
    return {
        "start_seconds": 3.0,
        "compile_seconds": 10.0,
        "first_check_seconds": 2.0,
        "train_seconds": [train, train * 1.5, train],
        "query_seconds": [query, query, query],
        "groups": 1,
        "models": models,
        "chunks": 1,
        "chunk_steps": 500,
        "model_steps": models * steps,
        "images_read": models * 2 * case.examples,
        "compilation_peak_bytes": 900e6,
        "working_peak_bytes": 300e6 + 10e6 * models,
        "lowering": "winograd",
        "device_bytes": {f"map {each}": 50e6 + 4e6 * each},
        "large_group": {str(hosts): 6 for hosts in HOSTS},
        "facts": {"backend": "cpu", "device": "a CPU", "versions": {"jax": "0.0"}},
    } | changes


def measured_points(smoke=False):
    points = plan([], smoke)
    return [
        Measured(
            point,
            combined(point, [process(point.case)] * point.case.processes)
            | {"others_share": 0.0, "whole_seconds": 1.0},
        )
        for point in points
    ]


@pytest.mark.parametrize("smoke", [False, True])
def test_the_axes_meet_in_one_point_and_each_has_others(smoke):
    points = plan([], smoke)
    assert len({point.case.name for point in points}) == len(points)
    assert [point for point in points if point.axes == AXES] == points[:1]
    for axis in AXES:
        of_axis = plan([axis], smoke)
        assert of_axis[0] == points[0]
        assert len(of_axis) >= 2 and all(axis in point.axes for point in of_axis)
    assert plan(["all"], smoke) == points
    by_vmap = plan([], smoke, vmap=True)
    assert by_vmap[0].probes == (("vmap", 1), ("vmap", points[0].case.models_per_device))
    assert by_vmap[1:] == points[1:]


def test_names_say_what_a_point_is():
    assert ScaleCase().name == "k8_n1024_w8_8x8_d2"
    assert ScaleCase(devices=1, processes=2, one_core=True).name == "k8_n1024_w8_8x8_d1_p2_c1"
    assert ScaleCase(models=32).models_per_device == 16
    with pytest.raises(ValueError, match="expected an even number, the same on each of 4 devices"):
        ScaleCase(models=6, devices=2, processes=2)


@pytest.mark.parametrize(
    "axes, sentence",
    [
        (["model"], "did you mean 'models'?"),
        (["zzz"], "expected some of models, examples, width, devices; change it in --cases."),
        (["width", "width"], "stands twice"),
    ],
)
def test_bad_axes_are_one_sentence(axes, sentence):
    with pytest.raises(InputError) as error:
        plan(axes, smoke=False)
    assert sentence in str(error.value)


def test_processes_take_cores_in_turn():
    assert [core_of(i, {4, 2}) for i in range(3)] == [2, 4, 2]


def works(cost, sizes):
    return [Work(*size, cost.seconds(*size)) for size in sizes]


SIZES = [(1, 2, 64), (1, 8, 256), (1, 32, 1024), (1, 8, 128), (2, 8, 1024)]


def test_a_cost_without_noise_is_found_again():
    found = fit_cost(works(COST, SIZES))
    assert (found.call, found.model, found.unit) == pytest.approx(
        (COST.call, COST.model, COST.unit), rel=1e-9
    )
    assert relative_residuals(found, works(COST, SIZES)) == pytest.approx([0.0] * 5, abs=1e-9)
    assert found.seconds(3, 10, 100) == pytest.approx(1.5 + 0.2 + 0.01)
    assert fit_cost(works(COST, SIZES[:3])) is None


def test_the_fit_has_the_least_relative_squares_and_no_negative_cost():
    rng = np.random.default_rng(0)
    # Less than nothing a call: the plain solution would say so.
    noisy = [
        Work(*size, 0.01 * size[1] + 1e-3 * size[2] * (1.2 if i == 0 else 1)) for i, size in enumerate(SIZES)
    ]
    noisy[0] = Work(*SIZES[0], 0.5 * noisy[0].seconds)
    found = fit_cost(noisy)
    assert found.call == 0.0 < found.unit
    least = np.sum(np.square(relative_residuals(found, noisy)))
    for factors in 1 + 0.05 * rng.standard_normal((50, 3)):
        other = Cost(found.call * factors[0], found.model * factors[1], found.unit * factors[2])
        assert np.sum(np.square(relative_residuals(other, noisy))) >= least


def test_memory_is_a_line_and_the_largest_number_fits_exactly():
    line = fit_memory([(1, 54e6), (4, 66e6), (16, 114e6)])
    assert (line.fixed, line.model) == pytest.approx((50e6, 4e6))
    # 0.8 · 24e9 − 50e6 = 19.15e9, of 4e6 each: 4,787.5.
    assert largest_models(line, 24e9) == 4787
    assert line.bytes(4787) <= 0.8 * 24e9 < line.bytes(4788)
    assert largest_models(MemoryLine(30e9, 1.0), 24e9) == 0
    assert fit_memory([(2, 1.0), (2, 2.0)]) is None
    with pytest.raises(ValueError, match="expected more than 0"):
        largest_models(MemoryLine(1.0, 0.0), 24e9)


def test_the_busiest_host_has_whole_groups():
    sweep = LargeSweep(models=100, hosts=7, group=6, steps=1200, chunk_steps=500, images=2000)
    assert sweep.busiest == (3, 18)  # 17 groups over 7 hosts
    assert LargeSweep(4, 1, 6, 1, 1, 1).busiest == (1, 4)
    machine = Machine(3.0, 12.0, train=COST, query=Cost(1.0, 0.0, 1e-3))
    parts = host_seconds(machine, sweep)
    assert parts == pytest.approx(
        {
            "start": 3.0,
            "compilation": 12.0,
            "training": 0.5 * 3 * 3 + 0.02 * 18 * 3 + 1e-4 * 18 * 1200,
            "queries": 3.0 + 1e-3 * 18 * 2000,
            "whole": 15.0 + 7.74 + 39.0,
        }
    )


def test_processes_are_put_together_by_the_slowest():
    case = ScaleCase(devices=1, processes=2, one_core=True)
    one = process(case) | {"train_seconds": [1.0, 4.0, 2.0], "working_peak_bytes": 5.0}
    two = process(case) | {"train_seconds": [3.0, 1.0, 1.0], "start_seconds": 7.0}
    found = combined(Point(case, AXES), [one, two])
    assert found["train_rounds"] == [3.0, 4.0, 2.0]
    assert found["seconds"] == 3.0 / 16
    assert (found["start_seconds"], found["compile_seconds"], found["models"]) == (7.0, 12.0, 8)
    assert found["working_peak_bytes"] == two["working_peak_bytes"]


def test_what_follows_from_points_without_noise_is_the_cost_they_were_made_by():
    measured = measured_points()
    costs = fit_costs(measured)
    assert (costs.train.call, costs.train.model, costs.train.unit) == pytest.approx(
        (0.5, 0.02, 1e-4), rel=1e-6
    )
    assert max(map(abs, [*costs.train_residuals.values(), *costs.query_residuals.values()])) < 1e-9
    sweeps = large_sweeps(measured, costs)
    # 1,667 groups of 6 over 100 hosts: 17 groups of 102 models, each 1,600 steps in 4 chunks.
    assert sweeps[100]["training"] == pytest.approx(0.5 * 68 + 0.02 * 102 * 4 + 1e-4 * 102 * 1600)
    assert sweeps[1]["whole"] > 90 * sweeps[100]["training"]
    rows = {(row.label, row.mapping): row for row in memory_rows(measured)}
    row = rows["width 8, 8×8, N = 1,024", "map"]
    assert (row.line.fixed, row.line.model) == pytest.approx((50e6, 4e6))
    assert row.largest == {"24 GB": 4787, "141 GB": 28187}
    # A process with half the models, alone, takes what each of two takes.
    assert scaling_efficiency(measured) == pytest.approx(1.0)
    assert fit_costs(measured[:3]) is None
    assert scaling_efficiency(measured[:3]) is None


def test_tables_say_what_was_measured_and_what_is_assumed():
    measured = measured_points()
    costs = fit_costs(measured)
    points = points_table(measured, costs)
    header, _, *rows = points.splitlines()
    assert len(rows) == len(measured)
    assert all(row.count("|") == header.count("|") for row in rows)
    assert "`k8_n1024_w8_8x8_d2`" in rows[0] and "+0.0%" in rows[0]
    assert "500 ms a group and chunk + 20 ms a model in it + 100 µs a step of a model" in costs_lines(costs)
    assert "needs four points" in costs_lines(None)
    assert resident_line(measured) == "resident memory at work = 286 MiB + 9.54 MiB a model"
    assert resident_line(measured[:1]) is None
    hosts = hosts_table(measured[0], large_sweeps(measured, costs))
    assert "10,000 models of 100 epochs" in hosts and "hosts do not communicate" in hosts
    # 0.678 s for 16 model-epochs, times a million of them, over 100 hosts.
    seconds = measured[0].found["seconds"]
    assert f"| {seconds * 1e6 / 100 / 3600:.3g} |" in networks_table(measured, 100)
    assert "4,787 | 28,187 |" in memory_table(memory_rows(measured))
    assert "nothing of it has been measured" in memory_table([])
    assert remarks(measured, None) == []
    measured[2].found["others_share"] = 0.4
    assert "up to 40% of the cores at 1 of 10 points" in remarks(measured, 0.8)[1]
    assert "1.250 times" in remarks(measured, 0.8)[0]


def test_figures_are_drawn():
    measured = measured_points()
    costs = fit_costs(measured)
    drawn = [models_figure(measured, costs), examples_figure(measured, None)]
    drawn += [width_figure(measured), devices_figure(measured)]
    assert all(figure.startswith(b"\x89PNG") for figure in drawn)
    assert len(set(drawn)) == 4


def test_a_process_that_fails_is_told_with_its_last_words():
    point = Point(ScaleCase(models=2, examples=64, network="no such network"), (MODELS,))
    with pytest.raises(WorkerDied) as error:
        measure_point(point, rounds=1, quick=True)
    assert "Process 0 of the point 'k2_n64_w8_8x8_d2' ended with exit code 1" in str(error.value)
    assert "model.name is 'no such network'" in str(error.value)


def bench(*flags):
    command = [sys.executable, "scripts/bench_scale.py", *flags]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_bad_flags_are_one_sentence(tmp_path):
    done = bench("--cases=model", f"--workdir={tmp_path / 'scale'}")
    assert done.returncode == 2
    assert done.stderr.startswith("bench_scale.py: The axis is 'model'")
    assert len(done.stderr.strip().splitlines()) == 1
    assert not (tmp_path / "scale").exists()


@pytest.mark.slow
def test_the_smallest_sizes_run_end_to_end(tmp_path):
    done = bench("--smoke", "--rounds=1", f"--workdir={tmp_path}", f"--json={tmp_path / 'rows.json'}")
    assert done.returncode == 0, done.stderr
    for figure in FIGURES:
        assert (tmp_path / figure).read_bytes().startswith(b"\x89PNG")
    rows = {row["case"]: row for row in json.loads((tmp_path / "rows.json").read_text())}
    points = [point.case.name for point in plan([], smoke=True)]
    assert list(rows) == [*points, "extrapolated_h1", "extrapolated_h10", "extrapolated_h100"]
    for name in points:
        details = rows[name]["details"]
        assert details["train_seconds"] > 0 and details["query_seconds"] > 0
        assert details["compile_seconds"] > 0 and details["start_seconds"] > 0
        assert details["working_peak_bytes"] > 2**26
    more, fewer = (rows[f"k{k}_n128_w8_8x8_d2"]["details"]["device_bytes"] for k in (8, 2))
    assert more["map 4"] > fewer["map 1"] > 0
    two = rows["k4_n128_w8_8x8_d1_p2_c1"]["details"]
    assert (two["groups"], two["models"], two["model_steps"]) == (2, 4, 8)
    one, many = (rows[f"extrapolated_h{hosts}"] for hosts in (1, 100))
    assert one["ours"] > many["ours"] > many["details"]["seconds"]["start"] > 0
    text = (tmp_path / "scale.md").read_text()
    assert text in done.stdout and "hosts do not communicate" in text

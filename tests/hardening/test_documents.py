"""JSON of run folders, damaged in every way: read, or refused in one sentence."""

import dataclasses
import datetime
import json

import numpy as np
import pytest

from mu_jax.config import ShadowSweep, UnlearningComparison, from_config_dict, to_dict
from mu_jax.experiments.run_folder import RunFolder, finished_results, read_config, read_json, read_results
from mu_jax.experiments.sisa_setting import _placement
from mu_jax.experiments.sweep_plan import SweepPlan
from mu_jax.training.placement import Placement
from mu_jax.unlearning.sisa.requests import RequestLog

MANY = pytest.param(2_000, marks=pytest.mark.slow)
WHEN = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)


def document(value) -> bytes:
    return json.dumps(value, indent=1).encode()


def run_folder(config):
    saved = {"config": to_dict(config), "inputs": {"data": "x"}, "overrides": {}, "versions": {"python": "3"}}
    results = {
        "experiment": config.experiment,
        "data": {"classes": 3},
        "models": {"original": {}},
        "tables": {},
    }
    return {"config.json": document(saved), "results.json": document(results)}


@pytest.mark.parametrize("examples", [60, MANY])
@pytest.mark.parametrize("experiment", [UnlearningComparison, ShadowSweep])
def test_a_run_folder(reads_or_refuses, experiment, examples):
    config = experiment()

    def read(folder):
        saved = read_config(folder)
        if saved is not None:
            assert dataclasses.is_dataclass(from_config_dict(saved["config"]))
        results = read_results(folder)
        if saved is not None and results is not None:
            found = finished_results(folder, to_dict(config))
            assert found is None or isinstance(found.get("experiment", ""), str)
        return True

    reads_or_refuses(run_folder(config), read, examples)


@pytest.mark.parametrize("examples", [40, MANY])
def test_metrics(reads_or_refuses, tmp_path, examples):
    lines = b"".join(
        document(line).replace(b"\n", b"") + b"\n" for line in ({"model": "a", "step": 1}, {"loss": 2.0})
    )

    def read(folder):
        return RunFolder(folder, {}, inputs={}, overrides={}).metrics() or True

    reads_or_refuses({"metrics.jsonl": lines}, read, examples)


@pytest.mark.parametrize("examples", [40, MANY])
def test_plans(reads_or_refuses, tmp_path, examples):
    placement = dataclasses.asdict(Placement("map", 1, 2))
    plan = {"placement": placement, "blocks": [2, 2], "member_sha256": "0" * 64}

    def read(folder):
        SweepPlan.load(folder / "plan.json")
        of_sisa = read_json(folder / "sisa.json")
        return True if of_sisa is None else _placement(of_sisa, folder / "sisa.json")

    reads_or_refuses({"plan.json": document(plan), "sisa.json": document(placement)}, read, examples)


@pytest.mark.parametrize("examples", [40, MANY])
def test_requests_of_deletion(reads_or_refuses, files_below, tmp_path, examples):
    """A line that says something else than was asked for is found; a last line that was cut off was never promised."""
    log = RequestLog(tmp_path / "requests.jsonl")
    log.append(np.array([3, 5]), WHEN, {0: "a"})
    log.append(np.array([8]), WHEN)
    log.mark_done(1, "0" * 64)

    def read(folder):
        found = [request.indices.tolist() for request in RequestLog(folder / "requests.jsonl").requests()]
        assert found == [[3, 5], [8]][: len(found)]
        return True

    reads_or_refuses(files_below(tmp_path), read, examples)

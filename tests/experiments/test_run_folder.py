import json
import re
import subprocess
import sys

import pytest

from mu_jax.config import InputError
from mu_jax.data.files import atomic_write, write_json
from mu_jax.experiments.run_folder import RunFolder, finished_results


def folder(path, config=None, inputs=None):
    return RunFolder(path, config or {"a": {"b": 1}}, inputs=inputs or {"data": "x"}, overrides={"a.b": 1})


def test_config_json_tells_the_whole_story(tmp_path):
    with folder(tmp_path / "new" / "run"):
        pass
    saved = json.loads((tmp_path / "new" / "run" / "config.json").read_text())
    assert saved["config"] == {"a": {"b": 1}}
    assert saved["overrides"] == {"a.b": 1}
    assert re.fullmatch(r"\d+\.\d+.*", saved["versions"]["jax"])
    assert saved["devices"]
    assert saved["git"]


def test_another_config_is_refused_naming_the_difference(tmp_path):
    with folder(tmp_path):
        pass
    with pytest.raises(InputError, match="a.b was 1 and is now 2"), folder(tmp_path, {"a": {"b": 2}}):
        pass
    with pytest.raises(InputError, match="data was 'x' and is now 'y'"):
        folder(tmp_path, inputs={"data": "y"}).__enter__()
    with pytest.raises(InputError, match="a.b was 1 and is now 2"):
        finished_results(tmp_path, {"a": {"b": 2}})
    with folder(tmp_path):  # refusing left the lock free
        pass


def test_finished_means_results_are_there(tmp_path):
    assert finished_results(tmp_path / "absent", {}) is None
    with folder(tmp_path):
        pass
    assert finished_results(tmp_path, {"a": {"b": 1}}) is None
    write_json(tmp_path / "results.json", {"models": {}})
    assert finished_results(tmp_path, {"a": {"b": 1}}) == {"models": {}}


def test_a_strangers_folder_and_a_file_are_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="not empty and holds no config.json"):
        finished_results(tmp_path, {})
    with pytest.raises(InputError, match="a file, but expected a folder"):
        finished_results(tmp_path / "thesis.tex", {})
    with pytest.raises(InputError, match="cannot be written"):
        folder(tmp_path / "thesis.tex" / "run").__enter__()
    (tmp_path / "run").mkdir()
    for text, message in (
        ("{", "cannot be read"),
        ("{}", "not of a run of mu_jax"),
        ("[1]", "not of a run of mu_jax"),
    ):
        (tmp_path / "run" / "config.json").write_text(text)
        with pytest.raises(InputError, match=message):
            finished_results(tmp_path / "run", {})
    with pytest.raises(InputError, match="cannot be read"):
        finished_results(tmp_path / ("x" * 300), {})


def test_a_second_run_on_the_folder_is_refused_until_the_first_ends(tmp_path):
    with folder(tmp_path), pytest.raises(InputError, match="Another run is at work"):
        folder(tmp_path).__enter__()
    with folder(tmp_path):
        pass


def test_a_killed_run_leaves_no_lock(tmp_path):
    program = (
        "import os, signal, sys\nfrom mu_jax.experiments.run_folder import RunFolder\n"
        "with RunFolder(sys.argv[1], {'a': {'b': 1}}, inputs={'data': 'x'}, overrides={}):\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False)
    assert done.returncode == -9
    with folder(tmp_path):
        pass


def test_leftovers_of_a_killed_write_are_cleared(tmp_path):
    (tmp_path / ".lock").touch()
    (tmp_path / ".config.json.ab12cd").write_text("{")
    assert finished_results(tmp_path, {}) is None
    with folder(tmp_path):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "config.json"]


def test_other_versions_are_noticed_and_another_backend_refused(tmp_path):
    with folder(tmp_path, inputs={"backend": "cpu"}) as run:
        assert run.changed_versions == ()
    saved = json.loads((tmp_path / "config.json").read_text())
    saved["versions"]["jax"] = "0.0.1"
    (tmp_path / "config.json").write_text(json.dumps(saved))
    with folder(tmp_path, inputs={"backend": "cpu"}) as run:
        assert run.changed_versions == ("jax",)
    with pytest.raises(InputError, match="backend was 'cpu' and is now 'gpu'"):
        folder(tmp_path, inputs={"backend": "gpu"}).__enter__()


def test_metrics_are_cut_back_for_one_model_and_survive_a_torn_line(tmp_path):
    with folder(tmp_path) as run:
        assert run.metrics() == []
        for model, step in (("original", 5), ("original", 10), ("retrain", 5), ("retrain", 10)):
            run.append_metrics({"model": model, "step": step})
        with open(tmp_path / "metrics.jsonl", "a") as file:
            file.write('{"model": "retrain", "st')
        assert run.cut_metrics("retrain", 5) == [{"model": "retrain", "step": 5}]
        assert [(line["model"], line["step"]) for line in run.metrics()] == [
            ("original", 5), ("original", 10), ("retrain", 5),
        ]  # fmt: skip
        assert run.cut_metrics("retrain", 0) == []
        assert len(run.metrics()) == 2
        (tmp_path / "metrics.jsonl").write_text("{\n")
        with pytest.raises(InputError, match="is damaged"):
            run.metrics()


def test_an_atomic_write_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "results.json"
    write_json(path, {"a": 1})
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(path, {"a": float("nan")})
    with pytest.raises(RuntimeError), atomic_write(path) as file:
        file.write(b"half")
        raise RuntimeError
    assert json.loads(path.read_text()) == {"a": 1}
    assert [entry.name for entry in tmp_path.iterdir()] == ["results.json"]

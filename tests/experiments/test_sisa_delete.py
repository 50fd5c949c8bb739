import dataclasses
import json
import shutil

import numpy as np
import pytest
from rich.console import Console

from mu_jax.config import AdversaryConfig, DataConfig, ForgetConfig, InputError, from_config_dict, to_dict
from mu_jax.experiments import sisa_delete, sisa_posterior
from mu_jax.experiments.registry import print_results
from mu_jax.experiments.sisa_delete import run
from mu_jax.experiments.sisa_setting import prepare_sisa
from mu_jax.unlearning.sisa import ShardModels, Sisa
from tiny_sisa import DELETE, POSTERIOR, Lines


def asking(folder, indices, config=DELETE):
    path = folder / f"indices_{len(list(folder.glob('indices_*')))}.npy"
    np.save(path, np.asarray(indices))
    return dataclasses.replace(config, forget=ForgetConfig(indices=str(path)))


def delete(workdir, indices, config=DELETE, **options):
    shown = Lines()
    results, done_before = run(asking(workdir.parent, indices, config), workdir, progress=shown, **options)
    assert not done_before  # there is always something to look after
    return results, shown.lines


@pytest.fixture(scope="module", name="fitted")
def fitted_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("delete") / "run"
    results, _ = run(DELETE, workdir, progress=Lines())
    return workdir, results


@pytest.fixture(name="folder")
def folder_fixture(fitted, tmp_path):
    shutil.copytree(fitted[0], tmp_path / "run")
    return tmp_path / "run"


def hashes(workdir):
    return {
        path.parent.name + "/" + path.parent.parent.name: json.loads(path.read_text())["state_sha256"]
        for path in (workdir / "models").glob("*/*/step.json")
    }


def test_the_first_call_fits(fitted):
    workdir, results = fitted
    assert results["tables"]["requests"] == [] and results["certificates"] == []
    assert results["data"]["retain"] == 200 and results["data"]["forget"] == 0
    assert len(hashes(workdir)) == 6
    assert (workdir / "report.html").exists()
    assert results["models"]["sisa"]["accuracy"]["retain"] > 0.6


def test_deletions_add_up_and_leave_what_a_fit_without_them_makes(folder, tmp_path):
    before = hashes(folder)
    delete(folder, [3, 50])
    results, _ = delete(folder, [7])
    assert [row["indices"] for row in results["tables"]["requests"]] == [2, 1]
    assert results["data"]["forget"] == 3 and results["data"]["retain"] == 197
    setting = prepare_sisa(DELETE)
    fresh = setting.models(tmp_path / "fresh" / "models", setting.trainer(tmp_path, 3))
    fresh.train(setting.sharding(np.arange(200)).without(np.array([3, 7, 50])))
    assert hashes(folder) == hashes(tmp_path / "fresh") != before


def test_the_certificate_is_printed(folder):
    results, _ = delete(folder, [11])
    console = Console(record=True, width=120)
    print_results(results, folder, False, console)
    text = console.export_text()
    certificate = json.loads((folder / "certificates/request_000001.json").read_text())
    assert f'"request": {certificate["request"]}' in text and "parameters_sha256" in text
    assert next(iter(certificate["parameters_sha256"].values()))["after"] in text


def test_what_was_deleted_before_is_said_and_nothing_retrains(folder):
    delete(folder, [3, 50])
    before = hashes(folder)
    results, lines = delete(folder, [50])
    assert any("deleted before" in line for line in lines)
    assert results["certificates"] == [] and len(results["tables"]["requests"]) == 1
    assert hashes(folder) == before


def test_settings_are_the_folders_own_and_need_not_be_repeated(folder):
    plain = dataclasses.replace(from_config_dict({"experiment": "sisa_delete"}), seed=9)
    results, _ = delete(folder, [5], plain)
    assert results["sisa"]["shards"] == 3 and results["seed"] == DELETE.seed
    with pytest.raises(InputError, match=r"other settings: sisa.shards was 3 and is now 10; leave the flag"):
        delete(folder, [6], plain, overrides={"sisa.shards": 10})
    same = dataclasses.replace(plain, sisa=DELETE.sisa)
    delete(folder, [6], same, overrides={"sisa.shards": 3, "forget.indices": "x"})
    saved = json.loads((folder / "config.json").read_text())["config"]
    for key in ("seed", "data", "model", "train", "sisa"):
        assert saved[key] == to_dict(DELETE)[key]


@pytest.mark.parametrize(
    ("indices", "message"),
    [
        ([200], r"positions 200..200, but expected 0..199"),
        ([-1], "expected 0..199"),
        ([[1]], "a list of integers"),
    ],
)
def test_bad_positions_are_refused_and_nothing_is_logged(folder, indices, message):
    before = hashes(folder)
    with pytest.raises(InputError, match=message):
        delete(folder, indices)
    assert not (folder / "requests.jsonl").exists() or not (folder / "requests.jsonl").read_text()
    assert hashes(folder) == before


def test_a_class_is_deleted_by_its_number(folder):
    config = dataclasses.replace(DELETE, forget=ForgetConfig(classes=(1,)))
    results, _ = run(config, folder, progress=Lines())
    labels = prepare_sisa(DELETE).dataset.y_train
    assert results["data"]["forget"] == np.count_nonzero(labels == 1)
    with pytest.raises(InputError, match="forget.classes has 3, but expected classes from 0 to 2"):
        run(dataclasses.replace(DELETE, forget=ForgetConfig(classes=(3,))), folder, progress=Lines())


def test_an_emptied_shard_stops_voting(folder):
    setting = prepare_sisa(DELETE)
    shard = setting.sharding(np.arange(200)).prefix(1, 1)
    results, _ = delete(folder, shard)
    assert results["sisa"]["emptied_shards"] == [1]
    assert 0 < results["models"]["sisa"]["accuracy"]["test"] <= 1
    again, _ = delete(folder, np.setdiff1d(np.arange(5), shard))
    assert again["sisa"]["emptied_shards"] == [1]


def test_a_damaged_checkpoint_is_said_and_its_shard_trained_again(folder):
    before = hashes(folder)
    for path in (folder / "models/shard_0002/slice_0001").rglob("*"):
        if path.is_file() and path.name != "step.json":
            path.write_bytes(b"damage")
    shown = Lines()
    run(DELETE, folder, progress=shown)
    assert any("shard 2, slice 1 is damaged" in line for line in shown.lines)
    assert hashes(folder) == before


def npz(path, images, labels, test):
    np.savez(path, x_train=images, y_train=labels, x_test=test[0], y_test=test[1])
    return path


def test_deleted_images_may_become_anything_and_others_may_not(tmp_path):
    dataset = prepare_sisa(DELETE).dataset
    images, test = dataset.x_train.copy(), (dataset.x_test, dataset.y_test)
    file = npz(tmp_path / "data.npz", images, dataset.y_train, test)
    config = dataclasses.replace(DELETE, data=DataConfig(source=f"npz:{file}"))
    folder = tmp_path / "run"
    delete(folder, [4], config)
    assert not np.load(folder / "images.sha256.npy")[4].any()
    images[4] = 255 - images[4]
    npz(file, images, dataset.y_train, test)
    before = hashes(folder)
    delete(folder, [4], config)
    assert hashes(folder) == before
    images[8] = 255 - images[8]
    npz(file, images, dataset.y_train, test)
    with pytest.raises(InputError, match=r"Training image 8 or its label .* \(1 of 199 differ\)"):
        delete(folder, [9], config)


@pytest.fixture(scope="module", name="measured")
def measured_fixture(tmp_path_factory):
    workdir = tmp_path_factory.mktemp("measured") / "run"
    config = dataclasses.replace(POSTERIOR, compare_shards=(), adversary=AdversaryConfig())
    results, _ = sisa_posterior.run(config, workdir, progress=Lines())
    return config, workdir, results


def test_an_experiments_ensemble_goes_on_deleting_and_its_measurements_go(measured, tmp_path):
    config, there, before = measured
    workdir = tmp_path / "run"
    shutil.copytree(there, workdir)
    kept = np.setdiff1d(np.load(workdir / "splits.npz")["retain"], [0])
    plain = from_config_dict({"experiment": "sisa_delete"})
    results, lines = delete(workdir, kept[:2], plain)
    assert [row["indices"] for row in results["tables"]["requests"]] == [before["data"]["forget"], 2]
    assert {path.name for path in workdir.iterdir() if not path.name.startswith(".")} == {
        "config.json",
        "sisa",
    }
    assert any(line.startswith("removed what sisa_posterior measured") for line in lines)
    assert "../checkpoints" in results["certificates"][0]["removed"]
    delete(workdir, kept[2:3], plain)  # and again
    with pytest.raises(InputError, match="has had other deletions"):
        sisa_posterior.run(config, workdir, progress=Lines())


class Stopped(Exception):
    pass


@pytest.mark.parametrize(
    "moment", ["ShardModels.train", "Sisa._certify", "_results", "write_sisa_delete_report"]
)
def test_a_deletion_cut_off_anywhere_is_finished_by_the_next_call(measured, tmp_path, monkeypatch, moment):
    workdir = tmp_path / "run"
    shutil.copytree(measured[1], workdir)
    kept = np.load(workdir / "splits.npz")["retain"]
    plain = from_config_dict({"experiment": "sisa_delete"})

    def stop(*_, **__):
        raise Stopped

    with monkeypatch.context() as patch:
        if moment == "ShardModels.train":
            # The fit that comes first has nothing to do; the deletion's own training is what is cut off.
            train = ShardModels.train
            patch.setattr(ShardModels, "train", lambda self, *a: stop() if len(a) > 2 else train(self, *a))
        elif moment == "Sisa._certify":
            patch.setattr(Sisa, "_certify", stop)
        else:
            patch.setattr(sisa_delete, moment, stop)
        with pytest.raises(Stopped):
            delete(workdir, kept[:2], plain)
    # Nothing that had seen the images is left, whenever the kill came.
    assert {path.name for path in workdir.iterdir() if not path.name.startswith(".")} == {
        "config.json",
        "sisa",
    }
    assert not (workdir / "sisa/report.html").exists()
    assert not np.load(workdir / "sisa/images.sha256.npy")[kept[:2]].any()
    shown = Lines()
    results, _ = run(plain, workdir, progress=shown)  # without the positions: they are in the log
    assert [row["indices"] for row in results["tables"]["requests"]] == [measured[2]["data"]["forget"], 2]
    pending = moment in ("ShardModels.train", "Sisa._certify")
    assert len(results["certificates"]) == pending
    assert any("finishing request 2" in line for line in shown.lines) == pending
    if pending:
        hashes_of = results["certificates"][0]["parameters_sha256"].values()
        assert all(pair["before"] and pair["after"] and pair["before"] != pair["after"] for pair in hashes_of)


def test_a_request_by_lot_or_by_both_names_is_refused(folder):
    by_lot = dataclasses.replace(DELETE, forget=ForgetConfig(fraction=0.3))
    with pytest.raises(InputError, match=r"forget.fraction is 0.3, but expected images by name"):
        run(by_lot, folder, overrides={"forget.fraction": 0.3}, progress=Lines())
    both = dataclasses.replace(DELETE, forget=ForgetConfig(indices="x.npy", classes=(1,)))
    with pytest.raises(InputError, match="expected one of the two"):
        run(both, folder, progress=Lines())


def test_positions_set_aside_for_validation_are_refused_before_anything_is_fitted(tmp_path):
    config = dataclasses.replace(DELETE, data=POSTERIOR.data)
    with pytest.raises(
        InputError, match="is set aside for validation, but expected positions of the 120 images"
    ):
        delete(tmp_path / "run", np.arange(100), config)
    assert not (tmp_path / "run").exists()


def test_measurements_stay_where_they_are_asked_for(measured, tmp_path):
    workdir = tmp_path / "run"
    shutil.copytree(measured[1], workdir)
    kept = np.load(workdir / "splits.npz")["retain"]
    keep = dataclasses.replace(from_config_dict({"experiment": "sisa_delete"}), keep_measurements=True)
    delete(workdir, kept[:1], keep)
    assert (workdir / "results.json").exists() and (workdir / "checkpoints/base").exists()


def test_folders_without_an_ensemble_are_refused(measured, tmp_path):
    unfinished = tmp_path / "unfinished"
    shutil.copytree(measured[1], unfinished)
    (unfinished / "results.json").unlink()
    with pytest.raises(InputError, match="not finished"):
        delete(unfinished, [1])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("")
    with pytest.raises(InputError, match="is not empty and holds no config.json"):
        delete(tmp_path / "full", [1])
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="a file, but expected a folder"):
        delete(tmp_path / "file", [1])

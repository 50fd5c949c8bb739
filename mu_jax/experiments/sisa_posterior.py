"""If I train so that deletion is cheap, what does it cost in accuracy, what does it save, and what can an attacker see?

One model and a SISA ensemble learn the same images, and the ensemble deletes a tenth of them. Beside them stand one
model and one ensemble that never saw these (`base_retrained`, `sisa_retrained`), and an ensemble that did not either,
by other random numbers (`sisa_retrained_again`: the noise floor). ML-Leaks' adversaries, who hold images of their own,
attack the posteriors of all of them.
"""

import contextlib
import dataclasses
import pathlib
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from mu_jax.config import InputError, SisaDelete, SisaPosterior, to_dict
from mu_jax.data.files import write_json
from mu_jax.data.random_streams import host_stream
from mu_jax.data.splits import Splits, make_splits
from mu_jax.evaluation.report.sisa_page import write_sisa_report
from mu_jax.experiments.devices import one_cpu_device_a_core
from mu_jax.experiments.progress import LiveProgress, TrainingProgress
from mu_jax.experiments.run_folder import RunFolder, finished_results, read_json
from mu_jax.experiments.setting import nonmember_rows
from mu_jax.experiments.sisa_answers import Answers, ask
from mu_jax.experiments.sisa_attacks import Shadow, other_shadow
from mu_jax.experiments.sisa_images import note_images
from mu_jax.experiments.sisa_results import Found, report_data, results_of
from mu_jax.experiments.sisa_setting import SisaSetting, prepare_sisa
from mu_jax.unlearning.sisa.ensemble import Sisa
from mu_jax.unlearning.sisa.requests import RequestLog
from mu_jax.unlearning.sisa.shard_models import ShardModels, Step, train_together
from mu_jax.unlearning.sisa.sharding import Sharding

# Added to the seed: nobody but the target starts from its random numbers.
_AGAIN, _ADVERSARY = 1, 2


def run(
    config: SisaPosterior,
    workdir: pathlib.Path,
    overrides: Mapping[str, Any] | None = None,
    progress: LiveProgress | None = None,
) -> tuple[dict[str, Any], bool]:
    """Do the experiment in `workdir`, or what is left of it: (what results.json holds, whether it was done before)."""
    done = finished_results(workdir, to_dict(config))
    if done is not None:
        return done, True
    one_cpu_device_a_core()
    setting = prepare_sisa(config)
    splits = make_splits(setting.dataset, config.data, config.forget, config.seed)
    nonmembers = nonmember_rows(config.forget, splits, setting.dataset)
    shadow_rows = adversary_rows(splits, config.seed)
    refuse_other_deletions(workdir / "sisa", splits.forget)
    inputs = {"convolution": setting.lowering, "backend": jax.default_backend()}
    folder = RunFolder(
        workdir,
        to_dict(config),
        inputs={
            "fingerprint of the data": setting.dataset.fingerprint(),
            "fingerprint of the splits": splits.fingerprint(),
            **inputs,
        },
        overrides=overrides or {},
    )
    with folder, progress or TrainingProgress() as shown, contextlib.ExitStack() as stack:
        splits.save(folder.path / "splits.npz")
        # The ensemble lies in a folder of its own, from which `sisa_delete` goes on deleting.
        ensemble_folder = RunFolder(
            folder.path / "sisa", to_dict(deletion_config(config)), inputs=inputs, overrides={}
        )
        folder.say_changed_versions(shown.say)
        stack.enter_context(ensemble_folder)
        work = Work(setting, splits, shadow_rows, folder.path, shown.say)
        found = work.do(nonmembers)
        shown.say("attacking the posteriors")
        results = results_of(found)
        write_sisa_report(folder.path, report_data(found, results))
        # Last of all: a folder with results.json is a finished run.
        write_json(folder.path / "results.json", results)
    return results, False


def deletion_config(config: SisaPosterior) -> SisaDelete:
    """The settings under which the ensemble could have been fitted by itself."""
    shared = {field.name for field in dataclasses.fields(SisaDelete)} - {"experiment", "forget"}
    return SisaDelete(**{name: value for name, value in vars(config).items() if name in shared})


def adversary_rows(splits: Splits, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The adversary's images: (those that train the shadow models, those that do not)."""
    order = host_stream(seed, "the adversary's images").permutation(splits.validation)
    half = len(order) // 2
    if half < 2:
        raise InputError(
            f"data.validation_fraction leaves the adversary {len(order)} images, but expected at least 4, half of "
            "which train the shadow models; give a larger share, or more data."
        )
    return np.sort(order[:half]), np.sort(order[half:])


def refuse_other_deletions(folder: pathlib.Path, forget: np.ndarray) -> None:
    """InputError where the ensemble has had other deletions than this experiment's: nothing can be measured then."""
    deleted = RequestLog(folder / "requests.jsonl").deleted()
    if deleted.size and not np.array_equal(deleted, forget):
        raise InputError(
            f"The ensemble in {folder} has had other deletions than this experiment's, so it cannot be measured as it "
            "was; choose another --workdir."
        )


class Work:
    """Everything that is trained and asked, each part kept in the folder as soon as it is there."""

    def __init__(
        self,
        setting: SisaSetting,
        splits: Splits,
        shadow_rows: tuple[np.ndarray, np.ndarray],
        folder: pathlib.Path,
        say: Any,
    ) -> None:
        """Compiles; `shadow_rows` are those that train the adversary's models and those that do not."""
        config = setting.config
        self._setting, self._splits, self._folder, self._say = setting, splits, folder, say
        self._shadow_in, self._shadow_out = shadow_rows
        self._rows = np.union1d(splits.retain, splits.forget)
        self._sharding = setting.sharding(self._rows)
        self._trainer = setting.trainer(folder / "sisa", len(self._sharding.slices))
        say(f"compiled in {self._trainer.compile_seconds:.1f} s")
        self._compare = [number for number in config.compare_shards if number <= len(self._rows)]

    def do(self, nonmembers: np.ndarray) -> Found:
        """Train, ask, delete, ask again."""
        setting, splits = self._setting, self._splits
        self._say("training the single models: base, retrained, and the adversary's shadow")
        single = {
            "base": setting.sharding(self._rows, shards=1, slices=1),
            "base_retrained": setting.sharding(splits.retain, shards=1, slices=1),
            "shadow": setting.sharding(self._shadow_in, shards=1, slices=1),
        }
        found = self._train(single)
        sisa = setting.ensemble(self._folder / "sisa", self._trainer, self._sharding)
        answers = {name: self._ask(name, found[name], single[name]) for name in single}

        models = setting.models(self._folder / "sisa" / "models", self._trainer)
        fit_seconds = self._fit(sisa, models)
        answers["sisa"] = self._ask("sisa", models, self._sharding)
        if not sisa.deleted().size:
            note_images(self._folder / "sisa", setting.digests, self._sharding.examples)
        certificate = self._delete(sisa)
        left = sisa.sharding
        note_images(self._folder / "sisa", setting.digests, left.examples)
        answers["sisa_unlearned"] = self._ask("sisa_unlearned", models, left)

        self._say("fitting ensembles without the deleted images from the start, and others to compare with")
        again = setting.sharding(splits.retain, seed=setting.config.seed + _AGAIN)
        shadow = setting.sharding(
            self._shadow_in,
            shards=len(self._sharding.slices),
            slices=len(self._sharding.slices[0]),
            seed=setting.config.seed + _ADVERSARY,
        )
        ensembles = {
            "sisa_retrained": self._sharding.without(splits.forget),
            "sisa_retrained_again": again,
            "shadow_ensemble": shadow,
        }
        compared = {
            f"shards_{number}": setting.sharding(self._rows, shards=number, slices=1)
            for number in self._compare
        }
        for shardings in (ensembles, compared):
            trained = self._train(shardings)
            found |= trained
            answers |= {name: self._ask(name, trained[name], shardings[name]) for name in shardings}
        shadows = {
            "posterior_1": self._shadow(answers["shadow"]),
            "posterior_1_ensemble": self._shadow(answers["shadow_ensemble"]),
        }
        other = other_shadow(setting.config)
        if other is not None:
            shadows["posterior_2"] = other
        trained_of = {
            name: (found[name].seconds(steps), sum(step.trained_samples for step in steps))
            for name, sharding in (single | ensembles).items()
            for steps in [_steps(found[name], sharding)]
        }
        samples = sum(step.trained_samples for step in _steps(models, self._sharding))
        trained_of["sisa"] = (fit_seconds, samples)
        trained_of["sisa_unlearned"] = (certificate["seconds"], certificate["trained_samples"])
        return Found(
            setting=setting,
            splits=splits,
            nonmembers=nonmembers,
            shadow_rows=(self._shadow_in, self._shadow_out),
            sharding=self._sharding,
            models=models,
            placement=self._trainer.placement,
            compile_seconds=self._trainer.compile_seconds,
            answers=answers,
            compared={name: (number, 1) for name, number in zip(compared, self._compare, strict=True)},
            trained=trained_of,
            certificate=certificate,
            shadows=shadows,
        )

    def _train(self, shardings: Mapping[str, Sharding]) -> dict[str, ShardModels]:
        """Ensembles side by side, each in its folder; `…again` and the adversary's by seeds of their own."""
        if not shardings:
            return {}
        seed = self._setting.config.seed
        models = {
            name: self._setting.models(
                self._folder / "checkpoints" / name,
                self._trainer,
                seed + (_AGAIN if name.endswith("again") else _ADVERSARY if name.startswith("shadow") else 0),
            )
            for name in shardings
        }
        train_together([(models[name], sharding) for name, sharding in shardings.items()], self._say)
        return models

    def _fit(self, sisa: Sisa, models: ShardModels) -> float:
        """Fit the ensemble on everything; seconds. After the deletion it stands in a file what it took."""
        path = self._folder / "checkpoints" / "sisa_fit.json"
        if sisa.deleted().size == 0:
            self._say("fitting the ensemble")
            sisa.fit(self._say)
            write_json(path, {"seconds": models.seconds(_steps(models, self._sharding))})
        return float(read_json(path)["seconds"])

    def _delete(self, sisa: Sisa) -> dict[str, Any]:
        """Delete the forget set, or finish doing so; the certificate."""
        forget = self._splits.forget
        if sisa.deleted().size == 0:
            self._say(f"deleting {len(forget)} images from it")
            certificate = sisa.unlearn(forget, self._say)
        else:
            sisa.fit(self._say)
            certificate = sisa.certificate(1)
        return certificate

    def _ask(self, name: str, models: ShardModels, sharding: Sharding) -> Answers:
        path = self._folder / "answers" / f"{name}.npz"
        answers = Answers.load(path)
        if answers is None:
            path.parent.mkdir(exist_ok=True)
            answers = ask(self._setting, models, sharding)
            answers.save(path)
        return answers

    def _shadow(self, answers: Answers) -> Shadow:
        posteriors = answers.posteriors[self._setting.config.sisa.aggregation]
        return Shadow(posteriors[self._shadow_in], posteriors[self._shadow_out])


def _steps(models: ShardModels, sharding: Sharding) -> list[Step]:
    return [step for steps in models.steps(sharding) for step in steps]

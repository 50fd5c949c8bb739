"""MIA-NN: was a class forgotten, or never seen? The attack looks at the class nearest to it, among those that stay.

Models retrained without class f take its inputs for some class that stays, the nearest one n(f), and so mix the two
up. A method that only pushes f's logit down leaves f's inputs an outsider's logits on the others, which a classifier
tells from n(f)'s. The attack is the nearest-neighbour attack of Tilted ReWeighting, 2025, whose source leaves much
open; what is chosen here is said with `nearest_neighbour_attack`. There is no ideal accuracy: compare with the
retrained models'.
"""

import dataclasses
import difflib
import itertools
from typing import Literal, NamedTuple

import numpy as np
from jaxtyping import Array, Float, Float64, Int, Int64
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.svm import SVC

from mu_jax.attacks.nearest_class import (
    NearestClass,
    check_class,
    checked_logits,
    nearest_class,
    require_finite,
    rows_of,
    without_class,
)
from mu_jax.attacks.pairs import each
from mu_jax.attacks.svc import checked_rows
from mu_jax.config import InputError
from mu_jax.training.cpu_threads import usable_cores

_CHOICES = {
    "features": ("logits", "posteriors"),
    "against": ("nearest", "every"),
    "trained_on": ("own", "retrained"),
}


@dataclasses.dataclass(frozen=True)
class NearestNeighbourAttack:
    """What the attack says of M models under test and of R retrained ones; accuracies in [0, 1]."""

    nearest: NearestClass
    classes: Int64[np.ndarray, "P"]
    """The classes that f was told from: n(f), or every other one in ascending order."""
    accuracy_by_class: Float64[np.ndarray, "M P"]
    """Balanced accuracy on test images, of each model under test and class."""
    retrained_accuracy_by_class: Float64[np.ndarray, "R P"]
    train_images: Int64[np.ndarray, "P"]
    """Images of f, and as many of the other class, that a classifier learns from."""
    test_images: Int64[np.ndarray, "2 P"]
    """Images of f, and of the other class, that it is scored on."""
    resolution: float
    """What one test image is worth in the accuracies below; z takes no standard deviation for smaller than this."""

    @property
    def accuracy(self) -> Float64[np.ndarray, "M"]:
        """The mean over classes."""
        return self.accuracy_by_class.mean(axis=1)

    @property
    def retrained_accuracy(self) -> Float64[np.ndarray, "R"]:
        """The same of the retrained models: what their mean and spread are taken of."""
        return self.retrained_accuracy_by_class.mean(axis=1)

    @property
    def spread(self) -> float:
        """Standard deviation of the retrained models' accuracies, dividing by R − 1."""
        return float(np.std(self.retrained_accuracy, ddof=1))

    @property
    def leak(self) -> Float64[np.ndarray, "M"]:
        """|accuracy − mean accuracy of the retrained models|."""
        return np.abs(self.accuracy - self.retrained_accuracy.mean())

    @property
    def z(self) -> Float64[np.ndarray, "M"]:
        """(accuracy − mean of the retrained) / `spread`; above 0: f is told more easily than where it was never seen.

        For one more retrained model, z/√(1 + 1/R) is Student's t with R − 1 degrees of freedom, as far as accuracies
        are normal and those of models independent: at R = 4 one in twenty such has |z| > 3.6, at R = 8 |z| > 2.5.
        """
        return self._standing(self.accuracy, self.retrained_accuracy)

    @property
    def retrained_leak(self) -> Float64[np.ndarray, "R"]:
        """Each retrained model's distance to the mean of the others: the floor under `leak`."""
        own = self.retrained_accuracy
        return np.abs([own[r] - np.delete(own, r).mean() for r in range(own.size)])

    @property
    def retrained_z(self) -> Float64[np.ndarray, "R"]:
        """Each retrained model's z against the others, R − 1 in number."""
        own = self.retrained_accuracy
        return np.concatenate([self._standing(own[r : r + 1], np.delete(own, r)) for r in range(own.size)])

    def _standing(self, value: Float64[np.ndarray, "n"], others: Float64[np.ndarray, "m"]) -> np.ndarray:
        return (value - others.mean()) / max(float(np.std(others, ddof=1)), self.resolution)


def nearest_neighbour_attack(
    logits: Float[Array | np.ndarray, "M N C"],
    retrained_logits: Float[Array | np.ndarray, "R N C"],
    labels: Int[Array | np.ndarray, "N"],
    *,
    train: Int[np.ndarray, "n"],
    test: Int[np.ndarray, "m"],
    forget_class: int,
    features: Literal["logits", "posteriors"] = "logits",
    against: Literal["nearest", "every"] = "nearest",
    trained_on: Literal["own", "retrained"] = "own",
    max_each_side: int = 1000,
    penalty: float = 1.0,
    seed: int = 0,
) -> NearestNeighbourAttack:
    """How well a classifier tells inputs of the forgotten class f from those of n(f), by what a model says of them.

    `logits` are those of M models under test and `retrained_logits` those of R models retrained without f, at least
    three, all on the same N inputs with all C columns; `train` and `test` are rows of training and test images. For
    each model a support-vector classifier learns f's (positive) against n(f)'s training images, and its balanced
    accuracy on test images counts. Give all models under test at once: the retrained ones are attacked once for all
    of them.

    - `features`: the logits as they are without f's column; or the posterior over k ≠ f. Logits also hold what no
      posterior shows, a constant of each input that a model is free to add.
    - `against="every"`: each other class in turn, and the mean over them.
    - `trained_on="retrained"`: the classifier learns from a retrained model's outputs and is applied to the outputs
      of the model under test, the mean over the R retrained ones; a retrained model meets those of the R − 1 others.

    n(f) is `nearest_class` of the training images of f, which the retrained models never saw. The classifier is
    scikit-learn's SVC with an RBF kernel, C = `penalty`, gamma="scale", on features standardised over its own
    training images. It learns from equally many images of both classes, as many as the smaller has, `max_each_side`
    at most; of the test images at most as many each. They are drawn by `seed` and class, the same for all models, so
    that models differ by what they say and not by what they are asked. Models go to threads; bits do not depend on
    how many.

    InputError for an unknown class, fewer than three retrained models or three classes, a class without training or
    test images, logits that are not finite in rows that are read, unknown settings, and shapes that do not fit.
    """
    settings = {"features": features, "against": against, "trained_on": trained_on}
    _check_settings(settings, max_each_side, penalty)
    z, y = checked_logits("logits", logits, labels)
    retrained, _ = checked_logits("retrained_logits", retrained_logits, labels)
    if z.shape[2] != retrained.shape[2]:
        raise InputError(
            f"logits have {z.shape[2]} classes and retrained_logits {retrained.shape[2]}, but expected as many; let "
            "retrained models keep the column of the class that they never saw."
        )
    if len(retrained) < 3:
        raise InputError(
            f"there are {len(retrained)} retrained models, too few for a spread, but expected 3 at least; retrain more "
            "models without the class, with other seeds."
        )
    check_class(forget_class, y, z.shape[2])
    rows = checked_rows(y.size, train=train, test=test)
    near = nearest_class(
        retrained, y, forget_class, rows_of(forget_class, y, rows["train"], "train", forget_class)
    )
    others = np.delete(np.arange(z.shape[2]), forget_class) if against == "every" else np.array([near.label])
    duels = [_drawn(forget_class, int(other), y, rows, max_each_side, seed) for other in others]
    used = np.unique(np.concatenate([part for duel in duels for part in duel]))
    require_finite("logits", z, used)
    require_finite("retrained_logits", retrained, used)

    def fitted(model: Float[np.ndarray, "N C"], duel: _Duel) -> Pipeline:
        classifier = make_pipeline(StandardScaler(), SVC(C=penalty, kernel="rbf", gamma="scale"))
        x = without_class(model[np.concatenate([duel.train, duel.other_train])], forget_class, features)
        return classifier.fit(x, np.arange(len(x)) < len(duel.train))

    def scored(classifier: Pipeline, model: Float[np.ndarray, "N C"], duel: _Duel) -> float:
        asked = np.concatenate([duel.test, duel.other_test])
        called = classifier.predict(without_class(model[asked], forget_class, features))
        positive, negative = np.split(called, [len(duel.test)])
        return float(np.mean(positive) + np.mean(~negative)) / 2

    models, workers = [*retrained, *z], usable_cores()
    jobs = list(itertools.product(range(len(models)), range(len(duels))))
    if trained_on == "own":
        found = each(
            lambda job: scored(fitted(models[job[0]], duels[job[1]]), models[job[0]], duels[job[1]]),
            jobs,
            workers,
        )
    else:
        attackers = jobs[: len(retrained) * len(duels)]
        classifiers = each(lambda job: fitted(models[job[0]], duels[job[1]]), attackers, workers)

        def mean_score(job: tuple[int, int]) -> float:
            scores = [
                scored(classifier, models[job[0]], duels[job[1]])
                for classifier, (model, duel) in zip(classifiers, attackers, strict=True)
                if duel == job[1] and model != job[0]
            ]
            return float(np.mean(scores))

        found = each(mean_score, jobs, workers)
    accuracy = np.array(found).reshape(len(models), len(duels))
    test_images = np.array([[len(duel.test) for duel in duels], [len(duel.other_test) for duel in duels]])
    averaged = len(duels) * (len(retrained) if trained_on == "retrained" else 1)
    return NearestNeighbourAttack(
        nearest=near,
        classes=others,
        accuracy_by_class=accuracy[len(retrained) :],
        retrained_accuracy_by_class=accuracy[: len(retrained)],
        train_images=np.array([len(duel.train) for duel in duels]),
        test_images=test_images,
        resolution=0.5 / int(test_images.max()) / averaged,
    )


class _Duel(NamedTuple):
    """Rows of the images that tell f from one other class."""

    train: Int64[np.ndarray, "n"]
    other_train: Int64[np.ndarray, "n"]
    test: Int64[np.ndarray, "m"]
    other_test: Int64[np.ndarray, "l"]


def _drawn(
    forget_class: int,
    other: int,
    y: Int[np.ndarray, "N"],
    rows: dict[str, Int[np.ndarray, "_"]],
    most: int,
    seed: int,
) -> _Duel:
    """Images of both classes. Each class has an order of its own, so that f's are the same against every other
    one."""

    def first(label: int, name: str) -> Int64[np.ndarray, "n"]:
        stream = np.random.default_rng((seed, label, name == "test"))
        return stream.permutation(rows_of(label, y, rows[name], name, forget_class))[:most]

    train, other_train = first(forget_class, "train"), first(other, "train")
    both = min(len(train), len(other_train))
    return _Duel(train[:both], other_train[:both], first(forget_class, "test"), first(other, "test"))


def _check_settings(settings: dict[str, str], max_each_side: int, penalty: float) -> None:
    for name, value in settings.items():
        if value not in _CHOICES[name]:
            close = difflib.get_close_matches(str(value), _CHOICES[name], n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"{_CHOICES[name][0]!r} is the default."
            raise InputError(
                f"{name} is {value!r}, but expected {' or '.join(map(repr, _CHOICES[name]))}; {hint}"
            )
    if max_each_side < 2:
        raise InputError(f"max_each_side is {max_each_side}, but expected 2 at least; 1000 is the default.")
    if not 0 < penalty < np.inf:
        raise InputError(f"penalty is {penalty}, but expected a positive number; 1.0 is the default.")

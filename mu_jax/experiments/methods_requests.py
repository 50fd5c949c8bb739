"""Requests to forget that come one after another, met by AMUN: each starts from the model that the last one left.

AMUN takes all neighbours from the original model; AMUN-A (`amun_adaptive`) makes those of each request anew on the
current one.
"""

import dataclasses
from typing import Any

import numpy as np

from mu_jax.adversarial.examples import NothingFlipsError
from mu_jax.adversarial.stored import save
from mu_jax.data.random_streams import host_stream
from mu_jax.data.splits import splits_of_search
from mu_jax.experiments.methods_answers import Answer, load_answer, save_answer
from mu_jax.experiments.methods_models import MethodsWork
from mu_jax.experiments.methods_setting import Case
from mu_jax.training.loop import DivergenceError
from mu_jax.unlearning.amun import amun
from mu_jax.unlearning.neighbours import adversarial_neighbours
from mu_jax.unlearning.plan import Task

PyTree = Any
KINDS = ("amun", "amun_adaptive")


@dataclasses.dataclass(frozen=True)
class Request:
    """One request met."""

    kind: str
    """`amun` or `amun_adaptive`"""
    number: int
    """from 1"""
    forget: np.ndarray
    """int64[F], its own examples"""
    retain: np.ndarray
    """int64[R], what is left after it and all before it"""
    answer: Answer


def meet_requests(work: MethodsWork) -> list[Request]:
    """All requests by both kinds, from the first base model."""
    config = work.setting.config.requests
    if not config.number:
        return []
    whole = work.setting.task(0)
    original = work.carry_out(work.setting.original_plan(Case("original")), whole).variables
    training, wanted = np.union1d(whole.retain, whole.forget), config.number * config.size
    # Not those that settings were chosen on, where there are others enough.
    searched = splits_of_search(work.setting.splits[0], whole.seed).forget
    unsearched = np.setdiff1d(training, searched)
    drawn_from = unsearched if len(unsearched) >= wanted else training
    drawn = host_stream(whole.seed, "requests").permutation(drawn_from)[:wanted]
    met = []
    for kind in KINDS:
        current, left = original, training
        for number, forget in enumerate(np.split(drawn, config.number), start=1):
            forget = np.sort(forget)
            left = np.setdiff1d(left, forget)
            task = dataclasses.replace(whole, retain=left, forget=forget, original=current)
            try:
                current, answer = _meet(work, task, kind, number, original)
            except (DivergenceError, NothingFlipsError) as error:
                work.shown.say(f"{kind} ends at request {number}: {error}")
                break
            met.append(Request(kind, number, forget, left, answer))
    return met


def _meet(work: MethodsWork, task: Task, kind: str, number: int, original: PyTree) -> tuple[PyTree, Answer]:
    # The first request finds both at the original model: it is one, and met once.
    name = f"{KINDS[0] if number == 1 else kind}_request_{number}"
    made_on = dataclasses.replace(task, original=original) if kind == "amun" else task
    path = work.folder.path / "neighbours" / f"{name}.npz"
    path.parent.mkdir(exist_ok=True)
    if path.exists():
        stored = work.load_neighbours(path, made_on)
    else:
        stored = adversarial_neighbours(made_on, work.setting.config.neighbours)
        save(path, stored)
    plan = amun(task, work.setting.config.methods.amun, stored, name, transferred=kind == "amun")
    trained = work.carry_out(plan, task)
    at = work.folder.path / "answers" / f"{name}.npz"
    answer = load_answer(at)
    if answer is None:
        answer = work.ask(trained, task, None)
        save_answer(at, answer)
    return trained.variables, answer

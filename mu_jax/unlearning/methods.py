"""All methods by name: what a config calls them, which settings they read, and what they need."""

import dataclasses
import types
from collections.abc import Callable, Mapping
from typing import Any

from mu_jax.adversarial.stored import StoredAdversarialSet
from mu_jax.config.errors import one_of
from mu_jax.config.methods import MethodsConfig, NeighboursConfig
from mu_jax.unlearning.amun import amun
from mu_jax.unlearning.boundary_expanding import boundary_expanding
from mu_jax.unlearning.boundary_shrink import boundary_shrink
from mu_jax.unlearning.delete import delete_method
from mu_jax.unlearning.filtration_method import linear_filtration_method
from mu_jax.unlearning.finetune import finetune
from mu_jax.unlearning.gradient_ascent import gradient_ascent
from mu_jax.unlearning.l1_sparse import l1_sparse
from mu_jax.unlearning.negative_gradient_plus import negative_gradient_plus
from mu_jax.unlearning.plan import Edit, Plan, Task
from mu_jax.unlearning.random_labels import random_labels
from mu_jax.unlearning.salun import salun
from mu_jax.unlearning.scar import scar
from mu_jax.unlearning.scrub import scrub
from mu_jax.unlearning.svd_projection import svd_projection
from mu_jax.unlearning.trw import trw, trw_head


@dataclasses.dataclass(frozen=True)
class Method:
    """An unlearning method as experiments see it."""

    make: Callable[..., Plan | Edit]
    """(task, settings, name), or with neighbours (task, settings, neighbours, name, transferred=...)"""
    settings: str
    """the field of `MethodsConfig`, or `ClassMethodsConfig`, that it reads"""
    change: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """what of these settings it has otherwise"""
    neighbours: str = ""
    """of its adversarial set: `own`, `fgsm`, or `transferred` (from another model); empty where it needs none"""
    classes: bool = True
    """whether it is a method for whole classes"""

    def settings_of(self, methods: MethodsConfig) -> Any:
        """The settings that it reads, with its own changes."""
        return dataclasses.replace(getattr(methods, self.settings), **self.change)


def _amun(made: str = "own", **change: Any) -> Method:
    return Method(amun, "amun", change, made, classes=False)


METHODS: Mapping[str, Method] = types.MappingProxyType(
    {
        "finetune": Method(finetune, "finetune"),
        "gradient_ascent": Method(gradient_ascent, "gradient_ascent"),
        "random_labels": Method(random_labels, "random_labels"),
        "boundary_shrink": Method(boundary_shrink, "boundary_shrink"),
        "l1_sparse": Method(l1_sparse, "l1_sparse"),
        "salun": Method(salun, "salun"),
        "scrub": Method(scrub, "scrub"),
        "negative_gradient_plus": Method(negative_gradient_plus, "negative_gradient_plus"),
        "amun": _amun(),
        "amun_salun": Method(amun, "amun_salun", neighbours="own", classes=False),
        # The paper's variants and ablations, all by the settings of `amun`.
        "amun_advonly": _amun(forget=False),
        "amun_l1": _amun(l1=5e-4),
        "amun_fgsm": _amun("fgsm"),
        "amun_transferred": _amun("transferred"),
        "amun_random_shift": _amun(neighbours="random_shift"),
        "amun_random_label": _amun(neighbours="random_label"),
        "amun_original": _amun(neighbours="original"),
        "amun_original_random": _amun(neighbours="original_random"),
        "amun_original_adversarial": _amun(neighbours="original_adversarial"),
        "boundary_expanding": Method(boundary_expanding, "boundary_expanding"),
        "delete": Method(delete_method, "delete"),
        "svd_projection": Method(svd_projection, "svd_projection"),
        "scar": Method(scar, "scar"),
        "linear_filtration": Method(linear_filtration_method, "linear_filtration"),
        "trw": Method(trw, "trw"),
        # Without the tilt: the original's posterior over the classes that stay.
        "rwft": Method(trw, "trw", {"beta": 0.0, "level": 0.0}),
        "trw_head": Method(trw_head, "trw_head"),
    }
)

EXAMPLE_METHODS = tuple(name for name, method in METHODS.items() if hasattr(MethodsConfig(), method.settings))
"""Those that are compared on single examples; `delete` and `boundary_expanding` forget such too, by themselves."""
CLASS_METHODS = tuple(name for name, method in METHODS.items() if method.classes)
"""Those that are compared on whole classes."""


def make_plan(
    method: str,
    task: Task,
    settings: Any,
    *,
    neighbours: StoredAdversarialSet | None = None,
    name: str = "",
) -> Plan | Edit:
    """The plan of a method by its name, or its edit, with `settings` of the class that `MethodsConfig` has for it.

    `neighbours` are for the methods that say they need some; a set that is not of the task's original model is taken
    by `amun_transferred` alone. The plan is called `name`, or like the method.
    """
    one_of("method", method, tuple(METHODS))
    chosen = METHODS[method]
    if not chosen.neighbours:
        return chosen.make(task, settings, name or method)
    if neighbours is None:
        raise ValueError(f"The method {method!r} needs an adversarial set, but got none; make one first.")
    transferred = chosen.neighbours == "transferred"
    return chosen.make(task, settings, neighbours, name or method, transferred=transferred)


def neighbours_config(method: str, config: NeighboursConfig) -> NeighboursConfig:
    """How the adversarial set of a method is made, where a config says how AMUN's is."""
    if METHODS[method].neighbours != "fgsm" or config.attack == "fgsm":
        return config
    # FGSM steps in ℓ∞, where a radius of ℓ2 is far too long.
    radii = {} if config.norm == "linf" else {"epsilon": 0.0, "max_epsilon": 0.0}
    return dataclasses.replace(config, attack="fgsm", **radii)

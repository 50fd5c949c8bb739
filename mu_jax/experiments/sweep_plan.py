"""What a sweep settles once and keeps: how its groups lie on the devices, and which models came in which sweep."""

import dataclasses
import pathlib
from collections.abc import Callable

import numpy as np

from mu_jax.config import InputError
from mu_jax.data.files import write_json
from mu_jax.experiments.run_folder import read_json
from mu_jax.experiments.signal_pool import member_sha256
from mu_jax.training.placement import Placement


@dataclasses.dataclass(frozen=True)
class SweepPlan:
    """`plan.json` of a run folder."""

    placement: Placement
    blocks: tuple[int, ...]
    """how many models each sweep added"""
    member_sha256: str
    """of the membership matrix of all of them"""

    def save(self, path: pathlib.Path) -> None:
        """Whole or not at all."""
        write_json(path, dataclasses.asdict(self))

    @classmethod
    def load(cls, path: pathlib.Path) -> "SweepPlan | None":
        """What `save` wrote, or None where there is none. InputError where it is damaged, or wants other devices."""
        saved = read_json(path)
        if saved is None:
            return None
        try:
            # Not every dict is a placement: what asks for more devices than there are says so itself.
            placement, blocks = saved["placement"], tuple(map(int, saved["blocks"]))
            fields = {field.name: placement[field.name] for field in dataclasses.fields(Placement)}
            sha256 = str(saved["member_sha256"])
        except (TypeError, KeyError, ValueError, OverflowError) as error:
            raise InputError(
                f"{path} is damaged ({type(error).__name__}: {error}); run the sweep in another --workdir."
            ) from None
        try:
            return cls(Placement(**fields), blocks, sha256)
        except TypeError as error:
            raise InputError(f"{path} is damaged ({error}); run the sweep in another --workdir.") from None
        except InputError as error:
            raise InputError(
                f"{path} has groups over {fields['devices']} devices a process, and that cannot change: {error}"
            ) from None

    def grown_to(
        self, models: int, membership: Callable[[list[int]], np.ndarray], path: pathlib.Path
    ) -> "SweepPlan":
        """The plan with a further block, where there are fewer than `models` models; InputError where there are more,
        or where the membership of those that are there has changed.
        """
        there = sum(self.blocks)
        if models < there:
            raise InputError(
                f"sweep.models is {models}, but {path.parent} holds a sweep of {there}; a pool only grows, so ask for "
                f"{there} or more, or choose another --workdir."
            )
        blocks = (*self.blocks, models - there) if models > there else self.blocks
        member = membership(list(blocks))
        if member_sha256(member[:there]) != self.member_sha256:
            raise InputError(
                f"The membership of the first {there} models is not the one that {path.parent} was begun with; give "
                "sweep.membership_file the same first rows, or choose another --workdir."
            )
        return dataclasses.replace(self, blocks=blocks, member_sha256=member_sha256(member))

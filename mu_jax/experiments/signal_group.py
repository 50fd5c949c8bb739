"""One group's part of a pool of signals: a file written whole, and read a model's row at a time.

An `.npz` archive of `models` int64[G] (rows of the pool), the signals float32[G,N,A] or [G,N,A,C], and facts [G] about
each model under names that begin with `fact_`.
"""

import contextlib
import dataclasses
import math
import pathlib
import zipfile
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from mu_jax.config import InputError
from mu_jax.data.array_files import read_npy_header
from mu_jax.data.files import UNREADABLE, atomic_write

DIVERGED = "diverged_step"
"""The fact that every model has: the step in which its training diverged, −1 where it did not."""
_FACT = "fact_"


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """What a part holds; its signals stay on the disk until `rows` reads them."""

    path: pathlib.Path
    models: tuple[int, ...]
    """Rows of the pool."""
    shapes: dict[str, tuple[int, ...]]
    """Signal to the shape that one model's row of it has: [N,A] or [N,A,C]."""
    facts: dict[str, np.ndarray]
    """Int64 or float64 [G] by name, `diverged_step` among them."""

    def rows(self, name: str) -> Iterator[bytes]:
        """A signal's rows in the order of `models`, float32 in C order; InputError where its checksum does not hold."""
        size = 4 * math.prod(self.shapes[name])
        with _reading(self.path), zipfile.ZipFile(self.path) as archive, archive.open(f"{name}.npy") as file:
            read_npy_header(file)
            for _ in self.models:
                values = file.read(size)
                if len(values) != size:
                    raise EOFError(f"{name} ends early")
                yield values


def write_group(
    path: pathlib.Path,
    models: Sequence[int] | np.ndarray,
    signals: Mapping[str, np.ndarray],
    facts: Mapping[str, np.ndarray],
) -> None:
    """Write the part `path` whole or not at all; what it takes is said in `SignalParts.write`."""
    models = np.asarray(models)
    signals = {name: np.ascontiguousarray(array) for name, array in signals.items()}
    facts = {name: np.asarray(array) for name, array in facts.items()}
    layout = {name: (array.dtype, array.shape) for name, array in signals.items()}
    flaw = _flaw(models, layout, facts)
    for place in range(0 if flaw else len(models)):
        if facts[DIVERGED][place] < 0 and not np.isfinite(signals["phi"][place]).all():
            flaw = f"phi of model {models[place]} is not finite, and its {DIVERGED} is −1"
    if flaw:
        raise InputError(
            f"{path} cannot be made: {flaw}, but expected G models, phi and probability float32[G,N,A] (and logits "
            "float32[G,N,A,C]), and numbers [G] as facts; give these."
        )
    kinds = {name: np.float64 if array.dtype.kind == "f" else np.int64 for name, array in facts.items()}
    with atomic_write(path) as file:
        np.savez(
            file,
            models=models.astype(np.int64),
            **signals,
            **{_FACT + name: array.astype(kinds[name]) for name, array in facts.items()},
        )


def open_group(path: pathlib.Path) -> Group:
    """The part `path`: models, facts and shapes are read, and every array's length compared with the archive's.

    Raises InputError for a part that is cut short, damaged or of something else.
    """
    layout, small = {}, {}
    with _reading(path), zipfile.ZipFile(path) as archive:
        for entry in archive.infolist():
            name = entry.filename.removesuffix(".npy")
            with archive.open(entry) as file:
                shape, fortran_order, dtype = read_npy_header(file)
                promised = file.tell() + math.prod(shape) * dtype.itemsize
            if fortran_order or promised != entry.file_size or entry.file_size != entry.compress_size:
                raise ValueError(f"{name} has {entry.file_size} bytes, but {promised} were written")
            if name == "models" or name.startswith(_FACT):
                with archive.open(entry) as file:
                    small[name] = np.lib.format.read_array(file, allow_pickle=False)
            else:
                layout[name] = (dtype, shape)
        models = small.pop("models")
        facts = {name.removeprefix(_FACT): array for name, array in small.items()}
        flaw = _flaw(models, layout, facts)
        if flaw:
            raise ValueError(flaw)
    shapes = {name: shape[1:] for name, (_, shape) in layout.items()}
    return Group(path, tuple(models.tolist()), shapes, facts)


def _flaw(
    models: np.ndarray,
    signals: Mapping[str, tuple[np.dtype, tuple[int, ...]]],
    facts: Mapping[str, np.ndarray],
) -> str | None:
    """What keeps these from being a part, or None."""
    distinct = models.ndim == 1 and models.dtype.kind in "iu" and len(set(models.tolist())) == len(models) > 0
    if not distinct or min(models) < 0:
        return f"models are {models.tolist()}"
    group = len(models)
    if set(signals) - {"logits"} != {"phi", "probability"}:
        return f"the signals are {', '.join(sorted(signals)) or 'none'}"
    phi = signals["phi"][1]
    for name, (dtype, shape) in signals.items():
        axes = 4 if name == "logits" else 3
        if dtype != np.float32 or len(shape) != axes or shape[0] != group or shape[:3] != phi:
            return f"{name} is {dtype}{list(shape)} of {group} models, and phi {list(phi)}"
        if min(shape) < 1:
            return f"{name} is empty: {list(shape)}"
    for name, values in facts.items():
        if values.shape != (group,) or values.dtype.kind not in "iuf":
            return f"the fact {name} is {values.dtype}{list(values.shape)} of {group} models"
    if DIVERGED not in facts or facts[DIVERGED].dtype.kind == "f" or min(facts[DIVERGED]) < -1:
        return f"the fact {DIVERGED} is {facts[DIVERGED].tolist() if DIVERGED in facts else 'missing'}"
    return None


@contextlib.contextmanager
def _reading(path: pathlib.Path) -> Iterator[None]:
    try:
        yield
    except (*UNREADABLE, IndexError) as error:
        raise InputError(
            f"{path} cannot be read ({error}); delete it and start again to repeat its group."
        ) from None

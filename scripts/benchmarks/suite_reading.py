"""From the scripts' own rows, which differ, to what the one benchmark shows of each, which is alike."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from benchmarks.attack_table import agree
from benchmarks.fastclip_case import AGREED
from benchmarks.suite import Row
from benchmarks.suite_run import Outcome
from benchmarks.table import DISTURBED, number

PYTORCH, NUMPY = "PyTorch", "NumPy"
"""What ours is beside: PyTorch, or an attack's definition in NumPy where there is none."""
_DISAGREE = "The two sides' results disagree."


@dataclasses.dataclass(frozen=True)
class Side:
    """One side of a row."""

    value: float
    """In the row's unit."""
    how: str
    """The form that won."""
    cold_seconds: float | None = None
    """Until it was compiled and warm."""
    memory_bytes: int | None = None
    """The peak of its process, or on an accelerator of its share of that memory."""
    others_share: float = 0.0
    """The most of the cores that other programs used in one of its rounds."""


@dataclasses.dataclass(frozen=True)
class Reading:
    """What is shown of a row."""

    row: Row
    unit: str = ""
    device: str = ""
    ours: Side | None = None
    theirs: Side | None = None
    beside: str = PYTORCH
    ratio: float | None = None
    """How many times as fast ours is: above 1 ours is the faster."""
    note: str = ""
    failure: str = ""
    """Why there are no figures, or why they cannot be trusted."""
    kept: bool = False
    source: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The script's own row."""

    @property
    def met(self) -> bool | None:
        """Whether the target is reached; None where PyTorch was not measured, or a figure is not to be trusted."""
        if self.ratio is None or self.beside != PYTORCH or self.failure:
            return None
        return self.ratio >= self.row.target

    @property
    def others_share(self) -> float:
        """Of either side, the most."""
        return max((side.others_share for side in (self.ours, self.theirs) if side), default=0.0)

    @property
    def disturbed(self) -> bool:
        """Whether other programs used so much of the cores that the ratio says little."""
        return self.others_share > DISTURBED


def read(outcome: Outcome) -> Reading:
    """The reading of a row as its script wrote it; without figures where there is none."""
    if outcome.measured is None:
        return Reading(outcome.row, failure=outcome.failure or "It was not measured.")
    source = outcome.measured
    kind = _KINDS.get(outcome.row.script, _fastest)
    reading = kind(Reading(outcome.row, source["unit"], source["device"], source=source, kept=outcome.kept))
    compared = source["details"].get("agreement") or {}
    if not compared.get("agrees", True):  # of the adversarial search, where rounding decides on the boundary
        reading = dataclasses.replace(reading, note="the sides found other ε")
    return reading if compared.get("agree", True) else dataclasses.replace(reading, failure=_DISAGREE)


def as_row(reading: Reading) -> dict[str, Any]:
    """The row of `--json=FILE`, alike for every benchmark; `torch` and `ratio` are None where PyTorch has no part."""
    ours, theirs, pytorch = reading.ours, reading.theirs, reading.beside == PYTORCH
    return {
        "case": reading.row.name,
        "ours": ours and ours.value,
        "torch": theirs.value if theirs and pytorch else None,
        "ratio": reading.ratio if pytorch else None,
        "unit": reading.unit,
        "device": reading.device,
        "details": {
            "says": reading.row.says,
            "script": reading.row.script,
            "target": reading.row.target,
            "met": reading.met,
            "failure": reading.failure or None,
            "disturbed": reading.disturbed,
            "beside": reading.beside,
            "beside_ratio": reading.ratio,
            "note": reading.note or None,
            "ours": ours and dataclasses.asdict(ours),
            "theirs": theirs and dataclasses.asdict(theirs),
            "measured": dict(reading.source),
        },
    }


def _fastest(reading: Reading) -> Reading:
    """Rates, each side's fastest form; PyTorch's of the same number format as ours."""
    row, details = reading.source, reading.source["details"]
    how = details["ours_best"]
    worker = "JAX pmap" if "pmap" in how and "JAX pmap" in details["memory"] else "JAX"
    ours = _side(row["ours"], how, details["ours"][how], details, worker)
    bfloat16 = "_bf16" in row["case"]
    theirs = _best(details["torch"], "bfloat16" if bfloat16 else "float32", details)
    if theirs and theirs.how == details["torch_reference"]:
        # Where the script divides by this form, its figure is the row's own, a mean of deletions for one.
        theirs = dataclasses.replace(theirs, value=row["torch"])
    note = ""
    if not bfloat16 and (rounded := _best(details["torch"], "bfloat16", details)):
        note = f"PyTorch's bfloat16: {number(rounded.value)} ({rounded.how})"
    return _with(reading, ours, theirs, faster_is_more=True, note=note)


def _unlearning(reading: Reading) -> Reading:
    """A method on single examples has one form a side, and no dictionary of them; class unlearning is as all others."""
    row, details = reading.source, reading.source["details"]
    if "ours_best" in details:
        return _fastest(reading)
    sides = []
    for value, how, facts, worker in (
        (row["ours"], details["lowering"], details["ours"], "JAX"),
        (row["torch"], details["torch_form"], details["torch"], "PyTorch"),
    ):
        side = None if value is None else _side(value, how, facts, details, worker)
        sides.append(side and dataclasses.replace(side, others_share=details["others_share"]))
    return _with(reading, *sides, faster_is_more=True)


def _sisa(reading: Reading) -> Reading:
    """As all others; a deletion says besides what it saves."""
    reading, deletion = _fastest(reading), reading.source["details"].get("deletion")
    if deletion is None:
        return reading
    times = number(deletion["speed_up"]["seconds"])
    return dataclasses.replace(reading, note=f"{times} times as fast as training one model anew, both ours")


def _fastclip(reading: Reading) -> Reading:
    """Milliseconds of a step, or seconds of measuring."""
    row, details = reading.source, reading.source["details"]
    form = "fastclip" if "ms_a_step" in details else "measure"
    ours = _side(row["ours"], form, details["ours"][form], details, "JAX")
    forms = {how: facts for how, facts in details["torch"].items() if how.startswith(form)}
    theirs = None
    if row["torch"] is not None:
        how = max(forms, key=lambda how: forms[how]["rate"])
        theirs = _side(row["torch"], how, forms[how], details, "PyTorch")
    note = ""
    if "ms_a_step" in details:
        note = f"{details['ratio']:.2f} times our plain step"
        if details["torch_ratio"]:
            note += f"; PyTorch's is {details['torch_ratio']:.2f} times its own"
    reading = _with(reading, ours, theirs, faster_is_more=False, note=note)
    apart = (details.get("agreement") or {}).get("largest", 0.0)
    if apart > AGREED:
        return dataclasses.replace(reading, failure=_DISAGREE)
    return reading


def _attacks(reading: Reading) -> Reading:
    """Seconds, beside PyTorch's; without PyTorch beside the definition's."""
    row, details = reading.source, reading.source["details"]
    ours, definition = (_timed(details[name], name) for name in ("ours", "definition"))
    form, theirs = details["torch_reference"], None
    if form is not None:
        theirs = _timed(details["torch"][form], form)
        taken = "was skipped" if definition is None else f"takes {number(row['ratio'])} times as long as ours"
        reading = _with(reading, ours, theirs, faster_is_more=False, note=f"its definition in NumPy {taken}")
    else:
        note = details["definition"].get("unavailable", "")
        reading = dataclasses.replace(reading, beside=NUMPY)
        reading = _with(reading, ours, definition, faster_is_more=False, note=note)
    return reading if agree(details) else dataclasses.replace(reading, failure=_DISAGREE)


_KINDS = {
    "bench_unlearning.py": _unlearning,
    "bench_sisa.py": _sisa,
    "bench_fastclip.py": _fastclip,
    "bench_attacks.py": _attacks,
}


def _best(forms: Mapping[str, Mapping[str, Any]], dtype: str, details: Mapping[str, Any]) -> Side | None:
    """The fastest form of a number format; one that says none computes in float32."""
    measured = {
        how: facts
        for how, facts in forms.items()
        if "rate" in facts and facts.get("dtype", "float32") == dtype
    }
    if not measured:
        return None
    how = max(measured, key=lambda how: measured[how]["rate"])
    return _side(measured[how]["rate"], how, measured[how], details, "PyTorch")


def _timed(facts: Mapping[str, Any], how: str) -> Side | None:
    """A version of an attack, whose facts are seconds."""
    if "seconds" not in facts:
        return None
    side = _side(facts["seconds"], how, facts, {}, "")
    return dataclasses.replace(side, memory_bytes=facts["peak_bytes"])


def _side(value: float, how: str, facts: Mapping[str, Any], details: Mapping[str, Any], worker: str) -> Side:
    peaks = details.get("memory", {}).get(worker)
    memory = peaks and (peaks["device_peak_bytes"] or peaks["peak_bytes"])
    return Side(value, how, facts.get("prepare_seconds"), memory, facts.get("others_share", 0.0))


def _with(
    reading: Reading, ours: Side | None, theirs: Side | None, *, faster_is_more: bool, note: str = ""
) -> Reading:
    ratio = None
    if ours and theirs:
        ratio = ours.value / theirs.value if faster_is_more else theirs.value / ours.value
        ratio = float(f"{ratio:.4g}")
    return dataclasses.replace(reading, ours=ours, theirs=theirs, ratio=ratio, note=note)

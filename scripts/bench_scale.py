"""What a sweep of shadow models costs as it grows: models, examples, width, devices, processes; and what follows.

    python scripts/bench_scale.py --workdir=runs/scale --json=scale.json

| axis of `--cases` | |
|---|---|
| `models` | K = 2, 8, 32 ResNet-18 side by side |
| `examples` | N = 512, 1,024, 4,096 images, half of them each model's |
| `width` | widths 8 and 16 on 8×8 images, and width 8 on 32×32 |
| `devices` | one virtual CPU device, and two; two processes of a core each, and one of them with half the models |

By default all. They meet in one point, K = 8, N = 1,024, width 8, 8×8, two devices; the point's name says what it is
(`benchmarks/scale_case.py`). A point has a process of its own, or several under `jax.distributed` as the experiment
has them: they share groups out by number, and train and query by the experiment's own classes, from fresh weights to
signals that were checked. A round is the whole sweep; figures are medians. Peaks of memory are of resident memory,
while compiling and afterwards apart; the compiler's figure is what the sweep's `fit_to_memory` goes by. Images are
synthetic: nothing here depends on what they show. There is nothing of PyTorch in it, and `--seconds` is not used.

From the points of `models` and `examples` a cost model is fitted: fixed + a model + a step. It, and every network's
memory, are extrapolated: to 10,000 models on up to 100 hosts like this machine, and to devices of 24 and 141 GB. What
that assumes is printed with it. `--vmap` adds the memory of the other mapping of models, at two compilations more.

Into `--workdir` go `scale_models.png`, `scale_examples.png`, `scale_width.png`, `scale_devices.png`, and `scale.md`,
which holds the tables that are printed last. `--smoke` has an MLP in the place of the ResNet, and compiles without
care: a test of the script, whose figures say nothing.
"""

import pathlib
import sys
from collections.abc import Sequence
from typing import Any

from absl import flags

from benchmarks import machine, shell
from benchmarks.measured_on import device_line
from benchmarks.rows import row, write_rows
from benchmarks.scale_analysis import (
    FittedCosts,
    Measured,
    base_of,
    fit_costs,
    large_sweeps,
    memory_rows,
    scaling_efficiency,
)
from benchmarks.scale_figure import devices_figure, examples_figure, models_figure, width_figure
from benchmarks.scale_hosts import HOSTS
from benchmarks.scale_plan import DEVICES, EXAMPLES, MODELS, WIDTH, plan
from benchmarks.scale_process import measure_point
from benchmarks.scale_table import (
    costs_lines,
    hosts_table,
    memory_table,
    networks_table,
    points_table,
    remarks,
    resident_line,
)

_WORKDIR = flags.DEFINE_string(
    "workdir",
    None,
    "The folder of figures and tables; by default runs/scale, or runs/scale_smoke.",
)
_VMAP = flags.DEFINE_bool("vmap", False, "Ask the compiler about the mapping `vmap` too: its memory alone.")
_SMOKE = flags.DEFINE_bool("smoke", False, "The smallest sizes that run.")
_ENVIRONMENT = ("GLIBC_TUNABLES", "XLA_FLAGS", "OMP_NUM_THREADS", "LD_PRELOAD")


def main() -> None:
    """Measures the points, draws, prints tables, writes rows."""
    points = plan(shell.CASES.value, _SMOKE.value, _VMAP.value)
    folder = pathlib.Path(_WORKDIR.value or f"runs/scale{'_smoke' if _SMOKE.value else ''}")
    folder.mkdir(parents=True, exist_ok=True)
    measured: list[Measured] = []
    for point in points:
        found = measure_point(point, shell.ROUNDS.value, _SMOKE.value)
        measured.append(Measured(point, found))
        say(
            f"{point.case.name}: {1e3 * found['seconds']:.3g} ms a model-epoch ({found['whole_seconds']:.0f} s)"
        )
        if shell.JSON.value:
            write_rows(pathlib.Path(shell.JSON.value), [_row(one, None) for one in measured])
    costs = fit_costs(measured)
    if shell.JSON.value:
        write_rows(pathlib.Path(shell.JSON.value), _rows(measured, costs))
    _draw(folder, measured, costs)
    text = _text(measured, costs)
    (folder / "scale.md").write_text(text + "\n")
    say(f"{folder}")
    print(f"\n{text}", flush=True)


def say(text: str) -> None:
    """Progress, apart from the tables."""
    print(text, file=sys.stderr, flush=True)


def _axes(measured: Sequence[Measured]) -> set[str]:
    """The axes that have another point than the base."""
    return {axis for one in measured if one is not base_of(measured) for axis in one.point.axes}


def _draw(folder: pathlib.Path, measured: Sequence[Measured], costs: FittedCosts | None) -> None:
    drawn = {
        MODELS: lambda: models_figure(measured, costs),
        EXAMPLES: lambda: examples_figure(measured, costs),
        WIDTH: lambda: width_figure(measured),
        DEVICES: lambda: devices_figure(measured),
    }
    for axis in _axes(measured):
        (folder / f"scale_{axis}.png").write_bytes(drawn[axis]())


def _text(measured: Sequence[Measured], costs: FittedCosts | None) -> str:
    base = base_of(measured)
    parts = [_device(base), points_table(measured, costs), costs_lines(costs)]
    parts += filter(None, [resident_line(measured)])
    if costs is not None:
        parts.append(hosts_table(base, large_sweeps(measured, costs)))
    if WIDTH in _axes(measured):
        parts.append(networks_table(measured, max(HOSTS)))
    parts.append(memory_table(memory_rows(measured)))
    return "\n\n".join([*parts, *remarks(measured, scaling_efficiency(measured))])


def _device(base: Measured) -> str:
    return device_line({"JAX": base.found["facts"]})


def _rows(measured: Sequence[Measured], costs: FittedCosts | None) -> list[dict[str, Any]]:
    rows = [_row(one, costs) for one in measured]
    if costs is None:
        return rows
    details = {"costs": {name: vars(getattr(costs, name)) for name in ("train", "query")}}
    for hosts, parts in large_sweeps(measured, costs).items():
        rows.append(
            row(
                f"extrapolated_h{hosts}",
                parts["whole"],
                None,
                "s",
                _device(base_of(measured)),
                details | {"seconds": parts},
            )
        )
    return rows


def _row(one: Measured, costs: FittedCosts | None) -> dict[str, Any]:
    residuals = costs and {
        "train": costs.train_residuals.get(one.case.name),
        "query": costs.query_residuals.get(one.case.name),
    }
    more = {"residuals": residuals, "smoke": _SMOKE.value, "environment": machine.environment(_ENVIRONMENT)}
    return row(
        one.case.name, 1e3 * one.found["seconds"], None, "ms/model-epoch", _device(one), one.found | more
    )


if __name__ == "__main__":
    flags.set_default(shell.ROUNDS, 3)
    flags.set_default(shell.TORCH, "none")
    shell.run(main)

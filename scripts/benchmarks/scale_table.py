"""What the benchmark of scale prints: Markdown tables, and the assumptions of what is no measurement."""

from collections.abc import Mapping, Sequence

from benchmarks.scale_analysis import FittedCosts, Measured, MemoryRow, network_of
from benchmarks.scale_fit import Cost
from benchmarks.scale_hosts import EPOCHS, MODELS
from benchmarks.scale_memory import BUDGETS, SHARE, fit_memory
from benchmarks.scale_plan import MODELS as MODELS_AXIS
from benchmarks.scale_plan import WIDTH
from benchmarks.table import DISTURBED, number

MEBI = 2**20
ASSUMPTIONS = (
    "hosts do not communicate, as the sweep's processes do not: they meet in a folder whose speed costs nothing",
    "each host starts and compiles once, without a cache",
    "all hosts are as fast as this machine, and none straggles or fails",
    "groups go to hosts by number, so that the busiest host has up to a group more than the mean",
    "storing the signals, merging them and the attacks on them are not in it",
)


def points_table(measured: Sequence[Measured], costs: FittedCosts | None) -> str:
    """A row a point; memory a model is the process's, or the device's, over all models in it."""
    lines = [
        "| point | ms a model-epoch | µs an image | query, ms a model | start s | compile s | peak MiB, compiling / at "
        "work | at work, MiB a model | compiler's MiB a device | a model | fit off by |",
        "|---|" + "---|" * 10,
    ]
    for one in measured:
        case, found = one.case, one.found
        each = case.models_per_device
        device = found["device_bytes"][f"map {each}"] / MEBI
        off = costs and costs.train_residuals.get(case.name)
        cells = (
            f"`{case.name}`",
            number(1e3 * found["seconds"]),
            number(1e6 * found["seconds"] / (case.examples / 2)),
            number(1e3 * found["query_seconds"] / case.models),
            f"{found['start_seconds']:.1f}",
            f"{found['compile_seconds']:.1f}",
            f"{number(found['compilation_peak_bytes'] / MEBI)} / {number(found['working_peak_bytes'] / MEBI)}",
            number(found["working_peak_bytes"] * case.processes / case.models / MEBI),
            number(device),
            number(device / each),
            "–" if off is None else f"{off:+.1%}",
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def costs_lines(costs: FittedCosts | None) -> str:
    """The cost model in words, with its largest residuals."""
    if costs is None:
        return "no cost model: it needs four points, of `models` and `examples`"
    train, query = costs.train, costs.query
    return "\n".join(
        [
            f"seconds of training = {_cost(train, 'a group and chunk', 'a model in it', 'a step of a model')}; "
            f"off by {_worst(costs.train_residuals)} at most",
            f"seconds of queries = {_cost(query, 'a group', 'a model', 'an image read by a model')}; "
            f"off by {_worst(costs.query_residuals)} at most",
        ]
    )


def resident_line(measured: Sequence[Measured]) -> str | None:
    """The process's resident memory against K, by least squares over the axis of models; None with a single point."""
    points = [one for one in measured if MODELS_AXIS in one.point.axes]
    line = fit_memory([(one.case.models, one.found["working_peak_bytes"]) for one in points])
    if line is None:
        return None
    return (
        f"resident memory at work = {number(line.fixed / MEBI)} MiB + {number(line.model / MEBI)} MiB a model"
    )


def hosts_table(base: Measured, sweeps: Mapping[int, Mapping[str, float]]) -> str:
    """Hours of the large sweep on the busiest host, by what they go into."""
    lines = [
        f"{MODELS:,} models of {EPOCHS:g} epochs, {network_of(base.case)}, extrapolated:",
        "",
        "| hosts | hours | training | queries | start and compilation, s |",
        "|---|---|---|---|---|",
    ]
    for hosts, parts in sweeps.items():
        once = parts["start"] + parts["compilation"]
        hours = (f"{parts[name] / 3600:.3g}" for name in ("whole", "training", "queries"))
        lines.append("| " + " | ".join((str(hosts), *hours, f"{once:.0f}")) + " |")
    return "\n".join([*lines, "", "Assumed:", *(f"- {one}" for one in ASSUMPTIONS)])


def networks_table(measured: Sequence[Measured], hosts: int) -> str:
    """Hours of training of the large sweep for the other networks, by each one's own seconds a model-epoch alone."""
    lines = [
        f"| {MODELS:,} models of {EPOCHS:g} epochs | hours of training on {hosts} hosts |",
        "|---|---|",
    ]
    for one in measured:
        if WIDTH in one.point.axes:
            hours = one.found["seconds"] * MODELS * EPOCHS / hosts / 3600
            lines.append(f"| {network_of(one.case)} | {hours:.3g} |")
    return "\n".join(lines)


def memory_table(rows: Sequence[MemoryRow]) -> str:
    """How many models side by side one device holds."""
    lines = [
        f"| network | mapping | MiB fixed | MiB a model | line off by | {' | '.join(BUDGETS)} |",
        "|---|" + "---|" * (4 + len(BUDGETS)),
    ]
    for row in rows:
        cells = (
            row.label,
            f"`{row.mapping}`",
            number(row.line.fixed / MEBI),
            number(row.line.model / MEBI),
            f"{row.residual:.1%}",
            *(f"{row.largest[name]:,}" for name in BUDGETS),
        )
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(
        [
            *lines,
            "",
            f"Models side by side on one device of which programs may have {SHARE:.0%}, as the sweep lets them. The "
            "bytes are the compiler's figure for a CPU, by the lowering that was measured here: on a GPU, where "
            "another lowering and XLA's own scratch space count, nothing of it has been measured.",
        ]
    )


def remarks(measured: Sequence[Measured], efficiency: float | None) -> list[str]:
    """What else a reader must know of this run."""
    found = []
    if efficiency is not None:
        found.append(
            f"two processes of a core each train twice the models of one in {1 / efficiency:.3f} times its seconds "
            f"(efficiency {efficiency:.1%}; they share the machine's memory and caches, which hosts do not)"
        )
    disturbed = [one for one in measured if one.found["others_share"] > DISTURBED]
    if disturbed:
        worst = max(one.found["others_share"] for one in disturbed)
        found.append(
            f"WARNING: other programs used up to {worst:.0%} of the cores at {len(disturbed)} of {len(measured)} "
            "points: measure again on a quiet machine."
        )
    return found


def _cost(cost: Cost, call: str, model: str, unit: str) -> str:
    return (
        f"{1e3 * cost.call:.3g} ms {call} + {1e3 * cost.model:.3g} ms {model} + "
        f"{1e6 * cost.unit:.3g} µs {unit}"
    )


def _worst(residuals: Mapping[str, float]) -> str:
    name = max(residuals, key=lambda name: abs(residuals[name]))
    return f"{abs(residuals[name]):.1%} (`{name}`)"

"""One process of a point of the benchmark of scale: `python -m benchmarks.jax_scale_worker FOLDER PROCESS`.

It reads `point.json` of the folder, and leaves what it measured there as `process_PROCESS.json`.
"""

import json
import os
import pathlib
import sys
from collections.abc import Sequence


def core_of(process: int, cores: Sequence[int]) -> int:
    """The core that a process is held on, of those that may be used; processes beyond their number share."""
    return sorted(cores)[process % len(cores)]


def main() -> None:
    """Takes its core, then measures."""
    folder, process = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    point = json.loads((folder / "point.json").read_text())
    if point["case"]["one_core"] and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core_of(process, os.sched_getaffinity(0))})
    # XLA counts the cores for its threads as it is imported.
    from benchmarks.scale_measurement import measure

    found = measure(point, process, folder)
    aside = folder / f"process_{process}.part"
    aside.write_text(json.dumps(found))
    aside.replace(folder / f"process_{process}.json")


if __name__ == "__main__":
    main()

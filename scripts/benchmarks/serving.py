"""A worker's side of the protocol: requests and answers as lines of JSON, on stdin and stdout.

| request | answer |
|---|---|
| `{"do": "describe"}` | facts of the worker: its backend, device and versions |
| `{"do": "prepare", "name", "case", "variant"}` | `{"facts"}`, or `{"unavailable": why}` |
| `{"do": "run", "name", "seconds"}` | `{"items", "seconds", "others_share", "found", "idle_cpu_seconds"}` of a round |
| `{"do": "memory"}` | `{"peak_bytes", "device_peak_bytes"}` |

Items are what the benchmark counts: images, or models. An answer `{"input_error": sentence}` blames the request; any
other failure ends the worker, and its stderr says why. Between requests a worker blocks on its pipe, and it ends when
the pipe closes.
"""

import dataclasses
import json
import math
import os
import resource
import sys
import time
from collections.abc import Callable
from typing import Any

from benchmarks import machine

# OpenMP's threads spin for some 10 ms after their last work; only then may another worker start.
_SPIN_SECONDS = 0.03
# Times the seconds asked for that a round of a whole chunk may last.
_LONGEST = 8


class Unavailable(Exception):
    """This machine cannot run the variant; the others go on."""


class BadRequest(Exception):
    """The request cannot be met as it is; one sentence for the user."""


@dataclasses.dataclass
class Prepared:
    """A compiled and warm variant."""

    run_steps: Callable[[int], float]
    """Runs so many steps, waits for them, and gives the last loss."""
    items_a_step: int
    chunk: int = 1
    """Rounds longer than this are cut to whole multiples of it."""
    facts: dict[str, Any] = dataclasses.field(default_factory=dict)
    most: int | None = None
    """Steps that a round has at most, however short it is."""
    found: dict[str, Any] = dataclasses.field(default_factory=dict)
    """What the latest `run_steps` found out beside its speed."""
    helpers: Callable[[], float] = lambda: 0.0
    """Seconds of the cores that processes of its own have used so far: they are not other programs."""


def serve(
    case_type: Callable[..., Any],
    describe: Callable[[], dict[str, Any]],
    prepare: Callable[[Any, dict[str, Any]], Prepared],
    device_peak_bytes: Callable[[], int | None],
) -> None:
    """Answers requests until the pipe closes; `case_type` makes a request's case of its fields."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints must not stand between the answers
    prepared: dict[str, Prepared] = {}
    steps: dict[str, int] = {}
    idle_since = time.process_time()
    for line in sys.stdin:
        request = json.loads(line)
        idle_cpu = time.process_time() - idle_since
        try:
            answer: dict[str, Any] = {}
            if request["do"] == "describe":
                answer = describe()
            elif request["do"] == "prepare":
                begin = time.perf_counter()
                variant = prepare(case_type(**request["case"]), request["variant"])
                seconds = time.perf_counter() - begin
                prepared[request["name"]] = variant
                answer = {"facts": variant.facts | {"prepare_seconds": round(seconds, 2)}}
            elif request["do"] == "run":
                name = request["name"]
                if name not in steps:
                    steps[name] = _steps_for(prepared[name], request["seconds"])
                answer = _round(prepared[name], steps[name]) | {"idle_cpu_seconds": idle_cpu}
                time.sleep(_SPIN_SECONDS)
            elif request["do"] == "memory":
                answer = {"peak_bytes": peak_bytes(), "device_peak_bytes": device_peak_bytes()}
        except Unavailable as reason:
            answer = {"unavailable": str(reason)}
        except BadRequest as sentence:
            answer = {"input_error": str(sentence)}
        except Exception as error:
            # Frameworks have exceptions of their own for it, and agree on the words.
            if not any(words in str(error) for words in ("RESOURCE_EXHAUSTED", "out of memory")):
                raise
            prepared.pop(request.get("name"), None)
            answer = {"unavailable": "it does not fit into memory"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()
        idle_since = time.process_time()


def _round(variant: Prepared, steps: int) -> dict[str, Any]:
    busy, own = machine.busy_cpu_seconds(), time.process_time() + variant.helpers()
    elapsed = _timed(variant, steps)
    others = machine.busy_cpu_seconds() - busy - (time.process_time() + variant.helpers() - own)
    share = max(0.0, others / (elapsed * machine.usable_cores()))
    items = steps * variant.items_a_step
    return {"items": items, "seconds": elapsed, "others_share": share, "found": variant.found}


def _timed(variant: Prepared, steps: int) -> float:
    begin = time.perf_counter()
    loss = variant.run_steps(steps)
    elapsed = time.perf_counter() - begin
    if not math.isfinite(loss):
        raise RuntimeError(f"the loss became {loss}: what was timed is no training")
    return elapsed


def _steps_for(variant: Prepared, seconds: float) -> int:
    """How many steps last about `seconds`; warms up on the way."""
    most = variant.most or math.inf
    if most == 1 or _timed(variant, 1) > 4 * seconds:
        return 1
    steps = 1
    while (elapsed := _timed(variant, steps)) < seconds / 4 and steps < most:
        steps = min(2 * steps, most)
    wanted = max(1, min(round(steps * seconds / elapsed), most))
    # Whole chunks, as training runs them, unless one would last very much longer than asked for.
    if variant.chunk * elapsed / steps > _LONGEST * seconds:
        return wanted
    return -(-wanted // variant.chunk) * variant.chunk


def peak_bytes() -> int:
    """The largest resident set that this process has had."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024

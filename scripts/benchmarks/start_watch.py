"""A command of ours that keeps an account of its start: `python -m benchmarks.start_watch FILE.json [FLAGS ...]`.

The flags are those of `python -m mu_jax.main`. The account is written when the command ends, also by Ctrl-C. Imports
are done at once, before anything else; the command itself checks its settings between them.
"""

import time

_ENTERED = time.time()

import atexit  # noqa: E402, the time comes first
import importlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import pathlib  # noqa: E402
import sys  # noqa: E402
from typing import Any  # noqa: E402

from benchmarks.start_case import BEGAN  # noqa: E402

_DURATIONS = {
    "/jax/core/compile/jaxpr_trace_duration": "tracing",
    "/jax/core/compile/jaxpr_to_mlir_module_duration": "lowering",
    "/jax/core/compile/backend_compile_duration": "compiling",
}
_CACHE_HIT = "/jax/compilation_cache/cache_hits"


def main() -> None:
    """Runs the command; its account goes to the first argument."""
    file = pathlib.Path(sys.argv.pop(1))
    command = importlib.import_module("mu_jax.main")
    experiment = "shadow_sweep" if "shadow_sweep" in " ".join(sys.argv) else "unlearning_comparison"
    importlib.import_module("mu_jax.experiments.registry")
    importlib.import_module(f"mu_jax.experiments.{experiment}")
    import jax

    found: dict[str, Any] = {"began": float(os.environ[BEGAN]), "entered": _ENTERED, "imported": time.time()}
    found |= {"spans": [], "cache_hits": []}

    def on_duration(event: str, seconds: float, **_: Any) -> None:
        if event in _DURATIONS:
            now = time.time()
            found["spans"].append((_DURATIONS[event], now - seconds, now))

    def on_event(event: str, **_: Any) -> None:
        if event == _CACHE_HIT:
            found["cache_hits"].append(time.time())

    jax.monitoring.register_event_duration_secs_listener(on_duration)
    jax.monitoring.register_event_listener(on_event)
    _watch_data(found["spans"])
    # Registered before what the command registers, so that it runs last; backends are there by then.
    atexit.register(lambda: file.write_text(json.dumps(found | _describe())))
    command.run()


def _watch_data(spans: list[Any]) -> None:
    setting = importlib.import_module("mu_jax.experiments.setting")
    load = setting.load_dataset

    def load_watched(*arguments: Any) -> Any:
        began = time.time()
        dataset = load(*arguments)
        spans.append(("data", began, time.time()))
        return dataset

    setting.load_dataset = load_watched


def _describe() -> dict[str, Any]:
    import flax
    import jax

    from benchmarks import machine

    backend = jax.default_backend()
    return {
        "backend": backend,
        "device": machine.cpu_name() if backend == "cpu" else jax.devices()[0].device_kind,
        "versions": {"jax": jax.__version__, "flax": flax.__version__},
    }


if __name__ == "__main__":
    main()

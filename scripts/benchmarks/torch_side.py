"""PyTorch's side of a benchmark, where there is one: its interpreter may have no PyTorch."""

import contextlib
from typing import Any

from benchmarks import shell
from benchmarks.worker_process import Worker, WorkerDied

NOT_ASKED = "left out"
MISSING = "not installed"


def start_torch(stack: contextlib.ExitStack, module: str) -> tuple[Worker | None, dict[str, Any] | str]:
    """The worker and its facts, or None and why there is none; the worker ends with the stack."""
    if shell.TORCH.value == "none":
        return None, NOT_ASKED
    # Nothing of our side's environment: JAX's settings are none of PyTorch's.
    worker = Worker("PyTorch", shell.TORCH_PYTHON.value, module, {})
    stack.callback(worker.close)
    try:
        return worker, worker.ask("describe")
    except WorkerDied as death:
        if "No module named 'torch'" not in str(death):
            raise
        return None, MISSING

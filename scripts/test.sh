#!/usr/bin/env bash
# Set-up and all tests, with ruff.
#
#   bash scripts/test.sh [--with-torch] [PYTEST ARGUMENTS ...]
#
# --with-torch also installs PyTorch, TensorFlow, jax-privacy and dp-accounting and leaves nothing out: a test that skips
# for want of them fails.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

extras=test
if [ "${1:-}" = --with-torch ]; then
    shift
    extras=test,torch,tensorflow,dp
    export MU_JAX_NOTHING_LEFT_OUT=1
else
    echo "mu-jax: left out: parity with PyTorch, preparing a TensorFlow dataset, and DP-SGD (--with-torch runs all)"
fi
prepare_environment "$extras"
"$venv_python" -m ruff check .
"$venv_python" -m ruff format --check .
# Tests compile the same programs from run to run.
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-$PWD/.cache/jax}"
# Quick ones too, of which there are thousands: a quarter less time.
export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS="${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0}"
# Tests compile thousands of programs and run each for a moment: a fifth less time without XLA's dearest passes.
export XLA_FLAGS="${XLA_FLAGS:-} --xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
# A file's tests share what they compile, so a file goes to one process.
exec "$venv_python" -m pytest -n logical --maxprocesses 4 --dist loadfile "$@"

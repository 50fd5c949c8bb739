# Sourced by the other scripts: makes or reuses .venv with the newest Python that really answers.
#
#   prepare_environment EXTRA[,EXTRA...]
#
# Afterwards $venv_python is the interpreter. MU_JAX_PYTHON=/path/to/python overrides the choice.

newest_python() {
    local name
    for name in "${MU_JAX_PYTHON:-}" python3.14 python3.13 python3.12 python3.11 python3; do
        # A name on the PATH may be a shim that fails, or an older Python: only an answer counts.
        if [ -n "$name" ] && "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
            >/dev/null 2>&1; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    echo "mu-jax: no Python 3.11 or newer with venv answers; install one, or set MU_JAX_PYTHON." >&2
    return 1
}

prepare_environment() {
    local extras=$1 python wanted
    python=$(newest_python)
    venv_python=$PWD/.venv/bin/python
    # What the environment was made from; when this is the same, it is current.
    wanted="$("$python" -c 'import sys; print(sys.version, sys.executable)') $PWD [$extras] $(cksum <pyproject.toml)"
    if [ -x "$venv_python" ] && [ "$(cat .venv/made_from 2>/dev/null)" = "$wanted" ]; then
        echo "mu-jax: reusing .venv ($("$venv_python" --version))"
        return
    fi
    echo "mu-jax: making .venv with $("$python" --version) ($python), extras: ${extras:-none}"
    "$python" -m venv --clear .venv
    "$venv_python" -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"
    echo "$wanted" >.venv/made_from
    echo "mu-jax: installed $("$venv_python" -c 'import jax, flax; print("jax", jax.__version__, "flax", flax.__version__)')"
}

# Sourced by the other scripts: makes or reuses .venv with the newest Python that really answers.
#
#   prepare_environment EXTRA[,EXTRA...]
#
# Afterwards $venv_python is the interpreter. MU_JAX_PYTHON=/path/to/python overrides the choice.

newest_python() {
    local name names=(python3.14 python3.13 python3.12 python3.11 python3)
    # TensorFlow has no packages for Python 3.14 yet.
    if [[ ",$1," == *,tensorflow,* ]]; then
        names=("${names[@]:1}")
    fi
    for name in ${MU_JAX_PYTHON:+"$MU_JAX_PYTHON"} "${names[@]}"; do
        # A name on the PATH may be a shim that fails, or an older Python: only an answer counts.
        if "$name" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            "$name" -c 'import sys; print(sys.executable)'
            return
        fi
    done
    echo "mu-jax: no Python 3.11 or newer with venv answers; install one, or set MU_JAX_PYTHON." >&2
    return 1
}

# $1 is the list of extras wanted, $2 that of those installed; both with commas.
has_all() {
    local extra
    for extra in ${1//,/ }; do
        [[ ",$2," == *",$extra,"* ]] || return 1
    done
}

prepare_environment() {
    local extras=$1 python base installed="" made=""
    venv_python=$PWD/.venv/bin/python
    # Any environment of this checkout and these dependencies that holds the extras is current, whatever else it holds
    # and whichever Python it was made with, unless one was asked for.
    base="$PWD $(cksum <pyproject.toml)"
    python=$(newest_python "$extras")
    if [ -x "$venv_python" ] && [ "$(cat .venv/made_from 2>/dev/null)" = "$base" ]; then
        installed=$(cat .venv/extras 2>/dev/null || true)
        made=$(cat .venv/python 2>/dev/null || true)
    fi
    if [ -n "$installed" ] && has_all "$extras" "$installed" && [ "${MU_JAX_PYTHON:+$python}" = "${MU_JAX_PYTHON:+$made}" ]; then
        echo "mu-jax: reusing .venv ($("$venv_python" --version))"
        return
    fi
    if [ -n "$installed" ] && [ "$python" = "$made" ]; then
        echo "mu-jax: adding the extras $extras to .venv"
    else
        installed=""
        echo "mu-jax: making .venv with $("$python" --version) ($python)${extras:+, extras: $extras}"
        "$python" -m venv --clear .venv
        echo "$base" >.venv/made_from
        echo "$python" >.venv/python
    fi
    # Written again when pip has succeeded: an environment left half-made is made anew.
    rm -f .venv/extras
    "$venv_python" -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}"
    echo "$installed,$extras" >.venv/extras
    echo "mu-jax: installed $("$venv_python" -c 'import jax, flax; print("jax", jax.__version__, "flax", flax.__version__)')"
}

# Transparent huge pages for malloc: on CPU a training step in a chunk is 8-10% faster, a single one 60%
# (docs/performance.md). Left alone where the tunables are set already.
use_huge_pages() {
    if [ "$(uname)" = Linux ] && [ -z "${GLIBC_TUNABLES:-}" ]; then
        export GLIBC_TUNABLES=glibc.malloc.hugetlb=1
        echo "mu-jax: huge pages for memory (GLIBC_TUNABLES=$GLIBC_TUNABLES)"
    fi
}

#!/usr/bin/env bash
# A wheel, as a stranger gets it: built from this tree, installed into an environment of its own, and run in a folder from
# which the tree cannot be seen: the quickstart by its path and by its name, an audit's help, and every shipped config read.
#
#   bash scripts/check_wheel.sh [PYTHON]
#
# With MU_JAX_PACKAGES=FOLDER, a site-packages folder whose packages are used instead of installing the dependencies.
set -euo pipefail
tree=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
python=${1:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Of a copy: setuptools leaves its build/ behind, and takes stale files from an old one.
mkdir "$work/tree"
git -C "$tree" ls-files -z --cached --others --exclude-standard \
    | (cd "$tree" && while IFS= read -r -d '' file; do [ ! -e "$file" ] || printf '%s\0' "$file"; done) \
    | tar -C "$tree" --null --files-from=- -cf - | tar -C "$work/tree" -xf -
"$python" -m venv "$work/venv"
mine=$work/venv/bin/python
if [ -n "${MU_JAX_PACKAGES:-}" ]; then
    site=$("$mine" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    # Names alone: an editable installation that lies there must not bring this tree back.
    mkdir "$work/packages"
    for package in "$MU_JAX_PACKAGES"/*; do
        case $(basename "$package") in
            *mu_jax* | pip | pip-* | __editable__* | *.pth | __pycache__) ;;
            *) ln -s "$package" "$work/packages/" ;;
        esac
    done
    echo "$work/packages" > "$site/packages.pth"
    "$mine" -m pip wheel --quiet --no-deps --no-build-isolation --wheel-dir "$work" "$work/tree"
    "$mine" -m pip install --quiet --no-deps --no-index "$work"/mu_jax-*.whl
else
    "$mine" -m pip wheel --quiet --no-deps --wheel-dir "$work" "$work/tree"
    "$mine" -m pip install --quiet "$work"/mu_jax-*.whl
fi
rm -rf "$work/tree"
mkdir "$work/elsewhere"
cd "$work/elsewhere"

where=$("$mine" -c 'import mu_jax; print(mu_jax.__file__)')
case $where in
    "$work"/*) ;;
    *) echo "mu-jax: the package comes from $where, not from the wheel" >&2; exit 1 ;;
esac
# Whatever a module needs must have come along.
"$mine" - <<'PYTHON'
import importlib, pathlib, pkgutil
import mu_jax
from mu_jax.config import from_config_dict
from mu_jax.config.shipped import find_config, shipped_configs

optional = {"torch", "safetensors", "tensorflow", "jax_privacy", "dp_accounting"}
modules = [m.name for m in pkgutil.walk_packages(mu_jax.__path__, "mu_jax.") if not m.name.startswith("mu_jax.configs")]
for name in modules:
    try:
        importlib.import_module(name)
    except ImportError as error:
        if error.name is None or error.name.partition(".")[0] not in optional:
            raise
configs = shipped_configs()
assert len(configs) >= 13, configs
for name in configs:
    spec = importlib.util.spec_from_file_location(name, find_config(name))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    from_config_dict(module.get_config().to_dict())
print(f"mu-jax: {len(modules)} modules and {len(configs)} configs of the wheel are whole")
PYTHON
"$work/venv/bin/mu-jax" --config=configs/quickstart.py:smoke --workdir=run
"$mine" -m mu_jax.main --config=quickstart:smoke --workdir=run | grep -q "done already"
"$work/venv/bin/mu-jax-audit" --helpshort > help.txt 2>&1 || true
grep -q "workdir" help.txt
test -s run/results.json -a -s run/report.html
[ "$(ls)" = "$(printf 'help.txt\nrun')" ]
echo "mu-jax: the wheel runs away from the tree"

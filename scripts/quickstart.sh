#!/usr/bin/env bash
# Set-up and the main job on embedded data: train, forget, retrain, attack, compare. Needs Python 3.11+ alone.
#
#   bash scripts/quickstart.sh [DIR] [--config.KEY=VALUE ...]      DIR: the run folder (default: runs/quickstart here)
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

workdir=runs/quickstart
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
    workdir=$1
    [[ $workdir == /* ]] || workdir=$caller/$workdir
    shift
fi
prepare_environment ""
use_huge_pages
echo "mu-jax: running configs/quickstart.py in $workdir"
# exec: a kill of this script must reach Python, not leave it writing behind.
exec "$venv_python" -m mu_jax.main --config=configs/quickstart.py --workdir="$workdir" "$@"

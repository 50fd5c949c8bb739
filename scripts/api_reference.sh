#!/usr/bin/env bash
# The API reference as HTML pages, built from the docstrings by pdoc.
#
#   bash scripts/api_reference.sh [DIR]      DIR: where the pages go (default: build/api here)
set -euo pipefail
caller=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/environment.sh

folder=${1:-$PWD/build/api}
[[ $folder == /* ]] || folder=$caller/$folder
prepare_environment docs
"$venv_python" -m pdoc --docformat google --output-directory "$folder" mu_jax
echo "mu-jax: $folder/index.html"

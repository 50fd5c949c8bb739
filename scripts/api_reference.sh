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
# The commands define flags of the same names as they are imported, and configs are scripts.
"$venv_python" -m pdoc --docformat google --output-directory "$folder" mu_jax '!mu_jax.main' '!mu_jax.audit' '!mu_jax.configs'
echo "mu-jax: $folder/index.html"

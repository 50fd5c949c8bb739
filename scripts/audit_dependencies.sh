#!/usr/bin/env bash
# Known vulnerabilities of what mu_jax depends on: all packages of an environment, by pip-audit (which is installed into one
# of its own) and PyPI's or OSV's advisories. Ends with an error where there is one, and where the service cannot be asked.
#
#   bash scripts/audit_dependencies.sh [PYTHON] [PIP-AUDIT ARGUMENTS ...]     PYTHON: default .venv's, made if need be
#
# Arguments go to pip-audit: `--vulnerability-service=osv`, `--ignore-vuln=ID`, `--format=json`, or `--requirement=FILE` to
# look at a list instead of the environment.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
if [ $# -gt 0 ] && [[ $1 != -* ]]; then
    audited=$1
    shift
else
    source scripts/environment.sh
    prepare_environment ""
    audited=$venv_python
fi
tool=.cache/pip-audit
if ! "$tool/bin/pip-audit" --version > /dev/null 2>&1; then
    "$audited" -m venv --clear "$tool"
    "$tool/bin/python" -m pip install --quiet "pip-audit>=2.9"
fi
# pip-audit looks at the environment that this interpreter belongs to. The package itself is on no index.
export PIPAPI_PYTHON_LOCATION=$audited
exec "$tool/bin/pip-audit" --progress-spinner=off --skip-editable --desc=off "$@"

#!/usr/bin/env bash
# Prints a Python that has the package's requirements, for the launchers beside it, or says how to get one and ends with 2.
# The choice: PYTHON if it is set; else the shell's python (an activated environment), else the one in this checkout's .venv.
set -euo pipefail
checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
[ -n "${PYTHON:-}" ] && choices=("$PYTHON") || choices=(python "$checkout/.venv/bin/python")
for python in "${choices[@]}"; do
    if command -v "$python" >/dev/null && "$python" -c 'import importlib.util as u, sys; sys.exit(not (u.find_spec("hydra") and u.find_spec("jax")))'; then
        echo "$python"
        exit
    fi
done
echo "alpaca-jax: ${choices[0]} lacks the package's requirements; run \`make install\` in $checkout, or give PYTHON=FILE" >&2
exit 2

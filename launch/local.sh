#!/usr/bin/env bash
# N processes of one run on this machine: launch/local.sh N [VERB] key=value ...   (default verb: train; dir=... is required)
#
#   launch/local.sh 2 experiment=laptop dir=runs/two
#
# The code is this checkout's (or the installed package's), the environment is the shell's (its python, or this checkout's .venv). Each rank's log is in
# DIR/logs/ATTEMPT/rank-NNNN.log; the lead's output is shown on the terminal too, and Ctrl-C is passed on to every rank.
set -euo pipefail
python=$(bash "$(dirname "$0")/python.sh")
exec "$python" -m alpaca_jax.cluster local "$@"

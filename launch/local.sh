#!/usr/bin/env bash
# N processes of one run on this machine: launch/local.sh N [VERB] key=value ...   (the verb is train; dir=... is needed)
#
#   launch/local.sh 2 experiment=laptop dir=runs/two
#
# The code is this checkout's (or the installed package's), the environment is the shell's. Each rank's log is in
# DIR/logs/ATTEMPT/rank-NNNN.log; rank 0's lines come to the terminal too, and Ctrl-C is passed on to every rank.
set -euo pipefail
exec "${PYTHON:-python}" -m alpaca_jax.cluster local "$@"

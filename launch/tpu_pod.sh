#!/usr/bin/env bash
# One run on TPU VMs: launch/tpu_pod.sh --option KEY=VALUE ... --folder DIR [VERB] key=value ...   (the verb is train)
#
#   launch/tpu_pod.sh --option zone=us-west4-a --option accelerator_type=v5litepod-16 --option runtime_version=v2-alpha-tpuv5-lite \
#       --folder runs/pod experiment=alpaca_7b dir=gs://my-bucket/pod
#
# With `--option tpu=NAME` it runs on a slice that exists; else it asks Google's queue for one, and deletes it at the end.
# The code is this checkout's, copied to every worker. The environment there is the worker's own, with the variables that are named by
# `--secret NAME` (their values go through the connection, into no file). The workers share no disk, so dir= is on object storage;
# each rank's log comes back to FOLDER/logs/ATTEMPT/rank-NNNN.log. This machine has to stay on: its end lets the workers save and leave.
set -euo pipefail
exec "${PYTHON:-python}" -m alpaca_jax.cluster tpu_pod "$@"

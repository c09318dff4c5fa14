#!/usr/bin/env bash
# One run on TPU VMs: launch/tpu_pod.sh --option KEY=VALUE ... --folder DIR [VERB] key=value ...   (default verb: train)
#
#   launch/tpu_pod.sh --option zone=us-west4-a --option accelerator_type=v5litepod-16 --option runtime_version=v2-alpha-tpuv5-lite \
#       --folder runs/pod experiment=alpaca_7b dir=gs://my-bucket/pod
#
# With `--option tpu=NAME` it runs on an existing slice; otherwise it queues a request for one, and deletes the slice at the end.
# The code is this checkout's, copied to every worker. The environment is the worker's own, plus the variables named by `--secret NAME`
# (their values are sent through the connection, never in a file). The workers share no disk, so dir= is on object storage; each rank's
# log is copied to FOLDER/logs/ATTEMPT/rank-NNNN.log. This machine must stay on: if it stops, the workers save and leave.
set -euo pipefail
python=$(bash "$(dirname "$0")/python.sh")
exec "$python" -m alpaca_jax.cluster tpu_pod "$@"

#!/usr/bin/env bash
# Starts a worker of a Ray cluster in the foreground and joins the head; run it on as many machines as there are.
#   RAY_HEAD    HOST:PORT of the head (default head:6379)
#   NODE_CPUS   processor cores to offer (default: all); NODE_GPUS likewise
set -euo pipefail
exec ray start --block --address "${RAY_HEAD:-head:6379}" --disable-usage-stats \
  ${NODE_CPUS:+--num-cpus "$NODE_CPUS"} ${NODE_GPUS:+--num-gpus "$NODE_GPUS"}

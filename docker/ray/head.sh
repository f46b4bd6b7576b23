#!/usr/bin/env bash
# Starts the head of a Ray cluster in the foreground, in a container or on bare metal. Ray asks nobody who they are and
# runs what it is sent: keep its ports inside a network that you trust.
#   RAY_PORT    where workers join (default 6379)
#   NODE_CPUS   processor cores to offer (default: all); NODE_GPUS likewise
set -euo pipefail
exec ray start --head --block --port "${RAY_PORT:-6379}" --include-dashboard false --disable-usage-stats \
  ${NODE_CPUS:+--num-cpus "$NODE_CPUS"} ${NODE_GPUS:+--num-gpus "$NODE_GPUS"}

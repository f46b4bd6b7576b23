#!/usr/bin/env bash
# Draws the stack's passwords into docker/secrets, which git ignores; leaves what is there alone.
set -euo pipefail
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
draw() { head -c 24 /dev/urandom | base64 | tr -d '+/=\n'; }
if [ ! -e secrets/orthanc_users.json ]; then
  printf '{"RegisteredUsers": {"steadymr": "%s"}}\n' "$(draw)" >secrets/orthanc_users.json
fi
if [ ! -e secrets/grafana_admin_password ]; then draw >secrets/grafana_admin_password; fi
# The containers' users are not this one: the folder stays closed, the files in it can be read once mounted.
chmod 0444 secrets/*

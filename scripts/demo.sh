#!/bin/sh
# Installs repalign into .venv where needed, then runs `repalign demo`; arguments are passed on.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
sh "$root/scripts/install.sh"
exec "$root/.venv/bin/repalign" demo "$@"

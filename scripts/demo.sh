#!/bin/sh
# Installs repalign into .venv where needed, then runs `repalign demo`; arguments are passed on.
# Only the demo writes to standard output, so that --json can be piped.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
sh "$root/scripts/install.sh" >&2
printf '==> repalign demo (1 to 3 minutes on two cores, 4 to 6 with --train)\n' >&2
exec "$root/.venv/bin/repalign" demo "$@"

#!/bin/sh
# Runs every check of the project; arguments go to pytest. The first failure stops it.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
sh "$root/scripts/install.sh" test
cd "$root"

step() {
    printf '==> %s\n' "$*"
    .venv/bin/python -m "$@"
}

step ruff check .
step ruff format --check .
step mypy # a minute the first time, then seconds
step pytest "$@"

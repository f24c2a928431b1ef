#!/bin/sh
# Runs every check of the project; arguments go to pytest. The first failure stops it.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
sh "$root/scripts/install.sh" test,docs
cd "$root"

step() {
    printf '==> %s\n' "$*"
    .venv/bin/python -m "$@"
}

printf '==> every check: some minutes on two cores, one of them mypy the first time\n'
step ruff check .
step ruff format --check .
step mypy
step pytest -n auto --maxprocesses 4 --dist loadfile "$@" # a process a core, whole files each

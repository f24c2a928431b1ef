#!/bin/sh
# Installs this checkout, editable, into .venv with the versions of constraints.txt.
# usage: sh scripts/install.sh [EXTRAS]     for example: sh scripts/install.sh test,rl
# PYTHON names the interpreter that makes .venv where there is none.
set -eu

extras=${1:-}
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
venv=$root/.venv
stamp=$venv/repalign-installed

fail() {
    printf 'repalign: %s\n' "$1" >&2
    exit 1
}

new_enough() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        new_enough "$PYTHON" || fail "PYTHON=$PYTHON is not a Python of version 3.11 or newer."
        printf '%s\n' "$PYTHON"
        return
    fi
    for candidate in python3 python3.13 python3.12 python3.11; do
        if new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    found=$(python3 --version 2>&1) || found='no python3'
    fail "Python 3.11 or newer is needed, found $found. Name one: PYTHON=/path/to/python sh $0"
}

make_venv() {
    python=$(find_python)
    # Debian ships the venv module apart from Python, and without ensurepip venv leaves a half .venv.
    "$python" -c 'import ensurepip, venv' 2>/dev/null || fail "$python cannot make virtual environments.
On Debian and Ubuntu: apt-get install $("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
    printf '==> making %s with %s\n' "$venv" "$("$python" --version)"
    "$python" -m venv --clear "$venv"
}

if ! "$venv/bin/python" -c '' 2>/dev/null; then
    # An environment whose interpreter has gone is made anew, but a stranger's folder is not emptied.
    if [ -e "$venv" ] && [ ! -e "$venv/pyvenv.cfg" ]; then
        fail "$venv is no virtual environment. Move it away."
    fi
    make_venv
fi
new_enough "$venv/bin/python" || fail "$venv has $("$venv/bin/python" --version), and 3.11 or newer is needed. Remove it."

# Another root (a moved checkout), Python, pyproject.toml or constraints.txt: install again.
wanted=$({
    printf '%s\n' "$root"
    "$venv/bin/python" --version
    cat "$root/pyproject.toml" "$root/constraints.txt"
} | cksum)
grep -qsFx "$wanted [$extras]" "$stamp" && exit 0
[ -z "$extras" ] && grep -qsF "$wanted [" "$stamp" && exit 0

"$venv/bin/python" -m pip --version >/dev/null 2>&1 || "$venv/bin/python" -m ensurepip >/dev/null
printf '==> installing repalign%s into %s (1 to 4 minutes the first time, more where torch comes with CUDA)\n' \
    "${extras:+[$extras]}" "$venv"
"$venv/bin/python" -m pip install -qq --disable-pip-version-check --no-input \
    -c "$root/constraints.txt" -e "$root${extras:+[$extras]}"

# pip takes nothing away, so what was installed before for the same files is still there.
grep -sF "$wanted [" "$stamp" >"$stamp.new" || :
printf '%s [%s]\n' "$wanted" "$extras" >>"$stamp.new"
mv "$stamp.new" "$stamp"

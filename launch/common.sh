# What the launch scripts share: the environment of the ranks, a port. Sourced, never run.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$root/.venv

# The .venv's programs first: the deepspeed launcher, and the ninja that builds its operators.
use_venv() {
    if [ ! -x "$venv/bin/deepspeed" ]; then
        echo "$venv/bin/deepspeed is not there: run bash launch/setup.sh first" >&2
        exit 2
    fi
    PATH=$venv/bin:$PATH
    export PATH
}

# GPUs that this torch can use, given CUDA_VISIBLE_DEVICES.
gpu_count() {
    if [ "${DS_ACCELERATOR:-}" = cpu ]; then
        echo 0
    else
        "$venv/bin/python" -c 'import torch; print(torch.cuda.device_count())'
    fi
}

# CPU ranks: the cores shared out among the `$1` ranks of this machine, and an allocator that keeps large buffers
# instead of handing them back to the kernel at every step (up to twice the speed with a large vocabulary).
# What the user has set already, stays.
use_cpu() {
    local share=$(($(cores) / $1))
    export DS_ACCELERATOR=cpu
    export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$((share > 0 ? share : 1))}
    export MALLOC_MMAP_THRESHOLD_=${MALLOC_MMAP_THRESHOLD_:-4000000000}
    export MALLOC_TRIM_THRESHOLD_=${MALLOC_TRIM_THRESHOLD_:-16000000000}
}

# Cores that this process may use: its affinity (nproc), or a container's quota where that is less.
cores() {
    local available quota period
    available=$(env -u OMP_NUM_THREADS nproc)
    if [ -r /sys/fs/cgroup/cpu.max ]; then
        read -r quota period < /sys/fs/cgroup/cpu.max
        if [ "$quota" != max ] && [ $(((quota + period - 1) / period)) -lt "$available" ]; then
            available=$(((quota + period - 1) / period))
        fi
    fi
    echo "$available"
}

# The environment section of a recipe, exported where the shell has not set the variable:
# `take_environment PYTHON ... -- RECIPE [section.key=value ...]`. 2, and one line said, for a mistake in the recipe.
# The variables' names are in environment_names then.
take_environment() {
    local python=() lines line name
    environment_names=()
    while [ "$1" != -- ]; do
        python+=("$1")
        shift
    done
    shift
    lines=$(PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH} "${python[@]}" -m dstrain.cluster.environment "$@") || return
    while read -r line; do
        name=${line%%=*}
        if [ -n "$name" ]; then
            environment_names+=("$name")
            [ -n "${!name+set}" ] || export "${line?}"
        fi
    done <<< "$lines"
}

free_port() {
    "$venv/bin/python" -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

# A port that all nodes work out alike from the same text (a job's number, a hostfile), below the range that
# the kernel hands out by itself.
port_for() {
    echo $((15000 + $(cksum <<< "$1" | cut -d ' ' -f 1) % 15000))
}

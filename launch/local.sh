#!/usr/bin/env bash
# Trains on this machine: all its GPUs, or else 2 ranks on the CPU.
#
#   bash launch/local.sh RECIPE [section.key=value ...]
#   bash launch/local.sh --ranks 4 RECIPE [section.key=value ...]
#   CUDA_VISIBLE_DEVICES=0,2 bash launch/local.sh RECIPE
#   DS_ACCELERATOR=cpu bash launch/local.sh RECIPE          # the CPU, although there are GPUs
set -euo pipefail

# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

trap 'echo "asked to leave before any rank was started; the same command goes on" >&2; exit 75' TERM USR1 HUP

ranks=
if [ "${1:-}" = --ranks ]; then
    ranks=${2:-}
    if ! [[ $ranks =~ ^[1-9][0-9]*$ ]]; then
        echo "--ranks $ranks: not a number of ranks; say for example --ranks 2" >&2
        exit 2
    fi
    shift 2
fi
use_venv
if ! [[ " $* " =~ " --help "|" -h "|^"  "$ ]]; then  # dstrain answers those
    take_environment "$venv/bin/python" -- "$@"
fi

gpus=$(gpu_count)
if [ "$gpus" -eq 0 ]; then
    ranks=${ranks:-2}
    use_cpu "$ranks"
else
    ranks=${ranks:-$gpus}
    if [ "$ranks" -gt "$gpus" ]; then
        echo "--ranks $ranks: there are $gpus GPUs; a GPU serves one rank. DS_ACCELERATOR=cpu takes the CPU instead" >&2
        exit 2
    fi
fi

# deepspeed forgets CUDA_VISIBLE_DEVICES when it is told a number of ranks, so a list is cut to that number instead.
how_many=(--num_accelerators "$ranks")
if [ "$gpus" -gt 0 ] && [ -n "${CUDA_VISIBLE_DEVICES:-}" ]; then
    CUDA_VISIBLE_DEVICES=$(cut -d , -f "1-$ranks" <<< "$CUDA_VISIBLE_DEVICES")
    how_many=()
fi

# --hostfile /dev/null: this machine only, whatever /job/hostfile says. In this script's place, so that a signal to it
# reaches the ranks: bash would hear of it only after the training. Exit code 75: left on SIGTERM, SIGUSR1 or SIGHUP
# (a closed terminal), saved.
port=${MASTER_PORT:-$(free_port)}  # not within exec: bash runs no trap once it has begun with that
trap - TERM USR1 HUP
exec python "$root/launch/run_deepspeed.py" --quiet --hostfile /dev/null "${how_many[@]}" \
    --master_port "$port" "$root/launch/train.py" "$@"

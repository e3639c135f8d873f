#!/usr/bin/env bash
# Trains on the nodes of a hostfile (launch/hostfile.example) with the deepspeed launcher.
# HOSTFILE: a line a node, "NAME slots=RANKS".
#
#   bash launch/multinode.sh HOSTFILE RECIPE [section.key=value ...]
#       over pdsh and ssh: call it once, on any machine that reaches all nodes by ssh without a password
#   bash launch/multinode.sh HOSTFILE --node_rank N RECIPE [section.key=value ...]
#       without ssh: call it on every node, N = 0 on the first line's node, 1 on the next ...
#
# This folder, with its .venv, stands at the same path on all nodes. From the environment: MASTER_ADDR (default: the
# first node's name), MASTER_PORT (default: worked out from the hostfile, so that all nodes agree: give it when two
# runs share a hostfile), DS_ACCELERATOR=cpu for CPU ranks, NCCL_SOCKET_IFNAME / GLOO_SOCKET_IFNAME for the network
# interface between the nodes. The recipe's section `environment` reaches all ranks: over ssh a .deepspeed_env is
# written from it and from this shell's own settings (see `forwarded` below), and removed at the end.
# Exit code 75: left on SIGTERM or SIGUSR1, after saving. If this script or a connection dies, the ranks save and leave.
set -euo pipefail

# shellcheck source=launch/common.sh
. "$(dirname "${BASH_SOURCE[0]}")/common.sh"

# What reaches the other nodes over ssh; deepspeed alone would forward only a few. No secrets: ps shows them there.
forwarded='PATH|LD_LIBRARY_PATH|OMP_NUM_THREADS|DS_ACCELERATOR|MALLOC_[A-Z_]+|NCCL_[A-Z0-9_]+|GLOO_SOCKET_IFNAME'
forwarded+='|HF_HOME|HF_HUB_OFFLINE|HF_DATASETS_OFFLINE|TIKTOKEN_CACHE_DIR'

if [ $# -lt 2 ]; then
    echo "usage: bash launch/multinode.sh HOSTFILE [--node_rank N] RECIPE [section.key=value ...]" >&2
    exit 2
fi
hostfile=$1
shift
if [ ! -f "$hostfile" ]; then
    echo "$hostfile: there is no such hostfile; launch/hostfile.example shows one" >&2
    exit 2
fi
hostfile=$(realpath "$hostfile")
node_rank=
if [ "$1" = --node_rank ]; then
    node_rank=${2:-}
    if ! [[ $node_rank =~ ^[0-9]+$ ]] || [ $# -lt 3 ]; then
        echo "--node_rank $node_rank: say the number of this node's line in $hostfile, from 0, and then a recipe" >&2
        exit 2
    fi
    shift 2
fi

hosts=$(sed -n 's/^[[:space:]]*\([^#[:space:]][^[:space:]]*\)[[:space:]].*slots=.*/\1/p' "$hostfile")
slots=$(sed -n 's/^[[:space:]]*[^#[:space:]].*slots=\([0-9]*\).*/\1/p' "$hostfile" | sort -n | tail -n 1)
if [ -z "$hosts" ] || [ -z "$slots" ]; then
    echo "$hostfile: no line like 'node1 slots=8' in it; launch/hostfile.example shows one" >&2
    exit 2
fi
if [ -n "$node_rank" ] && [ "$node_rank" -ge "$(wc -l <<< "$hosts")" ]; then
    echo "--node_rank $node_rank: $hostfile has $(wc -l <<< "$hosts") nodes, numbered from 0" >&2
    exit 2
fi

use_venv
take_environment "$venv/bin/python" -- "$@"
if [ "${DS_ACCELERATOR:-}" = cpu ]; then
    use_cpu "$slots"
fi
where=(--hostfile "$hostfile" --master_addr "${MASTER_ADDR:-$(head -n 1 <<< "$hosts")}"
    --master_port "${MASTER_PORT:-$(port_for "$(cat "$hostfile")")}")

if [ -n "$node_rank" ]; then
    exec python "$root/launch/run_deepspeed.py" --quiet "${where[@]}" --no_ssh --node_rank "$node_rank" \
        "$root/launch/train.py" "$@"
fi

if ! command -v pdsh > /dev/null; then
    echo "pdsh is not installed here (Debian and Ubuntu: apt-get install pdsh); or start each node with --node_rank" >&2
    exit 2
fi
# What deepspeed reads as .deepspeed_env and exports on each node between double quotes; pdsh puts in %h, %n and %u.
# run_deepspeed.py removes it.
DS_ENV_FILE=$(mktemp)
export DS_ENV_FILE
forwarded+=$(printf '|%s' "${environment_names[@]}")
env | grep -E "^($forwarded)=." | sed 's/[\\"$`]/\\&/g; s/%/%%/g' > "$DS_ENV_FILE"
# --force_multi: with one node in the hostfile deepspeed would run here instead of there, and say nothing.
exec python "$root/launch/run_deepspeed.py" --quiet "${where[@]}" --force_multi "$root/launch/train.py" "$@"

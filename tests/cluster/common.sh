# What up, down and on share: where a cluster keeps its files, and how its fabric is found. Sourced, never run.
# shellcheck shell=bash disable=SC2034

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
nodes=(n1 n2 n3)
# One cluster a checkout, unless told otherwise: two checkouts never meet.
state=${DSTRAIN_CLUSTER:-/tmp/dstrain-cluster-$(cksum <<< "$root" | cut -d ' ' -f 1)}
mark=$state/.dstrain-cluster  # only a folder with this in it is ever removed

# Sets `fabric`, the process (`unshare`) that stands for the whole cluster; fails where none runs.
find_fabric() {
    local began
    { read -r fabric began < "$state/fabric.pid"; } 2> /dev/null && [ "$(began_at "$fabric")" = "$began" ]
}

# When a process began, in the kernel's own count: with its number that names one process for ever. Nothing where it has
# ended, even if nobody has asked yet how.
began_at() {
    local line
    { read -r line < "/proc/$1/stat"; } 2> /dev/null || return 0
    line=${line##*) }
    # shellcheck disable=SC2086  # into words
    set -- $line
    [ "$1" = Z ] || echo "${20}"
}

# Runs a command inside the fabric: the network with the switch in it, and the processes of all nodes.
in_fabric() {
    nsenter --target "$fabric" --net --mount --pid="/proc/$fabric/ns/pid_for_children" -- "$@"
}

take_down() {
    local init
    if find_fabric; then
        init=$(pgrep --parent "$fabric") || true
        kill -9 "${init:-$fabric}" 2> /dev/null || true
        while find_fabric; do  # it waits for its init, and that ends as the last process of all nodes
            sleep 0.05
        done
    fi
    if [ -e "$mark" ]; then
        rm -rf --one-file-system "$state"
    else
        rmdir "$state" 2> /dev/null || true  # empty: an up that ended as it had begun
    fi
}

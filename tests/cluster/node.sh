# One node, from its cable to its daemons. Called inside the fabric: bash node.sh start NODE STATE
# shellcheck shell=bash
set -euo pipefail

stage=$1 node=$2 state=$3

main() {
    case $stage in
        start)  # power off is kill -9 of this process
            echo $$ > "$state/pids/$node"
            exec setsid unshare --net bash "$0" plug "$node" "$state" > "$state/log/$node.log" 2>&1 < /dev/null
            ;;
        plug)  # still among the fabric's processes, where number 1 stands beside the switch
            nsenter --target 1 --net ip link delete "to-$node" 2> /dev/null || true  # of a node switched off just now
            ip link add eth0 type veth peer name "to-$node" netns 1
            nsenter --target 1 --net ip link set "to-$node" master switch up
            exec unshare --uts --mount --pid --ipc --fork --kill-child --mount-proc bash "$0" inside "$node" "$state"
            ;;
        inside)
            hostname "$node"
            join_network
            own_folders
            start_daemons
            sleep infinity &
            wait $!
            ;;
    esac
}

join_network() {
    ip link set lo up
    ip address add "$(awk -v node="$node" '$2 == node {print $1}' "$state/etc/hosts")/24" dev eth0
    ip link set eth0 up
}

own_folders() {
    echo "$node" > "$state/etc/hostname-$node"
    mount --bind "$state/etc/hostname-$node" /etc/hostname
    mount --bind "$state/etc/hosts" /etc/hosts
    mount --bind "$state/etc/passwd" /etc/passwd
    mount --bind "$state/etc/slurm" /etc/slurm
    mount -t tmpfs tmpfs /run
    mount -t tmpfs tmpfs /var/spool
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
    # /tmp last, and of what the machine has there only the cluster's folder and this checkout.
    local kept
    mount -t tmpfs -o mode=1777 tmpfs "$state/mnt"
    for kept in "$state" "$(cd "$(dirname "$0")/../.." && pwd)"; do
        if [[ $kept = /tmp/* ]]; then
            mkdir -p "$state/mnt/${kept#/tmp/}"
            mount --bind "$kept" "$state/mnt/${kept#/tmp/}"
        fi
    done
    mount --move "$state/mnt" /tmp
}

start_daemons() {
    mkdir -p /run/munge /run/sshd /run/slurm
    chmod 755 /run /run/munge
    install -m 600 "$state/etc/munge.key" /run/munge/key
    munged --key-file=/run/munge/key --seed-file=/run/munge/seed --log-file=/run/munge/log
    /usr/sbin/sshd -f /dev/null -o HostKey="$state/etc/ssh_host_key" -o StrictModes=no -o UsePAM=no \
        -o PermitRootLogin=yes -o AuthorizedKeysFile=.ssh/authorized_keys -o PidFile=/run/sshd.pid \
        -E "$state/log/sshd-$node.log"
    if [ "$node" = ctl ]; then
        slurmctld
    else
        mknod /run/gpu0 c 1 3  # devices that are none, for jobs that ask for GPUs
        mknod /run/gpu1 c 1 3
        slurmd
    fi
}

main

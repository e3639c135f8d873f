# The first process inside the cluster: the switch, and all nodes. As it ends, so does all that was ever started inside.
# shellcheck shell=bash
set -euo pipefail

state=$1 attached=$2
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

exec 3<&0 < /dev/null  # nobody but this process reads, or holds, what the harness holds open
ip link set lo up
ip link add name switch type bridge
ip link set switch up
for node in ctl n1 n2 n3; do
    bash "$here/node.sh" start "$node" "$state" 3<&- &
done
if [ "$attached" = yes ]; then
    cat <&3 > /dev/null
else
    exec 3<&-
    sleep infinity &
    wait $!
fi

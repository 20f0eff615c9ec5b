#!/bin/sh
# The first process of one node, in namespaces of its own (net, mount, pid, ipc, uts): when it is killed, the kernel kills all
# that ran on the node. What a machine keeps over a power failure lies in $home/kept, the rest in memory.
#   node-init.sh HOME NAME ADDRESS [bare]
set -eu
home=$1 name=$2 address=$3 bare=${4:-}
# The old /proc is still there: what we are called outside.
read -r outside _ </proc/self/stat
mount -t proc proc /proc
hostname "$name"
# All nodes run on one kernel, which was started once.
cat /proc/sys/kernel/random/uuid >"$home/boot_id"
mount --bind "$home/boot_id" /proc/sys/kernel/random/boot_id

for directory in /run /dev/shm; do mount -t tmpfs tmpfs "$directory"; done
chmod 1777 /dev/shm
mkdir -p /run/crm /run/lock /run/resource-agents /run/node
mount --bind "$home" /run/node
chown hacluster:haclient /run/crm
chmod 750 /run/crm

for directory in /var/lib/pacemaker /var/lib/corosync /var/log/pacemaker /var/log/corosync; do
  kept=$home/kept$directory
  [ -e "$kept" ] || { mkdir -p "$(dirname "$kept")" && cp -a "$directory" "$kept"; }
  mkdir -p "$directory"
  mount --bind "$kept" "$directory"
done

# add_to DIRECTORY FILE [NAME]: as the directory is, with a file more, for this node only.
add_to() {
  below=$home/below$1
  mkdir -p "$below"
  mount --bind "$1" "$below"
  mount -t tmpfs tmpfs "$1"
  cp -rs "$below/." "$1/"
  mkdir -p "$(dirname "$1/${3:-}")"
  cp "$2" "$1/$3"
  chmod 755 "$1" "$1/$3"
}
add_to /usr/lib/ocf/resource.d "$home/../understudy.ocf" understudy/understudy
chmod 755 /usr/lib/ocf/resource.d/understudy
add_to /usr/sbin "$home/../fence_switch" fence_switch

# The net's namespace outlives the machine; its routes do not.
ip rule flush
ip rule add pref 32766 lookup main
ip link set lo up
ip addr replace "$address/24" dev eth0
ip link set eth0 up

if [ -z "$bare" ]; then
  if [ ! -e "$home/formatted" ]; then
    rm -rf /var/lib/pacemaker/cib/* /var/lib/pacemaker/pengine/* /var/lib/corosync/*
    install -o hacluster -g haclient -m 600 "$home/../cib.xml" /var/lib/pacemaker/cib/cib.xml
    : >"$home/formatted"
  fi
  sh "$(dirname "$0")/start-cluster.sh" "$home"
fi
echo "$outside" >"$home/init.pid.new"
mv "$home/init.pid.new" "$home/init.pid"
# Waits for what others leave behind, until the power fails.
while :; do
  sleep 3600 &
  wait $! || true
done

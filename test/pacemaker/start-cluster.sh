#!/bin/sh
# Starts Corosync and Pacemaker on one node, within its namespaces; both go on when this ends.
#   start-cluster.sh HOME
set -eu
home=$1
setsid corosync -f -c "$home/../corosync.conf" >"$home/corosync.out" 2>&1 </dev/null &
tries=0
until corosync-cmapctl -g runtime.votequorum.this_node_id >/dev/null 2>&1; do
  tries=$((tries + 1))
  [ "$tries" -lt 100 ] || exit 1
  sleep 0.1
done
PCMK_logfile=/var/log/pacemaker/pacemaker.log PCMK_fail_fast=no setsid pacemakerd >"$home/pacemaker.out" 2>&1 </dev/null &

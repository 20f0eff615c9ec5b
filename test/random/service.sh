#!/bin/sh
# The service of a node, as its hooks see it: service.sh start|stop DIRECTORY OUTSIDE_LOG. It runs while DIRECTORY/service
# is there (it holds the epoch that it was started in), and is stopped when DIRECTORY/running is gone. One log for all nodes: an interval begins before the service can
# run, and ends after it cannot.
set -eu
directory=$2
say() {
  printf '%s %s %s %s\n' "$1" "$UNDERSTUDY_NODE" "$(date +%s%N)" "$UNDERSTUDY_EPOCH" >>"$3"
}
case $1 in
start)
  say start "$2" "$3"
  printf '%s' "$UNDERSTUDY_EPOCH" >"$directory/service"
  ;;
stop)
  rm -f "$directory/service"
  while [ -e "$directory/running" ]; do sleep 0.01; done
  say stop "$2" "$3"
  ;;
esac

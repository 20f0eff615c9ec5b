#!/bin/sh
# hook.sh start|stop INTERVALS PORT NODE-PROGRAM APPLICATION: the service's hooks. From the beginning of `start` to the end of `stop`
# the service may run; both are written down outside of the nodes.
what=$1 intervals=$2
pid_file=/run/application.pid
ready=/run/application.ready
# Who has ended counts as ended, also where nobody has asked about it yet.
running() { [ -e "$pid_file" ] && grep -qs '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$(cat "$pid_file")/status"; }
say() { echo "$(date +%s.%N) $1 $UNDERSTUDY_NODE $UNDERSTUDY_EPOCH" >>"$intervals"; }
case $what in
start)
  running && exit 0
  say start
  rm -f "$ready"
  setsid "$4" "$5" /run/node/data/app.db /run/node/state "$3" "$UNDERSTUDY_NODE" "$UNDERSTUDY_EPOCH" "$ready" \
    </dev/null >>/run/node/application.log 2>&1 &
  echo $! >"$pid_file"
  until [ -e "$ready" ]; do
    running || exit 1
    sleep 0.05
  done
  ;;
stop)
  running || exit 0
  kill "$(cat "$pid_file")"
  while running; do sleep 0.02; done
  say stop
  ;;
esac

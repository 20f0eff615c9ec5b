#!/bin/sh
# Three nodes, a group "app", the address that its clients use, and fencing: the same as crmsh.txt, with pcs. Put in your own
# names, then run it as root on one node.
set -eu

# Without fencing nobody is promoted. Each node is fenced by another one.
pcs stonith create fence-alpha fence_ipmilan ip=10.0.1.1 username=fence password=secret lanplus=1 pcmk_host_list=alpha \
  op monitor interval=60s timeout=60s
pcs stonith create fence-bravo fence_ipmilan ip=10.0.1.2 username=fence password=secret lanplus=1 pcmk_host_list=bravo \
  op monitor interval=60s timeout=60s
pcs stonith create fence-charlie fence_ipmilan ip=10.0.1.3 username=fence password=secret lanplus=1 pcmk_host_list=charlie \
  op monitor interval=60s timeout=60s
pcs constraint location fence-alpha avoids alpha
pcs constraint location fence-bravo avoids bravo
pcs constraint location fence-charlie avoids charlie

# The two monitors have different intervals: the cluster tells them apart by these.
pcs resource create app ocf:understudy:understudy group=app max_lag=10 \
  op start timeout=60s stop timeout=60s promote timeout=60s demote timeout=60s notify timeout=20s \
  op monitor interval=3s role=Promoted timeout=20s op monitor interval=10s role=Unpromoted timeout=20s \
  meta migration-threshold=3 failure-timeout=60s \
  promotable promoted-max=1 notify=true interleave=true

pcs resource create app-address ocf:heartbeat:IPaddr2 ip=10.0.0.100 cidr_netmask=24 \
  op start timeout=20s stop timeout=20s monitor interval=10s timeout=20s
pcs constraint colocation add app-address with Promoted app-clone INFINITY
# shellcheck disable=SC1010
pcs constraint order promote app-clone then start app-address kind=Mandatory

pcs property set stonith-enabled=true no-quorum-policy=stop
pcs resource defaults update resource-stickiness=100

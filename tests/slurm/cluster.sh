#!/usr/bin/env bash
# A real SLURM of several nodes on this one machine, for tests: Debian's packages, as root. Each node
# is a net, uts, pid and mount namespace on a bridge, with its own slurmd; slurmctld stays outside.
#
#   cluster.sh start | stop          write the configuration and start, wait until all nodes are idle
#   cluster.sh exec NODE CMD...      run something inside a node
#   cluster.sh off NODE | on NODE    power loss of a node (all its processes at once), and back
#   cluster.sh slurmd NODE kill|start   the node's slurmd only
#   cluster.sh link NODE down|up     pull the node's cable
#
# All state is in $REALNET_CLUSTER; nothing is written to /etc. Node addresses are 10.79.0.11, .12 ...
set -euo pipefail
D=${REALNET_CLUSTER:?}
N=${REALNET_CLUSTER_NODES:-3} CPUS=16 GPUS=4 NET=10.79.0 NAME=rt PORT=26917 BR=rtbr0
export PATH=/usr/sbin:/sbin:/usr/bin:/bin:$PATH SLURM_CONF=$D/slurm.conf

nodes() { seq -f 'node%g' 1 "$N"; }
pid_in() { cat "$1" 2>/dev/null || true; }
# Alive, and the program that we started: a zombie has no command line, and numbers come again.
alive() { [ -n "$1" ] && tr '\0' ' ' 2>/dev/null <"/proc/$1/cmdline" | grep -qF -- "$2"; }
end() { # PIDFILE MARK
  local pid; pid=$(pid_in "$1")
  if alive "$pid" "$2"; then kill -TERM "$pid" || true; fi
  for _ in $(seq 30); do alive "$pid" "$2" || break; sleep 0.1; done
  if alive "$pid" "$2"; then kill -KILL "$pid" || true; fi
  rm -f "$1"
}

configure() {
  mkdir -p "$D"/{munge,state,spool,log,dev,pid,local}
  chmod 755 "$D" "$D/munge"
  (umask 077; head -c 1024 /dev/urandom >"$D/munge/key")
  cat >"$D/slurm.conf" <<EOF
ClusterName=realnettest
SlurmctldHost=$(hostname)($NET.1)
SlurmctldPort=$PORT
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CredType=cred/munge
# cred_expire is also how long a requeued job waits before it may start again
AuthInfo=socket=$D/munge/sock,cred_expire=5
StateSaveLocation=$D/state
SlurmdSpoolDir=$D/spool/%n
SlurmctldPidFile=$D/pid/slurmctld
SlurmdPidFile=$D/pid/slurmd-%n
SlurmctldLogFile=$D/log/slurmctld.log
SlurmdLogFile=$D/log/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
JobAcctGatherType=jobacct_gather/none
SwitchType=switch/none
MpiDefault=none
AccountingStorageType=accounting_storage/none
MinJobAge=86400
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
GresTypes=gpu
SlurmdParameters=config_overrides
PropagateResourceLimits=NONE
EnforcePartLimits=ALL
ReturnToService=2
SlurmctldTimeout=30
SlurmdTimeout=10
KillWait=5
CompleteWait=0
MessageTimeout=10
UnkillableStepTimeout=20
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_interval=2,batch_sched_delay=0,sched_min_interval=100000
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
SlurmctldParameters=preempt_send_user_signal
EOF
  local i
  for i in $(seq "$N"); do
    echo "NodeName=node$i CPUs=$CPUS RealMemory=16000 Gres=gpu:$GPUS NodeHostname=node$i NodeAddr=$NET.$((10 + i)) Port=$((PORT + 1))"
  done >>"$D/slurm.conf"
  cat >>"$D/slurm.conf" <<EOF
PartitionName=main Nodes=node[1-$N] Default=YES DefaultTime=60 MaxTime=INFINITE PriorityTier=10 PreemptMode=OFF
PartitionName=spot Nodes=node[1-$N] DefaultTime=60 MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
PartitionName=cheap Nodes=node[1-$N] DefaultTime=60 MaxTime=INFINITE PriorityTier=1 PreemptMode=REQUEUE GraceTime=10
EOF
  for i in $(seq 0 $((GPUS - 1))); do mknod "$D/dev/gpu$i" c 1 3; done
  echo "NodeName=node[1-$N] Name=gpu File=$D/dev/gpu[0-$((GPUS - 1))]" >"$D/gres.conf"
  { echo "127.0.0.1 localhost"; echo "$NET.1 $(hostname)"
    for i in $(seq "$N"); do echo "$NET.$((10 + i)) node$i"; done; } >"$D/hosts"
  cat >"$D/init" <<'EOF'
#!/usr/bin/env bash
# init DIR NODE: pid 1 of a node. It starts slurmd; then it only reaps.
D=$1 NODE=$2
read -r outer _ </proc/self/stat
echo "$outer" >"$D/pid/init-$NODE"
hostname "$NODE"
mount -t proc proc /proc
mount --bind "$D/hosts" /etc/hosts
mount -t tmpfs -o size=2g,mode=1777 tmpfs /dev/shm
mount -t tmpfs -o size=1g,mode=1777 tmpfs "$D/local"  # what each node has for itself
export SLURM_CONF=$D/slurm.conf
exec </dev/null >>"$D/log/init-$NODE.log" 2>&1
slurmd -N "$NODE" -f "$D/slurm.conf"
trap 'exit 0' TERM
while :; do sleep 3600 & wait $!; done
EOF
  chmod 755 "$D/init"
}

net_up() {
  local i
  ip link add "$BR" type bridge
  ip addr replace "$NET.1/24" dev "$BR"
  ip link set "$BR" up
  for i in $(seq "$N"); do
    ip netns add "$NAME-node$i"
    ip link add "${NAME}v-node$i" type veth peer name eth0 netns "$NAME-node$i"
    ip link set "${NAME}v-node$i" master "$BR"
    ip link set "${NAME}v-node$i" up
    ip -n "$NAME-node$i" link set lo up
    ip -n "$NAME-node$i" addr replace "$NET.$((10 + i))/24" dev eth0
    ip -n "$NAME-node$i" link set eth0 up
  done
}
net_down() {
  local ns
  for ns in $(ip netns list | awk '{print $1}' | grep "^$NAME-node" || true); do ip netns del "$ns"; done
  local link # of nodes whose processes still hold their namespace; else it goes with that, by itself
  for link in $(ip -o link show type veth 2>/dev/null | grep -o "${NAME}v-node[0-9]*" || true); do
    ip link del "$link" 2>/dev/null || true
  done
  if ip link show "$BR" >/dev/null 2>&1; then ip link del "$BR"; fi
}

on() { # NODE
  mkdir -p "$D/spool/$1"
  alive "$(pid_in "$D/pid/init-$1")" "$D/init $D $1" && return 0
  rm -f "$D/pid/init-$1" "$D/pid/slurmd-$1"
  setsid nsenter --net="/run/netns/$NAME-$1" unshare --uts --mount --pid --fork --kill-child \
    --propagation private "$D/init" "$D" "$1" </dev/null >>"$D/log/init-$1.log" 2>&1 &
  disown
  for _ in $(seq 600); do [ -s "$D/pid/init-$1" ] && return 0; sleep 0.05; done
  echo "$1 did not start" >&2
  return 1
}
off() { # NODE
  local pid; pid=$(pid_in "$D/pid/init-$1")
  if alive "$pid" "$D/init $D $1"; then
    kill -KILL "$pid"
    while alive "$pid" "$D/init $D $1"; do sleep 0.05; done
  fi
  rm -f "$D/pid/init-$1" "$D/pid/slurmd-$1"
}
inside() { # NODE CMD...
  local pid; pid=$(pid_in "$D/pid/init-$1"); shift
  nsenter -t "$pid" --net --uts --mount --pid --wdns="$PWD" -- "$@"
}

start() {
  stop
  rm -rf "$D"
  configure
  munged --key-file="$D/munge/key" --socket="$D/munge/sock" --pid-file="$D/munge/pid" \
    --log-file="$D/munge/log" --seed-file="$D/munge/seed" --num-threads=4 </dev/null >/dev/null 2>&1
  net_up
  local node up
  for node in $(nodes); do mkdir -p "$D/spool/$node"; done
  slurmctld -c -f "$D/slurm.conf" </dev/null >>"$D/log/slurmctld.out" 2>&1
  for node in $(nodes); do on "$node"; done
  for _ in $(seq 600); do
    up=$(sinfo -h -N -p main -o '%t' 2>/dev/null | grep -c '^idle' || true)
    [ "$up" = "$N" ] && return 0
    sleep 0.1
  done
  sinfo -N -l >&2 || true
  tail -n 20 "$D"/log/*.log >&2 || true
  return 1
}
stop() {
  [ -d "$D" ] || { net_down; return 0; }
  end "$D/pid/slurmctld" slurmctld
  local node
  for node in $(nodes); do off "$node"; done
  end "$D/munge/pid" "$D/munge/"
  net_down
}

case "${1:-}" in
  start | stop) "$1" ;;
  exec) shift; inside "$@" ;;
  off | on) "$1" "$2" ;;
  slurmd)
    if [ "$3" = kill ]; then inside "$2" sh -c "kill -KILL \$(cat $D/pid/slurmd-$2)"
    else inside "$2" slurmd -N "$2" -f "$D/slurm.conf" </dev/null >>"$D/log/init-$2.log" 2>&1; fi ;;
  link) ip link set "${NAME}v-$2" "$3" ;;
  *) sed -n '2,/^set/p' "$0" | grep '^#'; exit 2 ;;
esac

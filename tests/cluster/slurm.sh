#!/bin/sh
# slurm.sh start DIR | stop DIR: a real SLURM on this machine, for tests: one controller, two virtual nodes of two cores.
#
# Needs root. What Debian's packages lack is installed; all else, sockets and states included, lies in DIR, so that a
# SLURM that the machine has is not touched. Clients find it by SLURM_CONF=DIR/slurm.conf. No accounting, no binding of
# tasks to cores, as on the barest of clusters. DIR may hold no space: slurm.conf has no quotes.
set -eu
verb=$1 dir=$2

stop() {
    for pid in "$dir"/*.pid; do
        [ -s "$pid" ] || continue
        number=$(cat "$pid")
        kill "$number" 2>/dev/null || continue
        while kill -0 "$number" 2>/dev/null; do sleep 0.1; done
    done
}

install_packages() {
    if command -v slurmctld && command -v slurmd && command -v munged; then return; fi
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends slurm-wlm munge
}

configure() {
    # A requeued job waits for the longest life of its credential, 120 seconds by default: cred_expire cuts that.
    cat <<END
ClusterName=scaling
SlurmctldHost=$(hostname -s)(127.0.0.1)
SlurmctldPort=$port
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$dir/munge.socket,cred_expire=5
CredType=cred/munge
StateSaveLocation=$dir/state
SlurmdSpoolDir=$dir/spool-%n
SlurmctldPidFile=$dir/slurmctld.pid
SlurmdPidFile=$dir/slurmd-%n.pid
SlurmctldLogFile=$dir/slurmctld.log
SlurmdLogFile=$dir/slurmd-%n.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
SwitchType=switch/none
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
ReturnToService=2
SchedulerParameters=batch_sched_delay=0,sched_interval=1
NodeName=scaling1 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((port + 1)) CPUs=2 State=UNKNOWN
NodeName=scaling2 NodeHostname=$(hostname -s) NodeAddr=127.0.0.1 Port=$((port + 2)) CPUs=2 State=UNKNOWN
PartitionName=tests Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
}

start() {
    install_packages >"$dir/install.log" 2>&1
    mkdir -p "$dir/state" "$dir/spool-scaling1" "$dir/spool-scaling2"
    port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
    configure >"$dir/slurm.conf"
    head -c 1024 /dev/urandom >"$dir/munge.key"
    chmod 400 "$dir/munge.key"
    # --force: this folder is of our own making, and munged would have it look like /run/munge
    munged --force --socket="$dir/munge.socket" --key-file="$dir/munge.key" --pid-file="$dir/munged.pid" \
        --log-file="$dir/munged.log" --seed-file="$dir/munged.seed" 2>>"$dir/munged.log"
    export SLURM_CONF="$dir/slurm.conf"
    slurmctld -i
    slurmd -N scaling1
    slurmd -N scaling2
    for _ in $(seq 100); do
        [ "$(sinfo --noheader --states=idle --format=%D)" != 2 ] || return 0
        sleep 0.1
    done
    echo "slurm.sh: the nodes are not up after 10 s; see the logs in $dir" >&2
    stop
    exit 1
}

mkdir -p "$dir"
"$verb"

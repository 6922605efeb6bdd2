#!/bin/sh
# tpu_host.sh: what `scaling run --on tpu-vm` has each host of a slice do, in the home folder of who logs in.
#
#   tpu_host.sh setup COMMIT [LINE...]   unpack scaling.tgz, run the lines in it, make its environment; once for each COMMIT
#   tpu_host.sh run WORD...              start the command, or find it running; say what it says; end with its status
#   tpu_host.sh stop                     have the command save and end
#
# The command outlives the connection that started it: who comes back finds it. Every line said begins with the number
# of the host.

number=$(hostname)
number=${number##*-w-}
case $number in '' | *[!0-9]*) number=0 ;; esac
mkdir -p "$HOME/scaling" && cd "$HOME/scaling" || exit

say() {
    sed -u "s/^/w$number /"
}

alive() { # a process number means something until the host starts anew
    [ -f job.pid ] && [ "$(cat job.boot)" = "$(cat /proc/sys/kernel/random/boot_id)" ] && kill -0 "$(cat job.pid)" 2>/dev/null
}

setup() {
    want=$(printf '%s\n' "$@" | cksum)
    ! alive && ! { [ -f ready ] && [ "$(cat ready)" = "$want" ]; } || return 0
    shift
    rm -rf ready code && tar --extract --gzip --file ../scaling.tgz || return
    for line; do
        (cd code && sh -c "$line") || { echo "--setup failed: $line" && return 1; }
    done
    code/bootstrap.sh tpu && echo "$want" >ready
}

start() {
    rm -f job.status
    : >job.log
    cat /proc/sys/kernel/random/boot_id >job.boot
    cd code || exit
    # The shell waits for the command whatever it is sent, and leaves its status.
    # shellcheck disable=SC2016
    setsid sh -c 'trap : HUP INT TERM; "$@"; echo $? >../job.status' sh "$@" >../job.log 2>&1 </dev/null &
    echo $! >../job.pid
    cd ..
}

task=$1
shift
case $task in
setup)
    if ! setup "$@" >setup.log 2>&1; then
        tail -n 15 setup.log | say
        echo "setting up failed" | say
        exit 1
    fi
    ;;
run)
    alive || start "$@"
    pid=$(cat job.pid)
    tail --pid="$pid" --lines=+1 --follow job.log | say
    status=$(cat job.status 2>/dev/null || echo 137)
    echo "ended with status $status" | say
    exit "$status"
    ;;
stop)
    alive || exit 0
    pid=$(cat job.pid)
    pkill -TERM -P "$pid"
    for _ in $(seq 60); do
        alive || exit 0
        sleep 1
    done
    kill -KILL -- "-$pid"
    ;;
esac

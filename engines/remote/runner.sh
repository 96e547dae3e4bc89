# Runs one job on the device, detached: waits for the lock, then for the inputs, runs the command,
# and watches over it whether the link is up or not.
#
# sh runner.sh JOB LOCK WHAT ORPHAN QUIET LIMIT GRACE LOG TICK BYTES DAYS WORD...
# In the folder JOB: run.sh (this), runner, client (links), beat, ready, go, stop, log, status
# (a link), work/ (where the command runs). All waiting is in seconds.

trap '' HUP
trap 'why=stopped; leave' TERM INT
job=$1 lock=$2 what=$3 orphan=$4 quiet=$5 limit=$6 grace=$7 most=$8 pace=$9
shift 9
bytes=$1 days=$2
shift 2
pid= by= ticks=0

# What lies too long, and what is too much, oldest first; never what a job has linked to.
sweep() {
    cd "${job%/jobs/*}/objects" 2>/dev/null || return
    find . -type f -links 1 -mtime "+$days" -exec rm -f {} \; 2>/dev/null
    # Of a copy that broke off; one under way is written to all the time, and may be another's.
    find . -name '*.part' -mtime +0 -exec rm -f {} \; 2>/dev/null
    total=0
    ls -lnt | while read -r mode links _ _ size rest; do
        name=${rest##* }
        case $mode in -*) ;; *) continue ;; esac
        case $size$name in *.part | [!0-9]*) continue ;; esac
        total=$((total + size))
        [ "$total" -gt "$bytes" ] && [ "$links" -eq 1 ] && rm -f "./$name"
    done
}

# Ends all there is of this job. A folder of the same name may be another job's by now: ours, in
# which we are, holds our link.
leave() {
    trap '' TERM INT
    slay "$job" "$grace" "$pid"
    release
    if [ "$(readlink runner)" = "$me" ]; then
        cd "${job%/*}" && rm -rf "$job"
    fi
    sweep
    exit 0
}

# One breath; fails when the job is over, and says $why. The command may have ended meanwhile.
watch() {
    sleep "$pace" 2>/dev/null || sleep 1
    tell_time
    ticks=$((ticks + 1))
    if [ -e beat ]; then
        rm -f beat
        last=$now
    fi
    [ -L runner ] && [ ! -e stop ] || { why=stopped; return 1; }
    if [ $((now - last)) -gt "$quiet" ]; then rm -f client; fi
    [ $((now - last)) -le "$orphan" ] || { why=orphaned; return 1; }
}

cd "$job" || exit 1
tell_time
last=$now
started $$
me="$$ $start $boot $now $(id -un 2>/dev/null || id -u)"
ln -s "$me" runner || exit 1

while ! take; do watch || leave; done
ln -s . ready
while [ ! -e go ]; do watch || leave; done

tell_time
begun=$now why=exit
own=
command -v setsid >/dev/null 2>&1 && own=setsid
(
    trap - INT TERM
    GRAPHOPT_JOB=$job
    export GRAPHOPT_JOB
    cd work && exec $own "$@"
) </dev/null >log 2>&1 &
child=$!
[ -n "$own" ] && pid=$child
while kill -0 "$child" 2>/dev/null; do
    watch || leave
    if [ $((now - begun)) -ge "$limit" ]; then
        why=limit
        break
    fi
    if [ $((ticks % 5)) = 0 ]; then
        set -- $(ls -ln log)
        if [ "$5" -gt "$most" ]; then
            why=log
            break
        fi
    fi
done
# Whatever the command left behind, and itself where its time is up.
group=$pid
[ "$why" = exit ] && group=
slay "$job" "$grace" "$group"
wait "$child"
code=$?
pid=
tell_time
ln -s "$code $why $((now - begun))" status || leave
release
while watch; do :; done
leave

# What job.sh and runner.sh both need. POSIX sh; read by dash, bash and busybox ash.
# Facts are kept as the text of symbolic links: made at once or not at all, never half written,
# possible on a full disk, and read without following what another user may have put in /tmp.

umask 077
LC_ALL=C
export LC_ALL
unset CDPATH

boot=$(cat /proc/sys/kernel/random/boot_id 2>/dev/null) || boot=
boot=${boot:-unknown}/$(readlink /proc/self/ns/pid 2>/dev/null)
lock=

# Sets $now to seconds of a clock that is not set back or forth, as a Jetson's is once it has net.
tell_time() {
    now=
    { read -r now _ </proc/uptime; } 2>/dev/null
    now=${now%%.*}
    [ -n "$now" ] || now=$(date +%s)
}

# Sets $start to when process $1 was started; fails where it is not to be seen, or a zombie.
started() {
    start= line=
    { read -r line <"/proc/$1/stat"; } 2>/dev/null
    line=${line##*) }
    set -f
    set -- $line
    set +f
    [ $# -ge 20 ] || return 1
    case $1 in Z | X) return 1 ;; esac
    start=${20}
}

# Whether the process "PID START BOOT ..." still is. A process id alone may have been used again.
alive() {
    case $1 in '' | *[!0-9]*) return 1 ;; esac
    [ "${3%%/*}" = "${boot%%/*}" ] || return 1 # the machine was started anew since
    [ "$3" = "$boot" ] || return 0             # in another container: not ours to judge
    if started "$1"; then
        [ "$start" = "$2" ]
        return
    fi
    [ -d "/proc/$1" ] && [ -r "/proc/$1/stat" ] && return 1
    said=$(kill -0 "$1" 2>&1) && return 0
    case $said in *ermitted*) return 0 ;; esac
    return 1
}

# The device's lock, for all its users: a file in /tmp that flock(1) holds as long as the runner or
# its command has it open. Where there is no flock, a link whose text says who holds it. Either way
# "$lock.by*" tells the holder.
take() {
    if command -v flock >/dev/null 2>&1; then take_file; else take_link; fi
}

take_file() {
    if [ ! -e "$lock" ] && [ ! -L "$lock" ]; then
        (
            umask 022
            set -C
            echo "Held by graphopt while it measures; may be removed when it does not." >"$lock"
        ) 2>/dev/null
    fi
    { [ -f "$lock" ] && [ ! -L "$lock" ] && [ -r "$lock" ]; } || return 1
    command exec 9<"$lock" || return 1
    # Read it: what cleans /tmp goes by the times of last use. Then look whether it was cleaned
    # away between opening and locking, in which case the next one has another file.
    if cat <&9 >/dev/null && flock -n 9 && { [ ! -e "/proc/$$/fd/9" ] || [ "$lock" -ef "/proc/$$/fd/9" ]; }
    then
        by=$lock.by.$(id -u)
        rm -f "$by" 2>/dev/null
        ln -s "$me $what" "$by" 2>/dev/null
        return 0
    fi
    exec 9<&-
    return 1
}

# Whose holder is gone, a link is removed, by one at a time: nobody but the holder and the one who
# has the guard ever removes it, so what was judged is what goes. Who makes the next one holds it.
take_link() {
    by=$lock.by
    [ -d "$by" ] || ln -s "$me $what" "$by" 2>/dev/null
    held=$(readlink "$by" 2>/dev/null) || return 1
    [ "$held" = "$me $what" ] && return 0
    if ! holds "$held" && mkdir "$lock.guard" 2>/dev/null; then
        [ "$(readlink "$by")" = "$held" ] && rm -f "$by"
        rmdir "$lock.guard"
    fi
    return 1
}

release() {
    [ -n "$by" ] || return 0
    [ "$(readlink "$by" 2>/dev/null)" = "$me $what" ] && rm -f "$by"
    command exec 9<&-
    by=
}

# Whether the process that the text $1 of a link tells of still is.
holds() {
    set -f
    set -- $1
    set +f
    alive "$1" "$2" "$3"
}

# Prints "PID SECONDS USER WHAT" of who holds the lock, or what is in the way; else nothing.
holder() {
    tell_time
    for by in "$lock.by" "$lock.by."*; do
        held=$(readlink "$by" 2>/dev/null) || continue
        holds "$held" || continue
        set -f
        set -- $held
        set +f
        # Arithmetic on a text that another user wrote: digits and nothing else.
        case $4 in '' | *[!0-9]* | ???????????*) since=0 ;; *) since=$((now - $4)) ;; esac
        pid=$1 user=$5
        shift 5 2>/dev/null || shift $#
        printf 'held %s %s %s %s\n' "$pid" "$since" "${user:-?}" "$*"
        return
    done
    if [ -L "$lock" ] || { [ -e "$lock" ] && { [ ! -f "$lock" ] || [ ! -r "$lock" ]; }; }; then
        printf 'blocked %s\n' "$lock"
    elif [ -d "$lock.guard" ]; then
        printf 'blocked %s\n' "$lock.guard"
    elif [ -L "$lock.by" ] && ! command -v flock >/dev/null 2>&1; then
        printf 'blocked %s\n' "$lock.by"
    fi
}

# The processes of the job in folder $1, wherever they went: each has its mark in its environment.
marked() {
    grep -lzF "GRAPHOPT_JOB=$1" /proc/[0-9]*/environ 2>/dev/null
}

# Ends what runs in the job folder $1: asks it to, and after $2 seconds no longer asks. $3: its
# process group, where it may still be there.
slay() {
    for how in TERM KILL; do
        [ -n "$3" ] && kill -"$how" -"$3" 2>/dev/null
        for entry in $(marked "$1"); do
            entry=${entry#/proc/}
            kill -"$how" "${entry%/environ}" 2>/dev/null
        done
        tell_time
        given_up=$((now + $2))
        while tell_time; [ "$now" -le "$given_up" ]; do
            if [ -r /proc/self/environ ]; then
                [ -n "$(marked "$1")" ] || return 0
            else
                { [ -n "$3" ] && kill -0 -"$3" 2>/dev/null; } || return 0
            fi
            sleep 0.1 2>/dev/null || sleep 1
        done
    done
}

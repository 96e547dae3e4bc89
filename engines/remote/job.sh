# One step of a job, asked for by the other side of the link: sh -c job.sh sh VERB ROOT ...
# ROOT: this user's folder here; objects/ by content, jobs/, timing/.

verb=$1 root=$2
shift 2

fail() {
    echo "$*" >&2
    exit 1
}

# Prints the folder's path, made and safe: nobody else may put anything into it, or read it.
open_root() {
    [ -n "$root" ] || root=${XDG_CACHE_HOME:-${HOME:?no HOME}/.cache}/graphopt
    case $root in
    *'
'*) fail "a folder's name holds a line's end: $root" ;;
    /*) ;;
    *) fail "not an absolute path: $root" ;;
    esac
    [ -L "$root" ] && fail "$root is a symbolic link: remove it"
    mkdir -p "$root" || exit
    set -- $(ls -ldn "$root")
    [ "$3" = "$(id -u)" ] || fail "$root belongs to somebody else (user $3): remove it"
    case $1 in drwx------*) ;; *) chmod 700 "$root" || exit ;; esac
    cd "$root" || exit
    for part in objects jobs timing; do
        [ -L "$part" ] && fail "$root/$part is a symbolic link: remove it"
        mkdir -p "$part" || exit
    done
    pwd
    for job in jobs/*; do
        [ -L "$job/runner" ] || [ -n "$(find "$job" -prune -mtime +0 2>/dev/null)" ] || continue
        holds "$(readlink "$job/runner")" || clear_away "$root/$job"
    done
    return 0
}

digest() {
    if command -v sha256sum >/dev/null 2>&1; then sha256sum
    elif command -v shasum >/dev/null 2>&1; then shasum -a 256
    else openssl dgst -sha256
    fi
}

# Whether object $1 is there; one whose bytes are not its name's is removed.
have() {
    object=$root/objects/$1
    [ -f "$object" ] || { echo none; return; }
    case $(digest <"$object") in
    *"$1"*) touch "$object" && echo have ;;
    *) rm -f "$object" && echo wrong ;;
    esac
}

# Removes a job that nobody watches over any more.
clear_away() {
    slay "$1" 2 ""
    rm -rf "$1"
}

# attach ID TOKEN FORCE LOCK ... WORD...: makes the job unless it is there, and follows it. The
# runner's text is stdin. Prints "mine new", "mine" (somebody left it), "other" (follows it) or
# "starting" (is about to make it).
attach() {
    job=$root/jobs/$1 token=$2 force=$3 made=
    shift 3
    if [ -d "$job" ] && { [ -L "$job/runner" ] || [ "$force" = 1 ]; }; then
        holds "$(readlink "$job/runner")" || clear_away "$job"
    fi
    if mkdir "$job" 2>/dev/null; then
        ln -s "$token" "$job/client" && mkdir "$job/work" && cat >"$job/run.sh" || {
            rm -rf "$job"
            exit 1
        }
        cd "$job" || exit
        set -- sh ./run.sh "$job" "$@"
        if command -v setsid >/dev/null 2>&1; then
            setsid "$@" </dev/null >/dev/null 2>&1 &
        else
            nohup "$@" </dev/null >/dev/null 2>&1 &
        fi
        tries=0
        while [ ! -L runner ] && [ "$tries" -lt 50 ]; do
            tries=$((tries + 1))
            sleep 0.1 2>/dev/null || sleep 1
        done
    elif [ ! -d "$job" ]; then
        mkdir "$job" || exit # says why; or it went just now
        rmdir "$job"
    fi
    [ -L "$job/runner" ] || { echo starting; return; }
    [ "$(readlink "$job/client" 2>/dev/null)" = "$token" ] && made=new
    if follow; then echo "mine $made"; else echo other; fi
}

# Whether we are the one who follows the job, from now on if nobody was.
follow() {
    [ -L "$job/client" ] || ln -s "$token" "$job/client" 2>/dev/null
    [ "$(readlink "$job/client" 2>/dev/null)" = "$token" ] || return 1
    ln -s . "$job/beat" 2>/dev/null
    return 0
}

# poll ID TOKEN LOCK OFFSET: prints the state in one line, then the log from byte OFFSET on, whole
# lines but for the last one of a job that is done or one that is too long.
poll() {
    job=$root/jobs/$1 token=$2 lock=$3 from=$4
    [ -d "$job" ] || { echo none; return; }
    follow || { echo other; return; }
    state=$(readlink "$job/status")
    if [ -n "$state" ]; then state="done $state"
    elif ! holds "$(readlink "$job/runner")"; then echo lost; return
    elif [ -e "$job/go" ]; then state=running
    elif [ -e "$job/ready" ]; then echo inputs; return
    else
        echo "waiting $(holder | head -n 1)"
        return
    fi
    size=$(wc -c <"$job/log") 2>/dev/null || size=0
    more=$((size - from))
    [ "$more" -gt 1048576 ] && more=1048576
    [ "$more" -gt 0 ] || { echo "$state"; echo 0; return; }
    if [ "$more" -eq 1048576 ] || [ "${state#done}" = "$state" ]; then
        if [ -n "$(piece | tail -c 1)" ]; then
            rest=$(piece | tail -n 1 | wc -c)
            [ "$rest" -eq 1048576 ] || more=$((more - rest))
        fi
    fi
    echo "$state"
    echo "$more"
    piece
}

piece() {
    tail -c "+$((from + 1))" "$job/log" | head -c "$more"
}

# go ID N NAME DIGEST ... CACHE OWN-NAME ...: lays N inputs and then the caches into the folder,
# and lets the command run. Prints missing DIGEST where an object is not there.
go() {
    work=$root/jobs/$1/work left=$2
    shift 2
    [ -e "${work%/work}/go" ] && return
    cd "$work" || exit
    while [ $# -gt 0 ]; do
        case $1 in */*) mkdir -p "./${1%/*}" || exit ;; esac
        if [ "$left" -gt 0 ]; then
            left=$((left - 1))
            object=$root/objects/$2
            [ -f "$object" ] || { echo "missing $2"; return; }
            touch "$object"
            # A link: not copied, and counted as in use while the job is there.
            ln -f "$object" "./$1" 2>/dev/null || cp "$object" "./$1" || exit
        elif [ -f "$root/timing/$2" ]; then
            cp "$root/timing/$2" "./$1" || exit
        fi
        shift 2
    done
    ln -s . ../go
}

# sizes ID NAME...: prints the bytes of each output, or - where there is no such file.
sizes() {
    cd "$root/jobs/$1/work" || exit
    shift
    for name; do
        if [ -f "./$name" ]; then wc -c <"./$name"; else echo -; fi
    done
}

# keep ID TOKEN CACHE OWN-NAME ...: takes the caches of a job that went well.
keep() {
    cd "$root/jobs/$1/work" || exit
    token=$2
    shift 2
    while [ $# -gt 1 ]; do
        if [ -s "./$1" ]; then
            cp "./$1" "$root/timing/.$token" && mv -f "$root/timing/.$token" "$root/timing/$2"
            rm -f "$root/timing/.$token"
        fi
        shift 2
    done
    return 0
}

# stop ID TOKEN GRACE: ends the job and waits until nothing is left of it. Not one that another
# client follows.
stop() {
    job=$root/jobs/$1 token=$2
    [ -d "$job" ] || return 0
    [ "$(readlink "$job/client" 2>/dev/null)" = "$token" ] || [ ! -L "$job/client" ] || return 0
    ln -s . "$job/stop" 2>/dev/null
    tell_time
    until=$((now + $3 + $3 + 3))
    while [ -d "$job" ]; do
        sleep 0.1 2>/dev/null || sleep 1
        tell_time
        if [ "$now" -gt "$until" ] || ! holds "$(readlink "$job/runner")"; then
            runner=$(readlink "$job/runner")
            holds "$runner" && kill -KILL "${runner%% *}"
            clear_away "$job"
        fi
    done
}

case $verb in
open) open_root ;;
have | attach | poll | go | sizes | keep | stop) "$verb" "$@" ;;
room) df -Pk "$root" | tail -n 1 ;;
*) fail "no such step: $verb" ;;
esac

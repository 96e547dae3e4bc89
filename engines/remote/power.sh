# Reads power beside a command, in a job's folder: sh power.sh INTERVAL-MS IDLE-S WORD...
# Writes power.txt: "UPTIME LINE" of the meter, and "UPTIME =MARK" for what happens. What the command
# prints is passed on; its exit status is ours. Ends with 90 where no meter is found.

LC_ALL=C
PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin
export LC_ALL PATH
every=$1 idle=$2
shift 2
meter=

has() { command -v "$1" >/dev/null 2>&1; }

if has timeout; then
    limit() { timeout "$@"; }
else
    limit() { shift; "$@"; }
fi

mark() {
    up=
    read -r up _ </proc/uptime
    printf '%s =%s\n' "$up" "$1" >>power.txt
}

stamped() {
    while IFS= read -r line; do
        up=
        read -r up _ </proc/uptime
        printf '%s %s\n' "$up" "$line"
    done >>power.txt
}

# Whatever happens, the meter goes: by us, or by the runner, which ends all that has the job's mark.
leave() {
    if [ -n "$meter" ]; then kill "$meter" 2>/dev/null; fi
    meter=
    rm -f readings
}
trap 'leave' EXIT
trap 'exit 143' TERM
trap 'exit 130' INT

: >power.txt
mkfifo readings || exit
if has tegrastats; then
    mark 'meter tegrastats'
    set -- tegrastats --interval "$every" -- "$@"
else
    field=
    for field in power.draw.instant power.draw ''; do
        [ -n "$field" ] || break
        now=$(limit 15 nvidia-smi "--query-gpu=$field" --format=csv,noheader,nounits -i 0 2>/dev/null)
        if [ $? -eq 0 ]; then
            case $now in [0-9]*) break ;; esac
        fi
    done
    if [ -z "$field" ]; then
        echo 'graphopt: neither tegrastats nor nvidia-smi tells power here'
        exit 90
    fi
    mark "meter nvidia-smi $field"
    set -- nvidia-smi "--query-gpu=$field" --format=csv,noheader,nounits -i 0 -lms "$every" -- "$@"
fi

stamped <readings &
case $1 in
tegrastats)
    tegrastats --interval "$every" >readings 2>/dev/null </dev/null &
    shift 4
    ;;
*)
    nvidia-smi "$2" "$3" "$4" "$5" "$6" "$7" >readings 2>/dev/null </dev/null &
    shift 8
    ;;
esac
meter=$!

mark idle
sleep "$idle"
mark load
{
    "$@" 2>&1
    echo $? >status
} | while IFS= read -r line; do
    case $line in
    *'Starting inference'*) mark begin ;;
    *'Timing trace has'*) mark end ;;
    esac
    printf '%s\n' "$line"
done
mark over
leave
code=
{ read -r code <status; } 2>/dev/null
exit "${code:-1}"

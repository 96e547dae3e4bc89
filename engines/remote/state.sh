# Tells the state a machine is in now, changing nothing: $1 a word that marks our lines, $2 the
# fields to ask nvidia-smi for. After tell.sh.

printf '\n%s begin\n' "$1"
exec 2>/dev/null </dev/null

text kernel "$(uname -r)"
text system "$(uname -s) $(uname -m)"
text cores "$(getconf _NPROCESSORS_ONLN)"
file load /proc/loadavg
grep -m 1 -i '^model name' /proc/cpuinfo | say cpu
cat /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor | sort -u | say governor

# Name, millidegrees, and the millidegrees from which it is slowed down.
for zone in /sys/class/thermal/thermal_zone*; do
    if [ -r "$zone/temp" ]; then
        printf '%s %s' "$(tr ' ' _ <"$zone/type")" "$(cat "$zone/temp")"
        for trip in "$zone"/trip_point_*_type; do
            case $(cat "$trip") in
            passive | hot) printf ' %s' "$(cat "${trip%_type}_temp")" ;;
            esac
        done
        printf '\n'
    fi
done | say zones 8192

for gpu in /sys/class/devfreq/*; do
    case $gpu in
    *.gpu | *.gm20b | *.gp10b | *.gv11b | *.ga10b | */gpu[-.]*)
        printf '%s %s %s\n' "$(cat "$gpu/min_freq")" "$(cat "$gpu/max_freq")" \
            "$(cat "$gpu/cur_freq")"
        break
        ;;
    esac
done | say gpu-clocks

jetson

# A driver refuses a whole query for one field that it does not know.
if has nvidia-smi; then
    fields=$2 tries=0
    while [ -n "$fields" ] && [ "$tries" -lt 16 ]; do
        tries=$((tries + 1))
        row=$(limit 10 nvidia-smi "--query-gpu=$fields" --format=csv,noheader,nounits -i 0 2>&1)
        if [ $? -eq 0 ]; then
            text gpu-fields "$fields"
            text gpu-row "$row"
            limit 10 nvidia-smi -q -d TEMPERATURE -i 0 | say gpu-heat
            break
        fi
        bad=$(printf '%s' "$row" |
            sed -n 's/.*Field "\([A-Za-z0-9_.]*\)" is not a valid field.*/\1/p' | head -n 1)
        [ -n "$bad" ] || break
        fields=$(printf '%s' ",$fields," | sed "s/,$bad,/,/; s/^,//; s/,\$//")
    done
fi

printf '%s end\n' "$1"

# What probe.sh and state.sh share: each thing told is a line "@key hex"; the hex is od's, because
# every POSIX system has od, and because nothing that a tool prints can then look like our lines.
LC_ALL=C
PATH=$PATH:/usr/local/bin:/usr/bin:/bin:/usr/local/sbin:/usr/sbin:/sbin:/usr/local/cuda/bin
export LC_ALL PATH

has() { command -v "$1" >/dev/null 2>&1; }

# limit SECONDS COMMAND...: a tool that hangs (nvidia-smi on a broken driver does) is given up.
if has timeout; then
    limit() { timeout "$@"; }
else
    limit() { shift; "$@"; }
fi

# say KEY [BYTES]: what comes on standard input, cut to that length.
say() { printf '@%s ' "$1"; head -c "${2:-4096}" | od -A n -v -t x1 | tr -d ' \n'; printf '\n'; }

text() { if [ -n "$2" ]; then printf '%s' "$2" | say "$1"; fi; }

file() { if [ -r "$2" ]; then say "$1" "${3:-4096}" <"$2"; fi; }

# jetson: what makes one; the device tree's texts end with a zero byte.
jetson() {
    if [ -r /proc/device-tree/model ]; then tr '\0' '\n' </proc/device-tree/model | say board; fi
    if [ -r /proc/device-tree/compatible ]; then
        tr '\0' '\n' </proc/device-tree/compatible | say compatible
    fi
    file l4t /etc/nv_tegra_release
    if has nvpmodel; then limit 10 nvpmodel -q 2>&1 | say power-mode; fi
    if has jetson_clocks; then limit 10 jetson_clocks --show 2>&1 | say clocks 8192; fi
}


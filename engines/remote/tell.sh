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


# Tells what a machine has, changing nothing: $1 the trtexec asked for (or empty), $2 the folder for
# files (or empty), $3 a word that marks our lines. After tell.sh.

nearest() {
    n=$1
    while [ ! -d "$n" ] && [ "$n" != / ] && [ -n "$n" ]; do n=$(dirname "$n"); done
    printf '%s' "$n"
}

printf '\n%s begin\n' "$3"
exec 2>/dev/null </dev/null

text system "$(uname -s)"
text machine "$(uname -m)"
text kernel "$(uname -r)"
file os-release /etc/os-release
text user "$(id -un)"
text groups "$(id -Gn)"
text cores "$(getconf _NPROCESSORS_ONLN)"
file load /proc/loadavg
file uptime /proc/uptime
file memory /proc/meminfo

jetson
for node in /dev/nvhost-gpu /dev/nvgpu/igpu0/channel /dev/nvidia0 /dev/nvidiactl; do
    if [ -e "$node" ]; then
        text gpu-node "$node"
        if [ -r "$node" ] && [ -w "$node" ]; then text gpu-node-open yes; fi
        break
    fi
done

if has nvidia-smi; then
    ask='--format=csv,noheader,nounits'
    gpus=$(limit 15 nvidia-smi --query-gpu=name,compute_cap,memory.total,driver_version "$ask") ||
        gpus=$(limit 15 nvidia-smi --query-gpu=name,memory.total,driver_version "$ask") ||
        gpus=
    text gpus "$gpus"
    if [ -n "$gpus" ]; then
        limit 15 nvidia-smi --query-compute-apps=pid,process_name,used_memory "$ask" | say jobs
    else
        limit 15 nvidia-smi 2>&1 | say nvidia-smi-says
    fi
fi

for cuda in /usr/local/cuda/version.json /usr/local/cuda/version.txt; do
    if [ -r "$cuda" ]; then
        file cuda "$cuda"
        break
    fi
done
if has nvcc; then limit 10 nvcc --version | say nvcc; fi

# Where trtexec is put: on PATH, by Debian packages and JetPack, by archives, in containers.
trtexec=
if [ -n "$1" ]; then
    case $1 in
    '~/'*) found=$HOME/${1#'~/'} ;;
    */*) found=$1 ;;
    *) found=$(command -v "$1") ;;
    esac
    if [ -f "$found" ] && [ -x "$found" ]; then trtexec=$found; fi
else
    for found in "$(command -v trtexec)" /usr/src/tensorrt/bin/trtexec /opt/tensorrt/bin/trtexec \
        /usr/local/tensorrt/bin/trtexec /workspace/tensorrt/bin/trtexec \
        /usr/local/TensorRT*/bin/trtexec /opt/TensorRT*/bin/trtexec \
        "$HOME"/TensorRT*/bin/trtexec; do
        if [ -f "$found" ] && [ -x "$found" ]; then
            trtexec=$found
            break
        fi
    done
fi
case $trtexec in
'' | /*) ;;
*) trtexec=$(pwd)/$trtexec ;;
esac
if [ -n "$trtexec" ]; then
    text trtexec "$trtexec"
    help=$(limit 30 "$trtexec" --help 2>&1 | head -c 262144)
    printf '%s' "$help" | say help 262144
fi

if has dpkg-query; then
    # shellcheck disable=SC2016 # dpkg-query's own fields
    dpkg-query -W -f '${db:Status-Abbrev} ${Package} ${Version}\n' 'libnvinfer*' 'tensorrt*' \
        'nvidia-tensorrt*' 'nvidia-jetpack' | say packages 16384
elif has rpm; then
    rpm -qa --qf 'ii %{NAME} %{VERSION}\n' 'libnvinfer*' 'tensorrt*' | say packages 16384
fi
if has ldconfig; then
    for library in $(ldconfig -p | sed -n 's/^[[:space:]]*libnvinfer\.so[.0-9]* .*=> //p'); do
        if has readlink; then readlink -f "$library"; else printf '%s\n' "$library"; fi
    done | say libraries
fi
for header in "/usr/include/$(uname -m)-linux-gnu/NvInferVersion.h" /usr/include/NvInferVersion.h \
    "${trtexec%/bin/trtexec}/include/NvInferVersion.h"; do
    if [ -r "$header" ]; then
        grep -E '^#define +(NV_TENSORRT|TRT)_(MAJOR|MINOR|PATCH)' "$header" | say header
        break
    fi
done

folder=$2
case $folder in
'') folder=${XDG_CACHE_HOME:-$HOME/.cache} ;;
'~/'*) folder=$HOME/${folder#'~/'} ;;
esac
folder=$(nearest "$folder")
if [ -n "$folder" ]; then
    text folder "$folder"
    df -P -k "$folder" | say folder-disk
    if [ -w "$folder" ]; then text folder-writable yes; fi
fi
df -P -k "${TMPDIR:-/tmp}" | say tmp-disk

for tool in sha256sum shasum openssl; do
    if has "$tool"; then
        text sha256 "$tool"
        break
    fi
done
if has python3; then limit 10 python3 --version 2>&1 | say python; fi
if has timeout; then text timeout yes; fi

printf '%s end\n' "$3"

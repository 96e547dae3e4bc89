#!/bin/sh
# Builds a TensorRT engine of the model beside this file, times it, and packs what came of it.
# Written by graphopt. Plain POSIX sh: no Python, no bash, no network; nothing is installed.
#
#   sh build.sh [--trtexec PATH] [--out DIR] [--no-profile] [--force] [--time-limit SECONDS]
#
# Ends with 0: built, 1: built but not timed, 2: used wrongly or files damaged, 3: TensorRT cannot
# build the model, 4: something is missing on this machine, 128 + n: stopped by signal n.
set -u
LC_ALL=C
export LC_ALL
unset CDPATH
umask 022

#@VALUES@

usage() {
	cat <<'END'
usage: sh build.sh [--trtexec PATH] [--out DIR] [--no-profile] [--force] [--time-limit SECONDS]

  --trtexec PATH   the trtexec to use; else $TRTEXEC, PATH, and where TensorRT puts it
  --out DIR        where the results go; else out, beside this file
  --no-profile     build only, time nothing
  --force          build again though the engine is there
  --time-limit S   stop a build that takes longer
END
}

say() { printf '%s\n' "$*"; }

warn() { printf 'build.sh: warning: %s\n' "$*" >&2; }

die() {
	code=$1
	shift
	printf 'build.sh: %s\n' "$*" >&2
	exit "$code"
}

# ---- what was asked for

case $0 in
/*) here=${0%/*} ;;
*/*) here=./${0%/*} ;;
*) here=. ;;
esac
here=$(cd "${here:-/}" && pwd) || die 4 "cannot enter the folder of this file"

out=$here/out
trtexec=${TRTEXEC:-}
profile=yes
force=no
while [ $# -gt 0 ]; do
	case $1 in
	--trtexec | --out | --time-limit)
		[ $# -gt 1 ] || die 2 "$1 wants a value"
		option=$1
		value=$2
		shift 2
		;;
	--trtexec=* | --out=* | --time-limit=*)
		option=${1%%=*}
		value=${1#*=}
		shift
		;;
	--no-profile) profile=no && shift && continue ;;
	--force) force=yes && shift && continue ;;
	-h | --help) usage && exit 0 ;;
	*)
		usage >&2
		die 2 "unknown option: $1"
		;;
	esac
	[ -n "$value" ] || die 2 "$option wants a value"
	case $option in
	--trtexec) trtexec=$value ;;
	--out) out=$value ;;
	--time-limit)
		case $value in
		*[!0-9]* | 0* | ????????*) die 2 "--time-limit wants whole seconds, not '$value'" ;;
		esac
		limit=$value
		;;
	esac
done
case $out in
-*) out=./$out ;;
esac
mkdir -p "$out" 2>/dev/null || die 4 "cannot make the folder $out: choose another --out"
out=$(cd "$out" && pwd) || die 4 "cannot enter $out"
if ! (: >"$out/.writable") 2>/dev/null; then
	die 4 "cannot write into $out: choose another --out"
fi
rm -f "$out/.writable"

# ---- leave nothing half-written, whatever ends this

child=
watch=
locked=no

finish() {
	if [ "$locked" = yes ]; then
		rm -f "$out"/*.partial "$out/.late" "$out/.lock/pid"
		rmdir "$out/.lock" 2>/dev/null
	fi
	:
}

stop() {
	trap '' INT TERM HUP
	if [ -n "$watch" ]; then kill -KILL "$watch" 2>/dev/null; fi
	if [ -n "$child" ]; then
		kill -TERM "$child" 2>/dev/null
		sleep 1
		kill -KILL "$child" 2>/dev/null
		wait "$child" 2>/dev/null
	fi
	printf 'build.sh: stopped; run it again to go on\n' >&2
	exit "$1"
}

trap finish EXIT
trap 'stop 129' HUP
trap 'stop 130' INT
trap 'stop 143' TERM

if ! mkdir "$out/.lock" 2>/dev/null; then
	owner=$(cat "$out/.lock/pid" 2>/dev/null)
	case $owner in
	'' | *[!0-9]*) ;;
	*)
		if kill -0 "$owner" 2>/dev/null; then
			die 4 "another build.sh (process $owner) works in $out: wait for it, or use --out"
		fi
		;;
	esac
	[ -d "$out/.lock" ] || die 4 "cannot lock $out"
	# What an earlier run left that was killed or lost its power.
fi
locked=yes
printf '%s\n' "$$" >"$out/.lock/pid" || die 4 "cannot write into $out: choose another --out"
rm -f "$out"/*.partial

# ---- the files, against the manifest

hasher=
for tool in sha256sum shasum openssl; do
	if command -v "$tool" >/dev/null 2>&1; then
		hasher=$tool
		break
	fi
done

sha256_of() {
	case $hasher in
	sha256sum) sha256sum <"$1" | cut -d ' ' -f 1 ;;
	shasum) shasum -a 256 <"$1" | cut -d ' ' -f 1 ;;
	openssl) openssl dgst -sha256 <"$1" | sed 's/^.*= *//' ;;
	*) cksum <"$1" | tr ' ' '-' ;; # only to know a file again
	esac
}

check_files() {
	while read -r sum file; do
		[ -f "$here/$file" ] || die 2 "$file is missing: unpack the bundle again"
		if [ -n "$hasher" ] && [ "$(sha256_of "$here/$file")" != "$sum" ]; then
			die 2 "$file is not what the bundle was made with: unpack it again, or copy it again"
		fi
	done <"$here/manifest.sha256"
}

[ -f "$here/manifest.sha256" ] || die 2 "manifest.sha256 is missing: unpack the bundle again"
check_files || exit $?
if [ -n "$hasher" ]; then
	say "files: as the manifest says ($hasher)"
else
	warn "there is no sha256sum, shasum or openssl here: the files are not checked"
fi
manifest=$(sha256_of "$here/manifest.json")

# ---- trtexec, and which TensorRT it is of

if [ -n "$trtexec" ]; then
	found=$(command -v "$trtexec" 2>/dev/null)
	[ -n "$found" ] || die 4 "there is no program $trtexec"
	trtexec=$found
else
	trtexec=$(command -v trtexec 2>/dev/null)
	for place in /usr/src/tensorrt/bin /opt/tensorrt/bin /usr/local/tensorrt/bin \
		/workspace/tensorrt/bin /usr/local/TensorRT*/bin /opt/TensorRT*/bin \
		"${HOME-}"/TensorRT*/bin; do
		if [ -z "$trtexec" ] && [ -x "$place/trtexec" ]; then trtexec=$place/trtexec; fi
	done
fi
[ -n "$trtexec" ] || die 4 "there is no trtexec here: it comes with TensorRT (on a Jetson the \
package libnvinfer-bin puts it into /usr/src/tensorrt/bin); name it with --trtexec PATH"
case $trtexec in
/*) ;;
*) trtexec=$PWD/$trtexec ;;
esac

# Runs trtexec: a log, a limit in seconds (0: none), its words; sets code.
run_trtexec() {
	log=$1
	seconds=$2
	shift 2
	rm -f "$out/.late"
	"$trtexec" "$@" >"$log" 2>&1 </dev/null &
	child=$!
	if [ "$seconds" -gt 0 ]; then
		(
			trap - EXIT
			while [ "$seconds" -gt 0 ]; do
				sleep 1
				kill -0 "$child" || exit 0
				seconds=$((seconds - 1))
			done
			: >"$out/.late"
			kill -TERM "$child"
			sleep 5
			kill -KILL "$child"
		) </dev/null >/dev/null 2>&1 &
		watch=$!
	fi
	wait "$child"
	code=$?
	child=
	if [ -n "$watch" ]; then
		# SIGKILL: a shell that was just forked may lose a signal that it could trap.
		kill -KILL "$watch" 2>/dev/null
		wait "$watch" 2>/dev/null
		watch=
	fi
}

# The first line that is not empty, in plain characters.
plain_line() { sed -n '/[^[:space:]]/{p;q;}' | tr -cd '\040-\176' | cut -c 1-300; }

why_failed() {
	if [ -f "$out/.late" ]; then
		printf 'it took longer than the time limit\n'
	elif grep -i 'no space left on device' "$1" >/dev/null 2>&1; then
		printf 'the disk is full\n'
	elif grep -F '[E]' "$1" >/dev/null 2>&1; then
		grep -F '[E]' "$1" | sed -e 's/^.*\[E\] *//' | plain_line
	elif [ "$code" -gt 128 ]; then
		printf 'signal %s ended it (9: the system, mostly for lack of memory)\n' "$((code - 128))"
	elif [ -s "$1" ]; then
		tail -n 1 "$1" | plain_line
	else
		printf 'it said nothing\n'
	fi
}

run_trtexec "$out/help.log" 120 --help
banner=$(sed -n 's/^&&&&[^[]*\[TensorRT v\([0-9]\{4,6\}\)\].*$/\1/p' "$out/help.log" | sed -n 1p)
case $banner in
'' | 0*) die 4 "$trtexec is not TensorRT's trtexec, or cannot start: \
$(plain_line <"$out/help.log")" ;;
esac
if [ "$banner" -lt 10000 ]; then unit=1000; else unit=10000; fi
major=$((banner / unit))
minor=$((banner % unit / 100))
patch=$((banner % 100))
version=$major.$minor.$patch
number=$((major * 10000 + minor * 100 + patch))
say "trtexec: $trtexec, of TensorRT $version"

#@LINES@

line=
refused=
notes=
choose_line "$number"
[ -z "$refused" ] || die 3 "TensorRT $version cannot build this model: $refused"
if [ "$number" -ge "$after_newest" ]; then
	warn "TensorRT $version is newer than this bundle knows: it is used like $line"
fi
if [ "$number" -lt "$device_oldest" ] || [ "$number" -gt "$device_newest" ]; then
	warn "this bundle is for $device, whose TensorRT is $device_tensorrt; this one is $version"
fi
if [ -n "$notes" ]; then say "note: $notes"; fi

dropped=
taken=

# Takes words, leaves out those that only tune and that this trtexec does not list, and goes on
# with the others to run_trtexec.
run_listed() {
	log_file=$1
	log_limit=$2
	shift 2
	taken=
	left=$#
	while [ "$left" -gt 0 ]; do
		word=$1
		shift
		left=$((left - 1))
		flag=${word%%=*}
		if ! grep -E "^ {0,6}$flag([^A-Za-z0-9_]|\$)" "$out/help.log" >/dev/null; then
			case " $optional " in
			*" $flag "*)
				say "note: this trtexec does not list $flag, which only tunes: left out"
				dropped="$dropped $flag"
				continue
				;;
			esac
			rm -f "$log_file"
			die 3 "this trtexec does not list $flag, without which the model cannot be built"
		fi
		taken="$taken $flag"
		set -- "$@" "$word"
	done
	run_trtexec "$log_file" "$log_limit" "$@"
}

# ---- what is known of this machine

text_of() { if [ -r "$1" ]; then tr '\000\n\t' '   ' <"$1" 2>/dev/null | cut -c 1-1000; fi; }

asked() {
	if command -v timeout >/dev/null 2>&1; then
		timeout 20 "$@" 2>/dev/null </dev/null
	else
		"$@" 2>/dev/null </dev/null
	fi
}

smi() {
	if command -v nvidia-smi >/dev/null 2>&1; then
		asked nvidia-smi --query-gpu="$1" --format=csv,noheader | sed -n 1p
	fi
}

# What trtexec says of the GPU it used: a Jetson has no nvidia-smi.
logged() { sed -n "s/^.*\[I\] $1: *//p" "$out/build.log" 2>/dev/null | plain_line; }

power_mode() { if command -v nvpmodel >/dev/null 2>&1; then asked nvpmodel -q; fi; }

json() { printf '%s' "$1" | tr '\n\t' '  ' | tr -cd '\040-\176' | sed 's/[\\"]/\\&/g'; }

fact() { printf ',\n  "%s": "%s"' "$1" "$(json "$2")"; }

write_results() {
	# Written in one piece: of several, a full disk may lose one and take the next.
	told=$(
		printf '{\n  "kind": "graphopt-results",\n  "schema": 1'
		fact status "$status"
		fact reason "$reason"
		fact exit "$code"
		fact timed "$timed"
		fact hashes "$hasher"
		fact tensorrt "$version"
		fact banner "$banner"
		fact line "$line"
		fact trtexec "$trtexec"
		fact flags "$build_flags"
		fact left_out "$dropped"
		fact machine "$(uname -m)"
		fact system "$(uname -sr)"
		fact model "$(text_of /proc/device-tree/model)"
		fact l4t "$(text_of /etc/nv_tegra_release)"
		fact gpu "$(logged 'Selected Device')"
		fact sm "$(logged 'Compute Capability')"
		fact driver "$(smi driver_version)"
		fact clocks "$(smi clocks.sm,clocks.mem,temperature.gpu,power.draw)"
		fact power_mode "$(power_mode)"
		printf '\n}'
	)
	printf '%s\n' "$told" 2>/dev/null >"$out/results.json.partial" &&
		mv "$out/results.json.partial" "$out/results.json"
}

# ---- packing

full="cannot write into $out: the disk is full, or it may not be written"

pack() {
	write_results || die 4 "$full"
	cp "$here/manifest.json" "$out/manifest.json.partial" &&
		mv "$out/manifest.json.partial" "$out/manifest.json" || die 4 "$full"
	set -- manifest.json results.json
	for file in build.log model.engine time.log times.json layer-times.json layers.json; do
		if [ -f "$out/$file" ]; then set -- "$@" "$file"; fi
	done
	rm -f "$out/results.sha256"
	if [ -n "$hasher" ]; then
		told=$(for file in "$@"; do printf '%s  %s\n' "$(sha256_of "$out/$file")" "$file"; done)
		printf '%s\n' "$told" 2>/dev/null >"$out/results.sha256.partial" || die 4 "$full"
		mv "$out/results.sha256.partial" "$out/results.sha256" || die 4 "$full"
		set -- results.sha256 "$@"
	fi
	packed=$out/$results
	if ! (cd "$out" && tar -czf "$packed.partial" "$@" && mv "$packed.partial" "$packed"); then
		die 4 "cannot pack the results: no tar or gzip here, or the disk is full; they lie in $out"
	fi
	say "results: $packed"
}

# ---- the engine

status=built
reason=
timed=no
code=0
state="$manifest $banner $line"
engine=$out/model.engine

if [ "$force" = no ] && [ -f "$engine" ] && [ -f "$out/build.state" ] &&
	[ "$(sed -n 1p "$out/build.state")" = "$state" ] &&
	[ "$(sed -n 2p "$out/build.state")" = "$(sha256_of "$engine")" ]; then
	build_flags=$(sed -n 3p "$out/build.state")
	dropped=$(sed -n 4p "$out/build.state")
	say "engine: built before, of the same files by the same TensorRT (--force builds it again)"
else
	rm -f "$engine" "$out/build.state" "$out/build.log" "$out/time.log" "$out/times.json" \
		"$out/layer-times.json" "$out/layers.json" "$out/results.json" "$out/results.sha256" \
		"$out/$results"
	free=$(df -Pk "$out" 2>/dev/null |
		sed -n '2s/^.*[[:space:]][0-9]\{1,\}[[:space:]]\{1,\}\([0-9]\{1,\}\)[[:space:]]\{1,\}[0-9]*%.*$/\1/p')
	case $free in
	'') warn "how much disk is free cannot be told; about $((need_kb / 1024)) MB are needed" ;;
	*)
		if [ "$free" -lt "$need_kb" ]; then
			die 4 "$((free / 1024)) MB are free in $out, and about $((need_kb / 1024)) MB are \
needed: free some, or use --out"
		fi
		say "disk: $((free / 1024)) MB free, about $((need_kb / 1024)) MB needed"
		;;
	esac
	if [ -n "$cache" ]; then
		# TensorRT reads a cache only under the number of its own version.
		{
			printf 'TRT-%s-EntropyCalibration2\n' "$banner" && sed 1d "$here/$cache"
		} >"$out/$cache.partial" && mv "$out/$cache.partial" "$out/$cache" || die 4 "$full"
	fi
	say "building: this takes minutes; tail -f $out/build.log shows how far it is"
	with_build_words run_listed "$out/build.log" "$limit"
	build_flags=$taken
	if [ "$code" -eq 0 ] && [ ! -s "$engine.partial" ]; then code=1; fi
	if [ "$code" -ne 0 ]; then
		status=failed
		reason=$(why_failed "$out/build.log")
		rm -f "$engine.partial"
		pack
		die 3 "the build failed: $reason (all of it in $out/build.log)"
	fi
	mv "$engine.partial" "$engine" || die 4 "$full"
	printf '%s\n%s\n%s\n%s\n' "$state" "$(sha256_of "$engine")" "$build_flags" "$dropped" \
		2>/dev/null >"$out/build.state.partial" || die 4 "$full"
	mv "$out/build.state.partial" "$out/build.state" || die 4 "$full"
	say "engine: $engine"
fi

# ---- its times

if [ "$profile" = yes ]; then
	rm -f "$out/time.log" "$out/times.json" "$out/layer-times.json" "$out/layers.json"
	say "timing"
	with_time_words run_listed "$out/time.log" "$limit"
	if [ "$code" -eq 0 ] && [ -s "$out/times.json.partial" ]; then
		timed=yes
	else
		if [ "$code" -eq 0 ]; then code=1; fi
		reason=$(why_failed "$out/time.log")
	fi
	for file in times.json layer-times.json layers.json; do
		if [ "$timed" = yes ] && [ -s "$out/$file.partial" ]; then
			mv "$out/$file.partial" "$out/$file" || die 4 "$full"
		fi
	done
	sed -n -e '/GPU Compute Time: /{s/^.*GPU Compute Time: /GPU compute time: /p;q;}' "$out/time.log"
elif [ -f "$out/times.json" ]; then
	timed=yes
fi

pack
if [ "$profile" = yes ] && [ "$timed" = no ]; then
	die 1 "the engine is built, but timing it failed: $reason (all of it in $out/time.log)"
fi
say "take it back, and there: graphopt import-results $results --bundle THE-BUNDLE.tar.gz"

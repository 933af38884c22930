#!/bin/sh
# Installs what the tests need beyond Go, git and make, where that is possible
# without asking: Debian packages as root, npm packages from lock files, and the
# base of the machines that tests/system boots. What cannot be installed is
# named; the tests that need it say so when they skip.
set -u
cd "$(dirname "$0")/.." || exit 1

have() { command -v "$1" >/dev/null 2>&1; }

missing=
want() { # want COMMAND PACKAGE... : the packages that bring the command
	if ! have "$1"; then
		shift
		missing="$missing $*"
	fi
}

# The race detector. A compiler without the C library's headers is none.
if ! printf '#include <stdlib.h>\n' | gcc -xc -fsyntax-only - 2>/dev/null; then
	missing="$missing gcc libc6-dev"
fi
want python3 python3 # the clients of tests/interop
want chromium chromium # pages that call the hub
want ip iproute2 # networks that are cut
want zsh zsh           # hubctl's completions, in the shells themselves
want fish fish
python3 -c 'import yaml' 2>/dev/null || missing="$missing python3-yaml" # a second reader of what hubctl writes
[ -e /usr/share/bash-completion/bash_completion ] || missing="$missing bash-completion"

if [ -n "$missing" ] && [ "$(id -u)" = 0 ] && have apt-get; then
	echo "prepare: installing$missing"
	export DEBIAN_FRONTEND=noninteractive
	# shellcheck disable=SC2086
	if { apt-get -qq update && apt-get -qq install -y --no-install-recommends $missing; } </dev/null >/dev/null 2>&1; then
		missing=
	else
		echo "prepare: apt-get could not install$missing"
	fi
fi
if [ -n "$missing" ]; then
	echo "prepare: some tests will be skipped; install:$missing"
fi

# Machines with a real systemd (tests/system). All of it is optional.
if [ "$(id -u)" = 0 ] && have apt-get; then
	export DEBIAN_FRONTEND=noninteractive
	boxes=
	have systemd-nspawn || boxes="$boxes systemd-container"
	have mmdebstrap || boxes="$boxes mmdebstrap"
	if [ -n "$boxes" ]; then
		echo "prepare: installing$boxes"
		# shellcheck disable=SC2086
		{ apt-get -qq update && apt-get -qq install -y --no-install-recommends $boxes; } </dev/null >/dev/null 2>&1 ||
			echo "prepare: apt-get could not install$boxes"
	fi
	timeout 400 bash tests/system/box --prepare </dev/null || echo "prepare: the tests with a real systemd will be skipped"
fi

# Prometheus from Debian, unpacked and not installed: a package would start a service.
cache=${HUBD_TEST_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/hubd-tests}
if ! { have prometheus && have promtool; } && [ ! -x "$cache/prometheus/usr/bin/promtool" ] && have apt-get && have dpkg-deb; then
	echo "prepare: unpacking prometheus"
	new=$cache/new.$$
	if mkdir -p "$new" && (
		cd "$new" || exit
		apt-get -qq download prometheus || { [ "$(id -u)" = 0 ] && apt-get -qq update && apt-get -qq download prometheus; } &&
			dpkg-deb -x prometheus_*.deb .
	) </dev/null >/dev/null 2>&1; then
		rm -rf "$new"/*.deb "$cache/prometheus"
		mv "$new" "$cache/prometheus"
	else
		echo "prepare: the tests with Prometheus will be skipped; install: prometheus"
	fi
	rm -rf "$new"
fi

# Node packages of the interop clients, exactly as their lock files say.
find . -name node_modules -prune -o -name package-lock.json -print | while read -r lock; do
	dir=$(dirname "$lock")
	stamp="$dir/node_modules/.package-lock.json"
	[ -e "$stamp" ] && [ ! "$lock" -nt "$stamp" ] && continue
	if ! have npm; then
		echo "prepare: $dir needs npm (Debian: apt-get install nodejs npm)"
		continue
	fi
	echo "prepare: npm ci in $dir"
	(cd "$dir" && npm ci --ignore-scripts --no-audit --no-fund --silent </dev/null) ||
		echo "prepare: npm ci failed in $dir"
done
exit 0

#!/bin/sh
# Installs what the tests need beyond Go, git and make, where that is possible
# without asking: Debian packages as root, npm packages from lock files. What
# cannot be installed is named; the tests that need it say so when they skip.
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

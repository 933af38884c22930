#!/bin/sh
# Before the files go, for apk. The state stays, and the user with it.

if command -v rc-service >/dev/null; then
	rc-service --quiet --ifstarted hubd stop
	rc-update --quiet delete hubd 2>/dev/null
fi
exit 0

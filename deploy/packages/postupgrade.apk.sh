#!/bin/sh
# After the new files are there, for apk: a hub that runs is restarted.

if command -v rc-service >/dev/null; then
	rc-service --quiet --ifstarted hubd restart
fi
exit 0

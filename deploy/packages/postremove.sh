#!/bin/sh
# After the files are gone. The state stays until dpkg is told to purge; the user
# hubd stays, since files elsewhere may be its own.
set -e

case $1 in
remove | purge | 0) ;;
*) exit 0 ;;
esac
if [ -d /run/systemd/system ]; then
	systemctl daemon-reload
	systemctl reset-failed hubd.service hubd.socket >/dev/null 2>&1 || true
fi
rm -rf /run/hubd # of tmpfiles.d
if [ "$1" = purge ]; then
	rm -rf /var/lib/hubd /etc/hubd
fi

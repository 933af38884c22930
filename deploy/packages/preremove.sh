#!/bin/sh
# Before the files go. dpkg: "remove" or "upgrade"; rpm: 0 for a removal.
set -e

case $1 in
remove | 0) ;;
*) exit 0 ;; # an upgrade: the hub runs on until the new one is there
esac
if [ -d /run/systemd/system ]; then
	systemctl stop hubd.socket hubd.service
fi
systemctl disable hubd.socket hubd.service >/dev/null 2>&1 || true

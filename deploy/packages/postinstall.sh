#!/bin/sh
# After the files are there. dpkg: "configure", and preinstall.deb.sh has left a
# mark unless it is an upgrade; rpm: 1 for the first time, 2 for an upgrade.
set -e

case $1 in
configure)
	first=
	if [ -z "$2" ] || [ -e /run/hubd.installing ]; then first=1; fi
	rm -f /run/hubd.installing
	;;
1) first=1 ;;
2) first= ;;
*) exit 0 ;;
esac

systemd-sysusers hubd.conf
systemd-tmpfiles --create hubd.conf || true

# Without a running systemd, as in an image that is being built, the links are
# made all the same; the socket listens from the next boot on.
if [ -n "$first" ]; then
	systemctl enable hubd.socket >/dev/null 2>&1 || true
fi
[ -d /run/systemd/system ] || exit 0
systemctl daemon-reload
if [ -n "$first" ]; then
	systemctl start hubd.socket
else
	# The socket stays as it is, so that no client is refused meanwhile.
	systemctl try-restart hubd.service
fi

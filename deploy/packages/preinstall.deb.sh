#!/bin/sh
# Before the files are there, for dpkg: "install" also comes after a removal, which
# postinstall.sh cannot tell from an upgrade.
set -e

case $1 in
install) : >/run/hubd.installing ;;
esac

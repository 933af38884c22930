#!/bin/sh
# Before the files are there, for apk: the user that the hub runs as. One that
# is there already is as good.

addgroup -S hubd 2>/dev/null
adduser -S -D -H -h /var/lib/hubd -s /sbin/nologin -G hubd -g "hubd RPC and state hub" hubd 2>/dev/null
exit 0

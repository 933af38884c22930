// Package deploy holds the files that put hubd under a service manager, for
// programs that install them.
package deploy

import "embed"

// Systemd has the units of the system (systemd/) and of a user (systemd/user/),
// the system user that the former run as (sysusers.d/)
// and the folder of its session sockets (tmpfiles.d/). ExecStart names
// /usr/bin/hubd: whoever installs them elsewhere changes that line.
//
//go:embed systemd sysusers.d tmpfiles.d
var Systemd embed.FS

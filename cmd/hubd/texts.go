package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/pflag"

	"github.com/hubd-dev/hubd/internal/address"
	"github.com/hubd-dev/hubd/internal/hub"
)

const usageHead = `hubd is a local hub: one method table that five RPC protocols reach.

Examples:
  hubd --demo                                    try it out on the default socket
  hubd --listen unix:///tmp/h/hub.sock --state /tmp/h/state
  hubd --listen unix:///run/hubd/hub.sock --listen 'tcp://127.0.0.1:7420?auth=none'
  hubd service install                           install and enable the systemd units

Usage:
  hubd [flags]
  hubd config check|print [--defaults] [flags]
  hubd reload [--state DIR]
  hubd state check|repair [--apply] [flags]
  hubd service install|uninstall|start|stop|restart|status

Flags:
`

const usageTail = `
--help-limits lists the flags for limits, such as --limits-calls.

Each flag is also a variable (--log-level is HUBD_LOG_LEVEL, lists are separated
by blanks) and a key of the YAML file (log: {level: ...}). Flags win over
variables, variables over files. "hubd config print --defaults" prints a file
with all keys, "hubd config check" says what is wrong with one, and where.

Signals: SIGTERM and SIGINT stop in order, a second one stops at once; SIGHUP
reads the configuration again, as "hubd reload" does, which says what came of it.

Exit codes: 0 orderly stop, 1 failure, 2 usage or configuration, 3 already
running, 4 state damaged or of a newer format, 5 state folder not usable.
`

func usage(w io.Writer, flags *pflag.FlagSet) {
	fmt.Fprint(w, usageHead, flags.FlagUsagesWrapped(100), usageTail)
}

// usageLimits lists the flags that usage leaves out.
func usageLimits(w io.Writer, flags *pflag.FlagSet) {
	limits := pflag.NewFlagSet("limits", pflag.ContinueOnError)
	limits.SortFlags = false
	flags.VisitAll(func(f *pflag.Flag) {
		if f.Hidden {
			shown := *f
			shown.Hidden = false
			limits.AddFlag(&shown)
		}
	})
	fmt.Fprint(w, "Flags for limits. hubd config print --defaults shows the defaults.\n\n", limits.FlagUsagesWrapped(100))
}

// greet tells a person how to talk to the hub that just became ready.
func greet(w io.Writer, i hub.Info, demo bool) {
	var socket, tcp string
	for _, l := range i.Listeners {
		u, err := address.Parse(l)
		switch {
		case err != nil: // it is the hub's own
		case u.Network == "unix" && socket == "":
			socket = u.Path
		case u.Network == "tcp" && tcp == "":
			tcp = u.Path
		}
	}
	fmt.Fprintf(w, "hubd is ready on %s\n", strings.Join(i.Listeners, " "))
	method, params := "ping", ""
	if demo {
		method, params = "math.add", `,"params":{"a":40,"b":2}`
	}
	fmt.Fprintln(w, "Talk to it from another terminal:")
	if socket != "" {
		s := quote(socket)
		arguments := ""
		if demo {
			arguments = " a:=40 b:=2"
		}
		fmt.Fprintf(w, "  hubctl --socket %s call %s%s\n", s, method, arguments)
		fmt.Fprintf(w, "  curl --unix-socket %s http://hub/metrics\n", s)
		fmt.Fprintf(w, "  echo '{\"action\":\"rpc_request\",\"request_id\":\"1\",\"method\":\"%s\"%s}' | nc -N -U %s\n", method, params, s)
		return
	}
	fmt.Fprintf(w, "  curl http://%s/-/ready\n", tcp)
	fmt.Fprintf(w, "  curl http://%s/metrics\n", tcp)
	fmt.Fprintf(w, "  echo '{\"action\":\"rpc_request\",\"request_id\":\"1\",\"method\":\"%s\"%s}' | nc -N %s\n", method, params, strings.ReplaceAll(tcp, ":", " "))
}

// quote makes a path fit for a shell.
func quote(path string) string {
	if strings.Trim(path, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/._-") == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

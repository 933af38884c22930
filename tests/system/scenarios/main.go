// Command scenarios is what the tests of package system run inside a box: a
// machine of its own with a real systemd, which is thrown away afterwards.
// One run plays one scenario as root and ends with 0 if all went as it should.
//
//	scenarios NAME
package main

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"
	"time"
)

// scenarios are all there are. Each has a fresh machine: /box has the programs,
// nothing is installed.
var scenarios = map[string]func(*machine){
	"activation":      activation,
	"hardening":       hardening,
	"restarts":        restarts,
	"drain":           drain,
	"watchdog":        watchdog,
	"kills":           kills,
	"crash":           crash,
	"reloads":         reloads,
	"bad-config":      badConfig,
	"user-unit":       userUnit,
	"service-install": serviceInstall,
	"credentials":     credentials,
	"doctor":          doctorInBox,
	"package-deb":     packageDeb,
	"package-rpm":     packageRPM,
}

func main() {
	if len(os.Args) == 1 {
		for _, name := range slices.Sorted(maps.Keys(scenarios)) {
			fmt.Println(name)
		}
		return
	}
	play := scenarios[os.Args[1]]
	if play == nil {
		fmt.Fprintln(os.Stderr, "no such scenario:", os.Args[1])
		os.Exit(2)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 4*time.Minute)
	m := &machine{ctx: ctx}
	play(m)
	cancel()
	if m.failed {
		os.Exit(1)
	}
}

package main

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/hubd-dev/hubd/internal/hub"
)

const configUsage = `usage: hubd config check [flags]      say what is wrong with the configuration, and where
       hubd config print [flags]      print what holds, as a commented YAML file
       hubd config print --defaults   print all keys with their defaults
`

// asksForHelp reports whether help is asked for before a verb.
func asksForHelp(args []string) bool {
	return len(args) > 0 && (args[0] == "--help" || args[0] == "-h" || args[0] == "help")
}

// runConfig is "hubd config VERB": it reads the configuration exactly as hubd
// with the same flags, variables and files would, and starts nothing.
func runConfig(args []string, stdout, stderr io.Writer) int {
	if asksForHelp(args) {
		fmt.Fprint(stdout, configUsage)
		return hub.ExitOK
	}
	if len(args) == 0 || args[0] != "check" && args[0] != "print" {
		fmt.Fprint(stderr, configUsage)
		return hub.ExitUsage
	}
	verb, args := args[0], args[1:]
	defaults := false
	if i := slices.Index(args, "--defaults"); verb == "print" && i >= 0 {
		defaults = true
		args = slices.Delete(slices.Clone(args), i, i+1)
	}
	command, err := parse(args)
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "hubd: %v\n%s", err, configUsage)
		return hub.ExitUsage
	case command.help:
		fmt.Fprint(stdout, configUsage)
		return hub.ExitOK
	}
	if defaults {
		return fail(stderr, hub.PrintConfig(stdout, hub.Options{}, true))
	}
	o, err := command.load()
	if err == nil {
		err = o.Validate()
	}
	if err != nil {
		return fail(stderr, err)
	}
	if verb == "print" {
		return fail(stderr, hub.PrintConfig(stdout, o, false))
	}
	files, err := command.source.Files()
	if err != nil {
		return fail(stderr, err)
	}
	from := "there is no file: flags, variables and defaults hold"
	if len(files) > 0 {
		from = "read " + strings.Join(files, ", ")
	}
	fmt.Fprintf(stdout, "the configuration is valid; %s\n", from)
	return hub.ExitOK
}

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/internal/nearest"
)

// fishWords is where cobra's script for fish puts the words of the command line,
// without their quotes, into text that it evaluates: what was a word could become
// a command. fishQuoted quotes them again.
const (
	fishWords  = "    set -l args (commandline -opc)\n"
	fishInside = " $args[2..-1] $lastArg\""
	fishQuoted = fishWords + `    set -l further
    if set -q args[2]
        set further (string escape -- $args[2..-1])
    end
`
)

// fishCompletion returns the completion script for fish.
func fishCompletion(root *cobra.Command, describe bool) (string, error) {
	var text bytes.Buffer
	if err := root.GenFishCompletion(&text, describe); err != nil {
		return "", err
	}
	script := text.String()
	if strings.Count(script, fishWords) != 1 || strings.Count(script, fishInside) != 1 {
		return "", errors.New("the script for fish has another form than expected")
	}
	script = strings.Replace(script, fishWords, fishQuoted, 1)
	return strings.Replace(script, fishInside, ` $further $lastArg"`, 1), nil
}

// addCompletion adds cobra's command "completion", with a script for fish that
// quotes, and with an error for a shell that it does not know.
func addCompletion(root *cobra.Command, w io.Writer) {
	root.InitDefaultCompletionCmd()
	cmd := subcommand(root, "completion")
	fish := subcommand(cmd, "fish")
	fish.RunE = func(cmd *cobra.Command, _ []string) error {
		bare, err := cmd.Flags().GetBool("no-descriptions")
		if err != nil {
			return err
		}
		script, err := fishCompletion(root, !bare)
		if err != nil {
			return err
		}
		_, err = io.WriteString(w, script)
		return err
	}
	cmd.Args = cobra.ArbitraryArgs
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return cmd.Help()
		}
		names := commandNames(cmd)
		hint := "one of " + strings.Join(names, ", ")
		if near := nearest.Of(args[0], names, 1); len(near) > 0 {
			hint = fmt.Sprintf("did you mean %q?", near[0])
		}
		return usageError{fmt.Sprintf("there is no completion for a shell %q", oneLine(args[0])), hint}
	}
}

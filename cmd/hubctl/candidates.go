package main

import (
	"bytes"
	"io"
	"strings"

	"github.com/spf13/cobra"
)

// candidates is where the hidden command that the shells' completion scripts
// run writes to: a candidate on each line, with a description behind a tab, and
// last a line with a colon and flags for the script.
//
// Names of keys, files, sessions, services, methods and parameters are chosen by
// others. A shell may insert what candidates have in common as it is, and the
// scripts evaluate the line. So only candidates without a character that a shell
// gives a meaning pass, whatever they are and wherever they come from; and none
// that would be a flag where no flag was begun.
type candidates struct {
	w       io.Writer
	word    string // that is completed
	seen    map[string]bool
	pending []byte
}

// isCompletion reports whether a completion script has made this command line.
// An alias of the shell puts flags, and their values, before the hidden command.
func isCompletion(args []string) bool {
	for i, arg := range args {
		switch {
		case arg == cobra.ShellCompRequestCmd || arg == cobra.ShellCompNoDescRequestCmd:
			return true
		case !strings.HasPrefix(arg, "-") && (i == 0 || !strings.HasPrefix(args[i-1], "-")):
			return false
		}
	}
	return false
}

func newCandidates(w io.Writer, args []string) *candidates {
	return &candidates{w: w, word: args[len(args)-1], seen: map[string]bool{}}
}

// Write takes any part of the output.
func (c *candidates) Write(p []byte) (int, error) {
	c.pending = append(c.pending, p...)
	var out []byte
	for {
		line, rest, whole := bytes.Cut(c.pending, []byte{'\n'})
		if !whole {
			break
		}
		c.pending = rest
		if text, ok := c.pass(string(line)); ok {
			out = append(append(out, text...), '\n')
		}
	}
	if len(out) > 0 {
		if _, err := c.w.Write(out); err != nil {
			return 0, err
		}
	}
	return len(p), nil
}

// pass returns the line to print for a candidate, and whether there is one. The
// last line, a colon and a number, passes as it is.
func (c *candidates) pass(line string) (string, bool) {
	name, about, described := strings.Cut(line, "\t")
	if !isSafeWord(name) || name[0] == '-' && !strings.HasPrefix(c.word, "-") || c.seen[name] {
		return "", false
	}
	c.seen[name] = true
	if described {
		name += "\t" + oneLine(about)
	}
	return name, true
}

// isSafeWord reports whether s means itself to bash, zsh, fish and PowerShell.
func isSafeWord(s string) bool {
	for _, c := range []byte(s) {
		letter := c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9'
		if !letter && strings.IndexByte("._/:@%+=,-", c) < 0 {
			return false
		}
	}
	return s != ""
}

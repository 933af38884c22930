//go:build pages

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/cpuguy83/go-md2man/v2/md2man"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Built with this tag hubctl does one thing: it writes its manual pages into
// man/ and its completions into completions/ below the folder that it is given.
// The released program does not carry what that takes (internal/release).
func init() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: go run -tags pages ./cmd/hubctl FOLDER")
		os.Exit(exitUsage)
	}
	if err := writePages(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "hubctl:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func writePages(folder string) error {
	root := newRoot(&app{console: standard()})
	man, completions := filepath.Join(folder, "man"), filepath.Join(folder, "completions")
	for _, dir := range []string{man, completions} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	for cmd := range commands(root) {
		name := pageOf(cmd) + ".1"
		if err := os.WriteFile(filepath.Join(man, name), md2man.Render([]byte(page(cmd))), 0o644); err != nil {
			return err
		}
	}
	for name, write := range map[string]func(string) error{
		"hubctl.bash": func(f string) error { return root.GenBashCompletionFileV2(f, true) },
		"_hubctl":     root.GenZshCompletionFile,
		"hubctl.fish": func(f string) error {
			script, err := fishCompletion(root, true)
			if err != nil {
				return err
			}
			return os.WriteFile(f, []byte(script), 0o644)
		},
	} {
		if err := write(filepath.Join(completions, name)); err != nil {
			return err
		}
	}
	return nil
}

// commands yields cmd and all that a person can find below it.
func commands(cmd *cobra.Command) func(yield func(*cobra.Command) bool) {
	return func(yield func(*cobra.Command) bool) {
		if !yield(cmd) {
			return
		}
		for _, sub := range cmd.Commands() {
			if sub.Hidden || sub.Deprecated != "" {
				continue
			}
			for c := range commands(sub) {
				if !yield(c) {
					return
				}
			}
		}
	}
}

func pageOf(cmd *cobra.Command) string { return strings.ReplaceAll(cmd.CommandPath(), " ", "-") }

// page is the manual page of a command in the Markdown that md2man reads.
func page(cmd *cobra.Command) string {
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format, args...) }
	p("%% %s 1 \"\" \"hubd\" \"hubd\"\n", strings.ToUpper(pageOf(cmd)))
	p("# NAME\n%s - %s\n\n", pageOf(cmd), lowerFirst(cmd.Short))
	if cmd.Runnable() {
		p("# SYNOPSIS\n**%s**\n\n", plainMark(cmd.UseLine()))
	}
	long := cmd.Long
	if long == "" {
		long = cmd.Short + "."
	}
	p("# DESCRIPTION\n%s\n\n", paragraphs(long))
	var subs []*cobra.Command
	for _, sub := range cmd.Commands() {
		if !sub.Hidden && sub.Deprecated == "" {
			subs = append(subs, sub)
		}
	}
	if len(subs) > 0 {
		p("# COMMANDS\n")
		for _, sub := range subs {
			p("**%s**(1)\n: %s\n\n", plainMark(pageOf(sub)), plainMark(sub.Short))
		}
	}
	flags := func(title string, set *pflag.FlagSet) {
		if !set.HasAvailableFlags() {
			return
		}
		p("# %s\n", title)
		set.VisitAll(func(f *pflag.Flag) {
			if f.Hidden || f.Deprecated != "" {
				return
			}
			arg, usage := pflag.UnquoteUsage(f)
			name := "--" + f.Name
			if f.Shorthand != "" {
				name = "-" + f.Shorthand + ", " + name
			}
			p("**%s**", plainMark(name))
			if arg != "" {
				p(" *%s*", plainMark(arg))
			}
			p("\n: %s", plainMark(usage))
			if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" && f.DefValue != "0" && f.DefValue != "0s" {
				p(" (%s)", plainMark(f.DefValue))
			}
			p("\n\n")
		})
	}
	flags("OPTIONS", cmd.NonInheritedFlags())
	flags("OPTIONS OF ALL COMMANDS", cmd.InheritedFlags())
	if cmd.Example != "" {
		p("# EXAMPLES\n```\n%s\n```\n\n", strings.TrimRight(cmd.Example, "\n"))
	}
	also := []string{"**hubd**(8)"}
	if cmd.HasParent() {
		also = slices.Insert(also, 0, "**"+plainMark(pageOf(cmd.Parent()))+"**(1)")
	}
	p("# SEE ALSO\n%s\n", strings.Join(also, ", "))
	return b.String()
}

// paragraphs keeps indented lines as they are.
func paragraphs(text string) string {
	var b strings.Builder
	code := false
	for line := range strings.Lines(text) {
		indented := strings.HasPrefix(line, "  ")
		if indented != code && strings.TrimSpace(line) != "" {
			b.WriteString("\n```\n")
			code = indented
		}
		if !code {
			line = plainMark(line)
		}
		b.WriteString(line)
	}
	if code {
		b.WriteString("\n```")
	}
	return b.String()
}

var markdown = strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "<", `\<`, "`", "\\`", "[", `\[`, "#", `\#`)

// plainMark makes text that is no Markdown.
func plainMark(text string) string { return markdown.Replace(text) }

func lowerFirst(s string) string {
	if len(s) > 1 && s[1] >= 'a' {
		return plainMark(strings.ToLower(s[:1]) + s[1:])
	}
	return plainMark(s)
}

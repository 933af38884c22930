package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubd-dev/hubd/internal/duration"
	"github.com/hubd-dev/hubd/internal/nearest"
)

// flagError says in hubctl's words what is wrong with a flag.
func flagError(cmd *cobra.Command, err error) error {
	hint := fmt.Sprintf("see %q", cmd.CommandPath()+" --help")
	if bad, ok := errors.AsType[*pflag.InvalidValueError](err); ok {
		name := "--" + bad.GetFlag().Name
		if e, ok := errors.AsType[usageError](err); ok {
			return usageError{name + ": " + e.text, e.hint}
		}
		reason := errors.Unwrap(bad).Error()
		if _, ok := errors.AsType[*strconv.NumError](err); ok {
			reason = fmt.Sprintf("%q is not %s", oneLine(bad.GetValue()), kindOfFlag(bad.GetFlag()))
		}
		return usageError{name + ": " + reason, hint}
	}
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok {
		name := unknown.GetSpecifiedName()
		near := nearest.Of(name, flagNames(cmd), 1)
		switch {
		case unknown.GetSpecifiedShortnames() == "" && len(near) > 0:
			hint = fmt.Sprintf("did you mean \"--%s\"?", near[0])
		case strings.Contains(cmd.Use, " "): // it takes arguments
			hint += `; a value that begins with "-" goes behind "--", or has a name in "hubctl call": b:=-40`
		}
	}
	return usageError{err.Error(), hint}
}

// kindOfFlag says what a flag takes.
func kindOfFlag(f *pflag.Flag) string {
	switch kind := f.Value.Type(); {
	case kind == "bool":
		return "true or false"
	case strings.HasPrefix(kind, "uint"):
		return "a whole number, 0 or more"
	case strings.HasPrefix(kind, "int"), kind == "count":
		return "a whole number"
	case strings.HasPrefix(kind, "float"):
		return "a number"
	}
	return "a " + f.Value.Type()
}

func flagNames(cmd *cobra.Command) (names []string) {
	add := func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, f.Name)
		}
	}
	cmd.InheritedFlags().VisitAll(add)
	cmd.NonInheritedFlags().VisitAll(add)
	return names
}

// isFlag reports whether a command of root could know the flag: what is not one
// is told before the words behind it are taken for commands.
func isFlag(root *cobra.Command, arg string) bool {
	name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
	long := strings.HasPrefix(arg, "--")
	var known func(cmd *cobra.Command) bool
	known = func(cmd *cobra.Command) bool {
		cmd.InitDefaultHelpFlag()
		cmd.InitDefaultVersionFlag()
		for _, flags := range []*pflag.FlagSet{cmd.Flags(), cmd.PersistentFlags()} {
			if long && flags.Lookup(name) != nil || !long && flags.ShorthandLookup(name[:min(1, len(name))]) != nil {
				return true
			}
		}
		for _, sub := range cmd.Commands() {
			if known(sub) {
				return true
			}
		}
		return false
	}
	return known(root)
}

// literal marks an argument that begins with "-" and is a value all the same. No
// argument of a program can hold it.
const literal = "\x00"

// takeNumbers makes root run with args, in which negative numbers are values:
// pflag would take -40 for flags of one letter.
func takeNumbers(root *cobra.Command, args []string) {
	root.SetArgs(args)
	cmd, _, err := root.Find(args)
	if err != nil || isCompletion(args) {
		return
	}
	inherited := cmd.InheritedFlags()
	short := func(c byte) *pflag.Flag {
		if f := cmd.Flags().ShorthandLookup(string(c)); f != nil {
			return f
		}
		return inherited.ShorthandLookup(string(c))
	}
	marked := make([]string, len(args))
	copy(marked, args)
	for i := 0; i < len(args) && args[i] != "--"; i++ {
		arg := args[i]
		switch {
		case len(arg) < 2 || arg[0] != '-':
		case isNegative(arg):
			if short(arg[1]) == nil {
				marked[i] = literal + arg
			}
		case arg[1] == '-':
			name, _, inline := strings.Cut(arg[2:], "=")
			if f := cmd.Flag(name); f != nil && f.NoOptDefVal == "" && !inline {
				i++ // its value
			}
		default:
			for j := 1; j < len(arg); j++ {
				f := short(arg[j])
				if f != nil && f.NoOptDefVal != "" {
					continue
				}
				if f != nil && j == len(arg)-1 {
					i++ // its value
				}
				break
			}
		}
	}
	check, run := cmd.Args, cmd.RunE
	if check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error { return check(cmd, unmarked(args)) }
	}
	if run != nil {
		cmd.RunE = func(cmd *cobra.Command, args []string) error { return run(cmd, unmarked(args)) }
	}
	root.SetArgs(marked)
}

// isNegative reports whether arg begins like a negative number.
func isNegative(arg string) bool {
	digits := strings.TrimPrefix(strings.TrimPrefix(arg, "-"), ".")
	return arg[0] == '-' && digits != "" && digits[0] >= '0' && digits[0] <= '9'
}

func unmarked(args []string) []string {
	out := make([]string, len(args))
	for i, arg := range args {
		out[i] = strings.TrimPrefix(arg, literal)
	}
	return out
}

// span is the pflag.Value of a time.
type span struct{ to *time.Duration }

// spanFlag adds a flag that takes a time.
func spanFlag(flags *pflag.FlagSet, to *time.Duration, name, short string, initial time.Duration, usage string) {
	*to = initial
	flags.VarP(span{to}, name, short, usage)
}

func (s span) String() string {
	if s.to == nil {
		return "0s" // pflag asks a zero value for it
	}
	return s.to.String()
}

func (s span) Set(text string) (err error) {
	*s.to, err = duration.Parse(text)
	return err
}

func (s span) Type() string { return "duration" }

// lifetime is how long something stays: a time above zero, or never is it taken
// away.
type lifetime struct {
	given bool
	left  time.Duration // 0: it stays
	least time.Duration // that it may be
}

func (l *lifetime) String() string {
	if l.left == 0 {
		return ""
	}
	return l.left.String()
}

func (l *lifetime) Set(text string) error {
	d := time.Duration(0)
	if text != "never" {
		var err error
		if d, err = duration.Parse(text); err != nil {
			return fmt.Errorf(`%w; or "never"`, err)
		}
		if d <= 0 || d < l.least {
			return fmt.Errorf(`%q is not %s; "never" is for what stays`, text, atLeast(l.least))
		}
	}
	l.given, l.left = true, d
	return nil
}

func atLeast(d time.Duration) string {
	if d <= 0 {
		return "above zero"
	}
	return fmt.Sprintf("%v or more", d)
}

func (l *lifetime) Type() string { return "time" }

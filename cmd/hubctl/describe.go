package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
)

func newDescribe(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "describe METHOD",
		Short: "Show a method's arguments, limits and spelling in each protocol",
		Example: `  hubctl describe demo.count
  hubctl describe demo.count -o json`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeDescribe,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			c, err := a.dial(ctx)
			if err != nil {
				return err
			}
			text, err := c.CallRaw(ctx, "hub.describe", map[string]string{"name": args[0]})
			if e, ok := errors.AsType[*client.Error](err); ok && e.Kind == client.KindNotFound && !e.NoMethod() {
				return a.suggest(ctx, client.NoMethod(args[0]))
			}
			if err != nil {
				return err
			}
			if f := a.formatOr(formatTable); f != formatTable {
				return a.printer(f).print(text)
			}
			var m methodInfo
			if err := json.Unmarshal(text, &m); err != nil {
				return fmt.Errorf("the hub's description is of another form: %w", err)
			}
			_, err = styled(a.out).Write(a.appendDescription(nil, m))
			return err
		},
	}
}

func (a *app) completeDescribe(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return a.completeMethod(cmd, args, toComplete)
}

func (a *app) appendDescription(dst []byte, m methodInfo) []byte {
	title := func(s string) {
		if a.coloured() {
			s = "\x1b[1m" + s + "\x1b[0m"
		}
		dst = append(append(dst, s...), '\n')
	}
	title(oneLine(m.signature()))
	if m.Doc != "" {
		dst = fmt.Appendf(dst, "  %s\n", oneLine(m.Doc))
	}
	if len(m.Params) > 0 {
		dst = append(dst, '\n')
		title("ARGUMENTS")
		var rows [][]string
		for _, p := range m.Params {
			rows = append(rows, []string{"  " + oneLine(p.Name), oneLine(p.kind()), oneLine(p.need()), oneLine(p.Doc)})
		}
		dst = appendGrid(dst, nil, rows, false, 0)
	}
	dst = append(dst, '\n')
	title("LIMITS")
	rows := [][]string{
		{"  scope", oneLine(m.Scope)},
		{"  deadline", limitText(m.Deadline)},
		{"  slow after", limitText(m.Slow)},
	}
	if m.Provider != "" {
		rows = append(rows, []string{"  provider", oneLine(m.Provider)})
	}
	dst = appendGrid(dst, nil, rows, false, 0)
	if v, err := rpc.Parse(m.Names); err == nil && v.Kind() == '{' {
		dst = append(dst, '\n')
		title("CALLED AS")
		rows = nil
		for name, spelling := range v.Members() {
			rows = append(rows, []string{"  " + oneLine(rpc.Unquote(name)), spellingText(spelling)})
		}
		dst = appendGrid(dst, nil, rows, false, 0)
	}
	dst = append(dst, '\n')
	title("TRY")
	dst = fmt.Appendf(dst, "  %s\n", oneLine(m.command()))
	return fmt.Appendf(dst, "  %s\n", oneLine(m.example()))
}

func (p paramInfo) kind() string {
	switch {
	case p.Stream:
		return "stream"
	case p.Rest:
		return "any number of " + p.Type
	}
	return p.Type
}

func (p paramInfo) need() string {
	switch {
	case p.Required:
		return "required"
	case len(p.Default) == 0 || string(p.Default) == "null":
		return "optional"
	}
	return "default " + string(p.Default)
}

func limitText(s *float64) string {
	if s == nil {
		return "none"
	}
	return fmt.Sprintf("%gs", *s)
}

func spellingText(v rpc.Value) string {
	if v.Kind() != '{' {
		raw, _ := v.Raw()
		if v.Kind() == '[' {
			return oneLine(string(appendCompact(nil, raw, plain)))
		}
		return cellText(v)
	}
	var parts []string
	for name, part := range v.Members() {
		parts = append(parts, rpc.Unquote(name)+" "+cellText(part))
	}
	return oneLine(strings.Join(parts, ", "))
}

// command is the command line of the method's own command.
func (m methodInfo) command() string {
	words := []string{"hubctl", strings.ReplaceAll(m.Name, ".", " ")}
	for _, p := range m.Params {
		kind, _ := paramKind(p)
		switch {
		case p.Stream || !p.Required:
		case kind == "integer" || kind == "number":
			words = append(words, "3")
		case kind == "boolean":
			words = append(words, "true")
		default:
			words = append(words, word(p.Name))
		}
	}
	if m.StreamIn {
		words = append(words, "-")
	}
	return strings.Join(words, " ")
}

// example is a command line that calls the method.
func (m methodInfo) example() string {
	words := []string{"hubctl call"}
	if m.StreamOut {
		words = append(words, "--stream")
	}
	words = append(words, m.Name)
	for _, p := range m.Params {
		switch {
		case p.Stream:
			words = append(words, "--send -")
		case !p.Required:
		case p.Type == "string":
			words = append(words, p.Name+"=TEXT")
		case p.Type == "integer" || p.Type == "number":
			words = append(words, p.Name+":=3")
		case p.Type == "boolean":
			words = append(words, p.Name+":=true")
		default:
			words = append(words, p.Name+":=JSON")
		}
	}
	return strings.Join(words, " ")
}

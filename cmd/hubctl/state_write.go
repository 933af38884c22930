package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"unicode/utf8"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
)

// putting is the command "state put".
type putting struct {
	app       *app
	condition ifRevision
	ttl       lifetime
	ephemeral bool
	text      bool
}

func newStatePut(a *app) *cobra.Command {
	p := &putting{app: a}
	cmd := &cobra.Command{
		Use:   "put KEY VALUE | @FILE | -",
		Short: "Store a value under a key",
		Long: `Store a value under a key and print the revision, once it is on disk.

VALUE is stored as JSON if it is valid JSON, else as a string: 42 is a number,
true a boolean, hello a string, and '"42"' the string 42. What begins like an
object, an array or a quoted string but is not valid JSON is refused. --text
stores a string whatever VALUE looks like. @FILE and - read the value from a file
or from stdin; a line feed at the end of a string is dropped then, unless --text
is given.

--if-revision 0 stores only a new key, --if-revision N only over that revision:
otherwise it is a conflict, which names the present revision (exit code 1).

With --ephemeral the key is there as long as this command runs, to show that
somebody is there. It ends when somebody else deletes or overwrites the key.`,
		Example: `  hubctl state put site/title "Good morning"
  hubctl state put site/settings '{"dark": true}'
  hubctl state put site/settings @settings.json --if-revision 7
  hubctl state put lock/deploy "$USER" --if-revision 0 --ttl 10m
  hubctl state put workers/$HOSTNAME '{"since": "noon"}' --ephemeral`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeKey,
		RunE:              func(cmd *cobra.Command, args []string) error { return p.run(cmd, args[0], args[1]) },
	}
	flags := cmd.Flags()
	flags.Var(&p.condition, "if-revision", "only if the key is at that `revision`; 0: only if it does not exist")
	flags.Var(&p.ttl, "ttl", "the key goes away after that `time`, such as 30s, 12h or 90d; never: it stays")
	flags.BoolVar(&p.ephemeral, "ephemeral", false, "stay connected, and let the key go away when this command ends")
	flags.BoolVar(&p.text, "text", false, "store a string, even if VALUE looks like JSON")
	cmd.MarkFlagsMutuallyExclusive("ttl", "ephemeral")
	return cmd
}

func (p *putting) run(cmd *cobra.Command, key, arg string) error {
	value, err := p.app.stateValue(arg, p.text)
	if err != nil {
		return err
	}
	params := map[string]any{"key": key, "value": value}
	p.condition.add(params)
	if p.ttl.left > 0 {
		params["ttl"] = seconds(p.ttl.left)
	}
	if p.ephemeral {
		params["ephemeral"] = true
		return p.app.keepEphemeral(cmd.Context(), key, params)
	}
	result, err := p.app.callState(cmd.Context(), "state.put", params)
	if err != nil {
		return err
	}
	return p.app.printer(p.app.formatOr(formatJSONL)).print(result)
}

// source reads what an argument stands for: itself, @FILE or - for stdin.
func (a *app) source(arg string) (text []byte, from string, err error) {
	switch {
	case arg == "-":
		text, err = io.ReadAll(io.LimitReader(a.in, maxFile+1))
		if err == nil && len(text) > maxFile {
			err = usageError{"stdin is larger than 16 MiB, which no call can carry", ""}
		}
		return rpc.SkipBOM(text), "stdin", err
	case strings.HasPrefix(arg, "@"):
		text, err = readText(arg[1:])
		return text, arg[1:], err
	}
	return []byte(arg), "", nil
}

// stateValue makes the JSON of a value that was given on the command line.
func (a *app) stateValue(arg string, isText bool) (json.RawMessage, error) {
	text, from, err := a.source(arg)
	if err != nil {
		return nil, err
	}
	return valueOf(text, from, isText)
}

func valueOf(text []byte, from string, isText bool) (json.RawMessage, error) {
	if !isText {
		// The encoding/json check is the stricter one: NaN is a text.
		if json.Valid(text) {
			v, err := rpc.Parse(text)
			if err != nil {
				return nil, usageError{"the value cannot be stored: " + err.Error(), "--text stores it as a string"}
			}
			raw, _ := v.Raw()
			return raw, nil
		}
		if start := bytes.TrimLeft(text, " \t\r\n"); len(start) > 0 && strings.IndexByte(`{["`, start[0]) >= 0 {
			_, err := rpc.Parse(text)
			if err == nil {
				err = fmt.Errorf("it has numbers that JSON does not know")
			}
			return nil, usageError{"the value begins like JSON, but is not valid: " + err.Error(), "--text stores it as a string"}
		}
		if from != "" {
			text = bytes.TrimSuffix(text, []byte("\n"))
		}
	}
	if !utf8.Valid(text) {
		if from == "" {
			from = "the value"
		}
		return nil, usageError{from + " is neither JSON nor text in UTF-8", ""}
	}
	return rpc.AppendString(nil, string(text), false), nil
}

func newStatePatch(a *app) *cobra.Command {
	var condition ifRevision
	cmd := &cobra.Command{
		Use:   "patch KEY OBJECT | ARRAY | @FILE | -",
		Short: "Change parts of a value",
		Long: `Change parts of the value of a key that exists, and print the revision. An object
is a merge patch (RFC 7396): its members replace those of the value, null removes
them. An array is a list of operations (RFC 6902): all are done, or none.`,
		Example: `  hubctl state patch site/settings '{"dark": false, "old": null}'
  hubctl state patch site/settings '[{"op": "add", "path": "/tags/-", "value": "new"}]'`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			text, _, err := a.source(args[1])
			if err != nil {
				return err
			}
			v, err := rpc.Parse(text)
			if err != nil {
				return usageError{"the patch is not JSON: " + err.Error(), ""}
			}
			raw, _ := v.Raw()
			params := map[string]any{"key": args[0]}
			switch v.Kind() {
			case '{':
				params["merge"] = json.RawMessage(raw)
			case '[':
				params["ops"] = json.RawMessage(raw)
			default:
				return usageError{"a patch is an object or an array", `to replace the whole value: "hubctl state put"`}
			}
			condition.add(params)
			result, err := a.callState(cmd.Context(), "state.patch", params)
			if err != nil {
				return err
			}
			return a.printer(a.formatOr(formatJSONL)).print(result)
		},
	}
	cmd.Flags().Var(&condition, "if-revision", "only if the key is at that `revision`")
	return cmd
}

// removing is the command "state rm".
type removing struct {
	app       *app
	condition ifRevision
	prefix    bool
	yes       bool
	force     bool
}

func newStateRemove(a *app) *cobra.Command {
	r := &removing{app: a}
	cmd := &cobra.Command{
		Use:     "rm KEY... | rm --prefix PREFIX",
		Aliases: []string{"delete"},
		Short:   "Delete keys",
		Long: `Delete keys, and print the revision and how many were deleted. A key that does not
exist is an error, unless --force is given; the ones before it are deleted then.

With --prefix all keys that begin with PREFIX are deleted at once. That asks first
on a terminal; elsewhere it needs --yes.`,
		Example: `  hubctl state rm site/title
  hubctl state rm site/title --if-revision 12
  hubctl state rm --prefix site/ --yes`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeKeys,
		RunE:              func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), args) },
	}
	flags := cmd.Flags()
	flags.BoolVar(&r.prefix, "prefix", false, "delete all keys that begin with the argument")
	flags.BoolVarP(&r.yes, "yes", "y", false, "do not ask")
	flags.BoolVarP(&r.force, "force", "f", false, "a key that does not exist is no error")
	flags.Var(&r.condition, "if-revision", "only if the key is at that `revision`")
	cmd.MarkFlagsMutuallyExclusive("prefix", "if-revision")
	return cmd
}

func (r *removing) run(ctx context.Context, args []string) error {
	if len(args) > 1 && (r.prefix || r.condition.given) {
		return usageError{"--prefix and --if-revision go with one argument", ""}
	}
	if r.prefix && !r.yes && !r.app.inTTY {
		return usageError{"--prefix deletes many keys: it needs --yes where nobody can be asked", ""}
	}
	c, err := r.app.dial(ctx)
	if err != nil {
		return err
	}
	out := r.app.printer(r.app.formatOr(formatJSONL))
	for _, key := range args {
		name := "key"
		if r.prefix {
			name = "prefix"
			if err := r.confirm(ctx, c, key); err != nil {
				return err
			}
		}
		params := map[string]any{name: key}
		r.condition.add(params)
		result, err := c.CallRaw(ctx, "state.delete", params)
		if err != nil {
			return stateError(err)
		}
		var done struct{ Deleted int }
		if err := decodeState(result, &done); err != nil {
			return err
		}
		if done.Deleted == 0 && !r.prefix && !r.force {
			return hintedError{fmt.Errorf("no key %q", key), `"hubctl state ls" lists the keys`}
		}
		if err := out.print(result); err != nil {
			return err
		}
	}
	return nil
}

// confirm asks before all keys with a prefix go.
func (r *removing) confirm(ctx context.Context, c *client.Client, prefix string) error {
	if r.yes {
		return nil
	}
	var page struct {
		Items []struct{}
		Next  *string
	}
	if err := c.Call(ctx, "state.list", map[string]any{"prefix": prefix, "limit": statePage, "keys_only": true}, &page); err != nil {
		return stateError(err)
	}
	many := fmt.Sprint(len(page.Items))
	if page.Next != nil {
		many = "more than " + many
	}
	what := fmt.Sprintf("that begin with %q", prefix)
	if prefix == "" {
		what = "there are"
	}
	return r.app.confirm(ctx, fmt.Sprintf("delete the keys %s (%s)?", what, many))
}

// confirm asks a question on the terminal. Anything but yes is an error.
func (a *app) confirm(ctx context.Context, question string) error {
	fmt.Fprintf(a.err, "hubctl: %s [y/N] ", oneLine(question))
	answer := make(chan string, 1)
	go func() { // ends with a line, or with the program
		line, _ := readLine(bufio.NewReader(a.in))
		answer <- line
	}()
	select {
	case line := <-answer:
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "y", "yes":
			return nil
		}
		return fmt.Errorf("nothing was done")
	case <-ctx.Done():
		fmt.Fprintln(a.err)
		return context.Cause(ctx)
	}
}

func newStateTxn(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "txn OBJECT | @FILE | -",
		Short: "Do several operations at once, or none of them",
		Long: `Do the operations of "then" if all conditions of "if" hold, and those of "else"
otherwise: all of them under one revision, or none. The result is printed.

Conditions are {key, revision} (0: the key does not exist) and {key, value}.
Operations are {op, key, ...}; op is put, patch, touch, delete or get.

The exit code is 1 when the conditions do not hold, whether or not there is an
"else".`,
		Example: `  hubctl state txn '{"if": [{"key": "a", "revision": 7}],
                     "then": [{"op": "put", "key": "a", "value": 1}, {"op": "delete", "key": "b"}]}'
  hubctl state txn @change.json`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			text, from, err := a.source(args[0])
			if err != nil {
				return err
			}
			if from == "" {
				from = "the transaction"
			}
			v, err := rpc.Parse(text)
			if err != nil {
				return usageError{from + " is not JSON: " + err.Error(), ""}
			}
			if v.Kind() != '{' {
				return usageError{from + " is not an object with if, then and else", ""}
			}
			raw, _ := v.Raw()
			result, err := a.callState(cmd.Context(), "state.txn", json.RawMessage(raw))
			if err != nil {
				return err
			}
			if err := a.printer(a.formatOr(formatJSON)).print(result); err != nil {
				return err
			}
			var done struct{ Succeeded bool }
			if err := decodeState(result, &done); err != nil {
				return err
			}
			if !done.Succeeded {
				return fmt.Errorf("the conditions did not hold")
			}
			return nil
		},
	}
}

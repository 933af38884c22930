package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/nearest"
)

func newToken(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "token",
		Short: "Make, list and revoke the tokens of clients on TCP",
		Long: `A client on TCP says who it is by a token: as "Authorization: Bearer TOKEN", as the
WebSocket protocol "hubd.bearer.TOKEN", or in the way of its protocol. hubctl takes
its own from $HUBD_TOKEN.

These commands need the scope admin, which the owner of the hub and root have on
its Unix socket.`,
		Example: `  hubctl token create dashboard --scopes read --expires 90d
  hubctl token create builder --method 'build.*' --method state.get
  hubctl token ls
  hubctl token revoke dashboard
  HUBD_TOKEN=$(cat token) hubctl --socket tcp://127.0.0.1:7420 ping`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			hint := `"hubctl token --help" lists the commands`
			if near := nearest.Of(args[0], []string{"create", "ls", "revoke"}, 1); len(near) > 0 {
				hint = fmt.Sprintf("did you mean %q?", near[0])
			}
			return usageError{fmt.Sprintf("unknown command %q of \"hubctl token\"", args[0]), hint}
		},
	}
	cmd.AddCommand(newTokenCreate(a), newTokenList(a), newTokenRevoke(a))
	return cmd
}

// tokenItem is a token as the hub lists it.
type tokenItem struct {
	ID      string   `json:"id"`
	Name    string   `json:"name"`
	Scopes  []string `json:"scopes"`
	Methods []string `json:"methods"`
	Created string   `json:"created"`
	Expires *string  `json:"expires"`
	Used    *string  `json:"used"`
	Expired bool     `json:"expired"`
	Token   string   `json:"token"`
}

func newTokenCreate(a *app) *cobra.Command {
	scopes := []string{"read", "call"}
	var methods []string
	expires := lifetime{least: time.Second}
	cmd := &cobra.Command{
		Use:   "create NAME",
		Short: "Make a token and print it, this once",
		Long: `Make a token and print it on stdout. The hub keeps only a hash of it: nobody can
print it a second time.

NAME says what the token is for. --scopes are read (methods that only read), call
(all other methods), provide (offering methods) and admin (steering the hub, tokens
included). --method narrows them to methods whose name matches: a whole name, or
its beginning and a *.`,
		Example: `  hubctl token create dashboard --scopes read --expires 90d
  hubctl token create builder --method 'build.*' --method state.get
  (umask 077; hubctl token create backup > token)`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			params := map[string]any{"name": args[0], "scopes": scopes, "methods": append([]string{}, methods...), "ttl": seconds(expires.left.Truncate(time.Second))}
			result, err := a.callToken(cmd.Context(), "token.create", params)
			if err != nil {
				return err
			}
			if f := a.formatOr(formatRaw); f != formatRaw {
				return a.printer(f).print(result)
			}
			var made tokenItem
			if err := decodeState(result, &made); err != nil {
				return err
			}
			if a.errTTY {
				fmt.Fprintf(a.err, "Token %q may %s. It is shown this once:\n", oneLine(made.Name), strings.Join(made.Scopes, ", "))
			}
			_, err = fmt.Fprintln(a.out, made.Token)
			return err
		},
	}
	flags := cmd.Flags()
	flags.StringSliceVar(&scopes, "scopes", scopes, "what it permits: some of read, call, provide, admin")
	flags.StringArrayVar(&methods, "method", nil, "only methods that match the `pattern`; repeatable")
	flags.Var(&expires, "expires", "it is good for that `time`, such as 12h or 90d; without it, or with never, until it is revoked")
	cmd.RegisterFlagCompletionFunc("scopes", cobra.FixedCompletions([]string{"read", "call", "provide", "admin"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func newTokenList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the tokens, without their secrets",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			result, err := a.callToken(cmd.Context(), "token.list", nil)
			if err != nil {
				return err
			}
			if f := a.formatOr(formatTable); f != formatTable {
				return a.printer(f).list(result)
			}
			var list []tokenItem
			if err := decodeState(result, &list); err != nil {
				return err
			}
			_, err = styled(a.out).Write(tokenTable(list, a.coloured(), a.width()))
			return err
		},
	}
}

// tokenTable has one line per token.
func tokenTable(list []tokenItem, color bool, width int) []byte {
	rows := make([][]string, len(list))
	for i, t := range list {
		methods, expires, used := "all", "never", "never"
		if len(t.Methods) > 0 {
			methods = strings.Join(t.Methods, " ")
		}
		if t.Expires != nil {
			if expires = *t.Expires; t.Expired {
				expires += " (over)"
			}
		}
		if t.Used != nil {
			used = *t.Used
		}
		rows[i] = []string{oneLine(t.Name), oneLine(t.ID), oneLine(strings.Join(t.Scopes, ",")), oneLine(methods),
			oneLine(t.Created), oneLine(expires), oneLine(used)}
	}
	return appendGrid(nil, []string{"NAME", "ID", "SCOPES", "METHODS", "CREATED", "EXPIRES", "LAST USED"}, rows, color, width)
}

func newTokenRevoke(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "revoke NAME | ID",
		Aliases: []string{"rm"},
		Short:   "Take a token back",
		Long: `Take a token back. Connections that are open lose what it permitted with their next
call, and calls that still run under it end.`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeToken,
		RunE: func(cmd *cobra.Command, args []string) error {
			result, err := a.callToken(cmd.Context(), "token.revoke", map[string]any{"token": args[0]})
			if err != nil {
				return err
			}
			if f := a.formatOr(formatTable); f != formatTable {
				return a.printer(f).print(result)
			}
			return nil
		},
	}
}

// callToken makes one call on a new connection and returns the result.
func (a *app) callToken(ctx context.Context, method string, params any) (json.RawMessage, error) {
	c, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	return c.CallRaw(ctx, method, params)
}

// completeToken completes the name of a token.
func (a *app) completeToken(cmd *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(cmd.Context(), time.Second)
	defer cancel()
	c, err := a.dial(ctx)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var list []tokenItem
	if err := c.Call(ctx, "token.list", nil, &list, client.Idempotent()); err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names := make([]string, len(list))
	for i, t := range list {
		names[i] = t.Name
	}
	return names, cobra.ShellCompDirectiveNoFileComp
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
)

func newStateGet(a *app) *cobra.Command {
	var revision ifRevision
	var meta, watch bool
	cmd := &cobra.Command{
		Use:   "get KEY",
		Short: "Print the value of a key",
		Long: `Print the value of a key: a string as its text, all else as the JSON that was
stored. --meta prints an object with the key, its value, its revision and times.
A key that does not exist is an error (exit code 1).

With --watch the value is printed again each time it changes, until Ctrl-C; a key
that does not exist is waited for. "hubctl state watch" tells of deletions, too.`,
		Example: `  hubctl state get site/title
  hubctl state get site/settings -o json       indented
  hubctl state get --meta site/title
  hubctl state get --watch site/title          each value that it gets`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if watch {
				if revision.given || meta {
					return usageError{"--watch prints values alone, from now on", `"hubctl state watch" prints revisions, too`}
				}
				return a.watchValue(cmd.Context(), args[0])
			}
			params := map[string]any{"key": args[0]}
			if revision.given {
				params["revision"] = revision.revision
			}
			result, err := a.callState(cmd.Context(), "state.get", params)
			if err != nil {
				return err
			}
			if meta {
				return a.printer(a.formatOr(formatJSON)).print(result)
			}
			var it stateItem
			if err := decodeState(result, &it); err != nil {
				return err
			}
			return a.printer(a.formatOr(formatRaw)).print(it.Value)
		},
	}
	cmd.Flags().BoolVarP(&meta, "meta", "m", false, "print the revision and the times as well")
	cmd.Flags().BoolVarP(&watch, "watch", "w", false, "go on and print each value that the key gets")
	cmd.Flags().Var(&revision, "revision", "the value that the key had at that `revision`")
	return cmd
}

// decodeState reads a result of the hub.
func decodeState(text json.RawMessage, into any) error {
	if err := json.Unmarshal(text, into); err != nil {
		return fmt.Errorf("the hub's answer is of another form: %w", err)
	}
	return nil
}

// statePage is how many keys one call of state.list asks for.
const statePage = 1000

// listState yields the keys with a prefix, page by page; only the items of one
// page belong to one revision.
func listState(ctx context.Context, c *client.Client, prefix string, keysOnly bool) iter.Seq2[[]json.RawMessage, error] {
	return func(yield func([]json.RawMessage, error) bool) {
		params := map[string]any{"prefix": prefix, "limit": statePage, "keys_only": keysOnly}
		for {
			var page struct {
				Items []json.RawMessage `json:"items"`
				Next  *string           `json:"next"`
			}
			if err := c.Call(ctx, "state.list", params, &page, client.Idempotent()); err != nil {
				yield(nil, stateError(err))
				return
			}
			if !yield(page.Items, nil) || page.Next == nil {
				return
			}
			params["after"] = *page.Next
		}
	}
}

func newStateList(a *app) *cobra.Command {
	var keysOnly bool
	var limit int
	cmd := &cobra.Command{
		Use:     "ls [PREFIX]",
		Aliases: []string{"list"},
		Short:   "List keys and their values",
		Long: `List the keys that begin with PREFIX, or all, in the order of the keys. They are
asked for in pages of 1000; each page is of one moment. "hubctl state export" is
of one moment as a whole.`,
		Example: `  hubctl state ls
  hubctl state ls site/ -o jsonl
  hubctl state ls --keys | wc -l`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 0 {
				return usageError{"--limit must not be negative", ""}
			}
			prefix := ""
			if len(args) > 0 {
				prefix = args[0]
			}
			return a.listState(cmd.Context(), prefix, keysOnly, limit)
		},
	}
	cmd.Flags().BoolVarP(&keysOnly, "keys", "k", false, "print the keys alone")
	cmd.Flags().IntVarP(&limit, "limit", "n", 0, "print at most `N` keys; 0 is all")
	return cmd
}

func (a *app) listState(ctx context.Context, prefix string, keysOnly bool, limit int) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	own := formatTable
	if keysOnly {
		own = formatRaw
	}
	format := a.formatOr(own)
	out := a.printer(format)
	all := []json.RawMessage{} // for formats that print one list
	n := 0
	for page, err := range listState(ctx, c, prefix, keysOnly) {
		if err != nil {
			return err
		}
		if limit > 0 {
			page = page[:min(len(page), limit-n)]
		}
		n += len(page)
		switch {
		case format == formatTable && !keysOnly:
			err = a.printItems(page, n == len(page))
		case format == formatJSON || format == formatYAML:
			all = append(all, page...)
		default:
			err = printEach(out, page, keysOnly)
		}
		if err != nil {
			return err
		}
		if limit > 0 && n >= limit {
			break
		}
	}
	if format != formatJSON && format != formatYAML {
		return nil
	}
	if keysOnly {
		for i := range all {
			if all[i], err = keyOf(all[i]); err != nil {
				return err
			}
		}
	}
	return out.printAny(all)
}

// keyOf returns the key of an item as JSON.
func keyOf(item json.RawMessage) (json.RawMessage, error) {
	var it struct{ Key json.RawMessage }
	err := decodeState(item, &it)
	return it.Key, err
}

func printEach(out *printer, page []json.RawMessage, keysOnly bool) error {
	for _, item := range page {
		if keysOnly {
			key, err := keyOf(item)
			if err != nil {
				return err
			}
			item = key
		}
		if err := out.print(item); err != nil {
			return err
		}
	}
	return nil
}

// maxCell is how much of a value a table shows when no terminal sets the width.
const maxCell = 60

// printItems writes one page as a table.
func (a *app) printItems(page []json.RawMessage, first bool) error {
	if len(page) == 0 {
		return nil
	}
	rows := make([][]string, 0, len(page))
	for _, item := range page {
		var it stateItem
		if err := decodeState(item, &it); err != nil {
			return err
		}
		left := ""
		if it.TTL != nil {
			left = age(*it.TTL)
		}
		rows = append(rows, []string{oneLine(it.Key), fmt.Sprint(it.Revision), left, a.shortValue(it.Value)})
	}
	var head []string
	if first {
		head = []string{"KEY", "REVISION", "LEFT", "VALUE"}
	}
	_, err := styled(a.out).Write(appendGrid(nil, head, rows, a.coloured(), a.width()))
	return err
}

// shortValue is the beginning of a value on one line.
func (a *app) shortValue(text json.RawMessage) string {
	limit := maxCell
	if w := a.width(); w > 0 {
		limit = max(20, w/2)
	}
	if len(text) > 8*limit { // no need to lay out a megabyte for a line
		return clip(oneLine(string(text[:8*limit])), limit)
	}
	return clip(oneLine(string(appendCompact(nil, text, plain))), limit)
}

func newStateHistory(a *app) *cobra.Command {
	var limit int
	cmd := &cobra.Command{
		Use:   "history KEY",
		Short: "Print the changes of a key that the hub still remembers",
		Long: `Print the changes of a key that the hub still remembers, the newest last. How
much it remembers is bounded for all keys together.`,
		Example: `  hubctl state history site/title
  hubctl state history site/title --limit 1 -o jsonl`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if limit < 1 {
				return usageError{"--limit must be at least 1", ""}
			}
			result, err := a.callState(cmd.Context(), "state.history", map[string]any{"key": args[0], "limit": limit})
			if err != nil {
				return err
			}
			return a.printHistory(result)
		},
	}
	cmd.Flags().IntVarP(&limit, "limit", "n", 100, "print the newest `N` changes")
	return cmd
}

func (a *app) printHistory(result json.RawMessage) error {
	format := a.formatOr(formatTable)
	if format == formatJSON || format == formatYAML {
		return a.printer(format).print(result)
	}
	var events []json.RawMessage
	if err := decodeState(result, &events); err != nil {
		return err
	}
	if format != formatTable {
		return printEach(a.printer(format), events, false)
	}
	rows := make([][]string, 0, len(events))
	for _, text := range events {
		var e stateEvent
		if err := decodeState(text, &e); err != nil {
			return err
		}
		value := ""
		if e.Type == "put" {
			value = a.shortValue(e.Value)
		}
		rows = append(rows, []string{fmt.Sprint(e.Revision), e.Type, fmt.Sprint(e.Previous), value})
	}
	if len(rows) == 0 {
		a.talk("no change of this key is remembered")
		return nil
	}
	_, err := styled(a.out).Write(appendGrid(nil, []string{"REVISION", "TYPE", "PREVIOUS", "VALUE"}, rows, a.coloured(), a.width()))
	return err
}

func newStateInfo(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "info",
		Short: "Show what kind of store the state is in, and its counters",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			c, err := a.dial(ctx)
			if err != nil {
				return err
			}
			info, stats := map[string]json.RawMessage{}, map[string]json.RawMessage{}
			if err := c.Call(ctx, "state.info", nil, &info); err != nil {
				return stateError(err)
			}
			if err := c.Call(ctx, "state.stats", nil, &stats); err != nil {
				return stateError(err)
			}
			if format := a.formatOr(formatTable); format != formatTable {
				maps.Copy(info, stats)
				return a.printer(format).printAny(info)
			}
			return a.printInfo(info, stats)
		},
	}
}

func (a *app) printInfo(info, stats map[string]json.RawMessage) error {
	var rows [][]string
	for _, name := range []string{"engine", "durable", "ack", "revision", "compacted"} {
		if value, ok := info[name]; ok {
			rows = append(rows, []string{name, plainText(value)})
		}
		delete(stats, name)
	}
	names := make([]string, 0, len(stats))
	for name := range stats {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		rows = append(rows, []string{oneLine(name), plainText(stats[name])})
	}
	_, err := styled(a.out).Write(appendGrid(nil, nil, rows, false, a.width()))
	return err
}

// plainText is a scalar for people.
func plainText(text json.RawMessage) string {
	var s string
	if json.Unmarshal(text, &s) == nil {
		return oneLine(s)
	}
	return oneLine(string(text))
}

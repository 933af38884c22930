package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
)

// The two forms of import and export.
const (
	asLines  = "lines"  // {"key": K, "value": V} on each line
	asObject = "object" // {K: V, ...}
)

func trimSpace(s string) string { return strings.Trim(s, " \t\r\n") }

func newStateExport(a *app) *cobra.Command {
	var as string
	cmd := &cobra.Command{
		Use:   "export [PREFIX]",
		Short: "Print keys and values as JSON",
		Long: `Print the keys that begin with PREFIX, or all, with their values as they were at
one moment: a line {"key": K, "value": V} each, or with --as object one object.
Values that JSON does not have, such as bytes, come in their JSON form: to keep
everything use "hubctl state backup".`,
		Example: `  hubctl state export site/ > site.jsonl
  hubctl state export --as object | jq .`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			if as != asLines && as != asObject {
				return usageError{fmt.Sprintf("unknown form %q of --as", as), "one of lines, object"}
			}
			prefix := ""
			if len(args) > 0 {
				prefix = args[0]
			}
			return a.export(cmd.Context(), prefix, as)
		},
	}
	cmd.Flags().StringVar(&as, "as", asLines, "`form`: lines or object")
	cmd.RegisterFlagCompletionFunc("as", cobra.FixedCompletions([]string{asLines, asObject}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// export reads the beginning of a watch: that is of one moment.
func (a *app) export(ctx context.Context, prefix, as string) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	w := bufio.NewWriterSize(a.out, 64<<10)
	bar := a.progress("export", -1, false)
	defer bar.end()
	params := map[string]any{"snapshot": true}
	if prefix != "" {
		params["prefix"] = prefix
	}
	n := 0
	var line []byte
	for text, err := range c.Stream(ctx, "state.watch", params) {
		if err != nil {
			return stateError(err)
		}
		var e stateEvent
		if err := decodeState(text, &e); err != nil {
			return err
		}
		if e.Type == "synced" {
			break
		}
		line = appendExported(line[:0], &e, as, n)
		if _, err := w.Write(line); err != nil {
			return err
		}
		n++
		if !a.outTTY { // the lines show it there
			bar.add(1)
		}
	}
	if as == asObject {
		end := "\n}\n"
		if n == 0 {
			end = "{}\n"
		}
		if _, err := w.WriteString(end); err != nil {
			return err
		}
	}
	return w.Flush()
}

func appendExported(dst []byte, e *stateEvent, as string, n int) []byte {
	if as == asObject {
		start := ",\n  "
		if n == 0 {
			start = "{\n  "
		}
		dst = append(rpc.AppendString(append(dst, start...), e.Key, false), ": "...)
		return appendCompact(dst, e.Value, plain)
	}
	dst = rpc.AppendString(append(dst, `{"key":`...), e.Key, false)
	dst = appendCompact(append(dst, `,"value":`...), e.Value, plain)
	return append(dst, "}\n"...)
}

// importing is the command "state import".
type importing struct {
	app  *app
	as   string
	keep bool
}

func newStateImport(a *app) *cobra.Command {
	m := &importing{app: a}
	cmd := &cobra.Command{
		Use:   "import FILE | -",
		Short: "Store keys and values from JSON",
		Long: `Store what FILE or stdin holds: objects {"key": K, "value": V}, one after another,
also with "ttl" in seconds, or one object {K: V, ...}. Which of them it is, is seen
from the first object: one with "key" and "value" and nothing else but what a
line may have is a line. --as decides otherwise.

Keys that exist are overwritten; with --keep they are left as they are. All other
keys stay. The keys are stored in groups, each of which is stored as a whole; an
error tells how many were stored before it.`,
		Example: `  hubctl state import site.jsonl
  echo '{"a": 1, "b": [2]}' | hubctl state import -`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if m.as != "" && m.as != asLines && m.as != asObject {
				return usageError{fmt.Sprintf("unknown form %q of --as", m.as), "one of lines, object"}
			}
			return m.run(cmd.Context(), args[0])
		},
	}
	cmd.Flags().StringVar(&m.as, "as", "", "`form`: lines or object; without it the first object decides")
	cmd.Flags().BoolVar(&m.keep, "keep", false, "leave keys that exist as they are")
	cmd.RegisterFlagCompletionFunc("as", cobra.FixedCompletions([]string{asLines, asObject}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// Bounds of one group, so that it fits into one call.
const (
	groupKeys  = 500
	groupBytes = 4 << 20
)

// imported is a key to store.
type imported struct {
	Key   string
	Value json.RawMessage
	TTL   *float64
}

func (m *importing) run(ctx context.Context, name string) error {
	in, size, err := m.app.openInput(name)
	if err != nil {
		return err
	}
	defer in.Close()
	if name == "-" {
		name = "stdin"
	}
	c, err := m.app.dial(ctx)
	if err != nil {
		return err
	}
	bar := m.app.progress("import", size, true)
	defer bar.end()
	counted := &countingReader{r: in, bar: bar}
	group := importGroup{client: c, keep: m.keep}
	for it, err := range m.items(newTextReader(counted)) {
		if err == nil {
			err = group.add(ctx, it)
		} else {
			err = usageError{name + ": " + err.Error(), fmt.Sprintf("%d keys were stored before", group.stored)}
		}
		if err != nil {
			return group.failed(err)
		}
	}
	if err := group.flush(ctx); err != nil {
		return group.failed(err)
	}
	bar.end()
	return m.app.printer(m.app.formatOr(formatJSONL)).printAny(map[string]any{
		"keys": group.stored, "kept": group.kept, "revision": group.revision,
	})
}

// countingReader moves a bar.
type countingReader struct {
	r   io.Reader
	bar *progress
}

func (c *countingReader) Read(p []byte) (int, error) {
	n, err := c.r.Read(p)
	c.bar.add(int64(n))
	return n, err
}

// items yields what there is to store.
func (m *importing) items(r io.Reader) iter.Seq2[imported, error] {
	return func(yield func(imported, error) bool) {
		in := bufio.NewReaderSize(r, 64<<10)
		as := m.as
		if as == "" {
			var err error
			if as, in, err = formOf(in); err != nil {
				yield(imported{}, err)
				return
			}
		}
		dec := json.NewDecoder(in)
		read := lineItems
		if as == asObject {
			read = objectItems
		}
		for it, err := range read(dec) {
			if err != nil {
				err = fmt.Errorf("%w (near byte %d)", err, dec.InputOffset())
			}
			if !yield(it, err) || err != nil {
				return
			}
		}
	}
}

// formOf looks at the first object and returns a reader of everything.
func formOf(in *bufio.Reader) (string, *bufio.Reader, error) {
	var first bytes.Buffer
	dec := json.NewDecoder(io.TeeReader(in, &first))
	form := asLines
	names := map[string]bool{}
	if t, err := dec.Token(); err == nil && t != json.Delim('{') {
		return "", nil, errors.New("it is neither an object nor a line of one")
	} else if err == nil {
		for dec.More() {
			name, err := dec.Token()
			if err != nil {
				break
			}
			s, _ := name.(string)
			names[s] = true
			if !isLineMember(s) {
				break
			}
			var skip json.RawMessage
			if dec.Decode(&skip) != nil {
				break
			}
		}
		for name := range names {
			if !isLineMember(name) {
				form = asObject
			}
		}
		if !names["key"] || !names["value"] {
			form = asObject
		}
	}
	return form, bufio.NewReaderSize(io.MultiReader(&first, in), 64<<10), nil
}

// isLineMember reports whether a line may have that member: those of an item as
// the hub returns it do no harm.
func isLineMember(name string) bool {
	switch name {
	case "key", "value", "ttl", "type", "revision", "previous_revision", "created", "updated":
		return true
	}
	return false
}

func lineItems(dec *json.Decoder) iter.Seq2[imported, error] {
	return func(yield func(imported, error) bool) {
		for {
			var line struct {
				Key   *string
				Value json.RawMessage
				TTL   *float64
				Type  string
			}
			err := dec.Decode(&line)
			if err == io.EOF {
				return
			}
			switch {
			case err != nil:
			case line.Type == "synced" || line.Type == "progress":
				continue // of the output of a watch
			case line.Type != "" && line.Type != "put" && line.Type != "item":
				err = fmt.Errorf("a line of type %q cannot be imported", oneLine(line.Type))
			case line.Key == nil || line.Value == nil:
				err = errors.New("a line has no key or no value")
			}
			if err != nil {
				yield(imported{}, err)
				return
			}
			if !yield(imported{*line.Key, line.Value, line.TTL}, nil) {
				return
			}
		}
	}
}

func objectItems(dec *json.Decoder) iter.Seq2[imported, error] {
	return func(yield func(imported, error) bool) {
		t, err := dec.Token()
		if err == nil && t != json.Delim('{') {
			err = errors.New("it is not an object")
		}
		for err == nil && dec.More() {
			var it imported
			if t, err = dec.Token(); err != nil {
				break
			}
			it.Key, _ = t.(string)
			if err = dec.Decode(&it.Value); err == nil && !yield(it, nil) {
				return
			}
		}
		if err == nil {
			_, err = dec.Token() // }
		}
		if err == nil {
			if _, more := dec.Token(); more != io.EOF {
				err = errors.New("something follows the object")
			}
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF
		}
		if err != nil {
			yield(imported{}, err)
		}
	}
}

// importGroup stores keys, many in one transaction.
type importGroup struct {
	client   *client.Client
	keep     bool
	ops      []map[string]any
	bytes    int
	stored   int
	kept     int
	revision uint64
}

func (g *importGroup) add(ctx context.Context, it imported) error {
	if g.keep {
		return g.addNew(ctx, it)
	}
	if len(g.ops) == groupKeys || len(g.ops) > 0 && g.bytes+len(it.Value) > groupBytes {
		if err := g.flush(ctx); err != nil {
			return err
		}
	}
	op := map[string]any{"op": "put", "key": it.Key, "value": it.Value}
	if it.TTL != nil {
		op["ttl"] = *it.TTL
	}
	g.ops = append(g.ops, op)
	g.bytes += len(it.Key) + len(it.Value)
	return nil
}

// addNew stores a key unless it exists: a group of its own, as one that exists
// would keep out the others.
func (g *importGroup) addNew(ctx context.Context, it imported) error {
	params := map[string]any{"key": it.Key, "value": it.Value, "if_revision": 0}
	if it.TTL != nil {
		params["ttl"] = *it.TTL
	}
	var done struct{ Revision uint64 }
	err := g.client.Call(ctx, "state.put", params, &done)
	if client.KindOf(err) == client.KindConflict {
		g.kept++
		return nil
	}
	if err == nil {
		g.stored++
		g.revision = done.Revision
	}
	return err
}

func (g *importGroup) flush(ctx context.Context) error {
	if len(g.ops) == 0 {
		return nil
	}
	var done struct{ Revision uint64 }
	if err := g.client.Call(ctx, "state.txn", map[string]any{"then": g.ops}, &done); err != nil {
		return err
	}
	g.stored += len(g.ops)
	g.revision = done.Revision
	g.ops, g.bytes = g.ops[:0], 0
	return nil
}

// failed is err with how far the import came.
func (g *importGroup) failed(err error) error {
	if _, ok := errors.AsType[usageError](err); ok {
		return err
	}
	return hintedError{fmt.Errorf("%s%w", messageOf(err), silent{err}), fmt.Sprintf("%d keys were stored before", g.stored)}
}

package statesvc

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestEnginesAgree runs random lists of operations on a memory store and on a durable one, which is closed, killed, snapshot
// and released in between. Whatever a client can see must be the same, save for the times.
func TestEnginesAgree(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	if f := flag.Lookup("rapid.checks"); thin > 1 && f.Value.String() == f.DefValue {
		f.Value.Set("20") // of 100
	}
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(root, "")
		if err != nil {
			t.Fatal(err)
		}
		defer os.RemoveAll(dir)
		opts := Options{Limits: Limits{HistoryEvents: rapid.IntRange(1, 40).Draw(rt, "history"), Total: 40_000}}
		mem := OpenMemory(opts).(*engine)
		defer mem.Close()
		log, err := openEngine(dir, opts)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { crash(log) }()
		reopen := func(end func(*engine)) {
			end(log)
			var err error
			if log, err = openEngine(dir, opts); err != nil {
				rt.Fatalf("reopen: %v", err)
			}
		}
		key := rapid.Custom(func(t *rapid.T) string {
			return fmt.Sprintf("%s%d", rapid.SampledFrom([]string{"a/", "b/", "b/c/"}).Draw(t, "folder"), rapid.IntRange(0, 5).Draw(t, "n"))
		})
		op := rapid.Custom(func(rt *rapid.T) Op {
			o := Op{Kind: OpKind(rapid.IntRange(int(OpPut), int(OpGet)).Draw(rt, "kind")), Key: key.Draw(rt, "key")}
			switch o.Kind {
			case OpPut:
				o.Value.Data = rapid.SliceOfN(rapid.Byte(), 0, 2000).Draw(rt, "value")
				o.Value.Encoding = Encoding(rapid.IntRange(0, 3).Draw(rt, "encoding"))
				if rapid.Bool().Draw(rt, "lease") {
					o.TTL = time.Hour
				}
			case OpPatch:
				o.Patch = func(old *Item) (Value, error) {
					if len(old.Value.Data) > 1500 {
						return Value{}, fmt.Errorf("too long already")
					}
					return Value{Data: append(append([]byte{}, old.Value.Data...), "patched"...)}, nil
				}
			case OpDeletePrefix:
				o.Key = o.Key[:rapid.IntRange(0, len(o.Key)).Draw(rt, "length")]
				return o
			}
			if rapid.IntRange(0, 4).Draw(rt, "compare") == 0 {
				o.HasIf, o.If = true, uint64(rapid.IntRange(0, 30).Draw(rt, "if"))
			}
			return o
		})
		for range rapid.IntRange(1, 40).Draw(rt, "steps") {
			switch rapid.IntRange(0, 14).Draw(rt, "step") {
			case 0:
				reopen(crash)
			case 1:
				reopen(func(e *engine) { e.Close() })
			case 2:
				if err := log.journal.snapshot(log, log.view.Load()); err != nil {
					rt.Fatal(err)
				}
			case 3:
				if rev := mem.Info().Revision; rev > 0 {
					at := uint64(rapid.IntRange(0, int(rev)).Draw(rt, "compact"))
					for _, s := range []Store{mem, log} {
						done := make(chan error, 1)
						if err := s.Compact(at, func(_ uint64, err error) { done <- err }); err != nil {
							rt.Fatal(err)
						}
						if err := <-done; err != nil {
							rt.Fatal(err)
						}
					}
				}
			default:
				tx := &Tx{Then: rapid.SliceOfN(op, 1, 5).Draw(rt, "then"), Else: rapid.SliceOfN(op, 0, 3).Draw(rt, "else")}
				if rapid.Bool().Draw(rt, "conditional") {
					tx.If = []Condition{{Key: key.Draw(rt, "condition"), Revision: uint64(rapid.IntRange(0, 10).Draw(rt, "at"))}}
				}
				r1, err1 := do(t, mem, tx)
				r2, err2 := do(t, log, tx)
				if got, want := outcome(r2, err2), outcome(r1, err1); got != want {
					rt.Fatalf("log answers %s, memory %s", got, want)
				}
			}
			if got, want := timeless(dump(t, log)), timeless(dump(t, mem)); got != want {
				rt.Fatalf("log:\n%s\nmemory:\n%s", got, want)
			}
			a, b := mem.Stats(), log.Stats()
			if a.Keys != b.Keys || a.Bytes != b.Bytes || a.HistoryEvents != b.HistoryEvents || a.HistoryBytes != b.HistoryBytes || a.Leases != b.Leases {
				rt.Fatalf("memory %+v, log %+v", a, b)
			}
			k := key.Draw(rt, "read")
			rev := uint64(rapid.IntRange(0, 30).Draw(rt, "at"))
			it1, err1 := mem.GetAt(k, rev)
			it2, err2 := log.GetAt(k, rev)
			if fmt.Sprint(err1) != fmt.Sprint(err2) || it1 != nil && string(it1.Value.Data) != string(it2.Value.Data) {
				rt.Fatalf("%s at %d: memory %v %v, log %v %v", k, rev, it1, err1, it2, err2)
			}
			h1, _ := mem.History(k, 0)
			h2, _ := log.History(k, 0)
			if len(h1) != len(h2) {
				rt.Fatalf("history of %s: memory %d, log %d", k, len(h1), len(h2))
			}
		}
	})
}

func outcome(r Result, err error) string {
	if err != nil {
		return err.Error()
	}
	s := fmt.Sprint(r.Succeeded, r.Revision)
	for _, o := range r.Results {
		s += fmt.Sprint(" ", o.Deleted)
		if o.Item != nil {
			s += fmt.Sprintf(" %s@%d %q", o.Item.Key, o.Item.Revision, o.Item.Value.Data)
		}
	}
	return s
}

// timeless takes the times out of a dump.
func timeless(dump string) string {
	var out []string
	for line := range strings.Lines(dump) {
		f := strings.Fields(line)
		for i := range len(f) - 1 {
			if f[i] == "created" || f[i] == "updated" || f[i] == "at" {
				f[i+1] = "-"
			}
		}
		out = append(out, strings.Join(f, " "))
	}
	return strings.Join(out, "\n")
}

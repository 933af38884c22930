package tests

import (
	"encoding/hex"
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
)

// valueExample is a row of the table of examples in docs/data-model.md.
type valueExample struct {
	kind  string          // the row of the table above that it belongs to
	cells map[string]cell // by column
}

// cell is what one protocol makes of the value.
type cell struct {
	wire    string // what it gets
	says    bool   // it can send the value, and does it with wire
	leftOut bool   // it gets an object without the member
	failed  bool   // it gets an error
}

func (c cell) String() string {
	switch {
	case c.failed:
		return "an error"
	case c.leftOut:
		return "nothing"
	}
	return fmt.Sprintf("%q", c.wire)
}

// readExamples reads the table.
func readExamples(t *testing.T) (columns []string, examples []valueExample) {
	t.Helper()
	doc, err := os.ReadFile("../docs/data-model.md")
	if err != nil {
		t.Fatal(err)
	}
	_, table, ok := strings.Cut(string(doc), "| example | ")
	if !ok {
		t.Fatal("docs/data-model.md has no table of examples")
	}
	for i, line := range strings.Split(table, "\n") {
		cells := strings.Split(strings.TrimSuffix(strings.TrimPrefix(line, "| "), " |"), " | ")
		switch {
		case i == 0:
			columns = cells
			continue
		case i == 1:
			continue // the rule
		case !strings.HasPrefix(line, "|"):
			return columns, examples
		case len(cells) != len(columns)+1:
			t.Fatalf("%d cells, want %d: %s", len(cells), len(columns)+1, line)
		}
		e := valueExample{kind: cells[0], cells: map[string]cell{}}
		for k, name := range columns {
			e.cells[name] = readCell(t, cells[k+1], name, e.cells[columns[0]])
		}
		examples = append(examples, e)
	}
	t.Fatal("the table has no end")
	return nil, nil
}

func readCell(t *testing.T, text, column string, first cell) cell {
	t.Helper()
	switch text {
	case "same":
		return first
	case "left out":
		return cell{leftOut: true}
	case "error":
		return cell{failed: true}
	}
	rest, gets := strings.CutPrefix(text, "gets ")
	wire := strings.Trim(rest, "`")
	if len(wire) != len(rest)-2 {
		t.Fatalf("the cell %q cannot be read", text)
	}
	if strings.HasSuffix(column, "MessagePack") {
		b, err := hex.DecodeString(wire)
		if err != nil {
			t.Fatalf("the cell %q: %v", text, err)
		}
		wire = string(b)
	}
	return cell{wire: wire, says: !gets}
}

// check compares the member value of an object with what the page says.
func (c cell) check(t *testing.T, w valueWire, object, failed, what string) {
	t.Helper()
	got := cell{failed: failed != ""}
	if !got.failed {
		value, ok := memberOf(w, object, "value")
		got.wire, got.leftOut = value, !ok
	}
	if got.String() != c.String() {
		t.Errorf("%s: got %v %.200s, the page says %v", what, got, failed, c)
	}
}

// dataModel is what the test of pairs works with.
type dataModel struct {
	columns  []string
	examples []valueExample
	d        *daemon
	wires    map[string]valueWire
}

// TestDataModelPairs has every protocol say each value of the table of examples
// in docs/data-model.md, and every other one look at it: through the state,
// through methods of clients, and in the events of a session.
func TestDataModelPairs(t *testing.T) {
	t.Parallel()
	m := dataModel{d: startDaemon(t)}
	m.columns, m.examples = readExamples(t)
	m.wires = valueWires(t, m.d)
	if names := slices.Sorted(maps.Keys(m.wires)); !slices.Equal(names, slices.Sorted(slices.Values(m.columns))) {
		t.Fatalf("the table has the columns %q, the test %q", m.columns, names)
	}
	m.complete(t)
	m.throughState(t)
	m.throughMethods(t)
	m.throughEvents(t)
}

// withinCalls are the kinds without an example, and how they can be said all the same.
var withinCalls = map[string][][2]string{
	"file":   nil,
	"stream": nil,
	"function, object by reference": {
		{"Cap'n Web", `["export",-1]`}, {"Cap'n Web", `{"a":["export",-2]}`}, {"kkrpc compact", `{"__kkrpc_next_arg__":"callback","id":"f"}`},
	},
}

// complete checks that each kind of value has an example, and that the state
// refuses what has none.
func (m *dataModel) complete(t *testing.T) {
	rows := map[string]bool{}
	for _, e := range m.examples {
		rows[e.kind] = true
	}
	for kind, list := range withinCalls {
		rows[kind] = true
		for _, c := range list {
			w := m.wires[c[0]]
			w.start("state.put", w.text("refused"), c[1])
			if _, failed := w.answer(); !strings.Contains(failed, "stored") {
				t.Errorf("%s, said in %s: got %q, want to be refused", kind, c[0], failed)
			}
		}
	}
	sameAsDocumented(t, rows)
}

// said yields each value with each protocol that can say it.
func (m *dataModel) said(yield func(e valueExample, from string, w valueWire, wire string) bool) {
	for _, e := range m.examples {
		for _, from := range m.columns {
			if c := e.cells[from]; c.says && !yield(e, from, m.wires[from], c.wire) {
				return
			}
		}
	}
}

// throughState: what one puts the others get, as the whole value and within one.
func (m *dataModel) throughState(t *testing.T) {
	m.said(func(e valueExample, from string, w valueWire, wire string) bool {
		mustCall(t, w, "state.put", w.text("whole"), wire)
		mustCall(t, w, "state.put", w.text("within"), w.object("value", wire))
		for _, to := range m.columns {
			r := m.wires[to]
			what := fmt.Sprintf("state: %s, %s to %s", e.kind, from, to)
			r.start("state.get", r.text("whole"))
			item, failed := r.answer()
			e.cells[to].check(t, r, item, failed, what)

			r.start("state.get", r.text("within"))
			if item, failed = r.answer(); failed == "" {
				item, _ = memberOf(r, item, "value")
			}
			e.cells[to].check(t, r, item, failed, what+", within an object")
		}
		return true
	})
}

// throughMethods: what a caller passes the client that has the method gets, and
// what that one answers the caller gets.
func (m *dataModel) throughMethods(t *testing.T) {
	provided := 0
	for _, at := range m.columns {
		p, ok := valueWires(t, m.d)[at].(valueProvider)
		if !ok {
			continue // the hub cannot call it
		}
		provided++
		service := fmt.Sprintf("box%d", provided)
		mustCall(t, p, "hub.provide", p.text(service), p.list(p.text("take")))
		m.said(func(e valueExample, from string, w valueWire, wire string) bool {
			what := fmt.Sprintf("method: %s, %s to one in %s", e.kind, from, at)
			w.start(service+".take", w.object("value", wire))
			if e.cells[at].failed {
				if _, failed := w.answer(); failed == "" {
					t.Errorf("%s: no error", what)
				}
				return true
			}
			e.cells[at].check(t, p, p.asked(), "", what)
			p.reply("null")
			if _, failed := w.answer(); failed != "" {
				t.Errorf("%s: %s", what, failed)
			}
			return true
		})
		for _, e := range m.examples {
			if !e.cells[at].says {
				continue
			}
			for _, to := range m.columns {
				r := m.wires[to]
				r.start(service+".take", r.object("value", r.text("")))
				p.asked()
				p.reply(p.object("value", e.cells[at].wire))
				result, failed := r.answer()
				e.cells[to].check(t, r, result, failed, fmt.Sprintf("method: %s, answered in %s to %s", e.kind, at, to))
			}
		}
	}
	if provided != 4 {
		t.Errorf("%d columns can provide methods, want 4", provided)
	}
}

// throughEvents: an event is JSON. Whoever publishes a value, everybody gets
// what is made of its native form.
func (m *dataModel) throughEvents(t *testing.T) {
	native := m.columns[0]
	mustCall(t, m.wires[native], "session.open", `"values"`, `""`, `null`, `1`) // keeps the newest event alone
	publish := func(w valueWire, members ...string) (failed string) {
		event := w.object(append([]string{"type", w.text("sample")}, members...)...)
		w.start("session.publish", w.text("values"), event)
		_, failed = w.answer()
		return failed
	}
	// newest returns the event as it came, without its time and number.
	newest := func(to string) (event, failed string) {
		r := m.wires[to]
		r.start("session.history", r.text("values"))
		result, failed := r.answer()
		if failed != "" {
			return "", failed
		}
		list, _ := memberOf(r, result, "events")
		_, events := r.parts(list)
		if len(events) != 1 {
			t.Fatalf("%s sees %d events, want 1: %q", to, len(events), result)
		}
		event = r.object()
		if value, ok := memberOf(r, events[0], "value"); ok {
			event = r.object("value", value)
		}
		return event, ""
	}
	for _, e := range m.examples {
		form := e.cells[native]
		want := map[string]cell{} // by column
		if !form.failed {
			members := []string{"value", form.wire}
			if form.leftOut {
				members = nil
			}
			if failed := publish(m.wires[native], members...); failed != "" {
				t.Fatalf("%s: %s", e.kind, failed)
			}
			for _, to := range m.columns {
				event, failed := newest(to)
				want[to] = cell{failed: failed != ""}
				if failed == "" {
					value, ok := memberOf(m.wires[to], event, "value")
					want[to] = cell{wire: value, leftOut: !ok}
				}
				if form.says {
					e.cells[to].check(t, m.wires[to], event, failed, fmt.Sprintf("event: %s, native to %s", e.kind, to))
				}
			}
		}
		for _, from := range m.columns {
			if !e.cells[from].says {
				continue
			}
			what := fmt.Sprintf("event: %s, %s to ", e.kind, from)
			failed := publish(m.wires[from], "value", e.cells[from].wire)
			if (failed != "") != form.failed {
				t.Errorf("%s the session: %q, the page says %v", what, failed, form)
			}
			if failed != "" || form.failed {
				continue
			}
			for _, to := range m.columns {
				event, failed := newest(to)
				want[to].check(t, m.wires[to], event, failed, what+to)
			}
		}
	}
}

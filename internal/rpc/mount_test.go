package rpc

import (
	"errors"
	"testing"
)

// A mounted service is listed without methods, and stands in for each of its
// names that the table does not have.
func TestMountedService(t *testing.T) {
	table := NewTable()
	table.MustAdd(row("here.a"))
	known := false
	var asked []string
	find := func(name string) *Method {
		asked = append(asked, name)
		if known {
			return nil
		}
		return row(name)
	}
	if err := table.Mount("far", find); err != nil {
		t.Fatal(err)
	}
	if s := table.Service("far"); s == nil || !s.Mounted() || len(s.Methods) != 0 {
		t.Errorf("%+v", s)
	}
	if s := table.Service("here"); s.Mounted() {
		t.Error("here is not mounted")
	}
	if list := table.Services(); len(list) != 2 || list[1].Name != "far" {
		t.Errorf("%v", list)
	}
	if m := table.Lookup("far.x"); m == nil || m.Name != "far.x" {
		t.Errorf("%+v", m)
	}
	if m := table.LookupBytes([]byte("far.y")); m == nil || m.Name != "far.y" {
		t.Errorf("%+v", m)
	}
	for _, name := range []string{"far", "far.", "far.a b", "other.x", "here.b", ""} {
		if m := table.Lookup(name); m != nil {
			t.Errorf("%q: %+v", name, m)
		}
	}
	if m := table.Row("far.x"); m != nil {
		t.Errorf("a stand-in is no row: %+v", m)
	}
	if len(asked) != 2 {
		t.Errorf("asked for %q", asked)
	}

	table.Describe("far", "Far away.")
	known = true
	first := row("far.x")
	if err := table.Replace(nil, []*Method{first}); err != nil {
		t.Fatal(err)
	}
	if table.Lookup("far.x") != first || table.Row("far.x") != first || table.Lookup("far.y") != nil {
		t.Error("the rows are not used")
	}
	second := row("far.y")
	if err := table.Replace([]*Method{first}, []*Method{second, row("here.a")}); err == nil {
		t.Error("a name was taken over")
	}
	if table.Row("far.x") != first || table.Row("far.y") != nil {
		t.Error("what failed has changed the table")
	}
	if err := table.Replace([]*Method{first}, []*Method{second}); err != nil || table.Row("far.x") != nil || table.Row("far.y") != second {
		t.Error(err)
	}
	table.Remove(second)
	if s := table.Service("far"); s == nil || s.Doc != "Far away." || !s.Mounted() {
		t.Errorf("%+v", s)
	}
	for _, name := range []string{"far", "here"} {
		if err := table.Mount(name, find); !errors.Is(err, &Error{Code: CodeConflict}) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// OnRoom tells once, as soon as few enough bytes wait or nobody reads.
func TestReaderOnRoom(t *testing.T) {
	r := NewReader(nil)
	told := 0
	f := func() { told++ }
	r.OnRoom(0, f)
	if told != 1 {
		t.Errorf("empty: told %d times", told)
	}
	for range 3 {
		r.Item(nil, String("item"))
	}
	r.OnRoom(100, f) // fewer than two items with what they cost
	if told != 1 {
		t.Errorf("full: told %d times", told)
	}
	for i := range 3 {
		if _, ok, err := r.Recv(t.Context()); !ok || err != nil {
			t.Fatal(ok, err)
		}
		if want := []int{1, 2, 2}[i]; told != want {
			t.Errorf("after %d items: told %d times, want %d", i+1, told, want)
		}
	}
	r.Item(nil, String("item"))
	r.OnRoom(0, f)
	if told != 2 {
		t.Errorf("told %d times, want 2", told)
	}
	r.Close(nil)
	if told != 3 {
		t.Errorf("closed: told %d times, want 3", told)
	}
}

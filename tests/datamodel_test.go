package tests

import (
	"bytes"
	"context"
	"math"
	"math/big"
	"net/http/httptest"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
)

// goValue is what a method in Go returns, and what becomes of it.
type goValue struct {
	tree            any
	native, capnweb string // "" for an error of code serialization, "same" for the native form
}

// goValues has cases for each row of the table of docs/data-model.md.
func goValues() map[string][]goValue {
	nines, sevens := strings.Repeat("9", 40), strings.Repeat("7", 1000)
	huge, _ := new(big.Int).SetString(nines, 10)
	object := func(items ...any) *rpc.Map {
		m := new(rpc.Map)
		for i := 0; i < len(items); i += 2 {
			m.Set(items[i], items[i+1])
		}
		return m
	}
	raw := func(s string) any { return rpc.RawString(s) }
	return map[string][]goValue{
		"null":               {{nil, "null", "same"}, {raw("null"), "null", "same"}},
		"true, false":        {{true, "true", "same"}, {raw("false"), "false", "same"}},
		"integer up to 2^53": {{int64(-7), "-7", "same"}, {raw("9007199254740991"), "9007199254740991", "same"}},
		"integer up to 2^64": {
			{raw("9007199254740992"), "9007199254740992", `["bigint","9007199254740992"]`},
			{uint64(math.MaxUint64), "18446744073709551615", `["bigint","18446744073709551615"]`},
			{int64(math.MinInt64), "-9223372036854775808", `["bigint","-9223372036854775808"]`},
			{raw("9223372036854775809"), "9223372036854775809", `["bigint","9223372036854775809"]`},
		},
		"larger integer": {{huge, nines, `["bigint","` + nines + `"]`}, {raw(sevens), sevens, `["bigint","` + sevens + `"]`}},
		"`1.0`, `1e-07`": {
			{raw("1.0"), "1.0", "same"}, {raw("1e-07"), "1e-07", "same"}, {rpc.Number("-0.0"), "-0.0", "same"}, {0.5, "0.5", "same"},
			{1.0, "1.0", "same"}, {1e17, "1e+17", "100000000000000000"},
		},
		"NaN, Infinity, -Infinity": {
			{math.NaN(), "NaN", `["nan"]`}, {math.Inf(1), "Infinity", `["inf"]`}, {raw("[-Infinity]"), "[-Infinity]", `[[["-inf"]]]`},
		},
		"text":           {{"grüße", `"grüße"`, "same"}, {raw(`"\u00fc\/"`), `"\u00fc\/"`, "same"}},
		"lone surrogate": {{raw(`"\ud800"`), `"\ud800"`, "same"}},
		"array":          {{[]any{int64(1), nil}, "[1,null]", "[[1,null]]"}, {raw("[ 1,[]]"), "[ 1,[]]", "[[1,[[]]]]"}},
		"object": {
			{object("b", int64(1), "a", true), `{"b":1,"a":true}`, "same"}, {raw(`{"a":1,"a":2}`), `{"a":1,"a":2}`, "same"},
			{object("toJSON", int64(1), "a", int64(2)), `{"toJSON":1,"a":2}`, "same"},
		},
		"map with numbers, booleans, null or bytes as keys": {
			{object(int64(5), "x", true, "y", nil, "z", rpc.Bytes{Data: []byte("hi")}, "b"), `{"5":"x","true":"y","null":"z","aGk=":"b"}`, "same"},
		},
		"map with keys of other kinds": {{object(object(), "x"), "", ""}, {object([]any{}, "x"), "", ""}},
		"undefined": {
			{[]any{rpc.Undefined{}}, "[null]", `[[["undefined"]]]`}, {object("a", rpc.Undefined{}, "b", int64(1)), `{"b":1}`, `{"a":["undefined"],"b":1}`},
		},
		"bytes":                         {{rpc.Bytes{Data: []byte{0xff, 0}}, `"/wA="`, `["bytes","/wA"]`}},
		"time":                          {{time.Date(2026, 1, 2, 3, 4, 5, 600000000, time.UTC), `"2026-01-02T03:04:05.6Z"`, `["date",1767323045600]`}},
		"MessagePack extension":         {{rpc.Ext{Code: 5, Data: []byte("hi")}, `"aGk="`, `["bytes","aGk"]`}},
		"error as a value":              {{rpc.HandlerError("ValueError", "no"), `{"name":"ValueError","message":"no"}`, `["error","ValueError","no"]`}},
		"file":                          {{&rpc.File{Name: "f"}, "", ""}, {[]any{&rpc.File{}}, "", ""}},
		"stream":                        {{[]any{rpc.Items()}, "", `[[["readable",1]]]`}}, // as a whole result it is rpc_chunk frames: TestNativeStreams
		"function, object by reference": {{rpc.NewRef(rpc.Object{}, nil), "", `["export",-1]`}},
	}
}

// TestDataModelInGo walks the rows of docs/data-model.md from their Go column:
// what native and Cap'n Web make of it.
func TestDataModelInGo(t *testing.T) {
	t.Parallel()
	rows := map[string]bool{}
	for name, cases := range goValues() {
		rows[name] = true
		for _, c := range cases {
			got, err := rpc.TreeValue(c.tree).AppendJSON(nil, rpc.Form{NonFinite: true})
			if c.native == "" {
				if e := rpc.AsError(t.Context(), err); err == nil || e.Code != rpc.CodeSerialization {
					t.Errorf("%s: got %s, %v, want a serialization error", name, got, err)
				}
			} else if err != nil || string(got) != c.native {
				t.Errorf("%s: got %s, %v, want %s", name, got, err, c.native)
			}

			want := `["resolve",1,` + c.capnweb + `]`
			switch c.capnweb {
			case "":
				want = `["reject",1,["error","TypeError","Cannot serialize value: `
			case "same":
				want = `["resolve",1,` + c.native + `]`
			}
			table := rpc.NewTable()
			table.MustAdd(rpc.NewMethod(&rpc.Method{Name: "value", Run: rpc.Inline}, func(*rpc.Call) (rpc.Value, error) { return rpc.TreeValue(c.tree), nil }))
			if got := askOnce(t, capnweb.New(capnweb.Config{Table: table})); got != want && (c.capnweb != "" || !strings.HasPrefix(got, want)) {
				t.Errorf("%s: got %.300s, want %.300s", name, got, want)
			}
		}
	}
	sameAsDocumented(t, rows)
}

// askOnce calls the method value in a new session and returns the answer.
func askOnce(t *testing.T, server *capnweb.Server) string {
	t.Helper()
	hs := httptest.NewServer(server)
	defer hs.Close()
	ctx, stop := context.WithTimeout(t.Context(), patience)
	defer stop()
	ws, _, err := websocket.Dial(ctx, hs.URL, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close(ctx)
	defer ws.CloseNow()
	for _, msg := range []string{`["push",["pipeline",0,["value"],[]]]`, `["pull",1]`} {
		if err := ws.Write(ctx, websocket.MessageText, []byte(msg)); err != nil {
			t.Fatal(err)
		}
	}
	for {
		_, msg, err := ws.Read(ctx)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(msg, []byte(`["pipe"`)) && !bytes.HasPrefix(msg, []byte(`["stream"`)) {
			return string(msg)
		}
	}
}

// sameAsDocumented checks that a test has a case for each row of the table of
// docs/data-model.md, and no other.
func sameAsDocumented(t *testing.T, rows map[string]bool) {
	t.Helper()
	doc, err := os.ReadFile("../docs/data-model.md")
	if err != nil {
		t.Fatal(err)
	}
	documented := map[string]bool{}
	inTable := false
	for line := range strings.Lines(string(doc)) {
		cells := strings.Split(line, " | ")
		switch {
		case strings.HasPrefix(line, "| value |"):
			inTable = true
		case !strings.HasPrefix(line, "|"):
			inTable = false
		case inTable && !strings.HasPrefix(line, "|-"):
			name := strings.TrimPrefix(cells[0], "| ")
			documented[name] = true
			if !rows[name] {
				t.Errorf("docs/data-model.md has a row %q that no case walks", name)
			}
		}
	}
	for name := range rows {
		if !documented[name] {
			t.Errorf("no row %q in docs/data-model.md", name)
		}
	}
}

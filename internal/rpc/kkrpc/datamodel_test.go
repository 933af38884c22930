package kkrpc

import (
	"math"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// TestDataModel walks the kkrpc column of docs/data-model.md: each row of the
// table has a case here.
func TestDataModel(t *testing.T) {
	huge, _ := new(big.Int).SetString(strings.Repeat("9", 40), 10)
	object := func(items ...any) *rpc.Map {
		m := new(rpc.Map)
		for i := 0; i < len(items); i += 2 {
			m.Set(items[i], items[i+1])
		}
		return m
	}
	raw := func(s string) any { return rpc.RawString(s) }
	type row struct {
		tree    any
		classic string // "" for an error
		compact string // "" for the same as classic
	}
	rows := map[string][]row{
		"null":                     {{nil, "null", ""}},
		"true, false":              {{true, "true", ""}, {raw("false"), "false", ""}},
		"integer up to 2^53":       {{int64(-7), "-7", ""}, {raw("9007199254740992"), "9007199254740992", ""}},
		"integer up to 2^64":       {{uint64(math.MaxUint64), "18446744073709551615", ""}, {raw("9223372036854775809"), "9223372036854775809", ""}},
		"larger integer":           {{huge, strings.Repeat("9", 40), ""}},
		"`1.0`, `1e-07`":           {{raw("1.0"), "1.0", ""}, {raw("1e-07"), "1e-07", ""}, {0.5, "0.5", ""}},
		"NaN, Infinity, -Infinity": {{math.NaN(), "null", ""}, {raw("[-Infinity]"), "[null]", ""}},
		"text":                     {{raw(`"\u00fc\/ü"`), `"\u00fc\/ü"`, ""}},
		"lone surrogate":           {{raw(`"\ud800"`), `"\ud800"`, ""}},
		"array":                    {{[]any{int64(1), nil}, "[1,null]", ""}},
		"object":                   {{object("b", int64(1), "a", true), `{"b":1,"a":true}`, ""}, {raw(`{"a":1,"a":2}`), `{"a":1,"a":2}`, ""}},
		"map with numbers, booleans, null or bytes as keys": {{object(int64(5), "x", true, "y"), `{"5":"x","true":"y"}`, ""}},
		"map with keys of other kinds":                      {{object(object(), "x"), "", ""}},
		"undefined":                                         {{object("a", rpc.Undefined{}, "b", int64(1)), `{"b":1}`, ""}, {[]any{rpc.Undefined{}}, "[null]", ""}},
		"bytes": {{rpc.Bytes{Data: []byte{0xff, 0}}, `{"type":"Uint8Array","data":[255,0]}`, `"/wA="`},
			{[]any{object("b", rpc.Bytes{Data: []byte{1}})}, `[{"b":{"type":"Uint8Array","data":[1]}}]`, `[{"b":"AQ=="}]`}},
		"time": {{time.Date(2026, 1, 2, 3, 4, 5, 600000000, time.UTC), `"2026-01-02T03:04:05.600Z"`, ""},
			{time.Date(2026, 1, 2, 3, 4, 5, 1, time.UTC), `"2026-01-02T03:04:05.000000001Z"`, ""}},
		"MessagePack extension":         {{rpc.Ext{Code: 5, Data: []byte("hi")}, `"aGk="`, ""}},
		"error as a value":              {{rpc.HandlerError("ValueError", "no"), `{"name":"ValueError","message":"no"}`, ""}},
		"file":                          {{&rpc.File{Name: "f"}, "", ""}},
		"stream":                        {{[]any{rpc.Items()}, "", ""}}, // as a whole result: TestClientStreams
		"function, object by reference": {{rpc.NewRef(rpc.Object{}, nil), "", ""}},
	}
	for name, cases := range rows {
		for _, c := range cases {
			for dialect, want := range map[Dialect]string{Classic: c.classic, Compact: c.compact} {
				if want == "" {
					want = c.classic
				}
				got, err := appendValue(nil, dialect, rpc.TreeValue(c.tree), rpc.Form{})
				if want == "" {
					if e := rpc.AsError(t.Context(), err); err == nil || e.Code != rpc.CodeSerialization {
						t.Errorf("%s: got %s, %v, want a serialization error", name, got, err)
					}
				} else if err != nil || string(got) != want {
					t.Errorf("%s: got %s, %v, want %s", name, got, err, want)
				}
			}
		}
	}
	if got, _ := appendValue(nil, Classic, rpc.RawString(`"ü😀"`), rpc.Form{ASCII: true}); string(got) != `"\u00fc\ud83d\ude00"` {
		t.Errorf("over lines: %s", got)
	}
	doc, err := os.ReadFile("../../../docs/data-model.md")
	if err != nil {
		t.Fatal(err)
	}
	inTable := false
	for line := range strings.Lines(string(doc)) {
		switch {
		case strings.HasPrefix(line, "| value |"):
			inTable = true
		case !strings.HasPrefix(line, "|"):
			inTable = false
		case inTable && !strings.HasPrefix(line, "|-"):
			if name := strings.TrimPrefix(strings.Split(line, " | ")[0], "| "); rows[name] == nil {
				t.Errorf("docs/data-model.md has a row %q that no case walks", name)
			}
		}
	}
}

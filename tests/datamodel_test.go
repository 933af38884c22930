package tests

import (
	"math"
	"math/big"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// TestDataModelNative walks the native column of docs/data-model.md: each row
// of the table has a case here, and each case a row there.
func TestDataModelNative(t *testing.T) {
	t.Parallel()
	huge, _ := new(big.Int).SetString(strings.Repeat("9", 40), 10)
	object := func(items ...any) *rpc.Map {
		m := new(rpc.Map)
		for i := 0; i < len(items); i += 2 {
			m.Set(items[i], items[i+1])
		}
		return m
	}
	raw := func(s string) any { return rpc.RawString(s) }
	type want struct {
		tree any
		json string // "" for an error of code serialization
	}
	rows := map[string][]want{
		"null":                     {{nil, "null"}, {raw("null"), "null"}},
		"true, false":              {{true, "true"}, {raw("false"), "false"}},
		"integer up to 2^53":       {{int64(-7), "-7"}, {raw("9007199254740992"), "9007199254740992"}},
		"integer up to 2^64":       {{uint64(math.MaxUint64), "18446744073709551615"}, {raw("9223372036854775809"), "9223372036854775809"}},
		"larger integer":           {{huge, strings.Repeat("9", 40)}, {raw(strings.Repeat("7", 1000)), strings.Repeat("7", 1000)}},
		"`1.0`, `1e-07`":           {{raw("1.0"), "1.0"}, {raw("1e-07"), "1e-07"}, {rpc.Number("-0.0"), "-0.0"}, {0.5, "0.5"}},
		"NaN, Infinity, -Infinity": {{math.NaN(), "NaN"}, {math.Inf(1), "Infinity"}, {raw("[-Infinity]"), "[-Infinity]"}},
		"text":                     {{"grüße", `"grüße"`}, {raw(`"\u00fc\/"`), `"\u00fc\/"`}},
		"lone surrogate":           {{raw(`"\ud800"`), `"\ud800"`}},
		"array":                    {{[]any{int64(1), nil}, "[1,null]"}, {raw("[ 1 ]"), "[ 1 ]"}},
		"object":                   {{object("b", int64(1), "a", true), `{"b":1,"a":true}`}, {raw(`{"a":1,"a":2}`), `{"a":1,"a":2}`}},
		"map with numbers, booleans, null or bytes as keys": {{object(int64(5), "x", true, "y", nil, "z", rpc.Bytes{Data: []byte("hi")}, "b"), `{"5":"x","true":"y","null":"z","aGk=":"b"}`}},
		"map with keys of other kinds":                      {{object(object(), "x"), ""}, {object([]any{}, "x"), ""}},
		"undefined":                                         {{[]any{rpc.Undefined{}}, "[null]"}, {object("a", rpc.Undefined{}, "b", int64(1)), `{"b":1}`}},
		"bytes":                                             {{rpc.Bytes{Data: []byte{0xff, 0}}, `"/wA="`}},
		"time":                                              {{time.Date(2026, 1, 2, 3, 4, 5, 600000000, time.UTC), `"2026-01-02T03:04:05.6Z"`}},
		"MessagePack extension":                             {{rpc.Ext{Code: 5, Data: []byte("hi")}, `"aGk="`}},
		"error as a value":                                  {{rpc.HandlerError("ValueError", "no"), `{"name":"ValueError","message":"no"}`}},
		"file":                                              {{&rpc.File{Name: "f"}, ""}, {[]any{&rpc.File{}}, ""}},
		"stream":                                            {{[]any{rpc.Items()}, ""}}, // as a whole result it is rpc_chunk frames: TestNativeStreams
		"function, object by reference":                     {{rpc.NewRef(rpc.Object{}, nil), ""}},
	}
	for name, cases := range rows {
		for _, c := range cases {
			got, err := rpc.TreeValue(c.tree).AppendJSON(nil, rpc.Form{NonFinite: true})
			if c.json == "" {
				if e := rpc.AsError(t.Context(), err); err == nil || e.Code != rpc.CodeSerialization {
					t.Errorf("%s: got %s, %v, want a serialization error", name, got, err)
				}
			} else if err != nil || string(got) != c.json {
				t.Errorf("%s: got %s, %v, want %s", name, got, err, c.json)
			}
		}
	}

	names := map[string]bool{}
	for name := range rows {
		names[name] = true
	}
	sameAsDocumented(t, names)
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

package tests

import (
	"bytes"
	"context"
	"math"
	"math/big"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/capnweb"
)

// TestDataModelCapnweb walks the Cap'n Web column of docs/data-model.md: a
// method returns each kind of value, and a bare client looks at the message.
func TestDataModelCapnweb(t *testing.T) {
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
		wire string // "" for a rejection
	}
	rows := map[string][]want{
		"null":                     {{nil, "null"}, {raw("null"), "null"}},
		"true, false":              {{true, "true"}, {raw("false"), "false"}},
		"integer up to 2^53":       {{int64(-7), "-7"}, {raw("9007199254740991"), "9007199254740991"}},
		"integer up to 2^64":       {{uint64(math.MaxUint64), `["bigint","18446744073709551615"]`}, {raw("9223372036854775809"), `["bigint","9223372036854775809"]`}, {int64(math.MinInt64), `["bigint","-9223372036854775808"]`}},
		"larger integer":           {{huge, `["bigint","` + strings.Repeat("9", 40) + `"]`}, {raw(strings.Repeat("7", 1000)), `["bigint","` + strings.Repeat("7", 1000) + `"]`}},
		"`1.0`, `1e-07`":           {{raw("1.0"), "1.0"}, {raw("1e-07"), "1e-07"}, {0.5, "0.5"}, {1.0, "1.0"}, {1e17, "100000000000000000"}},
		"NaN, Infinity, -Infinity": {{math.NaN(), `["nan"]`}, {math.Inf(1), `["inf"]`}, {raw("[-Infinity]"), `[[["-inf"]]]`}},
		"text":                     {{"grüße", `"grüße"`}, {raw(`"\u00fc\/"`), `"\u00fc\/"`}},
		"lone surrogate":           {{raw(`"\ud800"`), `"\ud800"`}},
		"array":                    {{[]any{int64(1), nil}, "[[1,null]]"}, {raw("[1,[]]"), "[[1,[[]]]]"}},
		"object":                   {{object("b", int64(1), "a", true), `{"b":1,"a":true}`}, {object("toJSON", int64(1), "a", int64(2)), `{"toJSON":1,"a":2}`}},
		"map with numbers, booleans, null or bytes as keys": {{object(int64(5), "x", true, "y", nil, "z", rpc.Bytes{Data: []byte("hi")}, "b"), `{"5":"x","true":"y","null":"z","aGk=":"b"}`}},
		"map with keys of other kinds":                      {{object(object(), "x"), ""}, {object([]any{}, "x"), ""}},
		"undefined":                                         {{[]any{rpc.Undefined{}}, `[[["undefined"]]]`}, {object("a", rpc.Undefined{}), `{"a":["undefined"]}`}},
		"bytes":                                             {{rpc.Bytes{Data: []byte{0xff, 0}}, `["bytes","/wA"]`}},
		"time":                                              {{time.Date(2026, 1, 2, 3, 4, 5, 600000000, time.UTC), `["date",1767323045600]`}},
		"MessagePack extension":                             {{rpc.Ext{Code: 5, Data: []byte("hi")}, `["bytes","aGk"]`}},
		"error as a value":                                  {{rpc.HandlerError("ValueError", "no"), `["error","ValueError","no"]`}},
		"file":                                              {{&rpc.File{Name: "f"}, ""}, {[]any{&rpc.File{}}, ""}},
		"stream":                                            {{[]any{rpc.Items()}, `[[["readable",1]]]`}},
		"function, object by reference":                     {{rpc.NewRef(rpc.Object{}, nil), `["export",-1]`}},
	}
	names := map[string]bool{}
	for name, cases := range rows {
		names[name] = true
		for _, c := range cases {
			table := rpc.NewTable()
			table.MustAdd(rpc.NewMethod(&rpc.Method{Name: "value", Run: rpc.Inline}, func(*rpc.Call) (rpc.Value, error) { return rpc.TreeValue(c.tree), nil }))
			got := askOnce(t, capnweb.New(capnweb.Config{Table: table}))
			if c.wire == "" {
				if !strings.HasPrefix(got, `["reject",1,["error","TypeError","Cannot serialize value: `) {
					t.Errorf("%s: got %.300s, want a rejection", name, got)
				}
			} else if want := `["resolve",1,` + c.wire + `]`; got != want {
				t.Errorf("%s: got %.300s, want %.300s", name, got, want)
			}
		}
	}
	sameAsDocumented(t, names)
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

package krpc

import (
	"bytes"
	"io"
	"math"
	"math/big"
	"net/url"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// TestDataModel walks the column of docs/data-model.md: what becomes of each
// kind of value on its way out, alone and inside of an array.
func TestDataModel(t *testing.T) {
	var value rpc.Value
	s := startServer(t, func(c *Config) {
		c.Table.MustAdd(rpc.NewMethod(&rpc.Method{Name: "give"}, func(*rpc.Call) (rpc.Value, error) { return value, nil }))
	})
	const cannot = ""
	object := &rpc.Map{}
	object.Set("b", int64(1))
	object.Set("a", rpc.Undefined{})
	object.Set("c", nil)
	keys := &rpc.Map{}
	keys.Set(int64(1), "one")
	keys.Set(true, "yes")
	other := &rpc.Map{}
	other.Set(1.5, "x")
	other.Set("list", []any{int64(1)})
	odd := &rpc.Map{}
	odd.Set([]any{}, 1)
	huge, _ := new(big.Int).SetString("123456789012345678901234567890", 10)
	for _, c := range []struct {
		name  string
		value any
		alone string // the result; "" for none
		in    string // inside of an array; "" for the same
	}{
		{"null", nil, `{}`, `null`},
		{"booleans", []any{true, false}, `[true,false]`, ``},
		{"integer", int64(-5), `-5`, ``},
		{"integer up to 2^64", uint64(math.MaxUint64), `18446744073709551615`, ``},
		{"larger integer", huge, `123456789012345678901234567890`, ``},
		{"float", rpc.Number("1.0"), `1.0`, ``},
		{"float as it came", rpc.RawString("1e-07"), `1e-07`, ``},
		{"NaN", math.NaN(), `null`, ``},
		{"infinities", []any{math.Inf(1), math.Inf(-1)}, `[null,null]`, ``},
		{"NaN as it came", rpc.RawString("[NaN]"), `[null]`, ``},
		{"text", "ä\n\"", `"ä\n\""`, ``},
		{"lone surrogate", rpc.RawString(`"\ud800"`), `"\ud800"`, ``},
		{"array", []any{int64(1), []any{}}, `[1,[]]`, ``},
		{"object", object, `{"b":1,"c":null}`, ``},
		{"object as it came", rpc.RawString(`{"b":1.0,"a":[],"b":2}`), `{"b":1.0,"a":[],"b":2}`, ``},
		{"keys that become text", keys, `{"1":"one","true":"yes"}`, ``},
		{"keys that cannot", odd, cannot, cannot},
		{"undefined", rpc.Undefined{}, `{}`, `null`},
		{"time", time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), `"2026-01-02T03:04:05Z"`, ``},
		{"extension", rpc.Ext{Code: 5, Data: []byte("abc")}, `"YWJj"`, ``},
		{"error", &rpc.Error{Code: rpc.CodeHandler, Name: "ValueError", Message: "no"}, `{"name":"ValueError","message":"no"}`, ``},
		{"bytes inside", []any{rpc.Bytes{Data: []byte("abc")}}, `["YWJj"]`, ``},
		{"reference", rpc.NewRef(rpc.Object{}, nil), cannot, cannot},
		{"stream", rpc.Items(rpc.Int(1)), cannot, cannot},
		{"file inside", []any{&rpc.File{}}, cannot, cannot},
	} {
		for place, tree := range map[string]any{"alone": c.value, "inside": []any{c.value}} {
			value = rpc.TreeValue(tree)
			want := c.alone
			if place == "inside" {
				if c.in != "" {
					want = c.in
				}
				if want != cannot {
					want = "[" + want + "]"
				}
			}
			got := s.post(`{"method": "give"}`)
			switch {
			case want == cannot && !bytes.Contains([]byte(got.body), []byte(`{"error": {"code": -32003,`)):
				t.Errorf("%s, %s: %s, want -32003", c.name, place, got.body)
			case want != cannot && got.body != `{"result": `+want+`}`:
				t.Errorf("%s, %s: %s, want %s", c.name, place, got.body, want)
			}
		}
	}
	for name, tree := range map[string]any{
		"bytes": rpc.Bytes{Data: []byte("\x00raw\xff")},
		"file":  &rpc.File{Size: 5, Open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader([]byte("\x00raw\xff"))), nil }},
	} {
		value = rpc.TreeValue(tree)
		got := s.post(`{"method": "give"}`)
		if got.body != "\x00raw\xff" || got.header.Get("Content-Type") != typeBinary {
			t.Errorf("%s: %q as %s", name, got.body, got.header.Get("Content-Type"))
		}
	}
}

// What comes in goes out again as it came.
func TestValuesComeBackAsTheyCame(t *testing.T) {
	s := startServer(t, nil)
	for _, v := range []string{
		`1.0`, `1e-07`, `-0`, `9223372036854775809`, `123456789012345678901234567890`, `"\ud83d\ude00"`, `"\ud800"`, `"ä"`, `[1,[2,{"b":1,"a":2,"b":3}]]`,
		`{"__proto__":1}`, `true`, `""`, `[]`, `{}`, `0`, `false`,
	} {
		got := s.raw("GET /?json=" + url.QueryEscape(`{"method":"echo","params":[`+v+`]}`) + " HTTP/1.0\r\n\r\n")
		if got.body != `{"result": `+v+`}` {
			t.Errorf("%s came back as %s", v, got.body)
		}
	}
}

package statesvc

import (
	"bytes"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func bigInt(text string) *big.Int {
	n, _ := new(big.Int).SetString(text, 10)
	return n
}

// What the data model has beyond JSON text, and how it is kept.
var modelValues = []struct {
	name  string
	tree  any
	typed bool
}{
	{"null", nil, false},
	{"booleans", []any{true, false}, false},
	{"integers", []any{int64(0), int64(-1), int64(math.MaxInt64), int64(math.MinInt64), uint64(math.MaxUint64)}, false},
	{"literals", []any{rpc.Number("1.0"), rpc.Number("1e-07"), rpc.Number("-0")}, false},
	{"strings", []any{"", "a", "é\u2028\x00\"\\", "😀"}, false},
	{"object", &rpc.Map{Items: []rpc.Item{{Key: "b", Value: int64(1)}, {Key: "a", Value: []any{}}, {Key: "", Value: &rpc.Map{}}}}, false},
	{"not UTF-8", []any{"a\xff"}, true},
	{"big integers", []any{bigInt("5"), bigInt("-123456789012345678901234567890"), bigInt("0")}, true},
	{"undefined", &rpc.Map{Items: []rpc.Item{{Key: "u", Value: rpc.Undefined{}}}}, true},
	{"not finite", []any{math.Inf(1), math.Inf(-1)}, true},
	{"bytes", []any{rpc.Bytes{Data: []byte{}}, rpc.Bytes{Kind: "Uint16Array", Data: []byte{0, 255}}}, true},
	{"dates", []any{time.Unix(0, 0).UTC(), time.Date(1900, 1, 2, 3, 4, 5, 6, time.UTC), time.Date(9999, 12, 31, 0, 0, 0, 0, time.FixedZone("", -3600*5))}, true},
	{"extension", rpc.Ext{Code: -5, Data: []byte("x")}, true},
	{"other keys", &rpc.Map{Items: []rpc.Item{{Key: int64(1), Value: "a"}, {Key: rpc.Bytes{Data: []byte("k")}, Value: "b"}, {Key: nil, Value: "c"}}}, true},
	{"error", &rpc.Error{Code: rpc.CodeHandler, Name: "TypeError", Message: "no", Data: rpc.TreeValue([]any{int64(1)})}, true},
	{"nested", []any{[]any{&rpc.Map{Items: []rpc.Item{{Key: "x", Value: []any{rpc.Undefined{}, int64(1)}}}}}}, true},
}

func TestValuesRoundTrip(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	for _, tt := range modelValues {
		t.Run(tt.name, func(t *testing.T) {
			_, r := c.startArgs("state.put", rpc.ListArgs(rpc.String("k"), rpc.TreeValue(tt.tree)), 0)
			if _, err := c.wait(r); err != nil {
				t.Fatal(err)
			}
			it, err := s.Store().Get("k")
			if err != nil || (it.Value.Encoding == EncodingTyped) != tt.typed {
				t.Errorf("encoding %d, %v", it.Value.Encoding, err)
			}
			_, r = c.start("state.get", `["k"]`)
			v, rerr := c.wait(r)
			if rerr != nil {
				t.Fatal(rerr)
			}
			got, ok := v.Member("value")
			if !ok || !reflect.DeepEqual(got.Expand(), rpc.TreeValue(tt.tree).Expand()) {
				t.Errorf("came back as %#v, was %#v", got.Expand(), tt.tree)
			}
			if _, raw := v.Raw(); raw == tt.typed {
				t.Errorf("the answer is text: %v", raw)
			}
			// A condition compares what is stored with the same value.
			work := 1 << 20
			stored, err := LoadedValue(it.Value)
			if tt.name != "error" && (err != nil || !equalValues(stored, rpc.TreeValue(tt.tree), &work)) {
				t.Errorf("is not equal to itself: %v", err)
			}
		})
	}
	_, r := c.startArgs("state.put", rpc.ListArgs(rpc.String("nan"), rpc.TreeValue(math.NaN())), 0)
	if _, err := c.wait(r); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Get("nan"); err != nil || !math.IsNaN(v.Tree().(float64)) {
		t.Error(v, err)
	}
	_, r = c.startArgs("state.put", rpc.ListArgs(rpc.String("undefined"), rpc.Value{}), 0)
	if _, err := c.wait(r); err != nil {
		t.Fatal(err)
	}
	if v, err := s.Get("undefined"); err != nil || !v.IsUndefined() {
		t.Error(v, err)
	}
}

// JSON comes back byte for byte, whatever it is.
func TestJSONIsKept(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	for _, text := range []string{
		`{"b":1, "a" :[ 1.50 ,1E5,-0 ],"b":2}`, "[1,\n\t2]", `NaN`, `[Infinity,-Infinity]`, `"\ud800"`, `"\u0041\/"`, strings.Repeat("[", 200) + strings.Repeat("]", 200),
		`{"__proto__":1,"toJSON":2}`, `123456789012345678901234567890`,
	} {
		_, r := c.startArgs("state.put", rpc.ListArgs(rpc.String("k"), mustParse(t, text)), 0)
		if _, err := c.wait(r); err != nil {
			t.Fatal(err)
		}
		v, err := s.Get("k")
		if got, _ := v.Raw(); err != nil || string(got) != text || v.Traits() != mustParse(t, text).Traits() {
			t.Errorf("%s came back as %s, %v, %v", text, got, v.Traits(), err)
		}
		_, r = c.start("state.get", `["k"]`)
		v, _ = c.wait(r)
		got, _ := v.Raw()
		n, traits, serr := rpc.Scan(got)
		if serr != nil || n != len(got) || v.Traits().Flags&^traits.Flags != 0 || traits.Flags&^v.Traits().Flags != 0 || v.Traits().Depth != traits.Depth {
			t.Errorf("%s: traits %+v, a scan says %+v (%v)", got, v.Traits(), traits, serr)
		}
	}
}

func mustParse(t testing.TB, text string) rpc.Value {
	t.Helper()
	v, err := rpc.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestValuesThatCannotBeStored(t *testing.T) {
	s := newService(t, Options{}, ServiceOptions{})
	c := newCaller(t, s)
	deep := any(rpc.Undefined{})
	for range 300 {
		deep = []any{deep}
	}
	cyclic := []any{nil}
	cyclic[0] = cyclic
	for name, x := range map[string]any{
		"reference": rpc.NewRef(rpc.Object{}, nil), "stream": rpc.Items(), "file": &rpc.File{Name: "f"}, "inside": []any{int64(1), rpc.NewRef(rpc.Object{}, nil)},
		"key": &rpc.Map{Items: []rpc.Item{{Key: rpc.NewRef(rpc.Object{}, nil), Value: nil}}}, "deep": deep,
	} {
		_, r := c.startArgs("state.put", rpc.ListArgs(rpc.String("k"), rpc.TreeValue(x)), 0)
		if _, err := c.wait(r); errorText(err) != "invalid_params ran=no" {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := appendTyped(nil, cyclic, 0); err == nil {
		t.Error("a cycle was encoded")
	}
}

func FuzzTyped(f *testing.F) {
	for _, tt := range modelValues {
		if data, err := appendTyped(nil, tt.tree, 0); err == nil {
			f.Add(data)
		}
	}
	f.Add(bytes.Repeat([]byte{tagList, 1}, 300))
	f.Add([]byte{tagList, 0xff, 0xff, 0xff, 0xff, 0x0f})
	f.Add([]byte{tagNumber, 3, 'N', 'a', 'N'})
	f.Fuzz(func(t *testing.T, data []byte) {
		x, err := decodeTyped(data)
		if err != nil {
			return
		}
		again, err := appendTyped(nil, x, 0)
		if err != nil {
			t.Fatalf("%#v was decoded and cannot be encoded: %v", x, err)
		}
		y, err := decodeTyped(again)
		if err != nil {
			t.Fatalf("% x was encoded and cannot be decoded: %v", again, err)
		}
		third, err := appendTyped(nil, y, 0)
		if err != nil || !bytes.Equal(again, third) {
			t.Fatalf("% x is encoded as % x the next time (%v)", again, third, err)
		}
		// What a store serves must never break a wire.
		text, err := rpc.TreeValue(x).JSON()
		if err == nil && !rpc.Valid(text) {
			if _, _, serr := rpc.Scan(text); serr != nil && !strings.Contains(serr.Error(), "than") { // over a limit
				t.Fatalf("% x becomes %q: %v", data, text, serr)
			}
		}
	})
}

package snekrpc

import (
	"bytes"
	"encoding/hex"
	"math"
	"math/big"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Values of each kind become these bytes, and MessagePack reads them back.
func TestPack(t *testing.T) {
	utc := func(s string) time.Time {
		at, err := time.Parse(time.RFC3339Nano, s)
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	huge := new(big.Int).Lsh(big.NewInt(1), 64)
	pairs := new(rpc.Map)
	pairs.Set(int64(1), "a")
	pairs.Set(rpc.Bytes{Data: []byte{2}}, nil)
	pairs.Set(true, rpc.Undefined{})
	for _, x := range []struct {
		value any
		want  string // hexadecimal, or the error
	}{
		{nil, "c0"}, {rpc.Undefined{}, "c0"}, {true, "c3"}, {false, "c2"},
		{int64(0), "00"}, {int64(127), "7f"}, {int64(128), "cc80"}, {int64(-1), "ff"}, {int64(-33), "d0df"},
		{int64(math.MinInt64), "d38000000000000000"}, {uint64(math.MaxUint64), "cfffffffffffffffff"},
		{new(big.Int).SetUint64(math.MaxUint64), "cfffffffffffffffff"}, {huge, "more than 64 bits"},
		{3.0, "cb4008000000000000"}, {math.Inf(1), "cb7ff0000000000000"},
		{rpc.Number("3.0"), "cb4008000000000000"}, {rpc.Number("1e400"), "out of the range"},
		{rpc.Number("18446744073709551615"), "cfffffffffffffffff"},
		{"", "a0"}, {"grün", "a56772c3bc6e"}, {"bad\xff", "a6626164efbfbd"},
		{rpc.Bytes{Data: []byte("ab")}, "c4026162"}, {rpc.Bytes{}, "c400"},
		{[]any{}, "90"}, {[]any{int64(1), "a"}, "9201a161"},
		{pairs, "8201a161c40102c0"}, {(*rpc.Map)(nil), "c0"},
		{utc("2025-01-02T03:04:05Z"), "d6ff67760225"}, {utc("2025-01-02T03:04:05.5Z"), "d7ff7735940067760225"},
		{utc("1901-01-02T03:04:05Z"), "c70cff00000000ffffffff7e3831a5"},
		{rpc.Ext{Code: 5, Data: []byte{1, 2, 3}}, "c70305010203"}, {rpc.Ext{Code: -2, Data: []byte{7}}, "d4fe07"},
		{rpc.RawString(`{"a": [1, 2.0, "x\né", null, true, false, -5, {}], "b": {"c": 18446744073709551615}}`),
			"82a16198" + "01" + "cb4000000000000000" + "a4780ac3a9" + "c0c3c2fb80" + "a162" + "81a163cfffffffffffffffff"},
		{rpc.RawString(`NaN`), "cb7ff8000000000001"}, {rpc.RawString(`-Infinity`), "cbfff0000000000000"},
		{rpc.RawString(`-0`), "00"}, {rpc.RawString(`123456789012345678901234567890`), "more than 64 bits"},
		{rpc.RawString(`"\ud800"`), "lone surrogate"}, {rpc.RawString(`"\ufffd"`), "a3efbfbd"},
		{rpc.NewRef(nil, nil), "reference"}, {rpc.Items(), "stream"}, {&rpc.File{}, "file"},
		{[]any{rpc.RawString(`[1]`), rpc.Value{}}, "929101c0"},
	} {
		got, err := msgpackCodec{}.value(nil, rpc.TreeValue(x.value))
		if err != nil {
			if !strings.Contains(err.Error(), x.want) {
				t.Errorf("%v: %v, want %s", x.value, err, x.want)
			}
			continue
		}
		if hex.EncodeToString(got) != x.want {
			t.Errorf("%v: %x, want %s", x.value, got, x.want)
		}
		d := unpacker{whole: got, b: got, left: maxElements}
		back, err := d.value(0)
		if err != nil || len(d.b) > 0 {
			t.Errorf("%v: %x is read as %v, %v", x.value, got, back, err)
			continue
		}
		if again, err := (msgpackCodec{}).value(nil, rpc.TreeValue(back)); err != nil || !bytes.Equal(again, got) {
			t.Errorf("%v: %x, and again %x, %v", x.value, got, again, err)
		}
	}
}

// Containers of any size get a head that holds their number of elements.
func TestPackText(t *testing.T) {
	for _, n := range []int{0, 1, 15, 16, 17, 3000, 70000} {
		list := "[" + strings.TrimSuffix(strings.Repeat("1,", n), ",") + "]"
		for _, text := range []string{list, `{"k":` + list + `,"l":` + list + `}`, "[" + list + `,"` + strings.Repeat("x", n) + `"]`} {
			packed, err := msgpackCodec{}.value(nil, rpc.RawString(text))
			if err != nil {
				t.Fatal(err)
			}
			d := unpacker{whole: packed, b: packed, left: maxElements}
			x, err := d.value(0)
			if err != nil || len(d.b) > 0 {
				t.Fatalf("%d: %v, %d bytes left", n, err, len(d.b))
			}
			back, err := rpc.TreeValue(x).JSON()
			if err != nil || string(back) != text {
				t.Errorf("%d elements: %.60s, %v", n, back, err)
			}
		}
	}
}

// What is no MessagePack is refused, each with the kind of error that Python peers expect.
func TestUnpackRefuses(t *testing.T) {
	data := "92ab" + hex.EncodeToString([]byte("DataMessage"))
	for in, want := range map[string]string{
		"c1":                          "DecodeError",
		"":                            "DecodeError",
		data:                          "DecodeError: Input data was truncated",
		data + "01" + "00":            "trailing characters",
		data + "a2c328":               "invalid UTF-8",
		data + "ddffffffff":           "truncated",
		data + "dfffffffff":           "truncated",
		data + "c6ffffffff":           "truncated",
		data + "c9ffffffff05":         "truncated",
		data + "d4":                   "truncated",
		data + "d5ff0102":             "DecodeError",
		data + "d7ffffffffffffffffff": "invalid timestamp",
		data + "c70cff00000000" + "7fffffffffffffff": "invalid timestamp",
		data + "81c1": "DecodeError",
		"95ae" + hex.EncodeToString([]byte("CommandMessage")) + "a161a162" + "9080": "",
		"95ae" + hex.EncodeToString([]byte("CommandMessage")) + "a161a162" + "9090": "Expected `object`, got `array` - at `$[4]`",
		"95ae" + hex.EncodeToString([]byte("CommandMessage")) + "a161a162" + "90c0": "Expected `object`, got `null` - at `$[4]`",
	} {
		b, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(err)
		}
		var m message
		err = msgpackCodec{}.decode(b, &m)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", in, err, want)
		}
	}
	many := append([]byte{0x92, 0xab}, "DataMessage"...)
	many = append(many, 0xdd, 0, 0x0f, 0x42, 0x41) // 1,000,001 elements
	many = append(many, make([]byte, 1000001)...)
	if err := (msgpackCodec{}).decode(many, new(message)); err == nil || !strings.Contains(err.Error(), "elements") {
		t.Error(err)
	}
}

// A command has at most so many arguments, in both codecs.
func TestTooManyArguments(t *testing.T) {
	for _, n := range []int{maxArgs, maxArgs + 1} {
		for _, text := range []string{
			`["CommandMessage","a","b",[` + strings.TrimSuffix(strings.Repeat(`["Argument",1],`, n), ",") + `],{}]`,
			`["CommandMessage","a","b",[],{` + strings.TrimSuffix(strings.Repeat(`"k":["Argument",1],`, n), ",") + `}]`,
		} {
			for _, cd := range []codec{jsonCodec{}, msgpackCodec{}} {
				b, err := cd.value(nil, rpc.RawString(text))
				if err != nil {
					t.Fatal(err)
				}
				if err := cd.decode(b, new(message)); (err == nil) != (n == maxArgs) {
					t.Errorf("%s, %d arguments: %v", cd.name(), n, err)
				}
			}
		}
	}
}

// The tag is found without reading the rest.
func TestKindOfMessage(t *testing.T) {
	for _, cd := range []codec{jsonCodec{}, msgpackCodec{}} {
		for k := commandMsg; k <= endMsg; k++ {
			b := appendMark(nil, cd, k)
			if got := cd.kind(b); got != k {
				t.Errorf("%s %s: %d", cd.name(), kindNames[k], got)
			}
			for n := range b {
				if n == len(b)-1 && cd.name() == codecJSON {
					continue // the bracket does not matter
				}
				if got := cd.kind(b[:n]); got != noKind {
					t.Errorf("%s %q: %d", cd.name(), b[:n], got)
				}
			}
		}
	}
	if got := (jsonCodec{}).kind([]byte(" [ \"StreamEndMessage\" ]")); got != endMsg {
		t.Error(got)
	}
}

// Types as Python writes them, both ways.
func TestAnnotations(t *testing.T) {
	for text, want := range map[string]string{
		"str": "string", "int": "integer", "float": "number", "bool": "boolean", "bytes": "bytes", "None": "null",
		"list[str]": "[]string", "dict[str, Any]": "object", "str | None": "string?", "Optional[int]": "integer?",
		"Any": "any", "": "any", "whatever.Thing": "any", "list": "array", "typing.List[int]": "[]integer", "None | str": "string?",
		"list[dict[str, list[int]]]": "[]object", "tuple[int, str]": "[]integer",
		strings.Repeat("list[", 200): "any",
	} {
		got, stream := parseAnnotation(text)
		if got.String() != want || stream {
			t.Errorf("%q: %s, stream %v, want %s", text, got, stream, want)
		}
	}
	for text, want := range map[string]string{
		"Iterable[bytes]": "bytes", "Iterator[None]": "null", "Generator[int, None, None]": "integer",
		"collections.abc.Iterable[dict[str, Any]]": "object", "Iterable": "any",
	} {
		got, stream := parseAnnotation(text)
		if got.String() != want || !stream {
			t.Errorf("%q: %s, stream %v, want the stream of %s", text, got, stream, want)
		}
	}
	for name, want := range map[string]string{"if": "if_", "name": "name", "a b": "", "1a": "", "": "", "x1": "x1", "None": "None_"} {
		if got, _ := pythonName(name); got != want {
			t.Errorf("%q: %q, want %q", name, got, want)
		}
	}
}

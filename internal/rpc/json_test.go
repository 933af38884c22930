package rpc

import (
	"bytes"
	"encoding/json"
	"errors"
	"math"
	"math/big"
	"reflect"
	"strings"
	"testing"
	"time"
	"unicode/utf8"
)

func parse(t testing.TB, text string) Value {
	t.Helper()
	v, err := Parse([]byte(text))
	if err != nil {
		t.Fatalf("Parse(%q): %v", text, err)
	}
	return v
}

func TestTextsComeBackAsTheyWent(t *testing.T) {
	for _, text := range []string{
		`null`, `true`, `false`, `0`, `-0`, `1.0`, `1e-07`, `1E+5`, `9223372036854775809`, `18446744073709551616`, `-9223372036854775808`,
		`1234567890123456789012345678901234567890`, `-1234567890123456789012345678901234567890`, `1e400`,
		`""`, `"\ud800"`, `["\udc00x","y"]`, `{"a":"\ud83d"}`, `[]`, `{}`, `[[],[{}],{"":[]}]`, `{"a":1,"a":2}`,
		`[NaN,Infinity,-Infinity]`, `{"b":1,"a":[true,false,null]}`, `"é😀"`,
	} {
		v := parse(t, text)
		for name, x := range map[string]Value{"text": v, "tree": TreeValue(v.Tree()), "expanded": TreeValue(v.Expand())} {
			out, err := x.AppendJSON([]byte("x"), Form{NonFinite: true})
			if err != nil || string(out) != "x"+text {
				t.Errorf("%s of %s: %s, %v", name, text, out, err)
			}
		}
	}
}

func TestTreeNodes(t *testing.T) {
	huge, _ := new(big.Int).SetString("18446744073709551616", 10)
	got := parse(t, `[null,true,1,-9223372036854775808,9223372036854775808,18446744073709551616,1.0,-0,"a\n\u00e9\ud83d\ude00\/\b\f\r\t\"\\",{"k":[]},Infinity]`).Tree()
	want := []any{nil, true, int64(1), int64(math.MinInt64), uint64(1 << 63), huge, Number("1.0"), Number("-0"),
		"a\né😀/\b\f\r\t\"\\", &Map{Items: []Item{{"k", []any{}}}}, math.Inf(1)}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %#v\nwant %#v", got, want)
	}
	if f, ok := parse(t, "NaN").Tree().(float64); !ok || !math.IsNaN(f) {
		t.Errorf("NaN is %v", f)
	}
	if f := parse(t, "-Infinity").Tree(); f != math.Inf(-1) {
		t.Errorf("-Infinity is %v", f)
	}
	if lone, ok := parse(t, `"\ud800"`).Tree().(Value); !ok || !lone.isSurrogateText() {
		t.Errorf("a lone surrogate is %#v", lone)
	}
	if u := (Value{}).Tree(); u != (Undefined{}) {
		t.Errorf("undefined is %#v", u)
	}
}

// TestTreeOfDeepTextIsLinear decodes the deepest text with much in its
// innermost array: each byte looked at once per level would take minutes.
func TestTreeOfDeepTextIsLinear(t *testing.T) {
	const n = 1 << 21
	text := strings.Repeat("[", 256) + strings.Repeat("0,", n) + "0" + strings.Repeat("]", 256)
	done := make(chan int)
	go func() {
		x := parse(t, text).Tree()
		for range 255 {
			x = x.([]any)[0]
		}
		done <- len(x.([]any))
	}()
	select {
	case got := <-done:
		if got != n+1 {
			t.Errorf("%d elements", got)
		}
	case <-time.After(20 * time.Second):
		t.Fatal("still decoding")
	}
}

func TestFlagsOfAnElementDoNotHideStrings(t *testing.T) {
	list, err := parse(t, `["plain","\ud800"]`).AsList()
	if err != nil {
		t.Fatal(err)
	}
	tree := TreeValue([]any{list[0], list[1]}).Expand().([]any)
	if tree[0] != "plain" {
		t.Errorf("the plain string is %#v", tree[0])
	}
	if _, ok := tree[1].(Value); !ok {
		t.Errorf("the lone surrogate is %#v", tree[1])
	}
}

func TestPartsAreLessDeep(t *testing.T) {
	v := parse(t, strings.Repeat("[", 256)+strings.Repeat("]", 256))
	for e := range v.Elements() {
		if e.Traits().Depth != 255 {
			t.Errorf("depth of the element is %d", e.Traits().Depth)
		}
		if a := Array([]Value{e}); a.Traits().Depth != 256 {
			t.Errorf("depth around it is %d", a.Traits().Depth)
		}
	}
}

func TestAppendJSONForms(t *testing.T) {
	for _, test := range []struct {
		v    Value
		form Form
		want string
	}{
		{parse(t, "[1,\n \r2, \"a\\n\"]"), Form{}, `[1,   2, "a\n"]`},
		{parse(t, "{\"a\"\n:\n[]}"), Form{ASCII: true}, `{"a" : []}`},
		{parse(t, `[NaN,-Infinity,Infinity,"NaN"]`), Form{}, `[null,null,null,"NaN"]`},
		{parse(t, `{"NaN":NaN}`), Form{}, `{"NaN":null}`},
		{parse(t, `[NaN,-Infinity,-1]`), Form{NonFinite: true}, `[NaN,-Infinity,-1]`},
		{parse(t, "[NaN,\n\"é\"]"), Form{NonFinite: true, ASCII: true}, `[NaN, "\u00e9"]`},
		{parse(t, `{"é":"😀 \"\\"}`), Form{ASCII: true}, `{"\u00e9":"\ud83d\ude00 \"\\"}`},
		{TreeValue(math.NaN()), Form{}, `null`},
		{TreeValue([]any{math.Inf(-1), 0.1, 1.0, 1e16, 1e-7, math.Copysign(0, -1), 100000.0}), Form{NonFinite: true}, `[-Infinity,0.1,1.0,1e+16,1e-07,-0.0,100000.0]`},
		{TreeValue([]any{Undefined{}, Value{}, nil}), Form{}, `[null,null,null]`},
		{TreeValue(&Map{Items: []Item{{"a", Undefined{}}, {"b", Value{}}, {"c", int64(1)}}}), Form{}, `{"c":1}`},
		{TreeValue(&Map{Items: []Item{{nil, true}, {int64(1), 1}, {2.5, 2}, {Bytes{Data: []byte("x")}, 3}, {true, 4}}}), Form{}, `{"null":true,"1":1,"2.5":2,"eA==":3,"true":4}`},
		{TreeValue(Bytes{Data: []byte{0, 255}}), Form{}, `"AP8="`},
		{TreeValue(Ext{Code: 3, Data: []byte{1}}), Form{}, `"AQ=="`},
		{TreeValue(time.Date(2026, 1, 2, 3, 4, 5, 600, time.UTC)), Form{}, `"2026-01-02T03:04:05.0000006Z"`},
		{TreeValue(&Error{Name: "ValueError", Message: "né"}), Form{ASCII: true}, `{"name":"ValueError","message":"n\u00e9"}`},
		{TreeValue([]any{parse(t, "[1,\n2]"), parse(t, `"é"`)}), Form{ASCII: true}, `[[1, 2],"\u00e9"]`},
		{TreeValue(uint64(math.MaxUint64)), Form{}, `18446744073709551615`},
		{TreeValue([]any{7, int32(8), uint8(9), []string{"<"}}), Form{}, `[7,8,9,["<"]]`},
		{Value{}, Form{}, `null`},
		{String("\x00\x1f\"\\\n\r\t\x7fé\u2028\xff"), Form{}, `"\u0000\u001f\"\\\n\r\t` + "\x7fé\u2028\uFFFD\""},
		{TreeValue("😀\xff"), Form{ASCII: true}, `"\ud83d\ude00\ufffd"`},
		{TreeValue("\uFFFD"), Form{}, `"` + "\uFFFD" + `"`},
		{TreeValue([]any{(*Ref)(nil), (*big.Int)(nil), (*Map)(nil), (*Error)(nil)}), Form{}, `[null,null,null,null]`},
		{TreeValue((*Map)(nil)), Form{}, `null`},
	} {
		got, err := test.v.AppendJSON(nil, test.form)
		if err != nil || string(got) != test.want {
			t.Errorf("got %s, %v; want %s", got, err, test.want)
		}
		if bytes.ContainsAny(got, "\r\n") {
			t.Errorf("a line feed in %q", got)
		}
	}
}

func TestWhatNoJSONCarries(t *testing.T) {
	ref, deep := NewRef(nil, nil), any(nil)
	for range 600 {
		deep = []any{deep}
	}
	wrapped := any(nil)
	for range 600 {
		wrapped = []any{Value{tree: []any{wrapped}}}
	}
	cycle := map[string]any{"ref": ref}
	cycle["self"] = cycle
	for name, x := range map[string]any{
		"reference": ref, "in a list": []any{ref}, "in a Go map": map[string]any{"a": []any{map[string]*Ref{"b": ref}}},
		"in a struct": struct{ R *Ref }{ref}, "stream": Items(), "file": &File{Name: "secret"}, "in a pointer": &struct{ F []*File }{[]*File{{}}},
		"deep": deep, "deep in values": wrapped, "channel": make(chan int), "cycle": cycle,
		"bad key": &Map{Items: []Item{{[]any{}, 1}}},
	} {
		v, err := Encode(x)
		if err == nil {
			_, err = v.JSON()
		}
		if e, ok := errors.AsType[*Error](err); !ok || e.Code != CodeSerialization {
			t.Errorf("%s: %v", name, err)
		}
	}
	if text, err := json.Marshal(map[string]any{"ref": ref}); err == nil {
		t.Errorf("encoding/json writes a reference as %s", text)
	}
}

func TestEncode(t *testing.T) {
	type inner struct {
		Data  Bytes `json:"data"`
		Plain string
	}
	type Base struct {
		ID   int `json:"id"`
		Name string
	}
	ref := NewRef(nil, nil)
	raw := parse(t, `[1.0,"\ud800"]`)
	for _, test := range []struct {
		x    any
		want string
	}{
		{nil, `null`}, {"a<b>", `"a<b>"`}, {int(5), `5`}, {int8(-5), `-5`}, {uint64(1 << 63), `9223372036854775808`}, {true, `true`},
		{2.0, `2.0`}, {[]byte("hi"), `"aGk="`}, {[]string(nil), `null`}, {[]int{}, `[]`}, {map[string]int{"b": 1, "a": 2}, `{"a":2,"b":1}`},
		{struct {
			V Value `json:"v"`
			W Value `json:"w,omitempty"` //nolint:modernize // of a Value, this encoder leaves out the undefined one
			Z Value `json:"z,omitzero"`
		}{V: raw}, `{"v":[1.0,"\ud800"]}`},
		{map[string]any{"v": raw, "n": nil, "t": time.Unix(0, 0).UTC(), "f": 2.0, "b": []byte("hi")}, `{"b":"aGk=","f":2,"n":null,"t":"1970-01-01T00:00:00Z","v":[1.0,"\ud800"]}`},
		{[]inner{{Bytes{Data: []byte("x")}, "y"}}, `[{"data":"eA==","Plain":"y"}]`},
		{struct {
			Base
			*inner
			Skip Value `json:"-"`
			E    []any `json:"e,omitempty"`
			hide int
			Name Value
		}{Base: Base{7, "shadowed"}, Name: raw}, `{"Name":[1.0,"\ud800"],"id":7}`},
		{map[int]Value{2: raw, 1: Null}, `{"1":null,"2":[1.0,"\ud800"]}`},
		{[]any{map[string]any{"a": 1}, []int{1}, raw}, `[{"a":1},[1],[1.0,"\ud800"]]`},
		{&Map{Items: []Item{{"z", struct{ A int }{1}}, {"a", 2}}}, `{"z":{"A":1},"a":2}`},
		{struct{ P *Value }{&raw}, `{"P":[1.0,"\ud800"]}`},
		{json.RawMessage(`{"a":  1}`), `{"a":1}`},
	} {
		v, err := Encode(test.x)
		if err != nil {
			t.Errorf("Encode(%#v): %v", test.x, err)
			continue
		}
		if got, err := v.JSON(); err != nil || string(got) != test.want {
			t.Errorf("Encode(%#v) = %s, %v; want %s", test.x, got, err, test.want)
		}
		if j, err := json.Marshal(test.x); err != nil || test.want != `null` && len(j) == 0 {
			t.Errorf("json.Marshal(%#v): %v", test.x, err)
		}
	}
	if v := MustEncode(struct{}{}); !v.IsUndefined() {
		t.Errorf("an empty struct is %v", v.Tree())
	}
	if v := MustEncode(map[string]any{"a": []int{1}}); v.Kind() != '{' {
		t.Error("what encoding/json can write alone is no text")
	}
	tree := MustEncode(map[string]any{"x": ref, "t": []any{time.Unix(1, 0)}}).Tree().(*Map)
	if x, _ := tree.Get("x"); x != any(ref) {
		t.Errorf("the reference became %#v", x)
	}
	list := []any{int64(1), "a", nil}
	if got := MustEncode(list).Tree().([]any); &got[0] != &list[0] {
		t.Error("a list of nodes was copied")
	}
	odd := []any{int64(1), 2, &Map{Items: []Item{{"k", 3}}}}
	if got := MustEncode(odd).Tree(); !reflect.DeepEqual(got, []any{int64(1), int64(2), &Map{Items: []Item{{"k", int64(3)}}}}) || odd[1] != 2 {
		t.Errorf("got %#v, given %#v", got, odd)
	}
}

func TestUnmarshal(t *testing.T) {
	var s struct {
		A int
		V Value
		L []Value
	}
	text := []byte(`{"a":1,"v":[1.0],"l":[1,"\ud800"]}`)
	if err := parse(t, string(text)).Unmarshal(&s); err != nil || s.A != 1 || len(s.L) != 2 {
		t.Errorf("%+v, %v", s, err)
	}
	if raw, _ := s.V.Raw(); string(raw) != "[1.0]" || !s.V.Traits().Has(HasArray) || !s.L[1].Traits().Has(HasSurrogate) {
		t.Errorf("V is %s, L %v", raw, s.L)
	}
	var f []any
	if err := parse(t, `[NaN,1]`).Unmarshal(&f); err != nil || f[0] != nil || f[1] != 1.0 {
		t.Errorf("%v, %v", f, err)
	}
	if err := TreeValue(&Map{Items: []Item{{"a", uint64(9)}}}).Unmarshal(&s); err != nil || s.A != 9 {
		t.Errorf("%+v, %v", s, err)
	}
	var x any
	if err := parse(t, `[1]`).Unmarshal(&x); err != nil || !reflect.DeepEqual(x, []any{int64(1)}) {
		t.Errorf("%#v, %v", x, err)
	}
}

func TestOwnCopiesAllBorrowedText(t *testing.T) {
	buf := []byte(`["\ud800","b",{"c":"d"}]`)
	v, err := Parse(buf)
	if err != nil {
		t.Fatal(err)
	}
	list, err := v.AsList()
	if err != nil {
		t.Fatal(err)
	}
	owned := []Value{v.Own(), TreeValue([]any{list[0]}).Own(), TreeValue(&Map{Items: []Item{{"k", []any{list[2]}}}}).Own(), TreeValue([]any{int64(1), list[1]}).Own()}
	for i := range buf {
		buf[i] = '#'
	}
	for i, want := range []string{`["\ud800","b",{"c":"d"}]`, `["\ud800"]`, `{"k":[{"c":"d"}]}`, `[1,"b"]`} {
		if got, err := owned[i].JSON(); err != nil || string(got) != want {
			t.Errorf("%s, %v; want %s", got, err, want)
		}
	}
}

func TestMembersAndElements(t *testing.T) {
	v := parse(t, `{ "a" : [1 , 2,[ 3 ] ] ,"b\u0063":{"]":"}"},"a":  null , "":"\\" }`)
	var got []string
	for key, m := range v.Members() {
		raw, _ := m.Raw()
		got = append(got, Unquote(key)+"="+string(raw))
	}
	want := []string{"a=[1 , 2,[ 3 ] ]", `bc={"]":"}"}`, "a=null", `="\\"`}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("%q", got)
	}
	if m, ok := v.Member("a"); !ok || !m.IsNull() {
		t.Errorf("the last a is %v", m.Tree())
	}
	if m, ok := v.Member("bc"); !ok || m.Kind() != '{' {
		t.Errorf("bc is %v", m.Tree())
	}
	if _, ok := v.Member("c"); ok {
		t.Error("c is there")
	}
	if m, ok := TreeValue(v.Tree()).Member("a"); !ok || !m.IsNull() {
		t.Errorf("a in the tree is %v", m.Tree())
	}
	n := 0
	for range parse(t, `[ 1,"," , [2,3],{"a":[]} ]`).Elements() {
		if n++; n == 3 {
			break
		}
	}
	for range parse(t, `[]`).Elements() {
		t.Error("an element of nothing")
	}
	for range parse(t, `{ }`).Members() {
		t.Error("a member of nothing")
	}
	for range parse(t, `"[1]"`).Elements() {
		t.Error("an element of a string")
	}
	if _, ok := parse(t, `1`).Member("a"); ok {
		t.Error("a member of a number")
	}
}

func FuzzTree(f *testing.F) {
	for _, s := range scanSeeds {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		v, err := Parse(text)
		if err != nil {
			return
		}
		for _, form := range []Form{{}, {NonFinite: true}, {NonFinite: true, ASCII: true}} {
			direct, err := v.AppendJSON(nil, form)
			if err != nil {
				t.Fatal(err)
			}
			if bytes.ContainsAny(direct, "\r\n") || form.ASCII && bytes.ContainsFunc(direct, func(r rune) bool { return r >= 0x80 }) {
				t.Fatalf("%+v of %q is %q", form, text, direct)
			}
			again, err := Parse(direct)
			if err != nil {
				t.Fatalf("%q became %q: %v", text, direct, err)
			}
			if !form.NonFinite && !json.Valid(direct) {
				t.Fatalf("%q is not JSON", direct)
			}
			if v.Traits().Has(HasOddKey) {
				continue // a key that is half a character cannot be kept
			}
			one, err := TreeValue(v.Tree()).AppendJSON(nil, form)
			if err != nil {
				t.Fatal(err)
			}
			two, err := TreeValue(again.Tree()).AppendJSON(nil, form)
			if err != nil || !bytes.Equal(one, two) {
				t.Fatalf("tree of %q: %q, by way of %q: %q, %v", text, one, direct, two, err)
			}
			if tree := parse(t, string(two)).Tree(); form.NonFinite && !sameTree(tree, v.Tree()) {
				t.Fatalf("%q: %#v is not %#v", text, tree, v.Tree())
			}
		}
	})
}

// sameTree is reflect.DeepEqual with NaN equal to itself.
func sameTree(a, b any) bool {
	switch x := a.(type) {
	case float64:
		y, ok := b.(float64)
		return ok && (x == y || x != x && y != y)
	case []any:
		y, ok := b.([]any)
		if !ok || len(x) != len(y) {
			return false
		}
		for i := range x {
			if !sameTree(x[i], y[i]) {
				return false
			}
		}
		return true
	case *Map:
		y, ok := b.(*Map)
		if !ok || len(x.Items) != len(y.Items) {
			return false
		}
		for i := range x.Items {
			if x.Items[i].Key != y.Items[i].Key || !sameTree(x.Items[i].Value, y.Items[i].Value) {
				return false
			}
		}
		return true
	case Value: // half a character: escapes may be spelt differently
		_, ok := b.(Value)
		return ok
	}
	return reflect.DeepEqual(a, b)
}

func FuzzString(f *testing.F) {
	for _, s := range []string{"", "a", "\x00\n\"\\/", "é😀\u2028", "\xff\xed\xa0\x80", "\ufffd"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		want := strings.ToValidUTF8(s, "")
		if !utf8.ValidString(s) {
			var b strings.Builder
			for _, r := range s { // each bad byte becomes one U+FFFD
				b.WriteRune(r)
			}
			want = b.String()
		}
		for _, ascii := range []bool{false, true} {
			text := AppendString(nil, s, ascii)
			if n, traits, err := Scan(text); err != nil || n != len(text) || ascii && traits.Has(HasNonASCII) {
				t.Fatalf("%q is written as %q: %v", s, text, err)
			}
			if got := Unquote(text); got != want {
				t.Fatalf("%q came back as %q", s, got)
			}
			var std string
			if err := json.Unmarshal(text, &std); err != nil || std != want {
				t.Fatalf("encoding/json reads %q as %q: %v", text, std, err)
			}
		}
		if v := String(s); v.Traits() != parse(t, string(v.raw)).Traits() {
			t.Fatalf("traits of %q: %+v", s, v.Traits())
		}
	})
}

func FuzzUnquote(f *testing.F) {
	for _, s := range []string{`a\n`, `\ud800`, `\ud83d\ude00`, `\udc00\ud800`, `é\\\"`, `\u0000`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, body string) {
		text := []byte(`"` + body + `"`)
		if n, _, err := Scan(text); err != nil || n != len(text) {
			return
		}
		var want string
		if err := json.Unmarshal(text, &want); err != nil {
			t.Fatal(err)
		}
		if got := Unquote(text); got != want {
			t.Fatalf("%q is %q, want %q", text, got, want)
		}
		if !NameIs(text, want) || NameIs(text, want+"x") {
			t.Fatalf("NameIs(%q) does not know its name", text)
		}
	})
}

func TestIntTraits(t *testing.T) {
	for _, i := range []int64{0, 1, -1, 999999999999999, 1000000000000000, -999999999999999, -1000000000000000, math.MaxInt64, math.MinInt64} {
		v := Int(i)
		if want := parse(t, string(v.raw)).Traits(); v.Traits() != want {
			t.Errorf("%d: %+v, want %+v", i, v.Traits(), want)
		}
	}
}

package rpc

import (
	"context"
	"errors"
	"fmt"
	"math"
	"reflect"
	"strings"
	"testing"
)

func TestArgsSpellings(t *testing.T) {
	tree := &Map{Items: []Item{{"a", int64(1)}, {"b", "x"}}}
	for name, test := range map[string]struct {
		args Args
		want string // positional | named
	}{
		"none":        {Args{}, "|"},
		"null":        {WholeArgs(Null), "|"},
		"object":      {WholeArgs(parse(t, `{"a":1,"b":"x"}`)), `|a=1,b="x"`},
		"array":       {WholeArgs(parse(t, `[1, "x"]`)), `1,"x"|`},
		"scalar":      {WholeArgs(parse(t, `7`)), `7|`},
		"string":      {WholeArgs(parse(t, `"{}"`)), `"{}"|`},
		"list":        {ListArgs(Int(1), String("x")), `1,"x"|`},
		"mixed":       {MixedArgs([]Value{Int(1)}, []Named{{"b", String("x")}}), `1|b="x"`},
		"tree object": {WholeArgs(TreeValue(tree)), `|a=1,b="x"`},
		"tree array":  {WholeArgs(TreeValue([]any{int64(1), "x"})), `1,"x"|`},
		"tree scalar": {WholeArgs(TreeValue("x")), `"x"|`},
	} {
		for range 2 { // again after Own
			var list, named []string
			for v := range test.args.List() {
				text, _ := v.JSON()
				list = append(list, string(text))
			}
			for n, v := range test.args.ByName() {
				text, _ := v.JSON()
				named = append(named, n+"="+string(text))
			}
			if got := strings.Join(list, ",") + "|" + strings.Join(named, ","); got != test.want {
				t.Errorf("%s: %s, want %s", name, got, test.want)
			}
			first, _ := test.args.First().JSON()
			if len(list) > 0 && string(first) != list[0] || len(list) == 0 && !test.args.First().IsUndefined() {
				t.Errorf("%s: first is %s", name, first)
			}
			test.args.Own()
		}
	}
	a := MixedArgs([]Value{Int(1)}, []Named{{"b", Int(2)}})
	if v, ok := a.Get(0, "x"); !ok || string(v.raw) != "1" {
		t.Error("Get by position")
	}
	if v, ok := a.Get(1, "b"); !ok || string(v.raw) != "2" {
		t.Error("Get by name")
	}
	if _, ok := a.Get(1, "c"); ok {
		t.Error("Get of nothing")
	}
}

type binding struct {
	Key    string          `rpc:"key" doc:"what to read"`
	If     int             `rpc:"if" default:"7"`
	TTL    *float64        `rpc:"ttl"`
	Prefix string          `rpc:"prefix,optional"`
	Any    Value           `rpc:"any,optional"`
	hidden int             //nolint:unused // no parameter: that is the test
	Depth  struct{ N int } `rpc:"depth,optional,unlisted"`
}

func describe(b binding) string {
	ttl := "-"
	if b.TTL != nil {
		ttl = fmt.Sprint(*b.TTL)
	}
	text, _ := b.Any.JSON()
	return fmt.Sprintf("%s %d %s %q %s %d", b.Key, b.If, ttl, b.Prefix, text, b.Depth.N)
}

func TestBinding(t *testing.T) {
	var got string
	m := Handle("get", func(_ context.Context, b binding) (struct{}, error) { got = describe(b); return struct{}{}, nil }, In(Inline))
	named := func(list []Value, named ...Named) *Call { return &Call{Args: MixedArgs(list, named)} }
	whole := func(text string) *Call { return &Call{Args: WholeArgs(parse(t, text))} }
	js := func(text string) *Call { return &Call{Protocol: Kkrpc, Args: WholeArgs(parse(t, text))} }
	for name, test := range map[string]struct {
		call *Call
		want string // what the function saw, or a part of the error behind "!"
	}{
		"named":               {whole(`{"key":"k"}`), `k 7 - "" null 0`},
		"positional":          {whole(`["k",1,2.5,"p",[3],{"N":4}]`), `k 1 2.5 "p" [3] 4`},
		"one scalar":          {whole(`"k"`), `k 7 - "" null 0`},
		"mixed":               {named([]Value{String("k")}, Named{"ttl", Int(3)}), `k 7 3 "" null 0`},
		"keyword underscore":  {whole(`{"key":"k","if_":2}`), `k 2 - "" null 0`},
		"integral literal":    {whole(`["k",3.0]`), `k 3 - "" null 0`},
		"null is absent":      {whole(`{"key":"k","ttl":null,"prefix":null,"depth":null}`), `k 7 - "" null 0`},
		"undefined":           {named([]Value{String("k"), {}, {}, {}}), `k 7 - "" null 0`},
		"last of equal names": {whole(`{"key":"a","key":"b"}`), `b 7 - "" null 0`},
		"unlisted":            {whole(`{"key":"k","depth":{"n":5}}`), `k 7 - "" null 5`},
		"escaped name":        {whole(`{"k\u0065y":"k"}`), `k 7 - "" null 0`},
		"too many for JS":     {js(`["k",1,2,"p",0,{},"more","more"]`), `k 1 2 "p" 0 0`},
		"missing":             {whole(`{}`), `!is missing argument "key"`},
		"none":                {&Call{}, `!is missing argument "key"`},
		"unknown":             {whole(`{"key":"k","nope\n":1}`), `!no parameter "nope\\u000a"`},
		"too many":            {whole(`["k",1,2,"p",0,{},7]`), `!at most 6`},
		"twice":               {named([]Value{String("k")}, Named{"key", String("x")}), `!multiple values for argument "key"`},
		"wrong type":          {whole(`[1]`), `!argument "key": expected a string, got a number`},
		"fraction":            {whole(`["k",1.5]`), `!argument "if": expected an integer`},
		"null for a default":  {whole(`["k",null]`), `!argument "if": expected an integer, got null`},
		"wrong inside":        {whole(`{"key":"k","depth":{"N":"x"}}`), `!argument "depth": expected integer, got string`},
		"wrong object":        {whole(`{"key":"k","depth":1}`), `!argument "depth"`},
		"required undefined":  {named([]Value{{}}), `!argument "key": expected a string, got nothing`},
	} {
		got = "not called"
		_, err := start(NewLink(nil), m, test.call, "").wait(t)
		if part, fails := strings.CutPrefix(test.want, "!"); fails {
			if err == nil || err.Code != CodeInvalidParams || err.Ran != RanNo || !strings.Contains(err.Message, part) || got != "not called" {
				t.Errorf("%s: %v, %s", name, err, got)
			}
		} else if err != nil || got != test.want {
			t.Errorf("%s: %s, %v; want %s", name, got, err, test.want)
		}
	}
	lenient := Handle("get", func(_ context.Context, b binding) (struct{}, error) { return struct{}{}, nil }, Lenient())
	if _, err := start(NewLink(nil), lenient, whole(`{"key":"k","other":1}`), "").wait(t); err != nil {
		t.Error(err)
	}
}

func TestDescriptionOfParams(t *testing.T) {
	m := Handle("get", func(context.Context, binding) ([]int, error) { return nil, nil }, Doc("reads"), Needs(ScopeRead), NeverSlow())
	var got []string
	for _, p := range m.Params {
		s := p.Name + " " + p.Type.String()
		if p.Required {
			s += " required"
		}
		if p.Unlisted {
			s += " unlisted"
		}
		got = append(got, s)
	}
	want := []string{"key string required", "if integer", "ttl number?", "prefix string", "any any", "depth object unlisted"}
	if !reflect.DeepEqual(got, want) || m.Params[0].Doc != "what to read" || string(m.Params[1].Default.raw) != "7" || m.Result.String() != "[]integer" || !m.ReadOnly() || m.Slow != -1 {
		t.Errorf("%q, %+v", got, m)
	}
}

func TestBindingOfRestStreamsAndRefs(t *testing.T) {
	type in struct {
		First int     `rpc:"first"`
		Lines *Reader `rpc:"lines"`
		Last  int     `rpc:"last,optional"`
		More  []Value `rpc:"more,rest"`
	}
	var seen string
	m := Handle("sum", func(ctx context.Context, p in) (struct{}, error) {
		seen = fmt.Sprintf("%d [", p.First)
		for v, err := range p.Lines.All(ctx) {
			if err != nil {
				return struct{}{}, err
			}
			seen += string(v.raw) + " "
		}
		seen += fmt.Sprintf("] %d %d", p.Last, len(p.More))
		return struct{}{}, nil
	})
	for _, test := range []struct {
		args, want string
		stream     bool
	}{
		{`[1,[2,3],4,5,6]`, "1 [2 3 ] 4 2", false},
		{`{"first":1,"lines":[2]}`, "1 [2 ] 0 0", false},
		{`{"first":1,"lines":[2],"more":[1,2,3]}`, "1 [2 ] 0 3", false},
		{`[1,4,5]`, "1 [8 9 ] 4 1", true},
		{`{"first":1,"last":3}`, "1 [8 9 ] 3 0", true},
		{`[1]`, "1 [8 9 ] 0 0", true},
		{`[1]`, "!lines", false},
		{`[1,"x"]`, "!a stream or an array", false},
	} {
		c := &Call{}
		if test.stream {
			c.Input = Items(Int(8), Int(9))
		}
		_, err := start(NewLink(nil), m, c, test.args).wait(t)
		if part, fails := strings.CutPrefix(test.want, "!"); fails {
			if err == nil || !strings.Contains(err.Message, part) {
				t.Errorf("%s: %v", test.args, err)
			}
		} else if err != nil || seen != test.want {
			t.Errorf("%s: %s, %v; want %s", test.args, seen, err, test.want)
		}
	}
	if !m.StreamIn() || m.StreamOut {
		t.Error("not described as a stream in")
	}

	type refs struct {
		Fn   *Ref  `rpc:"fn"`
		Opt  *Ref  `rpc:"opt,optional"`
		File *File `rpc:"file,optional"`
		Data Bytes `rpc:"data,optional"`
	}
	ref, file := NewRef(nil, nil), &File{Name: "f"}
	var last refs
	r := Handle("cb", func(_ context.Context, p refs) (struct{}, error) { last = p; return struct{}{}, nil })
	if !r.Refs {
		t.Error("Refs is not set")
	}
	c := &Call{Args: ListArgs(TreeValue(ref), Null, TreeValue(file), String("aGk="))}
	if _, err := start(NewLink(nil), r, c, "").wait(t); err != nil || last.Fn != ref || last.Opt != nil || last.File != file || string(last.Data.Data) != "hi" {
		t.Errorf("%+v, %v", last, err)
	}
	for _, args := range []string{`[{}]`, `["__callback__1"]`, `[null]`} {
		if _, err := start(NewLink(nil), r, &Call{}, args).wait(t); err == nil || err.Code != CodeInvalidParams {
			t.Errorf("%s is taken for a reference: %v", args, err)
		}
	}
	c = &Call{Args: ListArgs(TreeValue(ref), Null, parse(t, `{"Name":"/etc/passwd","Size":1}`))}
	if _, err := start(NewLink(nil), r, c, "").wait(t); err == nil || !strings.Contains(err.Message, "expected a file") {
		t.Errorf("a forged file: %v", err)
	}
}

// TestUnreadStreamsEndWithTheCall: whoever sends is told, whatever way the
// stream came.
func TestUnreadStreamsEndWithTheCall(t *testing.T) {
	type in struct {
		Lines *Reader `rpc:"lines"`
	}
	m := Handle("ignore", func(context.Context, in) (struct{}, error) { return struct{}{}, nil })
	for name, c := range map[string]func(r *Reader) *Call{
		"beside":           func(r *Reader) *Call { return &Call{Input: r} },
		"beside, foreign":  func(r *Reader) *Call { return &Call{Input: foreign{r}} },
		"argument":         func(r *Reader) *Call { return &Call{Args: ListArgs(TreeValue(r))} },
		"foreign argument": func(r *Reader) *Call { return &Call{Args: ListArgs(TreeValue(foreign{r}))} },
	} {
		f := &faucet{}
		l := NewLink(nil)
		if _, err := start(l, m, c(NewReader(f)), "").wait(t); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		l.Close(ErrPeerGone, 0)
		waitFor(t, name+": the sender is not told", func() bool { f.mu.Lock(); defer f.mu.Unlock(); return len(f.stops) == 1 })
	}
}

func TestRegistrationRefuses(t *testing.T) {
	var fields []reflect.StructField
	for i := range maxParams + 1 {
		fields = append(fields, reflect.StructField{Name: fmt.Sprintf("F%d", i), Type: reflect.TypeFor[int](), Tag: reflect.StructTag(fmt.Sprintf(`rpc:"f%d"`, i))})
	}
	planFor(t, reflect.StructOf(fields[:maxParams]), "")
	planFor(t, reflect.StructOf(fields), "more than 64")
	type noTag struct{ A int }
	type odd struct {
		A int `rpc:"a,sometimes"`
	}
	type badRest struct {
		A []int `rpc:"a,rest"`
	}
	type badDefault struct {
		A int `rpc:"a" default:"\"x\""`
	}
	type twice struct {
		A int `rpc:"a"`
		B int `rpc:"a"`
	}
	for want, p := range map[string]any{"no rpc tag": noTag{}, "tag option": odd{}, "is not []rpc.Value": badRest{}, "default of a": badDefault{}, "twice": twice{}, "must be a struct": 1} {
		planFor(t, reflect.TypeOf(p), want)
	}
}

func planFor(t *testing.T, p reflect.Type, want string) {
	t.Helper()
	defer func() {
		r := recover()
		if got := fmt.Sprint(r); (r == nil) != (want == "") || want != "" && !strings.Contains(got, want) {
			t.Errorf("%s: %v, want %q", p, r, want)
		}
	}()
	planOfType(p, "m")
}

func TestConversions(t *testing.T) {
	for _, test := range []struct {
		text string
		as   string
		want any // nil: refused
	}{
		{`1`, "int", int64(1)}, {`3.0`, "int", int64(3)}, {`1e3`, "int", int64(1000)}, {`-1200e-2`, "int", int64(-12)}, {`0e999999999999`, "int", int64(0)},
		{`9007199254740993.0`, "int", int64(9007199254740993)}, {`9223372036854775807.0`, "int", int64(math.MaxInt64)}, {`-9223372036854775808e0`, "int", int64(math.MinInt64)},
		{`9223372036854775808`, "int", nil}, {`9223372036854775808.0`, "int", nil}, {`1e19`, "int", nil}, {`1e999999999999`, "int", nil}, {`1e-999999999999`, "int", nil},
		{`1.5`, "int", nil}, {`0.99999999999999999999999999`, "int", nil}, {`1e-400`, "int", nil}, {`NaN`, "int", nil}, {`Infinity`, "int", nil}, {`"1"`, "int", nil}, {`null`, "int", nil},
		{`18446744073709551615`, "uint", uint64(math.MaxUint64)}, {`-1`, "uint", nil}, {`2.0`, "uint", uint64(2)}, {`18446744073709551616`, "uint", nil},
		{`1`, "float", 1.0}, {`18446744073709551615`, "float", 18446744073709551615.0}, {`-Infinity`, "float", math.Inf(-1)}, {`1e400`, "float", nil}, {strings.Repeat("9", 400), "float", nil}, {`true`, "float", nil},
		{`"\u00e9"`, "string", "é"}, {`1`, "string", nil}, {`true`, "bool", true}, {`false`, "bool", false}, {`0`, "bool", nil},
		{`"aGk="`, "bytes", []byte("hi")}, {`"aGk"`, "bytes", []byte("hi")}, {`"a*"`, "bytes", nil}, {`1`, "bytes", nil},
	} {
		for _, v := range []Value{parse(t, test.text), TreeValue(parse(t, test.text).Tree())} {
			var got any
			var err error
			switch test.as {
			case "int":
				got, err = v.AsInt()
			case "uint":
				got, err = v.AsUint()
			case "float":
				got, err = v.AsFloat()
			case "string":
				got, err = v.AsString()
			case "bool":
				got, err = v.AsBool()
			case "bytes":
				got, err = v.AsBytes()
			}
			if test.want == nil && err == nil || test.want != nil && (err != nil || !reflect.DeepEqual(got, test.want)) {
				t.Errorf("%.40s as %s: %v, %v; want %v", test.text, test.as, got, err, test.want)
			}
		}
	}
	for _, v := range []Value{{}, Null, parse(t, `{}`), TreeValue(&Map{}), TreeValue(NewRef(nil, nil)), TreeValue(Bytes{}), TreeValue(&File{}), TreeValue(Items())} {
		if _, err := v.AsInt(); err == nil || !strings.HasPrefix(err.Error(), "expected an integer, got ") {
			t.Errorf("%v", err)
		}
		if _, err := v.AsList(); err == nil {
			t.Error("a list")
		}
	}
}

func TestAdd(t *testing.T) {
	nines := strings.Repeat("9", MaxDigits)
	for _, test := range [][3]string{
		{`1`, `2`, `3`}, {`9223372036854775807`, `1`, `9223372036854775808`}, {`-9223372036854775808`, `-1`, `-9223372036854775809`},
		{`9223372036854775807`, `-9223372036854775808`, `-1`}, {`5`, `0`, `5`}, {`-5`, `0`, `-5`},
		{`18446744073709551615`, `1`, `18446744073709551616`}, {`1234567890123456789012345678901234567890`, `1`, `1234567890123456789012345678901234567891`},
		{`1`, `2.5`, `3.5`}, {`1.0`, `2`, `3.0`}, {`NaN`, `1`, `NaN`}, {`1e400`, `1`, ``}, {nines, `1`, ``}, {`"1"`, `1`, ``}, {`1`, `null`, ``}, {`1`, `true`, ``},
	} {
		v, err := Add(parse(t, test[0]), parse(t, test[1]))
		if test[2] == "" {
			if err == nil {
				t.Errorf("%.20s + %s is fine", test[0], test[1])
			}
			continue
		}
		if got, _ := v.AppendJSON(nil, Form{NonFinite: true}); err != nil || string(got) != test[2] {
			t.Errorf("%s + %s = %s, %v", test[0], test[1], got, err)
		}
	}
}

func TestErrors(t *testing.T) {
	base := fmt.Errorf("disk: %w", context.Canceled)
	e := Errorf(CodeConflict, "key %q: %v", "k", base)
	if e.Ran != RanNo || !errors.Is(e, base) || !errors.Is(e, &Error{Code: CodeConflict}) || errors.Is(e, &Error{Code: CodeInternal}) {
		t.Errorf("%+v", e)
	}
	if d := e.With(Int(1)); d == e || e.Data.IsUndefined() == false || d.Data.IsUndefined() {
		t.Error("With changes the error itself")
	}
	for in, want := range map[string]string{
		"": "internal", "a\nb\x00": `a\u000ab\u0000`, "\xff": "\uFFFD", "\u2028\x7f": `\u2028\u007f`, strings.Repeat("é", 600): strings.Repeat("é", 510) + "...",
		strings.Repeat("x", 1024): strings.Repeat("x", 1024), strings.Repeat("x", 1025): strings.Repeat("x", 1021) + "...",
	} {
		if got := (&Error{Code: CodeInternal, Message: in}).Text(); got != want || len(got) > MaxErrorMessage {
			t.Errorf("Text of %.20q is %.40q (%d bytes)", in, got, len(got))
		}
	}
	wrapped := fmt.Errorf("outside: %w", e)
	if AsError(t.Context(), wrapped) != e || AsError(t.Context(), nil) != nil || AsError(t.Context(), errors.New("x")).Code != CodeHandler {
		t.Error("AsError")
	}
}

func FuzzCleanText(f *testing.F) {
	for _, s := range []string{"", "plain", "a\nb", "\xff", "éé", "\u2028"} {
		f.Add(s, 5)
	}
	f.Fuzz(func(t *testing.T, s string, limit int) {
		limit = limit&0xff + 3
		got := CleanText(s, limit)
		if len(got) > limit || strings.ContainsFunc(got, func(r rune) bool { return r < 0x20 || r == 0x7f }) || strings.ToValidUTF8(got, "") != got {
			t.Fatalf("CleanText(%q, %d) = %q", s, limit, got)
		}
	})
}

package statesvc

import (
	"fmt"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func patched(t testing.TB, old, merge, ops string) (string, error) {
	t.Helper()
	var m, o rpc.Value
	if merge != "" {
		m = mustParse(t, merge)
	}
	if ops != "" {
		o = mustParse(t, ops)
	}
	change, err := patchWork(m, o)
	if err != nil {
		return "", err
	}
	v, _, err := change(&Item{Key: "k", Revision: 7, Value: Value{Data: []byte(old)}}, maxWork)
	return string(v.Data), err
}

// The examples of RFC 7396, and what a store needs beyond them.
func TestMergePatch(t *testing.T) {
	for _, tt := range [][3]string{
		{`{"a":"b"}`, `{"a":"c"}`, `{"a":"c"}`}, {`{"a":"b"}`, `{"b":"c"}`, `{"a":"b","b":"c"}`}, {`{"a":"b"}`, `{"a":null}`, `{}`},
		{`{"a":"b","b":"c"}`, `{"a":null}`, `{"b":"c"}`}, {`{"a":["b"]}`, `{"a":"c"}`, `{"a":"c"}`}, {`{"a":"c"}`, `{"a":["b"]}`, `{"a":["b"]}`},
		{`{"a":{"b":"c"}}`, `{"a":{"b":"d","c":null}}`, `{"a":{"b":"d"}}`}, {`{"a":[{"b":"c"}]}`, `{"a":[1]}`, `{"a":[1]}`}, {`["a","b"]`, `["c","d"]`, `["c","d"]`},
		{`{"a":"b"}`, `["c"]`, `["c"]`}, {`{"a":"foo"}`, `null`, `null`}, {`{"a":"foo"}`, `"bar"`, `"bar"`}, {`{"e":null}`, `{"a":1}`, `{"e":null,"a":1}`},
		{`[1,2]`, `{"a":"b","c":null}`, `{"a":"b"}`}, {`{}`, `{"a":{"bb":{"ccc":null}}}`, `{"a":{"bb":{}}}`},
		{`{"keep": [1.0,  2e5], "n":NaN, "x":1}`, `{"x":2}`, `{"keep":[1.0,  2e5],"n":NaN,"x":2}`},
		{`{"a":1,"a":2}`, `{"b":1}`, `{"a":2,"b":1}`}, {`{"a":1,"b":2}`, `{"a":null,"a":3}`, `{"a":3,"b":2}`},
		{`{"big":123456789012345678901234567890}`, `{"s":"\ud800"}`, `{"big":123456789012345678901234567890,"s":"\ud800"}`},
	} {
		got, err := patched(t, tt[0], tt[1], "")
		if err != nil || got != tt[2] {
			t.Errorf("%s + %s is %s, want %s (%v)", tt[0], tt[1], got, tt[2], err)
		}
	}
}

// The examples of RFC 6902, appendix A, and the corners of RFC 6901.
func TestJSONPatch(t *testing.T) {
	for _, tt := range [][3]string{
		{`{"foo":"bar"}`, `[{"op":"add","path":"/baz","value":"qux"}]`, `{"foo":"bar","baz":"qux"}`},
		{`{"foo":["bar","baz"]}`, `[{"op":"add","path":"/foo/1","value":"qux"}]`, `{"foo":["bar","qux","baz"]}`},
		{`{"baz":"qux","foo":"bar"}`, `[{"op":"remove","path":"/baz"}]`, `{"foo":"bar"}`},
		{`{"foo":["bar","qux","baz"]}`, `[{"op":"remove","path":"/foo/1"}]`, `{"foo":["bar","baz"]}`},
		{`{"baz":"qux","foo":"bar"}`, `[{"op":"replace","path":"/baz","value":"boo"}]`, `{"baz":"boo","foo":"bar"}`},
		{`{"foo":{"bar":"baz","waldo":"fred"},"qux":{"corge":"grault"}}`, `[{"op":"move","from":"/foo/waldo","path":"/qux/thud"}]`, `{"foo":{"bar":"baz"},"qux":{"corge":"grault","thud":"fred"}}`},
		{`{"foo":["all","grass","cows","eat"]}`, `[{"op":"move","from":"/foo/1","path":"/foo/3"}]`, `{"foo":["all","cows","eat","grass"]}`},
		{`{"baz":"qux","foo":["a",2,"c"]}`, `[{"op":"test","path":"/baz","value":"qux"},{"op":"test","path":"/foo/1","value":2.0}]`, `{"baz":"qux","foo":["a",2,"c"]}`},
		{`{"baz":"qux"}`, `[{"op":"test","path":"/baz","value":"bar"}]`, `conflict`},
		{`{"foo":"bar"}`, `[{"op":"add","path":"/child","value":{"grandchild":{}}}]`, `{"foo":"bar","child":{"grandchild":{}}}`},
		{`{"foo":"bar"}`, `[{"op":"add","path":"/baz","value":"qux","xyz":123}]`, `{"foo":"bar","baz":"qux"}`},
		{`{"foo":"bar"}`, `[{"op":"add","path":"/baz/bat","value":"qux"}]`, `invalid_params`},
		{`{"/":9,"~1":10}`, `[{"op":"test","path":"/~01","value":10},{"op":"test","path":"/~1","value":9}]`, `{"/":9,"~1":10}`},
		{`{"/":9,"~1":10}`, `[{"op":"test","path":"/~01","value":"10"}]`, `conflict`},
		{`{"foo":["bar"]}`, `[{"op":"add","path":"/foo/-","value":["abc","def"]}]`, `{"foo":["bar",["abc","def"]]}`},
		{`[1]`, `[{"op":"add","path":"/1","value":2},{"op":"add","path":"/0","value":0}]`, `[0,1,2]`},
		{`[1]`, `[{"op":"add","path":"/2","value":2}]`, `invalid_params`}, {`[1,2]`, `[{"op":"remove","path":"/01"}]`, `invalid_params`},
		{`[1,2]`, `[{"op":"remove","path":"/-"}]`, `invalid_params`}, {`[1,2]`, `[{"op":"replace","path":"/+1","value":1}]`, `invalid_params`},
		{`{"a":{"b":1}}`, `[{"op":"copy","from":"/a","path":"/c"},{"op":"replace","path":"/c/b","value":2}]`, `{"a":{"b":1},"c":{"b":2}}`},
		{`{"a":{"b":1}}`, `[{"op":"move","from":"/a","path":"/a/b"}]`, `invalid_params`}, {`{"a":1}`, `[{"op":"move","from":"/a","path":"/a"}]`, `{"a":1}`},
		{`{"a":1}`, `[{"op":"move","from":"/b","path":"/b"}]`, `invalid_params`},
		{`{"a":1}`, `[{"op":"replace","path":"","value":[1]},{"op":"add","path":"/-","value":2}]`, `[1,2]`}, {`{"a":1}`, `[{"op":"copy","from":"","path":"/b"}]`, `{"a":1,"b":{"a":1}}`},
		{`{"":1}`, `[{"op":"test","path":"/","value":1}]`, `{"":1}`}, {`{"a":1}`, `[{"op":"remove","path":"a"}]`, `invalid_params`}, {`{"a":1}`, `[{"op":"remove","path":"/~2"}]`, `invalid_params`},
		{`{"a":1}`, `[{"op":"add","path":"/b"}]`, `invalid_params`}, {`{"a":1}`, `[{"op":"fly","path":"/b"}]`, `invalid_params`}, {`{"a":1}`, `[]`, `{"a":1}`},
		{`{"a":{"y":1,"x":[1,2]}}`, `[{"op":"test","path":"/a","value":{"x":[1,2.0],"y":1}}]`, `{"a":{"y":1,"x":[1,2]}}`},
		{`{"a":1}`, `[{"op":"add","path":"/b","value":{"c":1}},{"op":"add","path":"/b/d","value":2}]`, `{"a":1,"b":{"c":1,"d":2}}`},
		{`{"a":[[1]]}`, `[{"op":"add","path":"/a/0/0","value":0}]`, `{"a":[[0,1]]}`}, {`[1]`, `[{"op":"remove","path":"/0"}]`, `[]`},
	} {
		got, err := patched(t, tt[0], "", tt[1])
		if err != nil {
			got = string(fault(err).Code)
		}
		if got != tt[2] {
			t.Errorf("%s + %s is %s, want %s (%v)", tt[0], tt[1], got, tt[2], err)
		}
	}
}

// A short patch must not grow a value without end, or keep the committer busy.
func TestHostilePatches(t *testing.T) {
	var double []string
	for i := range 60 {
		double = append(double, fmt.Sprintf(`{"op":"copy","from":"","path":"/a%d"}`, i))
	}
	if _, err := patched(t, `{"x":"`+strings.Repeat("x", 1000)+`"}`, "", "["+strings.Join(double, ",")+"]"); fault(err).Code != rpc.CodeTooLarge {
		t.Errorf("a value that doubles: %v", err)
	}
	wide := "[" + strings.Repeat(`{"op":"copy","from":"/0","path":"/-"},`, 999) + `{"op":"copy","from":"/0","path":"/-"}]`
	if _, err := patched(t, `["`+strings.Repeat("x", 100000)+`"]`, "", wide); fault(err).Code != rpc.CodeTooLarge {
		t.Errorf("many copies: %v", err)
	}
	if _, err := patched(t, `[]`, "", "["+strings.Repeat(`{"op":"test","path":"","value":1},`, 1000)+`{}]`); fault(err).Code != rpc.CodeTooLarge {
		t.Errorf("many operations: %v", err)
	}
	if _, err := patched(t, `[]`, "", `[{"op":"add","path":"`+strings.Repeat("/a", 300)+`","value":1}]`); fault(err).Code != rpc.CodeInvalidParams {
		t.Errorf("a long path: %v", err)
	}
	deep := strings.Repeat(`{"a":`, 200) + `1` + strings.Repeat(`}`, 200)
	if _, err := patched(t, deep, "", fmt.Sprintf(`[{"op":"copy","from":"","path":"%s/b"}]`, strings.Repeat("/a", 199))); fault(err).Code != rpc.CodeInvalidParams {
		t.Errorf("nested too deeply: %v", err)
	}
}

func FuzzPatch(f *testing.F) {
	f.Add(`{"a":[1,{"b":2}]}`, `{"a":{"b":null}}`, `[{"op":"copy","from":"/a","path":"/c"},{"op":"remove","path":"/a/0"}]`)
	f.Add(`[1]`, `null`, `[{"op":"move","from":"/0","path":""},{"op":"test","path":"","value":1}]`)
	f.Add(`{"~":{"/":[]}}`, `[]`, `[{"op":"add","path":"/~0/~1/-","value":{"x":1}},{"op":"replace","path":"/~0","value":1}]`)
	f.Fuzz(func(t *testing.T, old, merge, ops string) {
		if !rpc.Valid([]byte(old)) || !rpc.Valid([]byte(merge)) || !rpc.Valid([]byte(ops)) {
			return
		}
		for _, p := range [][2]string{{merge, ""}, {"", ops}} {
			got, err := patched(t, old, p[0], p[1])
			if err == nil && !rpc.Valid([]byte(got)) {
				t.Fatalf("%s + %s is %q", old, p, got)
			}
		}
	})
}

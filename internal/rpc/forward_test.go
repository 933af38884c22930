package rpc

import (
	"strings"
	"testing"
)

func TestPositional(t *testing.T) {
	m := &Method{Name: "x.y", Params: []Param{
		{Name: "a", Required: true}, {Name: "b", Default: RawString("7")}, {Name: "c"},
	}}
	for _, c := range []struct{ args, want string }{
		{`[1]`, "1 7"},
		{`[1,2,3]`, "1 2 3"},
		{`{"a":1}`, "1 7"},
		{`{"c":3,"a":1}`, "1 7 3"},
		{`{"b":2,"a":1}`, "1 2"},
		{`[1,2,3,4]`, "error: x.y takes at most 3"},
		{`{"b":2}`, `error: argument "a" is missing`},
		{`{"a":1,"z":2}`, `error: x.y has no parameter "z"`},
		{`[]`, `error: argument "a" is missing`},
	} {
		args := WholeArgs(RawString(c.args))
		got := []string{}
		list, err := Positional(m, &args)
		for _, v := range list {
			raw, _ := v.Raw()
			got = append(got, string(raw))
		}
		text := strings.Join(got, " ")
		if err != nil {
			text = "error: " + err.Message
		}
		if !strings.HasPrefix(text, c.want) || err == nil && text != c.want {
			t.Errorf("%s: %s, want %s", c.args, text, c.want)
		}
	}
	both := MixedArgs([]Value{RawString("1")}, []Named{{"a", RawString("2")}})
	if _, err := Positional(m, &both); err == nil || !strings.Contains(err.Message, "twice") {
		t.Errorf("given twice: %v", err)
	}
	free := WholeArgs(RawString(`[1,2]`))
	if list, err := Positional(&Method{Name: "x.z"}, &free); err != nil || len(list) != 2 {
		t.Errorf("without described parameters: %v, %v", list, err)
	}
}

func TestParsePath(t *testing.T) {
	path, err := ParsePath("a.b.c")
	if err != nil || len(path) != 3 || path[0].Name != "a" || path[2].Name != "c" {
		t.Errorf("got %v, %v", path, err)
	}
	for _, bad := range []string{"", "a.", ".a", "a..b", "1a"} {
		if _, err := ParsePath(bad); err == nil {
			t.Errorf("%q is a path", bad)
		}
	}
}

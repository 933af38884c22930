package main

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestArgumentValue(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte(`[1, 2]`), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ kind, word, want string }{
		{"string", `a "b"`, `"a \"b\""`},
		{"string?", "null", `"null"`},
		{"integer", "12345678901234567890123", "12345678901234567890123"},
		{"integer", "1.5", "1.5"},
		{"integer", "-3", "-3"},
		{"integer", "0x10", ""},
		{"integer", `"1"`, ""},
		{"integer?", "null", "null"},
		{"integer", "null", ""},
		{"number", "1.0", "1.0"},
		{"number", "1e-7", "1e-7"},
		{"number", "NaN", ""},
		{"number", "", ""},
		{"boolean", "true", "true"},
		{"boolean", "0", "false"},
		{"boolean", "maybe", ""},
		{"bytes", "hi", `"aGk="`},
		{"bytes", "@" + file, `"WzEsIDJd"`},
		{"bytes", "@" + file + ".none", ""},
		{"any", "text", `"text"`},
		{"any", "1", "1"},
		{"any", "@name", `"@name"`},
		{"any", `{"a":`, `"{\"a\":"`},
		{"object", `{"a":1}`, `{"a":1}`},
		{"object", `[1]`, ""},
		{"object", "text", ""},
		{"[]integer", "@" + file, "[1, 2]"},
		{"array", `{"a":1}`, ""},
	} {
		got, err := argumentValue(paramInfo{Name: "p", Type: c.kind}, c.word)
		if string(got) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s %q is %s, %v, want %s", c.kind, c.word, got, err, c.want)
		}
	}
}

func TestWordsOfCommandLine(t *testing.T) {
	for _, c := range []struct {
		args, words []string
		socket      string
	}{
		{[]string{"demo", "count", "3"}, []string{"demo", "count", "3"}, ""},
		{[]string{"--socket", "/a", "demo"}, []string{"demo"}, "/a"},
		{[]string{"demo", "--socket=/a", "-o", "json", "x"}, []string{"demo", "x"}, "/a"},
		{[]string{"-ojson", "demo"}, []string{"demo"}, ""},
		{[]string{"--unknown", "demo"}, []string{"demo"}, ""},
		{[]string{"demo", "--", "x"}, []string{"demo"}, ""},
		{[]string{"demo", "-"}, []string{"demo", "-"}, ""},
		{[]string{"--socket"}, nil, ""},
	} {
		a := &app{console: console{getenv: os.Getenv}}
		got := a.words(newRoot(a), c.args)
		if !slices.Equal(got, c.words) || a.socket != c.socket {
			t.Errorf("%q: %q, socket %q", c.args, got, a.socket)
		}
	}
}

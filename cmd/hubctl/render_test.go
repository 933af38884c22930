package main

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/hubd-dev/hubd/internal/rpc"
)

var values = []string{
	`{}`, `[]`, `null`, `true`, `0`, `-1.50`, `1e400`, `1234567890123456789012345678901234567890`, `""`, `"a b"`, `"yes"`, `"1"`, `"- x"`,
	`"a: b"`, `"#"`, `"\u001b[31m"`, `"\ud83d\ude00é"`, `"a\/b"`, `"tab\there"`, `"line\nbreak"`, `" lead"`, `"trail "`, `"null"`, `"~"`, `"0x1"`, `".5"`,
	`{"a":1,"b":{"c":[1,[2,[]],{"d":{}}]},"":null,"true":"on","x y":[{"k":"v"},{"k":null}]}`,
	`[[1,2],[3,[4]],{"a":[{}]}]`, ` [ 1 , { "a" : "b,c:{}[]\"" } ] `,
}

func TestFormatsKeepTheValue(t *testing.T) {
	for _, text := range values {
		for _, format := range []string{formatJSON, formatJSONL} {
			for _, color := range []bool{false, true} {
				var b bytes.Buffer
				p := &printer{w: &b, format: format, color: color}
				if err := p.print(json.RawMessage(text)); err != nil {
					t.Fatal(err)
				}
				out := b.String()
				if color {
					for _, esc := range []string{coloured.key, coloured.text, coloured.number, coloured.word, coloured.reset} {
						out = strings.ReplaceAll(out, esc, "")
					}
				}
				var want bytes.Buffer
				if format == formatJSON {
					json.Indent(&want, []byte(strings.TrimSpace(text)), "", "  ")
					if c := want.String(); strings.Contains(c, "[ ") || strings.Contains(c, "{ ") {
						want.Reset()
						var compact bytes.Buffer
						json.Compact(&compact, []byte(text))
						json.Indent(&want, compact.Bytes(), "", "  ")
					}
				} else {
					json.Compact(&want, []byte(text))
				}
				if out != want.String()+"\n" {
					t.Errorf("%s of %s:\n%swant\n%s", format, text, out, want.String())
				}
			}
		}
	}
}

// What another YAML reader makes of the YAML is the value.
func TestYAMLMeansTheSame(t *testing.T) {
	for _, text := range values {
		if strings.Contains(text, "e400") || strings.Contains(text, "12345678901234567890") || strings.Contains(text, `\ud83d`) {
			continue // numbers that Go floats cannot hold, and surrogate pairs, which YAML libraries read apart
		}
		v, err := rpc.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		out := appendYAML(nil, v)
		var got, want any
		if err := yaml.Unmarshal(out, &got); err != nil {
			t.Errorf("%s: %v in\n%s", text, err, out)
			continue
		}
		json.Unmarshal([]byte(text), &want)
		a, _ := json.Marshal(got)
		var again any
		json.Unmarshal(a, &again)
		if !reflect.DeepEqual(again, want) {
			t.Errorf("%s became\n%swhich is %s", text, out, a)
		}
	}
}

func TestTableKeepsControlCharactersOffTheTerminal(t *testing.T) {
	for _, text := range []string{`"\u001b[31m\u0007"`, `[{"a\u001b":"x\u009b\r"}]`, `{"\u001b":["\u001b"]}`, `[{"a":{"b":"\u001b"}}]`} {
		v, err := rpc.Parse([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		if out := appendTable(nil, v, false); bytes.ContainsAny(out, "\x1b\x07\r\u009b") {
			t.Errorf("%s: %q", text, out)
		}
	}
}

func TestTable(t *testing.T) {
	tests := []struct{ in, want string }{
		{`[{"name":"a","n":1},{"name":"longer","x":[1,"b"]}]`, "NAME    N  X\na       1\nlonger     1, b\n"},
		{`{"a":1,"long":{"b":[]}}`, "a     1\nlong  {\"b\":[]}\n"},
		{`[1,"x",null]`, "1\nx\n\n"},
		{`"text"`, "text\n"},
		{`[]`, ""},
	}
	for _, tt := range tests {
		v, err := rpc.Parse([]byte(tt.in))
		if err != nil {
			t.Fatal(err)
		}
		if got := string(appendTable(nil, v, false)); got != tt.want {
			t.Errorf("%s:\n%q\nwant\n%q", tt.in, got, tt.want)
		}
	}
}

func FuzzArguments(f *testing.F) {
	for _, s := range []string{`{"a":1}`, "a=1", "a:=1", "a:={}", "1", `"x"`, "a:=", "=", ":=", "a.b-c=1", "é=2", "[", "a=1 b:=2"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "@") {
			t.Skip("would read a file")
		}
		params, err := oneParams(strings.Split(s, " "))
		if err == nil && !rpc.Valid(params) {
			t.Errorf("%q became %q, which is no JSON", s, params)
		}
	})
}

func FuzzRender(f *testing.F) {
	for _, s := range values {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		v, err := rpc.Parse([]byte(s))
		if err != nil {
			return
		}
		raw, _ := v.Raw()
		compact := appendCompact(nil, raw, plain)
		if back := appendCompact(nil, appendIndented(nil, raw, plain), plain); !bytes.Equal(back, compact) || !rpc.Valid(compact) {
			t.Errorf("%q: compact %q, indented and back %q", s, compact, back)
		}
		appendYAML(nil, v)
		appendTable(nil, v, true)
	})
}

func TestNearest(t *testing.T) {
	names := []string{"demo.count", "demo.counter", "demo.sleep", "math.add", "echo", "hub.info"}
	tests := []struct{ in, want string }{
		{"demo.cuont", "demo.count"}, {"demo.slep", "demo.sleep"}, {"math.ad", "math.add"}, {"add", "math.add"},
		{"hub.add", "math.add"}, {"ehco", "echo"}, {"Echo", "echo"}, {"no.such", ""}, {"", ""}, {strings.Repeat("x", 10000), ""},
	}
	for _, tt := range tests {
		got := ""
		if near := nearest(tt.in, names, 1); len(near) > 0 {
			got = near[0]
		}
		if got != tt.want {
			t.Errorf("%.20q: got %q, want %q", tt.in, got, tt.want)
		}
	}
}

// The program links nothing of the daemon: not its state store, not what
// probes the system when it is imported.
func TestLinkedPackages(t *testing.T) {
	out, err := exec.Command("go", "list", "-deps", ".", "../../client").CombinedOutput()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, out)
	}
	n := 0
	for pkg := range strings.Lines(string(out)) {
		n++
		for _, wall := range []string{
			"github.com/kardianos/", "go.etcd.io/", "google.golang.org/", "github.com/prometheus/", "go.uber.org/",
			"github.com/hubd-dev/hubd/internal/hub", "github.com/hubd-dev/hubd/internal/statesvc", "github.com/hubd-dev/hubd/internal/session",
			"github.com/hubd-dev/hubd/internal/rpc/kollabor",
		} {
			if strings.HasPrefix(pkg, wall) {
				t.Errorf("hubctl links %s", strings.TrimSpace(pkg))
			}
		}
	}
	if n < 50 {
		t.Errorf("go list tells of %d packages only", n)
	}
}

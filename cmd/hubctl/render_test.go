package main

import (
	"bytes"
	"encoding/json"
	"os/exec"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/goccy/go-yaml"

	"github.com/hubd-dev/hubd/internal/nearest"
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
		if strings.Contains(text, "e400") || strings.Contains(text, "12345678901234567890") {
			continue // numbers that Go floats cannot hold
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
		if out := appendTable(nil, v, false, 0); bytes.ContainsAny(out, "\x1b\x07\r\u009b") {
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
		if got := string(appendTable(nil, v, false, 0)); got != tt.want {
			t.Errorf("%s:\n%q\nwant\n%q", tt.in, got, tt.want)
		}
	}
}

func TestGrid(t *testing.T) {
	head := []string{"KEY", "N", "VALUE"}
	tests := []struct {
		name  string
		rows  [][]string
		width int
		want  string
	}{
		{"wide characters", [][]string{{"キー", "1", "x"}, {"👩‍👩‍👧", "2", "y"}, {"abcd", "3", "z"}}, 0,
			"KEY   N  VALUE\nキー  1  x\n👩‍👩‍👧    2  y\nabcd  3  z\n"},
		{"the widest is cut", [][]string{{"a/long/key", "1", "abcdefghijklmnopqrst"}}, 25,
			"KEY         N  VALUE\na/long/key  1  abcdefghi…\n"},
		{"no half of a wide character", [][]string{{"a", "1", "値値値値値値値値"}}, 18, "KEY  N  VALUE\na    1  値値値値…\n"},
		{"nothing is cut below eight", [][]string{{"12345678", "1", "12345678"}}, 10, "KEY       N  VALUE\n12345678  1  12345678\n"},
	}
	for _, tt := range tests {
		if got := string(appendGrid(nil, head, tt.rows, false, tt.width)); got != tt.want {
			t.Errorf("%s:\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
	if got, want := string(appendGrid(nil, []string{"A"}, nil, true, 0)), "\x1b[1mA\x1b[0m\n"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestSessionsTable(t *testing.T) {
	var list []sessionInfo
	text := `[{"session":"build","title":"make","owner":{"protocol":"kollabor","peer":{"pid":7}},"followers":[{},{}],"seq":12,
		"last_event":{"ts":100.5},"uptime":61},{"session":"hub","title":"","owner":null,"followers":[],"seq":0,"last_event":null,"uptime":2}]`
	if err := json.Unmarshal([]byte(text), &list); err != nil {
		t.Fatal(err)
	}
	want := "SESSION  PRODUCER        FOLLOWERS  EVENTS  LAST EVENT  OPEN FOR  TITLE\n" +
		"build    kollabor pid 7  2          12      1.5s ago    1m1s      make\n" +
		"hub      none            0          0       never       2.0s\n"
	if got := string(sessionsTable(list, time.Unix(102, 0), false, 0)); got != want {
		t.Errorf("\n%s\nwant\n%s", got, want)
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
			t.Errorf("%q became %q, which is not JSON", s, params)
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
		appendTable(nil, v, true, 0)
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
		if near := nearest.Of(tt.in, names, 1); len(near) > 0 {
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

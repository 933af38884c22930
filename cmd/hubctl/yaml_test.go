package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// awkward are strings that YAML has another meaning, or no plain form, for.
func awkward() []string {
	list := []string{
		"", " ", "~", "null", "Null", "NULL", "true", "False", "yes", "No", "ON", "off", "y", "N", "=", "<<", "-", "--", "---", "...", "- a", "-a",
		"?", "? a", "?a", ":", ": a", ":a", "a:", "a: b", "a:b", "#", "# a", "a #b", "a#b", "!", "!x", "!!str", "&x", "*x", "%x", "@x", "`x", "'", "''", "\"", "\\", "\\n", "\\u0041",
		"|", "|-", ">", ">+", "{", "}", "{}", "[", "]", "[]", ",", "a,b", "a, b", "1", "-1", "+1", "0x10", "0o7", "017", "0b1", "1_000", "1e3", "1.5", ".5", "5.", "-.5", ".inf", "-.Inf", ".nan",
		"12e03", "1:20", "190:20:30.15", "2001-01-01", "2001-12-14t21:59:43.10-05:00", "0.", "e5", "E5", "inf", "NaN", "Infinity",
		"a\nb", "a\r\nb", "a\rb", "a\n", "\na", "\n", "\n\n", "a\n\n  b\n", "a\tb", "\ta", "a\t", " a", "a ", "  a\n b", "a\n b",
		"😀", "\U0010ffff", "\U0001f1e9\U0001f1ea", "e\u0301", "ß", "日本", "\ufeff", "\ufeffa", "a\ufeff", "\u00a0", "a\u00a0b", "\u00ad", "\u200b", "\u200d", "\u202e", "\u2066",
		"\u2028", "a\u2028b", "\u2029", "\u0085", "a\u0085b", "\ue000", "\ufffd", "\ufffe", "\uffff", "\ud7ff",
		strings.Repeat("k", 1023), strings.Repeat("k", 1024), strings.Repeat("k", 1025), strings.Repeat("long key ", 400), strings.Repeat("ü", 1500), strings.Repeat("\n", 700),
	}
	for c := range rune(0xa1) {
		list = append(list, string(c), "a"+string(c)+"b", "a"+string(c))
	}
	return list
}

// awkwardDocuments hold each of the strings as a value, a key, the key of a
// container and an element.
func awkwardDocuments(t *testing.T) (texts [][]byte) {
	for _, s := range awkward() {
		text, err := json.Marshal(map[string]any{
			"value": s, "key": map[string]any{s: 1, "other": 2}, "list": []any{s, []any{s}, map[string]any{s: s}},
			"deep": map[string]any{s: map[string]any{s: []any{map[string]any{s: []any{}}}}},
		})
		if err != nil {
			t.Fatal(err)
		}
		texts = append(texts, text)
	}
	for _, s := range awkward() {
		text, _ := json.Marshal(s)
		texts = append(texts, text)
	}
	return texts
}

func toYAML(t *testing.T, text []byte) []byte {
	t.Helper()
	v, err := rpc.Parse(text)
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return appendYAML(nil, v)
}

func TestAwkwardStringsAsYAML(t *testing.T) {
	for _, text := range awkwardDocuments(t) {
		out := toYAML(t, text)
		var got any
		if err := yaml.Unmarshal(out, &got); err != nil {
			t.Errorf("%.200s: %v in\n%.300q", text, err, out)
			continue
		}
		again, err := json.Marshal(got)
		if err != nil {
			t.Errorf("%.200s: %v", text, err)
			continue
		}
		if !bytes.Equal(canonical(t, again), canonical(t, text)) {
			t.Errorf("%.200s became\n%.300q which is %.200s", text, out, again)
		}
	}
}

func canonical(t *testing.T, text []byte) []byte {
	t.Helper()
	var x any
	if err := json.Unmarshal(text, &x); err != nil {
		t.Fatal(err)
	}
	out, _ := json.Marshal(x)
	return out
}

// The same as another reader sees it, one of YAML 1.1 that is strict about what
// may stand where.
func TestAwkwardStringsAsOldYAML(t *testing.T) {
	if err := exec.Command("python3", "-c", "import yaml").Run(); err != nil {
		t.Skipf("no python3 with its module yaml: %v", err)
	}
	docs := awkwardDocuments(t)
	for _, number := range []string{"1e5", "1E5", "1e-07", "1.5E10", "-2e+3", "1.0", "12", "-0.5", "[1e5,{\"a\":1e-9}]"} {
		docs = append(docs, []byte(number))
	}
	var in bytes.Buffer
	for _, text := range docs {
		out := toYAML(t, text)
		fmt.Fprintf(&in, "%d %d\n%s%s", len(text), len(out), text, out)
	}
	cmd := exec.Command("python3", "-c", `
import json, sys, yaml
stdin, n = sys.stdin.buffer, 0
while line := stdin.readline():
    sizes = [int(x) for x in line.split()]
    text, out = (stdin.read(size) for size in sizes)
    n += 1
    try:
        got = yaml.safe_load(out)
    except Exception as e:
        got = e
    if got != json.loads(text):
        print("%.200r became\n%.300r which is %.200r" % (text, out, got))
print("read", n)
`)
	cmd.Stdin = &in
	out, err := cmd.CombinedOutput()
	if want := fmt.Sprintf("read %d\n", len(docs)); err != nil || string(out) != want {
		t.Errorf("%v\n%.4000s", err, out)
	}
}

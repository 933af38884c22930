package main

import (
	"encoding/json"
	"flag"
	"os"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write testdata/json-keys.txt anew")

// Scripts rely on the members of what hubctl prints as JSON. The list may grow;
// a line that goes is a [CHANGE] in the changelog.
func TestMembersOfJSON(t *testing.T) {
	socket := startHub(t)
	for _, args := range [][]string{
		{"state", "put", "k", "1"}, {"state", "put", "k", "2"}, {"state", "put", "old", "1"}, {"call", "session.open", "name=s"},
		{"token", "create", "t"},
	} {
		if got := hubctl(t, socket, "", args...); got.code != exitOK {
			t.Fatalf("%v: %+v", args, got)
		}
	}
	lines := []string{"doctor .fix"} // of what is wrong, which may be nothing
	for _, command := range []string{
		"status", "ping", "methods", "describe math.add", "describe state.watch", "doctor", "check", "log-level", "token ls", "session ls",
		"state ls", "state get --meta k", "state put k 3", "state history k", "state info", "state watch --once", "state rm old",
		"context ls", "top -n 1 -i 10ms",
	} {
		got := hubctl(t, socket, "", append(strings.Fields(command), "-o", "jsonl")...)
		if got.out == "" {
			t.Errorf("%s prints nothing: %+v", command, got)
		}
		for line := range strings.Lines(got.out) {
			var v any
			if err := json.Unmarshal([]byte(line), &v); err != nil {
				t.Fatalf("%s: %v in %s", command, err, line)
			}
			members(command, v, func(path string) { lines = append(lines, path) })
		}
	}
	slices.Sort(lines)
	got := strings.Join(slices.Compact(lines), "\n") + "\n"
	const file = "testdata/json-keys.txt"
	if *update {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		for line := range strings.Lines(string(want)) {
			if !strings.Contains(got, line) {
				t.Errorf("gone: %s", line)
			}
		}
		for line := range strings.Lines(got) {
			if !strings.Contains(string(want), line) {
				t.Errorf("new: %s", line)
			}
		}
		t.Error("run go test ./cmd/hubctl -run TestMembersOfJSON -update if that is meant")
	}
}

// members tells of each member in v, with the kind of its value. What users
// name, such as the values of the state, is not looked into.
func members(path string, v any, tell func(string)) {
	switch v := v.(type) {
	case map[string]any:
		for name, value := range v {
			tell(path + " ." + name)
			if name != "value" && name != "default" && name != "spelling" {
				members(path+" ."+name, value, tell)
			}
		}
	case []any:
		for _, value := range v {
			members(path+"[]", value, tell)
		}
	}
}

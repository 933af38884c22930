package tests

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// TestStateDocs types what docs/state.md shows, as TestTranscripts does for
// README.md, on a hub whose state is empty.
func TestStateDocs(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile("../docs/state.md")
	if err != nil {
		t.Fatal(err)
	}
	dir := shortDir(t)
	d := startHub(t, dir, dir+"/state")
	n := 0
	for i, block := range strings.Split(string(text), "```console\n") {
		if i == 0 {
			continue
		}
		block, _, closed := strings.Cut(block, "```")
		if !closed {
			t.Fatalf("console block %d has no end", i)
		}
		for _, step := range strings.Split("\n"+block, "\n$ ")[1:] {
			command, want, _ := strings.Cut(step, "\n")
			cmd := exec.CommandContext(t.Context(), "sh", "-c", command)
			cmd.Dir = dir
			cmd.Env = append(cleanEnv(dir), "HUBD_SOCKET="+d.socket, "NO_COLOR=1")
			got, _ := cmd.CombinedOutput() // a command may well fail: what it says is compared
			if open(command, want) {
				t.Errorf("$ %s: what docs/state.md has of its answer ends in ..., which hides whatever comes", command)
			}
			if !similar(strings.TrimRight(string(got), "\n"), strings.TrimRight(want, "\n")) {
				t.Fatalf("$ %s\ngot:\n%s\ndocs/state.md has:\n%s", command, got, want)
			}
			n++
		}
	}
	if n < 20 {
		t.Errorf("docs/state.md shows %d commands, want at least 20", n)
	}
}

package tests

import (
	"context"
	"iter"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// What the pages show is typed, and what is seen is compared. In README.md and the
// quick start the first console block starts the hub; the test has its own instead.
func TestTranscripts(t *testing.T) {
	for _, x := range []struct {
		page string
		skip int // console blocks that the test does itself
	}{
		{"README.md", 1}, {"docs/quick-start.md", 1}, {"docs/sessions.md", 0},
	} {
		t.Run(x.page, func(t *testing.T) {
			t.Parallel()
			d := startDaemon(t)
			d.linkDefaultSocket()
			for command, want := range transcript(t, x.page, x.skip) {
				if got := d.shell(command); !similar(strings.TrimRight(got, "\n"), want) {
					t.Errorf("$ %s\ngot:\n%s\n%s has:\n%s", command, got, x.page, want)
				}
			}
		})
	}
}

// transcript returns the commands of the console blocks of a page, but for the
// first skip blocks, and what the page has of their answers. "$ " begins a command,
// all else is its output, and "..." stands for any text within a line or, alone,
// for any lines. What is not installed is left out.
func transcript(t *testing.T, page string, skip int) iter.Seq2[string, string] {
	t.Helper()
	text, err := os.ReadFile("../" + page)
	if err != nil {
		t.Fatal(err)
	}
	blocks := strings.Split(string(text), "```console\n")[1:]
	if len(blocks) <= skip {
		t.Fatalf("%s has %d console blocks, want more than %d", page, len(blocks), skip)
	}
	return func(yield func(string, string) bool) {
		n := 0
		for _, block := range blocks[skip:] {
			block, _, _ = strings.Cut(block, "```")
			for _, step := range strings.Split("\n"+block, "\n$ ")[1:] {
				command, want, _ := strings.Cut(step, "\n")
				if tool, _, _ := strings.Cut(command, " "); !installed(tool) {
					t.Logf("not typed, %s is not installed: %s", tool, command)
					continue
				}
				if open(command, want) {
					t.Errorf("$ %s: what %s has of its answer ends in ..., which hides whatever comes", command, page)
				}
				if n++; !yield(command, strings.TrimRight(want, "\n")) {
					return
				}
			}
		}
		if n == 0 {
			t.Errorf("%s shows no command", page)
		}
	}
}

// What the quick start types over TCP works as it stands: its token is made, used by
// hubctl and curl, and put away.
func TestQuickStartOverTCP(t *testing.T) {
	t.Parallel()
	if !installed("curl") {
		t.Skip("curl is not installed")
	}
	text, err := os.ReadFile("../docs/quick-start.md")
	if err != nil {
		t.Fatal(err)
	}
	_, section, _ := strings.Cut(string(text), "\n## Reach it over TCP\n")
	blocks := strings.Split(section, "```\n")
	if len(blocks) != 5 || !strings.Contains(blocks[1], " --listen tcp://127.0.0.1:7420\n") {
		t.Fatalf("the section has not two blocks, of which one starts the hub:\n%s", section)
	}
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0")
	d.linkDefaultSocket()
	got := d.shell("set -e\n" + d.addressed(blocks[3]) + "hubctl whoami")
	for _, want := range []string{"the holder of the token dashboard\n", "\nhubd_build_info{", "  scopes    read\n", "  scopes    read, call, provide, admin\n"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %q in what it prints:\n%.3000s", want, got)
		}
	}
}

// TestReadmeBegins checks the two commands that need nothing else.
func TestReadmeBegins(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	first, _, _ := strings.Cut(string(text), "\n## ")
	for _, command := range []string{"\ngo run ./cmd/hubd --demo ", "\nmake test "} {
		if !strings.Contains(first, command) {
			t.Errorf("README.md does not begin with %q", command)
		}
	}
}

// installed reports whether a command can be run: hubd and hubctl always can.
func installed(tool string) bool {
	if tool == "hubctl" || tool == "hubd" {
		return true
	}
	_, err := exec.LookPath(tool)
	return err == nil
}

// linkDefaultSocket makes the hub answer at the socket of its user, too.
func (d *daemon) linkDefaultSocket() {
	d.t.Helper()
	folder := filepath.Join(d.dir, "hubd") // cleanEnv has dir as XDG_RUNTIME_DIR
	if err := os.MkdirAll(folder, 0o700); err != nil {
		d.t.Fatal(err)
	}
	if err := os.Symlink(d.socket, filepath.Join(folder, "hub.sock")); err != nil {
		d.t.Fatal(err)
	}
}

// shell runs a command line as a user would, with both outputs together.
func (d *daemon) shell(command string) string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, "sh", "-c", command)
	cmd.Dir = ".." // where a reader of README.md is
	cmd.Env = append(cleanEnv(d.dir), "HUBD_SOCKET="+d.socket, "NO_COLOR=1")
	out, err := cmd.CombinedOutput()
	if ctx.Err() != nil {
		d.t.Errorf("$ %s: did not end: %v", command, err)
	}
	return strings.ReplaceAll(string(out), "\r\n", "\n") // as a terminal shows it; a command may well fail: what it says is compared
}

// open reports whether a transcript leaves open how the answer ends. Only that of
// a text for people may.
func open(command, want string) bool {
	return strings.HasSuffix(strings.TrimRight(want, "\n"), "...") && !strings.Contains(command, "--help")
}

// similar compares line by line. "..." in want matches anything.
func similar(got, want string) bool {
	return match(strings.Split(got, "\n"), strings.Split(want, "\n"))
}

func match(got, want []string) bool {
	switch {
	case len(want) == 0:
		return len(got) == 0
	case want[0] == "...":
		for i := range len(got) + 1 {
			if match(got[i:], want[1:]) {
				return true
			}
		}
		return false
	case len(got) == 0:
		return false
	}
	return matchLine(got[0], want[0]) && match(got[1:], want[1:])
}

func matchLine(got, want string) bool {
	parts := strings.Split(want, "...")
	for i, part := range parts {
		switch {
		case i == 0:
			if !strings.HasPrefix(got, part) {
				return false
			}
			got = got[len(part):]
		case i == len(parts)-1:
			return strings.HasSuffix(got, part)
		default:
			_, rest, ok := strings.Cut(got, part)
			if !ok {
				return false
			}
			got = rest
		}
	}
	return got == ""
}

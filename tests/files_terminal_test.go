package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// sparse makes a file that has a size and takes no room.
func sparse(t *testing.T, path string, size int64) {
	t.Helper()
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := f.Truncate(size); err != nil {
		t.Fatal(err)
	}
}

func entries(t *testing.T, dir string) string {
	t.Helper()
	list, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range list {
		names = append(names, e.Name())
	}
	return strings.Join(names, " ")
}

// What comes through a pipe is sent as it comes, and the call begins with it: the
// deadline of a call ends with its first item, so a slow program does not meet it.
func TestFilePutSendsWhatAPipeHas(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	d := startDaemon(t, "--file-root", root, "--file-quota", "1MiB")
	put, talk := exec.CommandContext(t.Context(), filepath.Join(binDir, "hubctl"), "file", "put", "-", "slow"), new(logBuffer)
	put.Env = append(cleanEnv(d.dir), "HUBD_SOCKET="+d.socket, "NO_COLOR=1")
	put.Stderr = talk
	in, err := put.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := put.Start(); err != nil {
		t.Fatal(err)
	}
	used := func() float64 {
		n, _ := d.metric("hubd_file_quota_used_bytes")
		return n
	}
	before := used()
	if _, err := in.Write([]byte("a little\n")); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the hub has what came so far", func() bool { return used() > before })
	if _, err := in.Write([]byte("more\n")); err != nil {
		t.Fatal(err)
	}
	in.Close()
	if err := put.Wait(); err != nil {
		t.Fatalf("%v\n%s", err, talk)
	}
	if text, err := os.ReadFile(filepath.Join(root, "slow")); err != nil || string(text) != "a little\nmore\n" {
		t.Errorf("%q %v", text, err)
	}
}

// Copies that take their time show a bar; one that is interrupted leaves
// nothing, neither here nor there.
func TestFileCopyIsInterrupted(t *testing.T) {
	t.Parallel()
	root, here := t.TempDir(), t.TempDir()
	d := startDaemon(t, "--file-root", root)
	sparse(t, filepath.Join(here, "big"), 3<<30/2)
	put := onTerminal(t, d, 80, 24, "file", "put", filepath.Join(here, "big"))
	put.sees("% |", "/1.6 GB")
	put.typeKeys("\x03")
	put.left(130)
	put.sees("hubctl: interrupted") // its last words
	eventually(t, "nothing is left of the upload", func() bool { return entries(t, root) == "" })
	if text := put.screen.Text(); strings.Contains(text, "% |") || strings.Contains(text, "^C") {
		t.Errorf("it leaves on the screen:\n%s", text)
	}

	if err := os.Rename(filepath.Join(here, "big"), filepath.Join(root, "big")); err != nil {
		t.Fatal(err)
	}
	get := onTerminal(t, d, 80, 24, "file", "get", "big", filepath.Join(here, "copy"))
	get.sees("% |", "/1.6 GB")
	get.typeKeys("\x03")
	get.left(130)
	if left := entries(t, here); left != "" {
		t.Errorf("left of the download: %s", left)
	}
}

// Names of files are shown so that the terminal obeys none of them.
func TestFileNamesOnATerminal(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	d := startDaemon(t, "--file-root", root)
	for _, name := range []string{"red\x1b[31m", "two\nlines", "title\x1b]0;x\a"} {
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, args := range [][]string{{"file", "ls"}, {"file", "ls", "-l"}} {
		x := onTerminal(t, d, 80, 24, args...)
		x.sees(`red\u001b[31m`, `two\u000alines`, `title\u001b]0;x\u0007`)
		x.left(0)
		for _, code := range []string{"\x1b[31m", "\x1b]", "\a"} {
			if wrote := x.wrote(); strings.Contains(wrote, code) {
				t.Errorf("%v writes %q", args, wrote)
			}
		}
	}
}

// Deleting asks on a terminal, and takes no for an answer.
func TestFileDeletionAsks(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	d := startDaemon(t, "--file-root", root)
	if err := os.MkdirAll(filepath.Join(root, "tree", "deep"), 0o755); err != nil {
		t.Fatal(err)
	}
	no := onTerminal(t, d, 80, 24, "file", "rm", "-r", "tree")
	no.sees("delete tree, with all that is in it?")
	no.typeKeys("n\n")
	no.left(1)
	if entries(t, root) != "tree" {
		t.Error("it was deleted")
	}
	yes := onTerminal(t, d, 80, 24, "file", "rm", "-r", "tree")
	yes.sees("delete tree, with all that is in it?")
	yes.typeKeys("y\n")
	yes.left(0)
	if left := entries(t, root); left != "" {
		t.Errorf("left: %s", left)
	}
}

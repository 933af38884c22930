// Package system tests hubd under a real systemd: in boxes, which are
// containers with systemd as their first process that are thrown away after
// one scenario. Package scenarios has what happens inside.
//
// Boxes need root and some programs of Debian (see box). Where there are none
// the tests are skipped with the reason; HUBD_TEST_BOX=1 makes that a failure,
// and BOX_SUITE=trixie takes a newer systemd.
package system

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// noBox is the exit code of box when this machine cannot have one.
const noBox = 125

// prepared builds the base of all boxes, if it is missing, and the programs.
var prepared = sync.OnceValues(func() (dir string, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	if out, err := command(ctx, "bash", "box", "--prepare").CombinedOutput(); err != nil {
		return "", &unavailableError{strings.TrimSpace(string(out))}
	}
	if dir, err = os.MkdirTemp("", "hubd-system-"); err != nil {
		return "", err
	}
	build := command(ctx, "go", "build", "-trimpath", "-o", dir+"/", "../../cmd/hubd", "../../cmd/hubctl", "./scenarios")
	build.Env = append(os.Environ(), "CGO_ENABLED=0") // the box has a C library of its own
	if out, err := build.CombinedOutput(); err != nil {
		return dir, errors.New(string(out))
	}
	return dir, nil
})

// unavailableError says why there can be no box here.
type unavailableError struct{ reason string }

func (e *unavailableError) Error() string { return "no box with systemd: " + e.reason }

func TestMain(m *testing.M) {
	code := m.Run()
	if dir, _ := prepared(); dir != "" {
		os.RemoveAll(dir)
	}
	os.Exit(code)
}

// command is one that ends with ctx: politely at first, so that a box can
// clean up.
func command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 30 * time.Second
	return cmd
}

func skipOrFail(t *testing.T, err error) {
	t.Helper()
	if _, ok := errors.AsType[*unavailableError](err); ok && os.Getenv("HUBD_TEST_BOX") == "" {
		t.Skip(err)
	}
	t.Fatal(err)
}

// needBox returns the folder of the programs, or skips the test.
func needBox(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("boxes take a while")
	}
	if os.Geteuid() != 0 {
		skipOrFail(t, &unavailableError{"needs root"})
	}
	dir, err := prepared()
	if err != nil {
		skipOrFail(t, err)
	}
	return dir
}

// TestScenarios plays each scenario in a box of its own.
func TestScenarios(t *testing.T) {
	dir := needBox(t)
	list, err := exec.Command(filepath.Join(dir, "scenarios")).Output()
	if err != nil {
		t.Fatal(err)
	}
	for name := range strings.FieldsSeq(string(list)) {
		if strings.HasPrefix(name, "package-") {
			continue // TestPackages
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, dir, name)
		})
	}
}

// play runs one scenario.
func play(t *testing.T, dir, name string) {
	journal := filepath.Join(t.TempDir(), "journal")
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	out, err := command(ctx, "bash", "box", "--dir", dir, "--journal", journal, "--timeout", "280", "--", "/box/scenarios", name).CombinedOutput()
	text := strings.TrimSpace(string(out))
	if err == nil {
		for line := range strings.Lines(text) {
			if strings.HasPrefix(line, "figure: ") {
				t.Log(strings.TrimSpace(line))
			}
		}
		return
	}
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() == noBox {
		skipOrFail(t, &unavailableError{text})
	}
	entries, _ := os.ReadFile(journal)
	if len(entries) > 20000 {
		entries = entries[len(entries)-20000:]
	}
	t.Errorf("%v\n%s\nthe end of the journal:\n%s", err, text, entries)
}

// TestPackages makes packages of two versions and installs, upgrades and
// removes them in boxes.
func TestPackages(t *testing.T) {
	t.Parallel()
	dir := needBox(t)
	folder := t.TempDir()
	text, err := os.ReadFile(filepath.Join(dir, "scenarios"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(folder, "scenarios"), text, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, version := range map[string]string{"old": "1.0.0", "new": "1.1.0"} {
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
		defer cancel()
		cmd := command(ctx, "go", "run", "./internal/release", "-out", filepath.Join(folder, name), "-version", version, "-arch", runtime.GOARCH, "-formats", "deb,rpm", "-clients", "")
		cmd.Dir = filepath.Join("..", "..")
		if out, err := cmd.CombinedOutput(); err != nil {
			if strings.Contains(string(out), "goreleaser/nfpm") && os.Getenv("HUBD_TEST_BOX") == "" {
				t.Skipf("nfpm cannot be fetched or built: %s", out)
			}
			t.Fatalf("%v\n%s", err, out)
		}
		check := exec.Command("sha256sum", "--check", "--quiet", "--strict", "SHA256SUMS")
		check.Dir = filepath.Join(folder, name)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("SHA256SUMS: %v\n%s", err, out)
		}
	}
	for _, name := range []string{"package-deb", "package-rpm"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			play(t, folder, name)
		})
	}
}

package tests

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Clients in other languages against a real hubd. Each is skipped, with the
// reason, where its language is not installed.

// TestInteropKollaborPython runs the checks of interop/kollabor, one subtest
// each, against one daemon.
func TestInteropKollaborPython(t *testing.T) {
	t.Parallel()
	python := needPython(t)
	script := filepath.Join("interop", "kollabor", "check.py")
	list, err := pythonCommand(t.Context(), python, script, "--list").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, list)
	}
	d := startDaemon(t)
	names := strings.Fields(string(list))
	if len(names) == 0 {
		t.Fatal("there is no check")
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			out, err := pythonCommand(ctx, python, script, d.socket, name).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "ok "+name) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// needPython returns a Python of version 3.8 or later, or skips the test.
func needPython(t *testing.T) string {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("python3 is not installed")
	}
	version := exec.Command(python, "-c", "import sys, asyncio; sys.exit(sys.version_info < (3, 8))")
	if out, err := version.CombinedOutput(); err != nil {
		t.Skipf("%s is no usable Python 3.8: %v %s", python, err, out)
	}
	return python
}

func pythonCommand(ctx context.Context, python string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, python, args...)
	cmd.Env = append(os.Environ(), "PYTHONDONTWRITEBYTECODE=1", "PYTHONUTF8=1")
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

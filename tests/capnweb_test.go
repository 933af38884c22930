package tests

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"
	"time"
)

// The npm package capnweb against a real hubd.

// TestInteropCapnwebNode runs the checks of interop/capnweb: what every hub
// must do, and what takes a whole daemon.
func TestInteropCapnwebNode(t *testing.T) {
	t.Parallel()
	dir := needNode(t, "capnweb")
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none", "--http-origins", "https://app.example")
	env := []string{"HUBD_URL=http://" + d.tcpAddress() + "/capnweb", "HUBD_PID=" + strconv.Itoa(d.cmd.Process.Pid)}
	for _, script := range []string{"suite.mjs", "hub.mjs"} { // one after the other: the second counts what is open
		t.Run(script, func(t *testing.T) {
			out, err := nodeTest(t, dir, script, env...)
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
		})
	}
}

// needNode returns the folder of a client of interop/ whose npm packages are
// installed, or skips the test.
func needNode(t *testing.T, name string) string {
	t.Helper()
	if _, err := exec.LookPath("node"); err != nil {
		t.Skip("node is not installed")
	}
	dir := filepath.Join("interop", name)
	if _, err := os.Stat(filepath.Join(dir, "node_modules", ".package-lock.json")); err != nil {
		t.Skipf("the npm packages of %s are not installed: make prepare", dir)
	}
	return dir
}

// nodeTest runs a file of checks with Node's own test runner.
func nodeTest(t *testing.T, dir, script string, env ...string) ([]byte, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "--test", "--test-force-exit", "--test-reporter=spec", script)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), env...)
	cmd.WaitDelay = 5 * time.Second
	return cmd.CombinedOutput()
}

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

// kkrpcHub is a hub with an address for each way to speak kkrpc.
type kkrpcHub struct {
	*daemon
	lines string // a socket for lines
	tcp   string // host:port without tokens
}

func startKkrpcHub(t *testing.T) kkrpcHub {
	t.Helper()
	lines := filepath.Join(shortDir(t), "k.sock")
	d := startDaemon(t, "--listen", "unix://"+lines+"?protocols=kkrpc", "--listen", "tcp://127.0.0.1:0?auth=none")
	return kkrpcHub{d, lines, d.tcpAddress()}
}

// TestInteropKkrpcPython runs the checks of interop/kkrpc, one subtest each,
// against one daemon: clients of both dialects written from docs/kkrpc.md.
func TestInteropKkrpcPython(t *testing.T) {
	t.Parallel()
	python := needPython(t)
	script := filepath.Join("interop", "kkrpc", "check.py")
	list, err := pythonCommand(t.Context(), python, script, "--list").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, list)
	}
	h := startKkrpcHub(t)
	names := strings.Fields(string(list))
	if len(names) == 0 {
		t.Fatal("there is no check")
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			out, err := pythonCommand(ctx, python, script, h.tcp, h.socket, h.lines, filepath.Join(binDir, "hubctl"), name).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "ok "+name) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

// TestInteropKkrpcNode drives a hub with every kkrpc library of the npm
// registry, over WebSocket, a Unix socket and the standard streams of hubctl
// bridge. KKRPC_BUILDS names further builds: see interop/kkrpc/libraries.mjs.
func TestInteropKkrpcNode(t *testing.T) {
	t.Parallel()
	for _, tool := range []string{"node", "npm"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Skipf("%s is not installed", tool)
		}
	}
	dir := filepath.Join("interop", "kkrpc")
	if _, err := os.Stat(filepath.Join(dir, "node_modules", "ws")); err != nil {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
		defer cancel()
		cmd := exec.CommandContext(ctx, "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund")
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Skipf("the packages cannot be installed here: %v\n%s", err, out)
		}
	}
	h := startKkrpcHub(t)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	cmd := exec.CommandContext(ctx, "node", "--test", "--test-force-exit", "--test-reporter=spec", "suite.mjs")
	cmd.Dir = dir
	cmd.WaitDelay = 5 * time.Second
	cmd.Env = append(os.Environ(), "HUBD_WS=ws://"+h.tcp+"/kkrpc", "HUBD_LINES="+h.lines, "HUBD_SOCKET="+h.socket,
		"HUBCTL="+filepath.Join(binDir, "hubctl"))
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	tail := out[max(0, len(out)-200):]
	if !strings.Contains(string(tail), "fail 0") || strings.Contains(string(tail), "pass 0\n") {
		t.Errorf("the suite did not say that it passed:\n%s", tail)
	}
}

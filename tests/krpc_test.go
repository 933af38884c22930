package tests

import (
	"context"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestInteropKrpcPython runs the checks of interop/krpc, one subtest each,
// against one daemon.
func TestInteropKrpcPython(t *testing.T) {
	t.Parallel()
	python := needPython(t)
	script := filepath.Join("interop", "krpc", "check.py")
	list, err := pythonCommand(t.Context(), python, script, "--list").CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, list)
	}
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none", "--file-root", t.TempDir())
	at := d.tcpAddress()
	names := strings.Fields(string(list))
	if len(names) == 0 {
		t.Fatal("there is no check")
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
			defer cancel()
			out, err := pythonCommand(ctx, python, script, at, d.socket, name).CombinedOutput()
			if err != nil || !strings.Contains(string(out), "ok "+name) {
				t.Errorf("%v\n%s", err, out)
			}
		})
	}
}

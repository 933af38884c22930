package main

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/client"
)

// Whatever is wrong with the units comes with the command that mends it.
func TestJudgeUnits(t *testing.T) {
	good := unitStates{scope: "--system", service: "active", socket: "active", enabled: "enabled"}
	for _, test := range []struct {
		name       string
		change     func(*unitStates)
		level, fix string
	}{
		{"good", func(*unitStates) {}, levelOK, ""},
		{"waits for a connection", func(u *unitStates) { u.service = "inactive" }, levelOK, ""},
		{"reloads", func(u *unitStates) { u.service, u.socket = "reloading", "inactive" }, levelOK, ""},
		{"service without a socket", func(u *unitStates) { u.socket, u.enabled, u.serviceEnabled = "inactive", "disabled", "enabled" }, levelOK, ""},
		{"failed service", func(u *unitStates) { u.service = "failed" }, levelFail, "reset-failed"},
		{"failed socket", func(u *unitStates) { u.service, u.socket = "inactive", "failed" }, levelFail, "reset-failed"},
		{"stopped", func(u *unitStates) { u.service, u.socket = "inactive", "inactive" }, levelFail, "systemctl --system enable --now hubd.socket"},
		{"disabled", func(u *unitStates) { u.enabled = "disabled" }, levelWarn, "systemctl --system enable hubd.socket"},
		{"disabled, of a user", func(u *unitStates) { u.enabled, u.scope = "disabled", "--user" }, levelWarn, "systemctl --user enable hubd.socket"},
		{"two restarts", func(u *unitStates) { u.restarts = 2 }, levelOK, ""},
		{"ten restarts", func(u *unitStates) { u.restarts = 10 }, levelWarn, "journalctl --system -u hubd"},
	} {
		u := good
		test.change(&u)
		f := judgeUnits(u)
		if f.Level != test.level || !strings.Contains(f.Fix, test.fix) || (f.Fix == "") != (f.Level == levelOK) {
			t.Errorf("%s: %+v, want %s with %q", test.name, f, test.level, test.fix)
		}
	}
}

// Every socket that cannot be used comes with what to do about it.
func TestCheckSocket(t *testing.T) {
	dir, err := os.MkdirTemp("", "hub") // short: a socket path has at most 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	listen := func(name string) *net.UnixListener {
		l, err := net.ListenUnix("unix", &net.UnixAddr{Net: "unix", Name: filepath.Join(dir, name)})
		if err != nil {
			t.Fatal(err)
		}
		l.SetUnlinkOnClose(false)
		t.Cleanup(func() { l.Close() })
		return l
	}
	if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	listen("stale").Close()
	listen("good")
	listen("open")
	listen("own")
	for name, mode := range map[string]os.FileMode{"good": 0o660, "open": 0o666, "own": 0o600} {
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]string{
		"none": levelFail, "file": levelFail, "stale": levelFail, "good": levelOK, "open": levelWarn, "own": levelOK,
	} {
		f := checkSocket(context.Background(), filepath.Join(dir, name))
		if f.Level != want || (f.Fix == "") != (want == levelOK) {
			t.Errorf("%s: %+v, want %s", name, f, want)
		}
	}
	if fix := permissionFix(filepath.Join(dir, "own")); !strings.Contains(fix, "mode=0660") {
		t.Errorf("the fix for a socket of one user is %q", fix)
	}
}

// A hub that closes the connection of its own user has a reason of another kind than one
// that does so on a stranger.
func TestHintForAHubThatHangsUp(t *testing.T) {
	dir, err := os.MkdirTemp("", "hub")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	go func() { // ends with the listener
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			c.Close()
		}
	}()
	got := hubctl(t, path, "", "ping")
	if got.code != exitUnreachable || !strings.Contains(got.err, "it closed the connection") || !strings.Contains(got.err, "hint: it may have no room") {
		t.Errorf("own socket: %+v", got)
	}
	stranger := unreachable{client.Address{Network: "unix", Path: filepath.Join(dir, "gone")}, io.EOF} // whose owner is not known
	if hint := stranger.hint(); !strings.Contains(hint, "peers: [") {
		t.Errorf("of a stranger: %q", hint)
	}
}

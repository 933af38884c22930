package hub

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sys/unix"
)

// runOnce runs a hub that is expected not to start.
func runOnce(t *testing.T, o Options) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	o.Log = zap.NewNop()
	o.Ready = func(Info) {
		t.Error("the hub started")
		cancel()
	}
	return Run(ctx, o)
}

func TestSocketIsPrivateFromTheFirstMoment(t *testing.T) {
	old := unix.Umask(0)
	defer unix.Umask(old)
	dir := filepath.Join(shortDir(t), "made", "here")
	path := filepath.Join(dir, "h.sock")
	l, err := listen(t.Context(), address{network: "unix", path: path, mode: 0o600, group: -1})
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v %v, want mode 0700", st.Mode(), err)
	}
	if st, err := os.Lstat(path); err != nil || st.Mode().Perm() != 0o600 || st.Mode()&os.ModeSocket == 0 {
		t.Errorf("socket: %v %v, want mode 0600", st.Mode(), err)
	}
}

func TestModeAndGroupOfASocket(t *testing.T) {
	dir := filepath.Join(shortDir(t), "made")
	gid := os.Getgid()
	a, err := parseAddress("unix://"+dir+"/h.sock?mode=0660&group="+itoa(gid), false)
	if err != nil {
		t.Fatal(err)
	}
	l, err := listen(t.Context(), a)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	st, err := os.Lstat(a.path)
	if err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("socket: %v %v, want mode 0660", st.Mode(), err)
	}
	if got := int(st.Sys().(*syscall.Stat_t).Gid); got != gid {
		t.Errorf("group %d, want %d", got, gid)
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o750 {
		t.Errorf("folder: %v %v, want mode 0750, so that the group can reach the socket", st.Mode(), err)
	}
}

// What a hub that was killed leaves behind is replaced; the lock file stays.
func TestStaleSocketIsReplaced(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "h.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	ln.(*net.UnixListener).SetUnlinkOnClose(false)
	ln.Close()
	l, err := listen(t.Context(), address{network: "unix", path: path, mode: 0o600, group: -1})
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	c.Close()
	l.close()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("socket after close: %v", err)
	}
	if _, err := os.Lstat(path + ".lock"); err != nil {
		t.Errorf("lock after close: %v", err)
	}
}

// A socket that answers belongs to somebody, lock or no lock.
func TestSocketThatAnswersIsNotTouched(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "h.sock")
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	before, _ := os.Lstat(path)
	err = runOnce(t, Options{Listen: []string{"unix://" + path}, State: filepath.Join(dir, "state")})
	if ExitCode(err) != ExitRunning {
		t.Fatalf("error %v, exit code %d, want %d", err, ExitCode(err), ExitRunning)
	}
	if after, err := os.Lstat(path); err != nil || !os.SameFile(before, after) {
		t.Errorf("the socket was replaced: %v", err)
	}
}

func TestWhatIsNoSocketIsNotTouched(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "h.sock")
	if err := os.WriteFile(path, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	err := runOnce(t, Options{Listen: []string{"unix://" + path}, State: filepath.Join(dir, "state")})
	if ExitCode(err) != ExitUsage {
		t.Errorf("error %v, exit code %d, want %d", err, ExitCode(err), ExitUsage)
	}
	if text, err := os.ReadFile(path); err != nil || string(text) != "precious" {
		t.Errorf("the file: %q, %v", text, err)
	}
}

// Somebody who replaced the socket keeps his.
func TestCloseLeavesAForeignSocket(t *testing.T) {
	path := filepath.Join(shortDir(t), "h.sock")
	l, err := listen(t.Context(), address{network: "unix", path: path, mode: 0o600, group: -1})
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(path)
	ln, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	l.close()
	if c, err := net.Dial("unix", path); err != nil {
		t.Errorf("the other socket is gone: %v", err)
	} else {
		c.Close()
	}
}

func TestSecondHub(t *testing.T) {
	h := startHub(t, Options{})
	other := shortDir(t)
	for _, c := range []struct {
		name string
		o    Options
	}{
		{"on the same socket", Options{Listen: []string{"unix://" + h.socket}, State: filepath.Join(other, "state")}},
		{"on the same state", Options{Listen: []string{"unix://" + filepath.Join(other, "h.sock")}, State: h.info.State}},
	} {
		if err := runOnce(t, c.o); ExitCode(err) != ExitRunning {
			t.Errorf("%s: error %v, exit code %d, want %d", c.name, err, ExitCode(err), ExitRunning)
		}
	}
	if r := h.dial().call("ping", "{}"); r.Error != nil {
		t.Errorf("the first hub: %+v", r)
	}
}

func TestFolderThatEverybodyMayWriteTo(t *testing.T) {
	dir := shortDir(t)
	open := filepath.Join(dir, "open")
	if err := os.Mkdir(open, 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(open, 0o777); err != nil {
		t.Fatal(err)
	}
	err := runOnce(t, Options{Listen: []string{"unix://" + open + "/h.sock"}, State: filepath.Join(dir, "state")})
	if ExitCode(err) != ExitUsage {
		t.Errorf("socket: error %v, exit code %d, want %d", err, ExitCode(err), ExitUsage)
	}
	err = runOnce(t, Options{Listen: []string{"unix://" + dir + "/h.sock"}, State: open})
	if ExitCode(err) != ExitState {
		t.Errorf("state: error %v, exit code %d, want %d", err, ExitCode(err), ExitState)
	}
}

func TestLockFileThatIsALink(t *testing.T) {
	dir := shortDir(t)
	target := filepath.Join(dir, "target")
	if err := os.Symlink(target, filepath.Join(dir, "h.sock.lock")); err != nil {
		t.Fatal(err)
	}
	if _, err := listen(t.Context(), address{network: "unix", path: filepath.Join(dir, "h.sock"), mode: 0o600, group: -1}); err == nil {
		t.Error("a link was taken for a lock file")
	}
	if _, err := os.Lstat(target); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the link was followed: %v", err)
	}
}

func TestStateThatIsNoFolder(t *testing.T) {
	dir := shortDir(t)
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	err := runOnce(t, Options{Listen: []string{"unix://" + dir + "/h.sock"}, State: file})
	if ExitCode(err) != ExitState {
		t.Errorf("error %v, exit code %d, want %d", err, ExitCode(err), ExitState)
	}
	if _, err := os.Lstat(filepath.Join(dir, "h.sock")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a hub that did not start left its socket behind")
	}
}

// A hub uses the sockets that its service manager opened, leaves their files
// alone, and opens what is configured beside them.
func TestInheritedSockets(t *testing.T) {
	dir := shortDir(t)
	path := filepath.Join(dir, "given.sock")
	given, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	h := startHub(t, Options{Inherited: []net.Listener{given}, Listen: []string{"unix://" + path + "?protocols=kkrpc,kollabor"}})
	if len(h.info.Listeners) != 2 {
		t.Fatalf("listeners: %v, want the inherited one and h.sock", h.info.Listeners)
	}
	if r := dial(t, "unix", path).call("ping", "{}"); r.Error != nil {
		t.Errorf("ping: %+v", r)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); err != nil {
		t.Errorf("the inherited socket: %v", err)
	}
	if _, err := os.Lstat(h.socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the own socket: %v", err)
	}
}

func TestInheritedAloneMeansNoDefaultSocket(t *testing.T) {
	dir := shortDir(t)
	given, err := net.Listen("unix", filepath.Join(dir, "given.sock"))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var info Info
	err = Run(ctx, Options{
		Inherited: []net.Listener{given}, State: filepath.Join(dir, "state"), Log: zap.NewNop(),
		Ready: func(i Info) {
			info = i
			cancel()
		},
	})
	if err != nil || len(info.Listeners) != 1 {
		t.Errorf("listeners %v, error %v", info.Listeners, err)
	}
}

func TestSilentTCPConnectionIsClosed(t *testing.T) {
	h := startHub(t, Options{Listen: []string{"tcp://127.0.0.1:0?auth=none"}, Limits: Limits{FirstByte: 20 * time.Millisecond}})
	if err := dial(t, "tcp", h.tcp).ended(); err != nil {
		t.Error(err)
	}
	w := dial(t, "tcp", h.tcp)
	w.send("GE") // not enough to tell
	if err := w.ended(); err != nil {
		t.Error(err)
	}
	if got := h.sample(`hubd_rejected_total{limit="first_byte"}`); got != "2" {
		t.Errorf("rejected: %q, want 2", got)
	}
}

func TestConnectionLimit(t *testing.T) {
	h := startHub(t, Options{Limits: Limits{Connections: 2}})
	a, b := h.dial(), h.dial()
	a.call("ping", "{}")
	b.call("ping", "{}")
	if err := h.dial().ended(); err != nil && !strings.Contains(err.Error(), "broken pipe") {
		t.Errorf("third connection: %v", err)
	}
	if r := a.call("ping", "{}"); r.Error != nil {
		t.Errorf("first connection: %+v", r)
	}
	b.Close()
	eventually(t, "room for another connection", func() bool {
		w := h.dial()
		defer w.Close()
		w.Write([]byte(`{"action":"rpc_request","request_id":"t","method":"ping"}` + "\n"))
		line, err := w.r.ReadString('\n')
		return err == nil && strings.Contains(line, `"ok"`)
	})
}

func TestUnauthenticatedLimit(t *testing.T) {
	h := startHub(t, Options{Listen: []string{"tcp://127.0.0.1:0"}, Limits: Limits{ConnectionsUnauthenticated: 1}})
	first := dial(t, "tcp", h.tcp)
	if r := first.call("ping", "{}"); r.kind() != "unauthenticated" {
		t.Errorf("call without a token: %+v", r)
	}
	second := dial(t, "tcp", h.tcp)
	if r := second.call("ping", "{}"); r.kind() != "unauthenticated" {
		t.Errorf("second connection: %+v", r)
	}
	if err := first.ended(); err != nil {
		t.Errorf("the first, when the second has come: %v", err)
	}
	if got := h.sample(`hubd_rejected_total{limit="connections_unauthenticated"}`); got != "1" {
		t.Errorf("rejected: %q, want 1", got)
	}
}

// Whoever fills the places of those who have yet to authenticate takes them from
// itself: others come in, from its own address and from another one.
func TestSilentConnectionsShutNobodyOut(t *testing.T) {
	t.Parallel()
	const places = 8
	h := startHub(t, Options{
		Demo: true, Listen: []string{"tcp://0.0.0.0:0"},
		Limits: Limits{ConnectionsUnauthenticated: places, Handshake: time.Hour, FirstByte: time.Hour},
	})
	_, port, _ := net.SplitHostPort(h.tcp)
	token := h.token("good", "")
	from := func(address string) *wire {
		t.Helper()
		d := net.Dialer{LocalAddr: &net.TCPAddr{IP: net.ParseIP(address)}}
		c, err := d.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
		if err != nil {
			t.Fatal(err)
		}
		return newWire(t, c)
	}
	slow := from("127.0.0.2") // connected before all of them, and takes its time
	if r := slow.call("echo", "[1]"); r.kind() != "unauthenticated" {
		t.Fatalf("%+v", r)
	}
	const silent = 3 * places
	for range silent {
		from("127.0.0.1")
	}
	eventually(t, "all but those that have a place besides slow are gone", func() bool {
		return h.rejected(limitUnauthenticated) == silent-(places-1)
	})
	for _, address := range []string{"127.0.0.1", "127.0.0.3"} {
		for n := range 20 {
			good := from(address)
			if answer := good.greet(token); !strings.Contains(answer, `"hello"`) {
				t.Fatalf("call %d from %s: %s", n, address, answer)
			}
			if r := good.call("echo", "[7]"); r.Error != nil {
				t.Fatalf("call %d from %s: %+v", n, address, r)
			}
			good.Close()
		}
	}
	if answer := slow.greet(token); !strings.Contains(answer, `"hello"`) {
		t.Errorf("who takes its time at another address: %s", answer)
	}
	if r := slow.call("echo", "[7]"); string(r.Result) != "7" {
		t.Errorf("%+v", r)
	}
}

func TestScopesOfListeners(t *testing.T) {
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none&scopes=read"}})
	w := dial(t, "tcp", h.tcp)
	for _, c := range []struct{ method, kind string }{{"ping", ""}, {"hub.cancel", "permission"}} {
		if r := w.call(c.method, "{}"); r.kind() != c.kind {
			t.Errorf("%s: kind %q, want %q", c.method, r.kind(), c.kind)
		}
	}
	u := startHub(t, Options{Listen: []string{"tcp://127.0.0.1:0?auth=uid"}})
	if r := dial(t, "tcp", u.tcp).call("hub.cancel", `{"call":1}`); r.Error != nil {
		t.Errorf("the own user by auth=uid: %+v", r)
	}
}

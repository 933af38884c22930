package hub

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	addr "github.com/hubd-dev/hubd/internal/address"
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/statesvc"
)

func TestExitCodes(t *testing.T) {
	for _, c := range []struct {
		err  error
		want int
	}{
		{nil, ExitOK},
		{errors.New("any"), ExitFailure},
		{&ConfigError{[]error{errors.New("x")}}, ExitUsage},
		{fmt.Errorf("wrapped: %w", &RunningError{Path: "/s"}), ExitRunning},
		{&statesvc.DamagedError{File: "f", Offset: 3, Reason: "x"}, ExitDamaged},
		{&StateError{Dir: "/d", Err: os.ErrPermission}, ExitState},
	} {
		if got := ExitCode(c.err); got != c.want {
			t.Errorf("%v: %d, want %d", c.err, got, c.want)
		}
	}
	if e := (&statesvc.DamagedError{File: "wal", Offset: 77, Reason: "x"}).Error(); !strings.Contains(e, "wal") || !strings.Contains(e, "77") {
		t.Errorf("damage is told as %q, want file and offset", e)
	}
}

func TestDefaults(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "/var/lib/one:/var/lib/two")
	if dir, err := DefaultState(); err != nil || dir != "/var/lib/one" {
		t.Errorf("with STATE_DIRECTORY: %q %v", dir, err)
	}
	if os.Geteuid() == 0 {
		t.Setenv("XDG_RUNTIME_DIR", "/somewhere")
		if path, err := addr.Default(); err != nil || path != "/run/hubd/hub.sock" {
			t.Errorf("socket of root: %q %v", path, err)
		}
		return
	}
	t.Setenv("STATE_DIRECTORY", "")
	t.Setenv("XDG_STATE_HOME", "/x/state")
	t.Setenv("XDG_RUNTIME_DIR", "/x/run")
	if dir, err := DefaultState(); err != nil || dir != "/x/state/hubd" {
		t.Errorf("state: %q %v", dir, err)
	}
	if path, err := addr.Default(); err != nil || path != "/x/run/hubd/hub.sock" {
		t.Errorf("socket: %q %v", path, err)
	}
}

// A hub that stops answers what runs, takes nothing new, and leaves no socket.
func TestShutdownDrains(t *testing.T) {
	h := startHub(t, Options{Demo: true, Limits: Limits{Drain: time.Hour}})
	w, finish := h.heldCall()
	h.cancel()
	eventually(t, "the socket is gone", func() bool {
		_, err := net.Dial("unix", h.socket)
		return err != nil
	})
	w.send(`{"action":"rpc_request","request_id":"n","method":"ping"}` + "\n")
	if r := w.reply(); r.RequestID != "n" || r.kind() != "unavailable" {
		t.Errorf("a new call while draining: %+v", r)
	}
	finish()
	if r := w.reply(); r.RequestID != "held" || string(r.Result) != `"done"` {
		t.Errorf("the running call: %+v", r)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	for _, left := range []string{h.socket, filepath.Join(h.dir, "sessions", "demo.sock")} {
		if _, err := os.Lstat(left); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is still there", left)
		}
	}
	if n := h.notices.String(); !strings.HasPrefix(n, "READY=1\n") || !strings.Contains(n, "STOPPING=1") {
		t.Errorf("the service manager was told %q", n)
	}
}

// What does not end within the limit is cancelled and told why.
func TestShutdownCancelsWhatDoesNotEnd(t *testing.T) {
	h := startHub(t, Options{Demo: true, Limits: Limits{Drain: 20 * time.Millisecond}})
	w := h.dial()
	w.send(`{"action":"rpc_request","request_id":"s","method":"demo.sleep","params":[25]}` + "\n")
	eventually(t, "the call runs", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == "1" })
	h.cancel()
	if r := w.reply(); r.kind() != "unavailable" {
		t.Errorf("the running call: %+v", r)
	}
	if err := w.ended(); err != nil {
		t.Error(err)
	}
	if err := h.stop(); err != nil {
		t.Error(err)
	}
}

// Streams without end do not hold a shutdown up.
func TestShutdownDoesNotWaitForEndlessStreams(t *testing.T) {
	h := startHub(t, Options{Limits: Limits{Drain: time.Hour}})
	w := h.dial()
	w.send(`{"action":"rpc_request","request_id":"f","stream":true,"method":"session.follow","params":{"session":"hub"}}` + "\n")
	eventually(t, "the call runs", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == "1" })
	if err := h.stop(); err != nil {
		t.Error(err)
	}
}

// Nor do connections that are only there: silent, half a request, kept alive, attached.
func TestShutdownDoesNotWaitForIdleConnections(t *testing.T) {
	h := startHub(t, Options{Demo: true, Limits: Limits{Drain: time.Hour}})
	silent, half, kept, lines, attached := h.dial(), h.dial(), h.dial(), h.dial(), h.dial()
	half.send("GE")
	kept.send("GET /-/ready HTTP/1.1\r\nHost: x\r\n\r\n")
	if line := kept.line(); !strings.HasPrefix(line, "HTTP/1.1 200") {
		t.Fatal(line)
	}
	lines.call("ping", "{}")
	attached.send(`{"action":"attach","client_id":"c"}` + "\n")
	attached.line()
	eventually(t, "all are served", func() bool { return h.sample(`hubd_connections{protocol="none",transport="unix"}`) == "2" })
	if err := h.stop(); err != nil {
		t.Error(err)
	}
	if n := h.logs.FilterMessage("connections did not end in time and are closed").Len(); n != 0 {
		t.Error("the shutdown waited for connections that had nothing to wait for")
	}
	for _, w := range []*wire{silent, half, lines} {
		if err := w.ended(); err != nil {
			t.Error(err)
		}
	}
	if line := attached.line(); !strings.Contains(line, `"type":"shutdown"`) {
		t.Errorf("the attached client got %s", line)
	}
}

func TestShutdownByAdministrator(t *testing.T) {
	h := startHub(t, Options{})
	w := h.dial()
	w.send(`{"action":"shutdown","reason":"enough"}` + "\n")
	select {
	case <-h.done:
	case <-time.After(patience):
		t.Fatal("the hub did not stop")
	}
	if h.err != nil {
		t.Error(h.err)
	}
}

func TestManyHubsInOneProcess(t *testing.T) {
	var wg sync.WaitGroup
	for range 4 {
		h := startHub(t, Options{Demo: true})
		wg.Go(func() {
			for range 20 {
				if r := h.dial().call("math.add", "[1,2]"); string(r.Result) != "3" {
					t.Errorf("%+v", r)
				}
			}
		})
	}
	wg.Wait()
}

func TestReload(t *testing.T) {
	var mu sync.Mutex
	next := Options{LogLevel: "info"}
	var fail error
	reload := make(chan struct{})
	h := startHub(t, Options{
		LogLevel: "info", Reload: reload, Listen: []string{"tcp://127.0.0.1:0?auth=none"},
		Load: func() (Options, error) {
			mu.Lock()
			defer mu.Unlock()
			return next, fail
		},
	})
	set := func(o Options, err error) {
		mu.Lock()
		defer mu.Unlock()
		next, fail = o, err
	}
	healthy := func() int {
		status, _ := h.ask("tcp", h.tcp, "GET /-/healthy HTTP/1.1\r\nHost: new.example\r\nConnection: close\r\n\r\n")
		return status
	}
	if healthy() != 421 {
		t.Fatal("a name that is not configured was accepted")
	}

	set(Options{LogLevel: "debug", Hosts: []string{"new.example"}, Demo: true}, nil)
	reload <- struct{}{}
	eventually(t, "the new name is taken over", func() bool { return healthy() == 200 })
	eventually(t, "the reload is over", func() bool { return h.logs.FilterMessage("configuration reloaded").Len() > 0 })
	warnings := h.logs.FilterMessage("some changes need a restart").All()
	if len(warnings) != 1 || !strings.Contains(fmt.Sprint(warnings[0].ContextMap()["keys"]), "demo") {
		t.Errorf("warnings about what needs a restart: %v", warnings)
	}

	for _, bad := range []struct {
		o   Options
		err error
	}{{Options{}, errors.New("no such file")}, {Options{Hosts: []string{"x y"}}, nil}} {
		set(bad.o, bad.err)
		if status, body := h.ask("unix", h.socket, "POST /-/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"); status != 500 || body == "" {
			t.Errorf("a bad configuration: %d %q, want 500 with the reason", status, body)
		}
		if healthy() != 200 {
			t.Error("a bad configuration changed something")
		}
	}
	for series, want := range map[string]string{
		`hubd_reloads_total{result="ok"}`: "1", `hubd_reloads_total{result="failed"}`: "2", `hubd_config_last_reload_successful`: "0",
	} {
		if got := h.sample(series); got != want {
			t.Errorf("%s = %q, want %s", series, got, want)
		}
	}
	if n := h.notices.String(); !strings.Contains(n, "RELOADING=1\nMONOTONIC_USEC=") {
		t.Errorf("the service manager was told %q", n)
	}
	close(reload) // is allowed
	if healthy() != 200 {
		t.Error("the hub is gone")
	}
}

func TestReloadWithoutConfiguration(t *testing.T) {
	reload := make(chan struct{})
	h := startHub(t, Options{Reload: reload})
	reload <- struct{}{}
	reload <- struct{}{}
	if r := h.dial().call("ping", "{}"); r.Error != nil {
		t.Errorf("after a reload of nothing: %+v", r)
	}
	if got := h.sample(`hubd_reloads_total{result="failed"}`); got != "0" {
		t.Errorf("failed reloads: %q", got)
	}
}

// A session's own socket speaks everything, with that session as the default.
func TestSessionSockets(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	dir := filepath.Join(h.dir, "sessions")
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Fatalf("folder: %v %v, want mode 0700", st, err)
	}
	identity := func(socket string) string {
		return string(dial(t, "unix", socket).call("ping", "{}").Result)
	}
	if got := identity(filepath.Join(dir, "demo.sock")); !strings.Contains(got, `"identity":"demo"`) {
		t.Errorf("demo.sock: %s", got)
	}
	if got := identity(h.socket); !strings.Contains(got, `"identity":"demo"`) {
		t.Errorf("main socket: %s", got)
	}
	owner := h.dial()
	if r := owner.call("session.open", `{"name":"build.1"}`); r.Error != nil {
		t.Fatalf("session.open: %+v", r)
	}
	own := filepath.Join(dir, "build.1.sock")
	if got := identity(own); !strings.Contains(got, `"identity":"build.1"`) {
		t.Errorf("build.1.sock: %s", got)
	}
	if status, _ := h.ask("unix", own, "GET /-/ready HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"); status != 200 {
		t.Errorf("HTTP on a session's socket: %d", status)
	}
	follower := dial(t, "unix", own)
	follower.send(`{"action":"attach","client_id":"c"}` + "\n")
	if line := follower.line(); !strings.Contains(line, "attach_ack") {
		t.Fatalf("attach: %s", line)
	}
	if r := h.dial().call("session.publish", `{"session":"build.1","event":{"type":"hello"}}`); r.Error != nil {
		t.Fatalf("session.publish: %+v", r)
	}
	if line := follower.line(); !strings.Contains(line, `"type":"hello"`) {
		t.Errorf("event: %s", line)
	}
	if got := h.sample("hubd_sessions"); got != "2" {
		t.Errorf("sessions: %q, want 2", got)
	}
	if r := owner.call("session.close", `{"session":"build.1"}`); r.Error != nil {
		t.Fatalf("session.close: %+v", r)
	}
	if _, err := os.Lstat(own); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket of a closed session: %v", err)
	}
}

// Two hubs whose sockets lie side by side: the second keeps its sessions' sockets elsewhere.
func TestSessionSocketsOfNeighbours(t *testing.T) {
	h := startHub(t, Options{Demo: true})
	state := filepath.Join(h.dir, "other")
	other := filepath.Join(h.dir, "o.sock")
	ctx, cancel := context.WithCancel(t.Context())
	ready, done := make(chan Info, 1), make(chan error, 1)
	go func() {
		done <- Run(ctx, Options{
			Demo: true, Listen: []string{"unix://" + other}, State: state, Log: zap.NewNop(), Ready: func(i Info) { ready <- i },
		})
	}()
	select {
	case <-ready:
	case err := <-done:
		t.Fatal(err)
	}
	for _, socket := range []string{filepath.Join(h.dir, "sessions", "demo.sock"), filepath.Join(state, "sessions", "demo.sock")} {
		if r := dial(t, "unix", socket).call("ping", "{}"); r.Error != nil {
			t.Errorf("%s: %+v", socket, r)
		}
	}
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}

// Presence files are there while their session is, with every member.
func TestPresenceFiles(t *testing.T) {
	dir := filepath.Join(shortDir(t), "hub", "presence")
	h := startHub(t, Options{Demo: true, PresenceDir: dir})
	w := h.dial()
	if r := w.call("session.open", `{"name":"build"}`); r.Error != nil {
		t.Fatalf("session.open: %+v", r)
	}
	found := func() map[string]map[string]any {
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		byName := map[string]map[string]any{}
		for _, f := range files {
			text, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			var p map[string]any
			if err := json.Unmarshal(text, &p); err != nil {
				t.Fatalf("%s: %v", f, err)
			}
			id, _ := p["agent_id"].(string)
			if len(id) != 12 || filepath.Base(f) != id+".json" {
				t.Errorf("%s has agent_id %q", f, id)
			}
			byName[p["identity"].(string)] = p
		}
		return byName
	}
	files := found()
	for _, name := range []string{"demo", "build"} {
		p := files[name]
		if len(p) != 24 {
			t.Errorf("%s: %d members, want 24: %v", name, len(p), p)
			continue
		}
		if p["socket_path"] != filepath.Join(h.dir, "sessions", name+".sock") || p["pid"] != float64(os.Getpid()) {
			t.Errorf("%s: %v", name, p)
		}
	}
	if st, err := os.Stat(dir); err != nil || st.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v %v, want mode 0700", st.Mode(), err)
	}
	w.call("session.close", `{"session":"build"}`)
	if files := found(); len(files) != 1 {
		t.Errorf("%d files after session.close, want 1", len(files))
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	if files := found(); len(files) != 0 {
		t.Errorf("%d files after the end, want none", len(files))
	}
}

// A hub that was killed could not remove its presence files. Its successor at the same
// sockets does, and leaves those of other hubs alone.
func TestPresenceFilesOfAKilledHubGo(t *testing.T) {
	t.Parallel()
	base := shortDir(t)
	dir, socket := filepath.Join(base, "presence"), filepath.Join(base, "h.sock")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(id, socket string) {
		text, err := json.Marshal(presence{AgentID: id, Identity: "demo", SocketPath: socket})
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, id+".json"), text, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	write("000000000001", filepath.Join(base, "sessions", "demo.sock"))
	write("000000000002", filepath.Join(base, "sessions", "gone.sock"))
	write("000000000003", filepath.Join(base, "other", "sessions", "demo.sock"))
	startHubAt(t, socket, Options{Demo: true, PresenceDir: dir})
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var others int
	for _, e := range entries {
		switch e.Name() {
		case "000000000001.json", "000000000002.json":
			t.Errorf("%s is still there", e.Name())
		case "000000000003.json":
			others++
		}
	}
	if others != 1 || len(entries) != 2 {
		t.Errorf("%d files, %d of another hub: want one of each", len(entries), others)
	}
}

func TestPeersAndCallsAreListed(t *testing.T) {
	h := startHub(t, Options{Demo: true, Listen: []string{"tcp://127.0.0.1:0?auth=none"}})
	busy := h.dial()
	busy.send(`{"action":"rpc_request","request_id":"s","method":"demo.sleep","params":[20]}` + "\n")
	w := dial(t, "tcp", h.tcp)
	eventually(t, "the call is listed", func() bool {
		return strings.Contains(string(w.call("hub.calls", "{}").Result), `"method":"demo.sleep"`)
	})
	peers := string(w.call("hub.peers", "{}").Result)
	for _, want := range []string{"unix://" + h.socket, "tcp://" + h.tcp, fmt.Sprintf("uid %d pid %d", os.Getuid(), os.Getpid())} {
		if !strings.Contains(peers, want) {
			t.Errorf("no %q in %s", want, peers)
		}
	}
	busy.Close()
	eventually(t, "the call ends with its connection", func() bool {
		return h.sample(`hubd_cancels_total{cause="peer_gone",protocol="kollabor"}`) == "1"
	})
}

func TestStartThatFailsLeavesNothing(t *testing.T) {
	dir := shortDir(t)
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	o := Options{
		Listen: []string{"unix://" + dir + "/h.sock", "tcp://" + taken.Addr().String()}, State: filepath.Join(dir, "state"), Log: zap.NewNop(),
	}
	if err := Run(t.Context(), o); err == nil {
		t.Fatal("a taken port was no error")
	}
	if _, err := os.Lstat(dir + "/h.sock"); !errors.Is(err, os.ErrNotExist) {
		t.Error("the socket stayed")
	}
	lk, err := openState(o.State)
	if err != nil {
		t.Fatalf("the state stayed locked: %v", err)
	}
	lk.Close()
}

// The quota of calls is shared by all connections of a user.
func TestCallsPerUID(t *testing.T) {
	h := startHub(t, Options{Demo: true, Limits: Limits{CallsPerUID: 1}})
	a, b := h.dial(), h.dial()
	a.send(`{"action":"rpc_request","request_id":"s","method":"demo.sleep","params":[20]}` + "\n")
	eventually(t, "the call runs", func() bool { return h.sample(`hubd_calls_in_flight{protocol="kollabor"}`) == "1" })
	if r := b.call("demo.sleep", "[1]"); r.kind() != "overloaded" {
		t.Errorf("second call of the user: %+v", r)
	}
	if got := h.sample(`hubd_rejected_total{limit="` + rpc.LimitCallsPerUID + `"}`); got != "1" {
		t.Errorf("rejected: %q, want 1", got)
	}
}

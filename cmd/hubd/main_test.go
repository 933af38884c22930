package main

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/hub"
	"github.com/hubd-dev/hubd/internal/testkit"
)

// The test binary is hubd itself when this variable is set, so that tests see
// real processes with real exit codes.
const asHubd = "HUBD_TEST_RUN_MAIN"

func TestMain(m *testing.M) {
	if os.Getenv(asHubd) != "" {
		os.Unsetenv(asHubd)
		if os.Getenv("LISTEN_FDS") != "" { // only the process itself knows its number
			os.Setenv("LISTEN_PID", strconv.Itoa(os.Getpid()))
		}
		main()
	}
	os.Exit(m.Run())
}

const patience = testkit.Patience

// place is a folder with a socket and a state of its own.
type place struct{ dir, socket, state string }

func newPlace(t *testing.T) place {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "hubd")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return place{dir, filepath.Join(dir, "h.sock"), filepath.Join(dir, "state")}
}

func (p place) args(more ...string) []string {
	return append([]string{"--listen", "unix://" + p.socket, "--state", p.state}, more...)
}

// hubd makes a command that is hubd in a clean environment.
func (p place) hubd(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), self, args...)
	cmd.Env = []string{
		asHubd + "=1", "HOME=" + p.dir, "XDG_RUNTIME_DIR=" + p.dir, "XDG_CONFIG_HOME=" + p.dir, "XDG_STATE_HOME=" + p.dir,
		"CONFIGURATION_DIRECTORY=" + p.dir, "PATH=" + os.Getenv("PATH"),
	}
	return cmd
}

// process is a hubd that runs and has said that it is ready.
type process struct {
	*exec.Cmd
	t     *testing.T
	log   string // file with what came on standard error
	done  chan struct{}
	greet string
}

func (p *process) stderr() string {
	p.t.Helper()
	text, err := os.ReadFile(p.log)
	if err != nil {
		p.t.Fatal(err)
	}
	return string(text)
}

func (p place) start(t *testing.T, env []string, args ...string) *process {
	t.Helper()
	run := &process{Cmd: p.hubd(t, append(p.args("--demo"), args...)...), t: t, done: make(chan struct{}), log: filepath.Join(p.dir, "log")}
	run.Env = append(run.Env, env...)
	log, err := os.Create(run.log)
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	run.Stderr = log
	out, err := run.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(out)
	for range 5 {
		line, err := r.ReadString('\n')
		run.greet += line
		if err != nil {
			t.Fatalf("hubd said %q and ended: %s", run.greet, run.stderr())
		}
	}
	go func() {
		defer close(run.done)
		io.Copy(io.Discard, r)
		run.Wait()
	}()
	t.Cleanup(func() {
		run.Process.Kill()
		<-run.done
	})
	return run
}

func (p *process) exitCode() int {
	p.t.Helper()
	select {
	case <-p.done:
	case <-time.After(patience):
		p.t.Fatal("hubd did not end")
	}
	return p.ProcessState.ExitCode()
}

func TestVersionAndHelp(t *testing.T) {
	var out, errs bytes.Buffer
	if code := run([]string{"--version"}, &out, &errs); code != 0 || !strings.HasPrefix(out.String(), "hubd ") {
		t.Errorf("--version: %d %q", code, out.String())
	}
	out.Reset()
	if code := run([]string{"--help"}, &out, &errs); code != 0 {
		t.Errorf("--help: %d", code)
	}
	for _, want := range []string{"Examples:", "--listen", "--file-root", "--remote", "--presence-dir", "--allow-insecure", "--config", "HUBD_LOG_LEVEL", "Exit codes:"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("--help says nothing about %s", want)
		}
	}
	if errs.Len() > 0 {
		t.Errorf("on standard error: %q", errs.String())
	}
}

func TestUsageErrors(t *testing.T) {
	p := newPlace(t)
	config := filepath.Join(p.dir, "bad.yaml")
	if err := os.WriteFile(config, []byte("log:\n  lvl: info\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		args []string
		want string
	}{
		{[]string{"--nonsense"}, "unknown flag"},
		{[]string{"serve"}, "unexpected argument"},
		{p.args("--log-level", "loud"), "log level"},
		{p.args("--demo=maybe"), "neither true nor false"},
		{p.args("--listen", "tcp://0.0.0.0:1?auth=none"), "--allow-insecure"},
		{p.args("--file-root", "/no/such/folder"), "file root"},
		{p.args("--remote", "nonsense"), "ALIAS=URL#SERVICE"},
		{p.args("--config", "/no/such/file"), "/no/such/file"},
		{p.args("--config", config), `unknown key "log.lvl"`},
		{[]string{"service"}, "usage"},
		{[]string{"service", "dance"}, "usage"},
	} {
		cmd := p.hubd(t, c.args...)
		out, _ := cmd.CombinedOutput()
		if code := cmd.ProcessState.ExitCode(); code != hub.ExitUsage || !strings.Contains(string(out), c.want) {
			t.Errorf("%q: exit code %d, %q; want %d and %q", c.args, code, out, hub.ExitUsage, c.want)
		}
	}
}

func TestSignalsAndGreeting(t *testing.T) {
	for _, s := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT} {
		p := newPlace(t)
		run := p.start(t, nil)
		for _, want := range []string{p.socket, "hubctl --socket " + p.socket + " call math.add", "curl --unix-socket " + p.socket, "nc -N -U"} {
			if !strings.Contains(run.greet, want) {
				t.Errorf("the greeting has no %q:\n%s", want, run.greet)
			}
		}
		run.Process.Signal(syscall.SIGHUP) // nothing to read: no error
		run.Process.Signal(s)
		if code := run.exitCode(); code != 0 {
			t.Errorf("%v: exit code %d: %s", s, code, run.stderr())
		}
		if _, err := os.Lstat(p.socket); !os.IsNotExist(err) {
			t.Errorf("the socket stayed: %v", err)
		}
	}
}

// The second signal does not wait for what runs.
func TestSecondSignalStopsAtOnce(t *testing.T) {
	p := newPlace(t)
	run := p.start(t, nil)
	c, err := net.Dial("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	r := bufio.NewReader(c)
	io.WriteString(c, `{"action":"rpc_request","request_id":"s","method":"demo.sleep","params":[1000],"timeout":1000}`+"\n"+
		`{"action":"rpc_request","request_id":"p","method":"ping"}`+"\n")
	if line, err := r.ReadString('\n'); err != nil || !strings.Contains(line, `"p"`) {
		t.Fatalf("ping: %q %v", line, err)
	}
	run.Process.Signal(syscall.SIGTERM)
	for { // draining: the socket is gone, the process is not
		if _, err := os.Lstat(p.socket); os.IsNotExist(err) {
			break
		}
		select {
		case <-run.done:
			t.Fatal("hubd did not wait for the running call")
		case <-time.After(5 * time.Millisecond):
		}
	}
	run.Process.Signal(syscall.SIGTERM)
	if code := run.exitCode(); code != hub.ExitFailure {
		t.Errorf("exit code %d, want %d", code, hub.ExitFailure)
	}
}

func TestExitCodeOfASecondHub(t *testing.T) {
	p := newPlace(t)
	p.start(t, nil)
	cmd := p.hubd(t, p.args()...)
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != hub.ExitRunning || !strings.Contains(string(out), "already running") {
		t.Errorf("exit code %d, %q", code, out)
	}
	other := newPlace(t)
	if err := os.WriteFile(other.state, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	cmd = other.hubd(t, other.args()...)
	out, _ = cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != hub.ExitState {
		t.Errorf("a file as state: exit code %d, %q", code, out)
	}
}

// Flags win over variables, and those over the file, in the process itself;
// SIGHUP takes over what can change.
func TestConfigurationOfAProcess(t *testing.T) {
	p := newPlace(t)
	config := filepath.Join(p.dir, "hubd.yaml") // the default one, by CONFIGURATION_DIRECTORY
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(config, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("log: {level: error}\nstate: /no/such/place\n")
	run := p.start(t, []string{"HUBD_METRICS=127.0.0.1:0"})
	if run.stderr() != "" {
		t.Errorf("log.level: error was not read: %s", run.stderr())
	}
	write("log: {level: info}\n")
	run.Process.Signal(syscall.SIGHUP)
	client := &http.Client{Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", p.socket)
		},
	}}
	get := func() string {
		resp, err := client.Get("http://hub/metrics")
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return string(text)
	}
	for deadline := time.Now().Add(patience); !strings.Contains(get(), `hubd_reloads_total{result="ok"} 1`); {
		if time.Now().After(deadline) {
			t.Fatal("SIGHUP was not followed")
		}
	}
}

func TestUnitsNameTheBinary(t *testing.T) {
	script, err := withBinary("[Service]\nExecStart=/usr/bin/hubd\nRestart=no\n", "/opt/hubd/bin/hubd")
	if err != nil || !strings.Contains(script, "\nExecStart=/opt/hubd/bin/hubd\n") {
		t.Errorf("%q, %v", script, err)
	}
	for _, path := range []string{"/opt/my hubd", "/opt/%h/hubd", "/opt/{{x}}/hubd"} {
		if _, err := withBinary("ExecStart=/usr/bin/hubd\n", path); err == nil {
			t.Errorf("%s was written into a unit", path)
		}
	}
}

// A hub under systemd takes the socket that it is given, says when it is ready
// and when it stops, and leaves the socket's file where it is.
func TestServiceManager(t *testing.T) {
	p := newPlace(t)
	notices, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: filepath.Join(p.dir, "notify"), Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer notices.Close()
	notices.SetReadDeadline(time.Now().Add(patience))
	given, err := net.ListenUnix("unix", &net.UnixAddr{Name: p.socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	given.SetUnlinkOnClose(false)
	file, err := given.File()
	if err != nil {
		t.Fatal(err)
	}
	cmd := p.hubd(t, "--state", p.state)
	cmd.Env = append(cmd.Env, "LISTEN_FDS=1", "LISTEN_FDNAMES=hub", "NOTIFY_SOCKET="+filepath.Join(p.dir, "notify"))
	cmd.ExtraFiles = []*os.File{file}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer cmd.Process.Kill()
	file.Close()
	given.Close()
	expect := func(want string) {
		t.Helper()
		buf := make([]byte, 4096)
		n, err := notices.Read(buf)
		if err != nil || !strings.HasPrefix(string(buf[:n]), want) {
			t.Fatalf("the service manager was told %q (%v), want %q", buf[:n], err, want)
		}
	}
	expect("READY=1\nSTATUS=")
	c, err := net.Dial("unix", p.socket)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(patience))
	io.WriteString(c, `{"action":"rpc_request","request_id":"1","method":"hub.info"}`+"\n")
	if line, err := bufio.NewReader(c).ReadString('\n'); err != nil || !strings.Contains(line, `"listeners":["unix://`+p.socket+`"]`) {
		t.Errorf("hub.info: %s %v", line, err)
	}
	cmd.Process.Signal(syscall.SIGTERM)
	expect("STOPPING=1")
	if err := cmd.Wait(); err != nil {
		t.Error(err)
	}
	if _, err := os.Lstat(p.socket); err != nil {
		t.Errorf("the socket of the service manager: %v", err)
	}
}

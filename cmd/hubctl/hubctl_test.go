package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/hub"
)

// startHub runs a hub with demo methods in this process and returns its socket.
func startHub(t testing.TB, listen ...string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hubctl") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket := filepath.Join(dir, "h.sock")
	stop := runHub(t, dir, append([]string{"unix://" + socket}, listen...)...)
	t.Cleanup(stop)
	return socket
}

func runHub(t testing.TB, dir string, listen ...string) (stop func()) {
	t.Helper()
	for i := range listen {
		listen[i] = strings.ReplaceAll(listen[i], "$DIR", dir)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ready := make(chan bool)
	ended := make(chan error, 1)
	go func() {
		ended <- hub.Run(ctx, hub.Options{
			Listen: listen, State: filepath.Join(dir, "state"), Demo: true, Log: zap.NewNop(),
			Ready: func(hub.Info) { close(ready) },
		})
	}()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("the hub did not start: %v", err)
	case <-time.After(30 * time.Second):
		t.Fatal("the hub did not start within 30 s")
	}
	var once sync.Once
	return func() {
		once.Do(func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("the hub ended with %v", err)
			}
		})
	}
}

// result is what a run of the program left.
type result struct {
	out, err string
	code     int
}

// hubctl runs the program as a script would: no terminal, a clean environment.
func hubctl(t testing.TB, socket, stdin string, args ...string) result {
	t.Helper()
	return hubctlReader(t, socket, strings.NewReader(stdin), args...)
}

func hubctlReader(t testing.TB, socket string, stdin io.Reader, args ...string) result {
	t.Helper()
	var out, talk lockedBuffer
	con := console{in: stdin, out: &out, err: &talk, getenv: func(string) string { return "" }}
	done := make(chan int, 1)
	go func() { done <- run(append([]string{"--socket", socket}, args...), con) }()
	select {
	case code := <-done:
		return result{out.String(), talk.String(), code}
	case <-time.After(60 * time.Second):
		t.Fatalf("hubctl %v did not end within a minute; stdout %q, stderr %q", args, out.String(), talk.String())
	}
	panic("unreachable")
}

// lockedBuffer may be read while a program still writes.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// until waits for the buffer to hold text.
func (b *lockedBuffer) until(t testing.TB, text string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !strings.Contains(b.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %q within 30 s, only %q", text, b.String())
		}
	}
}

func TestCommands(t *testing.T) {
	socket := startHub(t)
	file := filepath.Join(t.TempDir(), "args.json")
	if err := os.WriteFile(file, []byte(`{"a": 2, "b": 40}`), 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		args  string // blanks separate; ~ stands for a blank
		stdin string
		out   string
		code  int
		err   []string // parts of stderr, in any order
	}{
		{args: "call math.add a:=2 b:=40", out: "42\n"},
		{args: "call math.add 2 40", out: "42\n"},
		{args: `call math.add {"a":2,"b":40}`, out: "42\n"},
		{args: "call math.add [2,40]", out: "42\n"},
		{args: "call math.add @" + file, out: "42\n"},
		{args: "call math.add a:=@" + file + " b:=1", code: exitFailed, err: []string{"hint: \"hubctl describe math.add\""}},
		{args: "call math.add -", stdin: "[1,2] [3,4]\n{\"a\":5,\"b\":6}", out: "3\n7\n11\n"},
		{args: "call demo.sleep -", stdin: "0 0.001", out: "0\n0.001\n"},
		{args: "call demo.sleep -", stdin: "", code: exitUsage, err: []string{"stdin holds no JSON value"}},
		{args: "call math.add -", stdin: "[1,2] [3", out: "3\n", code: exitUsage, err: []string{"stdin: unexpected EOF"}},
		{args: "call demo.sleep -", stdin: `0 "x" 0`, out: "0\n", code: exitFailed},
		{args: `call echo {"a":1,"b":[1.0,1e-07],"c":{}}`, out: "{\n  \"a\": 1,\n  \"b\": [\n    1.0,\n    1e-07\n  ],\n  \"c\": {}\n}\n"},
		{args: `call echo {"a":1,"b":[1.0]} -o jsonl`, out: `{"a":1,"b":[1.0]}` + "\n"},
		{args: `call echo {"a":1,"b":[true,null]} -o yaml`, out: "a: 1\nb:\n  - true\n  - null\n"},
		{args: `call echo ["x"] -o raw`, out: "x\n"},
		{args: `call echo {"a":NaN} -o jsonl`, out: `{"a":NaN}` + "\n"},
		{args: `call echo text=a=b n:=1 -o jsonl`, out: `{"text":"a=b","n":1}` + "\n"},
		{args: "call demo.range 3 -o table", out: "0\n1\n2\n"},
		{args: "call --stream demo.count n:=3", out: "0\n1\n2\n"},
		{args: "call demo.count n:=3 -o jsonl", out: "[0,1,2]\n"},
		{args: "call --stream demo.count n:=0", out: ""},
		{args: "call --stream demo.sleep 0", out: "0\n"},
		{args: "call demo.sum --send -", stdin: "1 2 3", out: "6\n"},
		{args: "call demo.sum --send -", stdin: "", out: "0\n"},
		{args: "call demo.sum --send -", stdin: "1 x", code: exitUsage, err: []string{"hubctl: stdin: invalid character"}},
		{args: "call demo.sum --send -", stdin: `1 "x"`, code: exitFailed, err: []string{"hubctl: demo.sum"}},
		{args: "call --stream demo.upper --send - --lines -o raw", stdin: "one\ntwo", out: "ONE\nTWO\n"},
		{args: "call --stream demo.upper --send /no/such", code: exitUsage, err: []string{"no such file"}},

		{args: "call demo.fail message=broken", code: exitFailed, err: []string{"hubctl: demo.fail: broken\n"}},
		{args: "call math.add a:=1", code: exitFailed, err: []string{`"b"`, "hint: \"hubctl describe math.add\""}},
		{args: "call math.add a=1 b:=2", code: exitFailed, err: []string{"hint: a=1 is a string; for JSON: a:=1\n"}},
		{args: "call math.add 1 2 3", code: exitFailed, err: []string{"takes at most 2 arguments"}},
		{args: `call demo.sum "x"`, code: exitFailed, err: []string{`"values": expected a stream or an array, got a string`, "hint: --send FILE"}},
		{args: "call no.such", code: exitNoMethod, err: []string{"hubctl: no such method \"no.such\"\n", "hint: \"hubctl methods\""}},
		{args: "call demo.cuont n:=1", code: exitNoMethod, err: []string{"hubctl: no such method \"demo.cuont\"\nhint: did you mean demo.count"}},
		{args: "call add", code: exitNoMethod, err: []string{"math.add"}},
		{args: "call health.ping count:=0", code: exitFailed, err: []string{"hint: add --stream"}},
		{args: "call --timeout 50ms demo.sleep 60", code: exitTimeout, err: []string{"hubctl: demo.sleep: ", "hint: --timeout"}},
		{args: "call --stream --timeout 50ms demo.count n:=1 delay:=60", code: exitTimeout},
		{args: "call demo.counter", code: exitFailed},

		{args: "call", code: exitUsage, err: []string{"hint: "}},
		{args: "call echo {\"a\":", code: exitUsage, err: []string{"not JSON"}},
		{args: "call echo a:=x", code: exitUsage, err: []string{"hint: for a string: a=x"}},
		{args: "call echo hello", code: exitUsage, err: []string{`'"hello"'`}},
		{args: "call echo a=1 a=2", code: exitUsage, err: []string{"twice"}},
		{args: "call echo a=1 2", code: exitUsage, err: []string{"do not go together"}},
		{args: "call echo @/no/such/file", code: exitUsage, err: []string{"no such file"}},
		{args: "call echo -o wood", code: exitUsage, err: []string{"hint: one of table, json, jsonl, yaml, raw"}},
		{args: "call echo --color blue", code: exitUsage},
		{args: "call echo --timeout -1s", code: exitUsage},
		{args: "call echo --lines", code: exitUsage},
		{args: "call echo - --send -", code: exitUsage},
		{args: "dance", code: exitUsage, err: []string{"hint: "}},
		{args: "cal", code: exitUsage, err: []string{`did you mean "call"?`}},
		{args: "math.add 1 2", code: exitUsage, err: []string{"hubctl call math.add"}},
		{args: "ping --no-such-flag", code: exitUsage, err: []string{"hint: see \"hubctl ping --help\""}},
		{args: "ping extra", code: exitUsage, err: []string{`hubctl: "extra" is one argument too many` + "\nhint: usage: hubctl ping"}},
		{args: "ping --timeout 5", code: exitUsage, err: []string{`--timeout: "5" has no unit, as in 5s`}},
		{args: "state put k", code: exitUsage, err: []string{"hubctl: VALUE is missing\nhint: usage: hubctl state put KEY VALUE"}},
		{args: "state watch a b", code: exitUsage, err: []string{`hubctl: "b" is one argument too many`}},
		{args: "session dance", code: exitUsage, err: []string{`unknown command "dance" of "hubctl session"`}},
		{args: "ping -c -1", code: exitUsage},
		{args: "describe", code: exitUsage},
		{args: "describe no.such", code: exitNoMethod, err: []string{`no such method "no.such"`}},
		{args: "describe demo.cuont", code: exitNoMethod, err: []string{"did you mean demo.count"}},
		{args: "methods dmo", code: exitFailed, err: []string{`no such service "dmo"`, "demo"}},
		{args: "publish nobody type=x", code: exitFailed, err: []string{"hint: "}},
		{args: "publish demo 3", code: exitUsage},
		{args: "publish demo {}", code: exitUsage},
		{args: "publish demo", code: exitUsage, err: []string{"hubctl: JSON is missing"}},
		{args: "attach nobody", code: exitFailed, err: []string{`hubctl: no such session "nobody"` + "\n", "hubctl session ls"}},
		{args: "attach demo --detach-keys ctrl-1", code: exitUsage},
		{args: "attach demo --since -5", code: exitUsage},
		{args: "attach demo -i --no-stdin", code: exitUsage},
		{args: "bridge --protocol smtp", code: exitUsage},
		{args: "bridge --streams", code: exitUsage, err: []string{"--protocol kkrpc"}},
		{args: "wait --timeout 5s", out: ""},
		{args: "wait --timeout -5s", code: exitUsage},
	}
	for _, tt := range tests {
		t.Run(strings.ReplaceAll(tt.args, "/", "_"), func(t *testing.T) {
			args := strings.Fields(tt.args)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "~", " ")
			}
			got := hubctl(t, socket, tt.stdin, args...)
			if got.code != tt.code || got.out != tt.out {
				t.Errorf("exit code %d, want %d\nstdout %q, want %q\nstderr %s", got.code, tt.code, got.out, tt.out, got.err)
			}
			if tt.code == exitOK && got.err != "" || tt.code != exitOK && !strings.HasPrefix(got.err, "hubctl: ") {
				t.Errorf("stderr: %s", got.err)
			}
			for _, part := range tt.err {
				if !strings.Contains(got.err, part) {
					t.Errorf("stderr lacks %q:\n%s", part, got.err)
				}
			}
		})
	}
}

func TestLists(t *testing.T) {
	socket := startHub(t)
	tests := []struct {
		args string
		want []string
	}{
		{"methods", []string{"METHOD", "math.add(a, b) -> integer", "demo.count(n, delay=0) -> stream", "hub.methods(service?, after"}},
		{"methods math -o json", []string{`"name": "math.add"`}},
		{"describe demo.count", []string{"ARGUMENTS", "default 0", "CALLED AS", "demo_count", "hubctl call --stream demo.count n:=3"}},
		{"describe demo.sum -o yaml", []string{"name: demo.sum", "stream_in: true"}},
		{"status", []string{"hubd devel", "session", "demo", "PROTOCOL", "kollabor"}},
		{"status -o jsonl", []string{`{"info":{"name":"hubd"`, `"calls":[`, `"peers":[`, `"stats":`}},
		{"ping", []string{"hubd/devel answered: seq=1", "session=demo"}},
		{"ping -c 3 -i 0s", []string{"seq=3", "3 sent, 3 answered, 0 lost", "P99"}},
		{"ping -c 2 -i 0s -o jsonl", []string{`{"seq":1,"status":"ok","daemon_pid":`, `{"seq":2,`}},
		{"help exit-codes", []string{"130", "no such method"}},
		{"call --help", []string{"hubctl call echo"}},
		{"--version", []string{"hubctl "}},
		{"completion bash", []string{"__start_hubctl"}},
		{"__complete call demo.s", []string{"demo.sleep\t", "demo.sum\t"}},
		{"__complete call math.add a:=1 ", []string{}},
		{"__complete methods de", []string{"demo"}},
		{"__complete attach d", []string{"demo"}},
		{"__complete session info d", []string{"demo"}},
		{"__complete describe ech", []string{"echo\t"}},
		{"--help", []string{"hubctl methods"}},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			got := hubctl(t, socket, "", strings.Fields(tt.args)...)
			if got.code != exitOK {
				t.Errorf("exit code %d: %s", got.code, got.err)
			}
			for _, part := range tt.want {
				if !strings.Contains(got.out, part) {
					t.Errorf("stdout lacks %q:\n%s", part, got.out)
				}
			}
		})
	}
	if got := hubctl(t, socket, "", "__complete", "call", "math.add", "a:=1", ""); !strings.Contains(got.out, "b:=") || strings.Contains(got.out, "a:=") {
		t.Errorf("completion of arguments: %q", got.out)
	}
}

// What a person reads first are examples.
func TestHelpBeginsWithExamples(t *testing.T) {
	for _, name := range []string{"", "call", "methods", "describe", "ping", "attach", "publish", "wait", "status", "bridge"} {
		args := []string{"--help"}
		if name != "" {
			args = []string{name, "--help"}
		}
		got := hubctl(t, "/no/socket", "", args...)
		if got.code != exitOK || !strings.HasPrefix(got.out, "  ") || !strings.Contains(strings.SplitN(got.out, "\n", 2)[0], "hubctl") {
			t.Errorf("help of %q begins with %.60q, exit code %d", name, got.out, got.code)
		}
	}
}

func TestHubThatCannotBeReached(t *testing.T) {
	dir := t.TempDir()
	plain := filepath.Join(dir, "plain")
	if err := os.WriteFile(plain, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	tests := []struct {
		socket string
		args   string
		code   int
		err    []string
	}{
		{"/no/such.sock", "ping", exitUnreachable, []string{"hubctl: cannot reach /no/such.sock: no such file or directory\nhint: no hub listens there"}},
		{"/no/such.sock", "attach demo", exitUnreachable, []string{"cannot reach"}},
		{"/no/such.sock", "bridge", exitUnreachable, []string{"cannot reach /no/such.sock: no such file"}},
		{"/no/such.sock", "wait --timeout 100ms", exitTimeout, []string{"cannot reach /no/such.sock"}},
		{plain, "ping", exitUnreachable, []string{"connection refused\nhint: that is not a socket"}},
		{"tcp://127.0.0.1:1", "ping", exitUnreachable, []string{"cannot reach tcp://127.0.0.1:1", "hint: no hub listens there"}},
		{"ftp://x", "ping", exitUsage, []string{"--socket: address \"ftp://x\""}},
		{"/no/such.sock", "call echo {", exitUsage, []string{"not JSON"}},
		{"/no/such.sock", "__complete call d", exitOK, nil},
	}
	for _, tt := range tests {
		got := hubctl(t, tt.socket, "", strings.Fields(tt.args)...)
		if got.code != tt.code || got.out != "" && tt.code != exitOK {
			t.Errorf("%s %s: exit code %d, want %d; stdout %q, stderr %s", tt.socket, tt.args, got.code, tt.code, got.out, got.err)
		}
		for _, part := range tt.err {
			if !strings.Contains(got.err, part) {
				t.Errorf("%s %s: stderr lacks %q:\n%s", tt.socket, tt.args, part, got.err)
			}
		}
	}
}

func TestWaitSeesAHubThatStartsLater(t *testing.T) {
	dir, err := os.MkdirTemp("", "hubctl")
	if err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	socket := filepath.Join(dir, "h.sock")
	done := make(chan result, 1)
	go func() { done <- hubctl(t, socket, "", "wait", "--timeout", "30s") }()
	defer runHub(t, dir, "unix://"+socket)()
	if got := <-done; got.code != exitOK || got.out != "" {
		t.Errorf("%+v", got)
	}
}

func TestBridge(t *testing.T) {
	socket := startHub(t)
	got := hubctl(t, socket, `{"action":"ping"}`+"\n"+
		`{"action":"rpc_request","request_id":"s","method":"demo.sleep","params":{"seconds":0.2}}`+"\n"+
		`{"action":"rpc_request","request_id":"b1","method":"math.add","params":{"a":1,"b":2}}`, "bridge")
	lines := strings.Split(strings.TrimSpace(got.out), "\n")
	if got.code != exitOK || got.err != "" || len(lines) != 3 || !strings.HasPrefix(lines[0], `{"type":"pong"`) ||
		!strings.Contains(lines[1], `"request_id":"b1","result":3`) || !strings.Contains(lines[2], `"request_id":"s","result":0.2`) {
		t.Errorf("%+v", got)
	}
	// Nothing but what the hub says, and it ends with stdin.
	if got := hubctl(t, socket, "", "bridge", "--protocol", "kollabor"); got != (result{}) {
		t.Errorf("%+v", got)
	}
}

// Kkrpc needs no listener of its own: lines become messages to /kkrpc. What
// comes out is ASCII and nothing else, and the last answer is awaited.
func TestBridgeKkrpc(t *testing.T) {
	socket := startHub(t)
	long := strings.Repeat("ü", 100000)
	got := hubctl(t, socket, "a program's own output\n"+
		`{"id":"s","method":"demo.sleep","args":[0.2],"type":"request","version":"json"}`+"\n"+
		`{"t":"q","id":"c","op":"call","p":["echo"],"a":["`+long+`"]}`+"\r\n\n"+
		`{"id":"1","method":"nope","args":[],"type":"request"}`, "bridge", "--protocol", "kkrpc", "--text-errors")
	want := `{"t":"r","id":"c","v":"` + strings.Repeat(`\u00fc`, 100000) + `"}` + "\n" +
		`{"id":"1","method":"","args":{"error":"Method nope is not a function"},"type":"response","version":"json"}` + "\n" +
		`{"id":"s","method":"","args":{"result":0.2},"type":"response","version":"json"}` + "\n"
	if got.code != exitOK || got.err != "" || got.out != want {
		t.Errorf("code %d, stderr %q, stdout %.600q", got.code, got.err, got.out)
	}
	if got := hubctl(t, socket, "", "bridge", "--protocol", "kkrpc"); got != (result{}) {
		t.Errorf("%+v", got)
	}
	if got := hubctl(t, socket, "__DESTROY__", "bridge", "--protocol", "kkrpc"); got != (result{}) {
		t.Errorf("%+v", got)
	}
}

func TestAttachPrintsTheReplayAndWhatComes(t *testing.T) {
	socket := startHub(t)
	for i, tt := range []struct {
		args []string
		want []string // parts of stdout, in order
	}{
		{nil, []string{"one\n", "partial\n", `{"type":"custom","n":1.0`, "two\n"}},
		{[]string{"--json", "--since", "3"}, []string{`{"type":"custom","n":1.0`, `,"seq":4}` + "\n", `"two"`}},
		{[]string{"-o", "yaml", "--since", "4"}, []string{"type: output\nrendered: two\n"}},
	} {
		name := fmt.Sprint("talk", i)
		if got := hubctl(t, socket, "", "call", "session.open", "name="+name); got.code != exitOK {
			t.Fatalf("open: %+v", got)
		}
		for _, event := range []string{`rendered=one`, `{"type":"stream_chunk","chunk":"par"}`, `{"type":"stream_chunk","chunk":"tial"}`, `{"type":"custom","n":1.0}`} {
			if got := hubctl(t, socket, "", "publish", name, event); got != (result{}) {
				t.Fatalf("publish: %+v", got)
			}
		}
		var out, talk lockedBuffer
		con := console{in: strings.NewReader(""), out: &out, err: &talk, getenv: func(string) string { return "" }}
		done := make(chan int, 1)
		go func() { done <- run(append([]string{"--socket", socket, "attach", name}, tt.args...), con) }()
		if got := hubctl(t, socket, "", "publish", name, "rendered=two"); got.code != exitOK {
			t.Fatalf("publish: %+v", got)
		}
		out.until(t, "two")
		if got := hubctl(t, socket, "", "call", "session.close", "session="+name); got.code != exitOK {
			t.Fatalf("close: %+v", got)
		}
		if code := <-done; code != exitOK || !strings.Contains(talk.String(), "session "+name+" is closed") {
			t.Errorf("exit code %d: %s", code, talk.String())
		}
		rest := out.String()
		for _, part := range tt.want {
			_, after, ok := strings.Cut(rest, part)
			if !ok {
				t.Errorf("attach %v: %q is not there or not in order:\n%s", tt.args, part, out.String())
			}
			rest = after
		}
	}
}

// A call that is watched is made again, and its result printed when it is another one.
func TestCallWatch(t *testing.T) {
	socket := startHub(t)
	put := func(value string) {
		t.Helper()
		if got := hubctl(t, socket, "", "state", "put", "watched", value); got.code != exitOK {
			t.Fatalf("put: %+v", got)
		}
	}
	put("1")
	var out, talk lockedBuffer
	con := console{in: strings.NewReader(""), out: &out, err: &talk, getenv: func(string) string { return "" }}
	done := make(chan int, 1)
	go func() {
		done <- run([]string{"--socket", socket, "call", "--watch", "--interval", "1ms", "-o", "jsonl", "state.get", "key=watched"}, con)
	}()
	out.until(t, `"value":1,`)
	put("2")
	out.until(t, `"value":2,`)
	if got := hubctl(t, socket, "", "state", "rm", "watched"); got.code != exitOK {
		t.Fatalf("rm: %+v", got)
	}
	if code := <-done; code != exitFailed || strings.Count(out.String(), "\n") != 2 {
		t.Errorf("exit code %d, stderr %q, stdout\n%s", code, talk.String(), out.String())
	}
	if got := hubctl(t, socket, "1 2", "call", "--watch", "echo", "-"); got.code != exitUsage {
		t.Errorf("several calls: %+v", got)
	}
}

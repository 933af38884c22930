package tests

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// What hubctl bridge waits for, and what it says when that does not come.

// bridged is a bridge that runs.
type bridged struct {
	t        *testing.T
	cmd      *exec.Cmd
	in       io.WriteCloser
	out, err bytes.Buffer
	exited   chan struct{}
}

// bridge starts hubctl bridge and sends text to it.
func (d *daemon) bridge(text string, flags ...string) *bridged {
	d.t.Helper()
	args := append([]string{"--socket", d.socket, "bridge"}, flags...) // of two addresses the last one counts
	b := &bridged{t: d.t, cmd: exec.Command(filepath.Join(binDir, "hubctl"), args...), exited: make(chan struct{})}
	b.cmd.Stdout, b.cmd.Stderr = &b.out, &b.err
	in, err := b.cmd.StdinPipe()
	if err == nil {
		err = b.cmd.Start()
	}
	if err == nil {
		b.in = in
		_, err = io.WriteString(in, text)
	}
	if err != nil {
		d.t.Fatal(err)
	}
	go func() {
		defer close(b.exited)
		b.cmd.Wait()
	}()
	d.t.Cleanup(func() {
		b.cmd.Process.Kill()
		<-b.exited
	})
	return b
}

// wait waits for the end and returns the exit code.
func (b *bridged) wait() int {
	b.t.Helper()
	select {
	case <-b.exited:
		return b.cmd.ProcessState.ExitCode()
	case <-time.After(patience):
		b.t.Fatalf("the bridge goes on: %q %q", &b.out, &b.err)
		return -1
	}
}

// snekFrames puts the length before each message.
func snekFrames(messages ...string) (text string) {
	for _, m := range messages {
		text += string(binary.BigEndian.AppendUint32(nil, uint32(len(m)))) + m
	}
	return text
}

func httpPost(path, kind, body string) string {
	return fmt.Sprintf("POST %s HTTP/1.1\r\nHost: hub\r\nContent-Type: %s\r\nContent-Length: %d\r\n\r\n%s", path, kind, len(body), body)
}

// slowCalls are calls of one method in each protocol and form that a bridge
// carries; SECONDS is how long they take.
var slowCalls = map[string]struct {
	flags      []string
	in, out    string
	unanswered int
}{
	"native":                         {in: `{"action":"rpc_request","request_id":"1","method":"demo.sleep","params":{"seconds":SECONDS}}` + "\n", out: `"request_id":"1","result":SECONDS,`, unanswered: 1},
	"native, without a newline":      {in: `{"action":"rpc_request","request_id":1,"method":"demo.sleep","params":[SECONDS]}`, out: `"request_id":1,"result":SECONDS,`, unanswered: 1},
	"native, with a byte order mark": {in: "\ufeff" + `{"action":"rpc_request","request_id":1,"method":"demo.sleep","params":[SECONDS]}` + "\n", out: `"request_id":1,"result":SECONDS,`, unanswered: 1},
	"native, a stream": {in: `{"action":"rpc_request","request_id":"s","method":"demo.count","params":{"n":1,"delay":SECONDS},"stream":true}` + "\n",
		out: `{"action":"rpc_reply","request_id":"s","result":null,"error":null`, unanswered: 1},
	"kkrpc, classic": {flags: []string{"--protocol", "kkrpc"}, in: `{"id":"1","method":"demo.sleep","args":[SECONDS],"type":"request","version":"json"}` + "\n",
		out: `"args":{"result":SECONDS}`, unanswered: 1},
	"kkrpc, compact": {flags: []string{"--protocol", "kkrpc"}, in: `{"t":"q","id":"1","op":"call","p":["demo","sleep"],"a":[SECONDS]}` + "\n",
		out: `"v":SECONDS`, unanswered: 1},
	"kkrpc, a stream": {flags: []string{"--protocol", "kkrpc", "--streams"}, in: `{"id":"1","method":"demo.count","args":[1,SECONDS],"type":"request","version":"json"}` + "\n",
		out: `"type":"stream-end"`, unanswered: 1},
	"krpc":        {in: httpPost("/krpc", "application/json", `{"method":"demo_sleep","params":[SECONDS]}`), out: `{"result": SECONDS}`, unanswered: 1},
	"krpc, named": {flags: []string{"--protocol", "krpc"}, in: httpPost("/krpc", "application/json", `{"method":"demo_sleep","params":[SECONDS]}`), out: `{"result": SECONDS}`, unanswered: 1},
	"Cap'n Web": {in: httpPost("/capnweb", "text/plain", `["push",["pipeline",0,["demo","sleep"],[SECONDS]]]`+"\n"+`["pull",1]`),
		out: `["resolve",1,SECONDS]`, unanswered: 1},
	"snekrpc": {in: snekFrames(`["CommandMessage","demo","sleep",[["Argument",SECONDS]],{}]`, `["CommandMessage","math","add",[["Argument",3],["Argument",4]],{}]`),
		out: `["DataMessage",7]`, unanswered: 2},
	"snekrpc, a stream": {in: snekFrames(`["CommandMessage","demo","count",[["Argument",1],["Argument",SECONDS]],{}]`), out: `["StreamEndMessage"]`, unanswered: 1},
}

// at fills in how long a call takes, in two characters: lengths are in the text already.
func at(text, seconds string) string { return strings.ReplaceAll(text, "SECONDS", seconds) }

// TestBridgeWaitsForWhatWasAsked ends stdin while calls run: they take longer than
// any silence that a bridge could take for an end.
func TestBridgeWaitsForWhatWasAsked(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none")
	type running struct {
		name, want string
		b          *bridged
	}
	var all []running
	for name, c := range slowCalls {
		const seconds = "    6.0" // as long as the word that it replaces
		want := at(c.out, "6.0")
		for _, where := range [][]string{nil, {"--socket", "tcp://" + d.tcpAddress()}} {
			in := at(c.in, seconds)
			if where != nil {
				in = strings.Replace(in, "Host: hub", "Host: "+d.tcpAddress(), 1)
			}
			b := d.bridge(in, append(append([]string(nil), c.flags...), where...)...)
			b.in.Close()
			all = append(all, running{fmt.Sprint(name, where), want, b})
		}
	}
	for _, r := range all {
		if code := r.b.wait(); code != 0 || !strings.Contains(r.b.out.String(), r.want) || r.b.err.Len() > 0 {
			t.Errorf("%s: exit code %d, %q %q, want %s", r.name, code, &r.b.out, &r.b.err, r.want)
		}
	}
}

// TestBridgeSaysThatTheHubIsGone kills the hub while calls run whose client has
// ended stdin.
func TestBridgeSaysThatTheHubIsGone(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	all := map[string]*bridged{}
	for name, c := range slowCalls {
		all[name] = d.bridge(at(c.in, "  600.0"), c.flags...)
		all[name].in.Close()
	}
	d.waitRunning(len(all))
	d.signal(syscall.SIGKILL)
	d.wait()
	for name, b := range all {
		want := "hubctl: the hub closed the connection before it had answered a request\n"
		if n := slowCalls[name].unanswered; n > 1 {
			want = fmt.Sprintf("hubctl: the hub closed the connection before it had answered %d requests\n", n)
		}
		if code := b.wait(); code != 3 || !strings.HasPrefix(b.err.String(), want) {
			t.Errorf("%s: exit code %d, %q, want 3 and %s", name, code, &b.err, want)
		}
	}
}

// waitRunning waits until n calls run.
func (d *daemon) waitRunning(n int) {
	d.t.Helper()
	eventually(d.t, fmt.Sprintf("%d calls run", n), func() bool {
		out, err := exec.Command(filepath.Join(binDir, "hubctl"), "--socket", d.socket, "call", "-o", "raw", "hub.calls").Output()
		var calls []struct{ Method string }
		if err == nil {
			err = json.Unmarshal(out, &calls)
		}
		demo := 0
		for _, c := range calls {
			if strings.HasPrefix(c.Method, "demo.") {
				demo++
			}
		}
		return err == nil && demo == n
	})
}

// TestBridgeEndsWhatItsClientLeavesUndone ends stdin within streams and requests.
func TestBridgeEndsWhatItsClientLeavesUndone(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	for _, c := range []struct {
		what, in string
		flags    []string
		code     int
		out, err string
	}{
		{"nothing", "", nil, 0, "", ""},
		{"a stream that is not ended", `{"action":"rpc_request","request_id":"u","method":"demo.sum","params":{},"stream":true}` + "\n" +
			`{"action":"rpc_chunk","request_id":"u","seq":1,"data":20}` + "\n", nil, 0, `"error":"stdin has ended within a request"`, ""},
		{"no more credit", `{"action":"rpc_request","request_id":"s","method":"demo.count","params":{"n":9},"stream":true}` + "\n" +
			`{"action":"rpc_credit","request_id":"s","n":2}` + "\n", nil, 0, `"seq":2,"data":1}` + "\n" + `{"action":"rpc_reply","request_id":"s","result":null,"error":"cancelled`, ""},
		{"an id that is in use", `{"action":"rpc_request","request_id":"a","method":"demo.sleep","params":[0.2]}` + "\n" +
			`{"action":"rpc_request","request_id":"a","method":"echo","params":[1]}` + "\n", nil, 0, `"request_id":"a","result":0.2`, ""},
		{"what is no message", "no JSON\n{}\n", nil, 0, `"type":"error"`, ""},
		{"half a head", "POST /krpc HTT", nil, 0, "400 Bad Request", ""},
		{"half a message", snekFrames(`["CommandMessage","echo","echo",[["Argument",3]],{}]`) + "\x00\x00\x00\x09[", nil, 1, `["DataMessage",3]`, "stdin has ended within a request"},
		{"half a stream", snekFrames(`["CommandMessage","demo","sum",[["StreamArgument"]],{}]`, `["StreamStartMessage"]`, `["DataMessage",1]`), nil, 0, `["ErrorMessage","CancelledError"`, ""},
		{"half a body", strings.TrimSuffix(httpPost("/krpc", "application/json", `{"method":"ping"}    `), "    "), nil, 0, "400 Bad Request", ""},
		{"a client that leaves", `{"t":"q","id":"1","op":"call","p":["demo","sleep"],"a":[600]}` + "\n__DESTROY__\n", []string{"--protocol", "kkrpc"}, 0, "", ""},
		{"pulls", `{"t":"q","id":"1","op":"call","p":["echo"],"a":[1]}` + "\n" + `{"t":"sq","id":"2","sid":"none","op":"pull","n":3}` + "\n",
			[]string{"--protocol", "kkrpc"}, 0, "Unknown RPC stream none", ""},
	} {
		b := d.bridge(c.in, c.flags...)
		b.in.Close()
		if code := b.wait(); code != c.code || !strings.Contains(b.out.String(), c.out) || !strings.Contains(b.err.String(), c.err) || c.err == "" && b.err.Len() > 0 {
			t.Errorf("%s: exit code %d, %q %q, want %d, %q %q", c.what, code, &b.out, &b.err, c.code, c.out, c.err)
		}
	}
}

// TestBridgeEndsWithItsReader: a client that was killed wants no answers, whatever
// it has asked for.
func TestBridgeEndsWithItsReader(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	for name, c := range slowCalls {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd := exec.Command(filepath.Join(binDir, "hubctl"), append([]string{"--socket", d.socket, "bridge"}, c.flags...)...)
		cmd.Stdin, cmd.Stdout = strings.NewReader(at(c.in, "  600.0")), w
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		w.Close()
		d.waitRunning(1)
		r.Close()
		done := make(chan error, 1)
		go func() { done <- cmd.Wait() }()
		select {
		case err := <-done:
			if exit, ok := errors.AsType[*exec.ExitError](err); !ok || exit.ExitCode() == 3 {
				t.Errorf("%s: %v", name, err)
			}
		case <-time.After(patience):
			cmd.Process.Kill()
			t.Fatalf("%s: the bridge goes on", name)
		}
		d.waitRunning(0)
	}
}

package hub

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/hubd-dev/hubd/internal/testkit"
)

// patience bounds every wait: it turns a hang into a failure and measures nothing.
const patience = testkit.Patience

var (
	eventually = testkit.Eventually
	shortDir   = testkit.ShortDir
)

// testHub is a whole hub in this process.
type testHub struct {
	t      *testing.T
	dir    string
	socket string
	tcp    string // host:port of the first TCP listener, "" for none
	info   Info
	logs   *observer.ObservedLogs

	cancel  context.CancelFunc
	done    chan struct{}
	err     error // of Run, after done
	notices notices
}

// notices is what the service manager was told.
type notices struct {
	mu   sync.Mutex
	list []string
}

func (n *notices) add(s string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.list = append(n.list, s)
}

func (n *notices) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return strings.Join(n.list, "\n")
}

// startHub runs a hub on h.sock and on what o lists, and stops it when the test ends.
func startHub(t *testing.T, o Options) *testHub {
	t.Helper()
	return startHubAt(t, filepath.Join(shortDir(t), "h.sock"), o)
}

// startHubAt is startHub with a socket of one's choice.
func startHubAt(t *testing.T, socket string, o Options) *testHub {
	t.Helper()
	h := &testHub{t: t, dir: filepath.Dir(socket), socket: socket, done: make(chan struct{})}
	o.Listen = append([]string{"unix://" + h.socket}, o.Listen...)
	if o.State == "" {
		o.State = filepath.Join(h.dir, "state")
	}
	if o.Log == nil {
		core, logs := observer.New(zapcore.DebugLevel)
		o.Log, h.logs = zap.New(core), logs
	}
	ready := make(chan Info, 1)
	o.Ready = func(i Info) { ready <- i }
	o.Notify = h.notices.add
	ctx, cancel := context.WithCancel(t.Context())
	h.cancel = cancel
	go func() {
		defer close(h.done)
		h.err = Run(ctx, o)
	}()
	select {
	case h.info = <-ready:
	case <-h.done:
		t.Fatalf("hub did not start: %v", h.err)
	case <-time.After(patience):
		t.Fatal("hub was not ready in time")
	}
	for _, l := range h.info.Listeners {
		if scheme, at, _ := strings.Cut(l, "://"); scheme == "tcp" || scheme == "tls" {
			h.tcp = at
		}
	}
	t.Cleanup(func() {
		if err := h.stop(); err != nil {
			t.Errorf("hub ended with %v", err)
		}
	})
	return h
}

// stop ends the hub and returns what Run returned.
func (h *testHub) stop() error {
	h.cancel()
	select {
	case <-h.done:
		return h.err
	case <-time.After(2 * patience):
		return fmt.Errorf("hub did not stop")
	}
}

// wire is a connection to the hub, line by line.
type wire struct {
	t *testing.T
	net.Conn
	r *bufio.Reader
}

func dial(t *testing.T, network, address string) *wire {
	t.Helper()
	c, err := net.Dial(network, address)
	if err != nil {
		t.Fatal(err)
	}
	return newWire(t, c)
}

func newWire(t *testing.T, nc net.Conn) *wire {
	t.Cleanup(func() { nc.Close() })
	c := testkit.Conn{Conn: nc}
	return &wire{t, c, bufio.NewReader(c)}
}

func (h *testHub) dial() *wire { return dial(h.t, "unix", h.socket) }

func (w *wire) send(text string) {
	w.t.Helper()
	if _, err := io.WriteString(w, text); err != nil {
		w.t.Fatal(err)
	}
}

func (w *wire) line() string {
	w.t.Helper()
	line, err := w.r.ReadString('\n')
	if err != nil {
		w.t.Fatalf("read: %v (got %q)", err, line)
	}
	return strings.TrimSuffix(line, "\n")
}

// ended reports an error unless the hub closes the connection without a byte more.
func (w *wire) ended() error {
	rest, err := io.ReadAll(w.r)
	if len(rest) > 0 {
		return fmt.Errorf("%d bytes before the end: %.80q", len(rest), rest)
	}
	if err != nil && !isReset(err) {
		return err
	}
	return nil
}

func isReset(err error) bool { return strings.Contains(err.Error(), "connection reset") }

// reply is an rpc_reply.
type reply struct {
	Action    string          `json:"action"`
	RequestID string          `json:"request_id"`
	Result    json.RawMessage `json:"result"`
	Error     *string         `json:"error"`
	ErrorKind *string         `json:"error_kind"`
	ErrorData json.RawMessage `json:"error_data"`
}

func (r reply) kind() string {
	if r.ErrorKind == nil {
		return ""
	}
	return *r.ErrorKind
}

// call sends one request and returns the reply to it.
func (w *wire) call(method, params string) reply {
	w.t.Helper()
	w.send(fmt.Sprintf(`{"action":"rpc_request","request_id":"t","method":%q,"params":%s}`+"\n", method, params))
	return w.reply()
}

func (w *wire) reply() reply {
	w.t.Helper()
	for {
		line := w.line()
		var r reply
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			w.t.Fatalf("reply %q: %v", line, err)
		}
		if r.Action == "rpc_reply" {
			return r
		}
	}
}

// heldCall returns a client that waits for the answer to its call "held". The
// method is that of another client and answers "done" when finish is called,
// not before: what a test does meanwhile may take its time.
func (h *testHub) heldCall() (caller *wire, finish func()) {
	h.t.Helper()
	p := h.dial()
	if r := p.call("hub.provide", `["box",[{"name":"hold","deadline":0}]]`); r.Error != nil {
		h.t.Fatalf("hub.provide: %s", *r.Error)
	}
	caller = h.dial()
	caller.send(`{"action":"rpc_request","request_id":"held","method":"box.hold","params":[]}` + "\n")
	q := p.request("rpc_request")
	return caller, func() { h.t.Helper(); p.answer(q, `"done"`) }
}

// get asks over the Unix socket.
func (h *testHub) get(path string) (status int, body string) {
	h.t.Helper()
	return h.ask("unix", h.socket, "GET "+path+" HTTP/1.1\r\nHost: hub\r\nConnection: close\r\n\r\n")
}

// ask sends a raw request on a new connection and returns the answer.
func (h *testHub) ask(network, address, request string) (status int, body string) {
	h.t.Helper()
	w := dial(h.t, network, address)
	defer w.Close()
	w.send(request)
	method, _, _ := strings.Cut(request, " ")
	resp, err := http.ReadResponse(w.r, &http.Request{Method: method})
	if err != nil {
		h.t.Fatalf("answer to %.60q: %v", request, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		h.t.Fatal(err)
	}
	return resp.StatusCode, string(text)
}

// sample returns the value of one series, as /metrics prints it; "" when it is missing.
func (h *testHub) sample(series string) string {
	h.t.Helper()
	status, body := h.get("/metrics")
	if status != http.StatusOK {
		h.t.Fatalf("/metrics: %d", status)
	}
	for line := range strings.Lines(body) {
		if value, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	return ""
}

// rejected returns how often a limit was met.
func (h *testHub) rejected(limit string) int {
	h.t.Helper()
	n, err := strconv.Atoi(h.sample(`hubd_rejected_total{limit="` + limit + `"}`))
	if err != nil {
		h.t.Fatalf("limit %s: %v", limit, err)
	}
	return n
}

func itoa(n int) string { return strconv.Itoa(n) }

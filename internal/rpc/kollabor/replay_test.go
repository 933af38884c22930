package kollabor

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Captures of the clients of old and their server, replayed frame by frame at
// the recorded times, against this server. What it sends is compared with what
// theirs sent; where it answers differently on purpose, the replay says so.

// entry is one line of a capture.
type entry struct {
	Dir     string  `json:"dir"`
	T       float64 `json:"t"`
	Conn    int     `json:"conn"`
	Data    string  `json:"data"`
	Hex     string  `json:"data_hex"`
	Event   string  `json:"event"`
	Partial bool    `json:"partial"`
	Len     int     `json:"len"`
	SHA256  string  `json:"sha256"`
	Head    string  `json:"head"`
	Tail    string  `json:"tail"`
}

// text is the recorded bytes; long frames are rebuilt from their ends, which
// are filled with one character.
func (e *entry) text(t *testing.T) string {
	switch {
	case e.Hex != "":
		b, err := hex.DecodeString(e.Hex)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	case e.Len == 0:
		return e.Data
	}
	fill := e.Head[len(e.Head)-1:]
	s := e.Head + strings.Repeat(fill, e.Len-len(e.Head)-len(e.Tail)) + e.Tail
	if sum := sha256.Sum256([]byte(s)); hex.EncodeToString(sum[:]) != e.SHA256 {
		t.Fatalf("a long frame cannot be rebuilt: %s...", e.Head)
	}
	return s
}

func readCapture(t *testing.T, name string) []entry {
	t.Helper()
	f, err := os.Open(filepath.Join("testdata", "vectors", name+".jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []entry
	for d := json.NewDecoder(f); ; {
		e := entry{Conn: 1}
		if err := d.Decode(&e); err == io.EOF {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		e.Data = strings.ReplaceAll(e.Data, `"hub.`, `"demo.`)
		list = append(list, e)
	}
}

// difference is how this server answers one capture differently.
type difference struct {
	instead   map[string]string // label of a recorded frame -> label here; "" for none
	besides   map[int][]string  // further frames, by connection
	noSession bool
	history   []string // output events from before the capture
	why       string
}

var replays = map[string]difference{
	"ping_action":                   {},
	"pipelined_one_connection":      {},
	"rpc_success":                   {},
	"rpc_not_found":                 {},
	"rpc_values":                    {},
	"rpc_100_concurrent_calls":      {},
	"rpc_serialization_error":       {},
	"message_minimal_and_duplicate": {},
	"unterminated_frame_at_eof":     {},
	"large_request_1mib_8mib":       {},
	"large_reply_1mib_8mib":         {},
	"attach_readonly_raw":           {besides: map[int][]string{1: {"error"}}, why: "input of a read-only client is refused aloud"},
	"attach_rpc_interleaved":        {},
	"attach_heartbeat":              {},
	"attachclient_readonly":         {},
	"attach_without_tap":            {noSession: true},
	"rpc_concurrent_head_of_line":   {why: "calls run concurrently: TestSlowCallDelaysNobody has the order"},
	"control_actions": {history: []string{
		`{"type": "output", "rendered": "line one\nline two", "ts": 1795224325.5682952}`,
		`{"type": "output", "rendered": "third", "ts": 1795224325.568302}`,
	}},
	"rpc_handler_error": {
		why:     "a missing argument is the caller's error, not the handler's",
		instead: map[string]string{"reply 87b4484b270f4ad78637992c3e9398a7 ! handler": "reply 87b4484b270f4ad78637992c3e9398a7 ! invalid_params"},
	},
	"rpc_malformed": {
		why: "null is no timeout, another type is an invalid one",
		instead: map[string]string{
			`reply x1 ! handler`: "",
		},
		besides: map[int][]string{1: {"reply x1 ! invalid_params", "reply x1 = map[]", "reply x1 ! handler"}},
	},
	"rpc_client_timeout_then_stale_reply": {
		why:     "the timeout is a deadline",
		instead: map[string]string{"reply 7d4aa3db7b974ac0b85abc844fb37103 = 0.6": "reply 7d4aa3db7b974ac0b85abc844fb37103 ! timeout"},
	},
	"invalid_frames_ignored":  {besides: map[int][]string{1: {"error", "error", "error", "error", "error"}}, why: "bad lines are answered; blank ones are not"},
	"non_object_frame_closes": {besides: map[int][]string{1: {"error"}, 2: {"error"}, 3: {"error"}}, why: "the connection stays"},
	"oversized_request_closes": {
		why: "lines of up to 16 MiB are read",
		besides: map[int][]string{
			2: {"reply b ok"}, 3: {"reply b ok"}, 4: {"reply b ok"},
		},
	},
	"large_reply_over_client_limit": {
		why:     "a reply that the client cannot read is replaced",
		instead: map[string]string{"reply 21ac968273d44757afd4ad618c066389 ok": "reply 21ac968273d44757afd4ad618c066389 ! serialization"},
	},
	"attach_interactive_raw":        {besides: map[int][]string{1: {`event input map[client_id:attach-4242 text:hello agent type:input]`}}, why: "input is shown to everybody"},
	"attach_non_object_closes":      {why: "the line is ignored, the connection stays"},
	"attach_oversized_input_closes": {besides: map[int][]string{1: {"event input long"}}, why: "input of 70,000 bytes is taken, and shown to its sender in pieces"},
	"attach_duplicate_client_id":    {besides: map[int][]string{1: {"event output map[rendered:one ts:1795224356.5510666 type:output]"}}, why: "both clients get the event"},
	"attachclient_big_event":        {instead: map[string]string{"event output long": ""}, besides: map[int][]string{1: {"event output long", "event output long"}}, why: "long events come in pieces"},
	"permission_prompt":             {why: "what a new client gets again is the session's business: the replay publishes only once, to both"},
}

// label names what matters of a frame from the server.
func label(t *testing.T, text string) string {
	text = strings.TrimSuffix(text, "\n")
	m := decode(t, text)
	if m["action"] == "rpc_reply" {
		id := fmt.Sprint(m["request_id"])
		if kind := m["error_kind"]; kind != nil {
			msg, _ := m["error"].(string)
			if msg == "" || m["result"] != nil {
				t.Errorf("error reply %s", text)
			}
			switch kind {
			case "not_found":
				return fmt.Sprintf("reply %s ! not_found %s", id, msg)
			case "serialization":
				if !strings.HasPrefix(msg, "result not json-serializable: ") && msg != "result too large" {
					t.Errorf("error reply %s", text)
				}
			}
			return fmt.Sprintf("reply %s ! %v", id, kind)
		}
		result := m["result"]
		if r, ok := result.(map[string]any); ok {
			if p, echoed := r["params"]; echoed && len(r) == 1 {
				result = p // what echo returned then
				if list, ok := p.([]any); ok && len(list) == 1 {
					result = list[0]
				}
			}
			if s, slept := r["slept"]; slept {
				result = s
			}
			if _, is := r["daemon_pid"]; is {
				result = "pong"
			}
		}
		if len(text) > 20000 {
			return fmt.Sprintf("reply %s ok", id)
		}
		return fmt.Sprintf("reply %s = %v", id, result)
	}
	switch m["type"] {
	case "error":
		return "error"
	case "status":
		return fmt.Sprint("status ", len(m))
	case "ack":
		if id, ok := m["id"].(string); ok && (len(id) == 32 || id == "given") {
			return "ack new"
		}
		return fmt.Sprint("ack ", m["id"])
	case "attach_ack":
		m["uptime"] = "-"
	case "pong", "context", "output", "heartbeat":
		if m["type"] != "output" || m["ts"] == nil {
			return fmt.Sprint(m)
		}
	}
	if len(text) > 5000 {
		return fmt.Sprintf("event %v long", m["type"])
	}
	return fmt.Sprintf("event %v %v", m["type"], m)
}

func TestReplay(t *testing.T) {
	files, err := filepath.Glob("testdata/vectors/*.jsonl")
	if err != nil || len(files) != len(replays) {
		t.Fatalf("%d captures, %d replays: %v", len(files), len(replays), err)
	}
	for name, d := range replays {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { replay(t, name, d) })
		})
	}
}

func replay(t *testing.T, name string, d difference) {
	r := newRoom("demo")
	for _, text := range d.history {
		r.publish("output", text)
	}
	cfg := Config{Sessions: house{"demo": r}, OnShutdown: func(string, *rpc.Peer) {}}
	if d.noSession {
		cfg.Sessions = nil
	}
	s := newTestServer(setup{cfg: cfg})
	conns := map[int]*recorder{}
	want := map[int][]string{}
	published := map[string]bool{}
	began := time.Now()
	for _, e := range readCapture(t, name) {
		if wait := time.Duration(e.T*float64(time.Second)) - time.Since(began); wait > 0 {
			time.Sleep(wait)
		}
		synctest.Wait()
		c := conns[e.Conn]
		switch {
		case e.Dir == "c2s" && e.Event == "close":
			if c != nil && !c.half {
				time.Sleep(time.Second) // what comes late, such as a timeout, comes
				c.far.Close()
			}
		case e.Dir == "c2s":
			if c == nil {
				c = record(t, s)
				conns[e.Conn] = c
			}
			io.WriteString(c.far, e.text(t))
			if e.Partial {
				c.half = true
				c.end()
			}
		case e.Event == "":
			text := e.text(t)
			l := label(t, text)
			if instead, ok := d.instead[l]; ok {
				l = instead
			}
			if l != "" {
				want[e.Conn] = append(want[e.Conn], l)
			}
			m := decode(t, strings.TrimSuffix(text, "\n"))
			if m["ts"] != nil && m["action"] == nil && !published[text] && len(d.history) == 0 {
				published[text] = true
				r.publish(m["type"].(string), strings.TrimSuffix(text, "\n"))
			}
		}
	}
	for n, c := range conns {
		time.Sleep(time.Second)
		c.far.Close()
		<-c.done
		var got []string
		for _, line := range c.lines {
			got = append(got, label(t, line))
			if err := checkFrame(t, "server", strings.TrimSuffix(line, "\n")); err != nil {
				t.Errorf("%v: %s", err, cutText(line))
			}
		}
		w := slices.Concat(want[n], d.besides[n])
		slices.Sort(got)
		slices.Sort(w)
		if !slices.Equal(got, w) {
			t.Errorf("connection %d\ngot  %s\nwant %s", n, strings.Join(got, "\n     "), strings.Join(w, "\n     "))
		}
		if d.why == "" { // then the order of what is no reply to a call is theirs, too
			if a, b := ordered(t, c.lines), ordered(t, want[n]); len(a) != 0 && len(b) != 0 && !slices.Equal(a, b) {
				t.Errorf("connection %d: order\ngot  %q\nwant %q", n, a, b)
			}
		}
	}
}

// ordered are the labels of frames that come in order: all but replies to calls.
func ordered(t *testing.T, list []string) (out []string) {
	for _, s := range list {
		if strings.HasPrefix(s, "{") {
			s = label(t, s)
		}
		if !strings.HasPrefix(s, "reply ") {
			out = append(out, s)
		}
	}
	return out
}

// recorder is the far end of a connection that keeps what comes.
type recorder struct {
	far   net.Conn
	half  bool
	end   func() // the end of what the client sends, while it still reads
	lines []string
	done  chan struct{}
}

// halfPipe reads the end of the stream when it is told to.
type halfPipe struct {
	net.Conn
	ended chan struct{}
}

func (h *halfPipe) Read(p []byte) (int, error) {
	n, err := h.Conn.Read(p)
	select {
	case <-h.ended:
		if n == 0 {
			return 0, io.EOF
		}
	default:
	}
	return n, err
}

func record(t *testing.T, s *Server) *recorder {
	near, far := net.Pipe()
	h := &halfPipe{Conn: near, ended: make(chan struct{})}
	c := &recorder{far: far, done: make(chan struct{})}
	c.end = func() {
		synctest.Wait()
		close(h.ended)
		near.SetReadDeadline(time.Unix(1, 0))
	}
	go s.Serve(t.Context(), Conn{Reader: h, Wire: wire{near}, Peer: everybody, Session: "demo"})
	go func() {
		defer close(c.done)
		for r := bufio.NewReaderSize(far, 64<<10); ; {
			line, err := r.ReadString('\n')
			if err != nil {
				return
			}
			c.lines = append(c.lines, line)
		}
	}()
	return c
}

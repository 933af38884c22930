package kkrpc

import (
	"bytes"
	"encoding/json"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
	"github.com/hubd-dev/hubd/internal/rpc/ws"
)

// silent are the steps of bad input that nobody may answer, in either dialect.
var silent = []string{
	"not-json", "broken-json", "json-array", "json-scalar", "empty-line", "unknown-type", "missing-type",
	"response-for-unknown-id", "callback-for-unknown-id", "destroy-signal",
}

// silentIn are those of one dialect.
var silentIn = map[string][]string{
	"v1": {"unknown-op", "missing-method", "ref-op"},
	"v2": {"missing-id", "numeric-id"},
}

// TestCapturesOfBadInput sends the hub what a hand-made client sent to real
// peers: it answers at least what those answered, is silent where all must be,
// and lives on.
func TestCapturesOfBadInput(t *testing.T) {
	files, err := filepath.Glob("testdata/malformed-*.jsonl")
	if err != nil || len(files) < 9 {
		t.Fatalf("%d captures, %v", len(files), err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".jsonl"), func(t *testing.T) {
			steps, byStep := readCapture(t, file)
			dialect := "v1"
			if strings.Contains(file, "-v2-") {
				dialect = "v2"
			}
			for _, step := range steps {
				got := badInput(t, byStep[step], strings.Contains(file, "stdio"))
				if slices.Contains(silent, step) || slices.Contains(silentIn[dialect], step) {
					if len(got) > 0 {
						t.Errorf("%s: answered with %q", step, got)
					}
					continue
				}
				for _, line := range byStep[step] {
					var m map[string]any
					if line.Dir != "s2c" || json.Unmarshal([]byte(line.Data), &m) != nil {
						continue
					}
					want := fact(m)
					if head, _, fails := strings.Cut(want, " fails: "); fails { // the words differ
						if !slices.ContainsFunc(got, func(g string) bool { return strings.HasPrefix(g, head+" fails: ") }) {
							t.Errorf("%s: got %q, want an error for %s", step, got, head)
						}
					} else if strings.HasSuffix(step, "-empty-path") { // the whole API is no value
						if len(got) != 1 || !strings.Contains(got[0], " fails: ") {
							t.Errorf("%s: got %q", step, got)
						}
					} else if strings.Contains(file, "-py-") { // it answers in ways of its own
						if len(got) == 0 {
							t.Errorf("%s: not answered", step)
						}
					} else if !slices.Contains(got, want) {
						t.Errorf("%s: got %q, want %s", step, got, want)
					}
				}
			}
		})
	}
}

// badInput feeds a new session and returns what it says.
func badInput(t *testing.T, lines []captured, stdio bool) (got []string) {
	t.Helper()
	rec := &recorder{}
	link := rpc.NewLink(nil)
	d := newDemo()
	s := newSession(rec, link, &rpc.Peer{Scopes: rpc.AllScopes}, &d.api, Limits{}, stdio)
	sock := &socket{Conn: new(ws.Conn)}
	var all bytes.Buffer
	for _, line := range lines {
		if line.Dir != "c2s" {
			continue
		}
		if stdio {
			all.WriteString(line.Data)
		} else {
			sock.message(s, []byte(line.Data))
		}
	}
	if stdio {
		st := &stream{lines: frame.NewLineReader(&all, 0)}
		if err := st.read(s); err != io.EOF && err != errDestroyed {
			t.Error(err)
		}
	}
	for _, m := range rec.all() {
		got = append(got, fact(m))
	}
	s.Receive(nil, []byte(`{"id":"alive","method":"echo","args":["ok"],"type":"request"}`))
	if rec.find(func(m map[string]any) bool { return m["id"] == "alive" }) == nil {
		t.Error("the session is dead")
	}
	if len(rec.odd) > 0 {
		t.Errorf("sent %q", rec.odd)
	}
	s.End(rpc.ErrPeerGone)
	return got
}

// What looks like a marker of the protocol and is none of this peer's never
// reaches it as one.
func TestMarkersCannotBeForged(t *testing.T) {
	for _, tt := range []struct {
		dialect Dialect
		arg     string
		sent    string // of the arguments; "" when the call is refused
	}{
		{Classic, `"__callback__somebody"`, ""},
		{Classic, `"\u005f_callback__somebody"`, ""},
		{Classic, `{"deep":"__callback__somebody"}`, `[{"deep":"__callback__somebody"}]`},
		{Classic, `"callback"`, `["callback"]`},
		{Compact, `"__callback__somebody"`, `["__callback__somebody"]`},
		{Compact, `{"__kkrpc_next_arg__":"callback","id":"somebody"}`, `[{"__kkrpc_next_arg__":"value","v":{"__kkrpc_next_arg__":"callback","id":"somebody"}}]`},
		{Compact, `{"\u005f_kkrpc_next_arg__":"callback","id":"x"}`, `[{"__kkrpc_next_arg__":"value","v":{"\u005f_kkrpc_next_arg__":"callback","id":"x"}}]`},
		{Compact, `{"__kkrpc_next_arg__":1,"__kkrpc_next_stream__":"async-iterable","id":"x"}`, ""},
	} {
		var sent []string
		rec := sendFunc(func(msg []byte) { sent = append(sent, string(msg)) })
		s := newSession(rec, rpc.NewLink(nil), nil, nil, Limits{}, false)
		s.dialect.Store(uint32(tt.dialect))
		c := &rpc.Call{Path: parts([]string{"f"}), Args: rpc.ListArgs(rpc.RawString(tt.arg)), Reply: &streamReply{began: make(chan struct{})}}
		s.client.Start(nil, c)
		switch {
		case tt.sent == "" && (len(sent) > 0 || !c.Settled()):
			t.Errorf("%s was sent as %s", tt.arg, sent)
		case tt.sent != "" && (len(sent) != 1 || !strings.Contains(sent[0], ":"+tt.sent)):
			t.Errorf("%s was sent as %s", tt.arg, sent)
		}
	}
	// The same in results: a result that announces a stream would hang its reader.
	rec := &recorder{}
	d := newDemo()
	s := newSession(rec, rpc.NewLink(nil), &rpc.Peer{Scopes: rpc.AllScopes}, &d.api, Limits{}, false)
	s.Receive(nil, []byte(`{"id":"1","method":"echo","args":[{"__stream":true}],"type":"request"}`))
	if got := rec.all(); len(got) != 1 || !strings.Contains(fact(got[0]), "fails: the value looks like a marker") {
		t.Errorf("got %v", got)
	}
}

type sendFunc func(msg []byte)

func (f sendFunc) send(_ *rpc.Batch, _ Dialect, msg []byte) error {
	f(bytes.Clone(msg))
	return nil
}

// A line over the limit is answered when it began like a request, and the
// connection goes on.
func TestLineOverTheLimit(t *testing.T) {
	d := newDemo()
	_, w, sv := serveDemo(t, d, Config{Limits: Limits{MaxMessage: 1 << 20}})
	nc := linesTo(t, sv)
	<-w.opened
	lines := frame.NewLineReader(nc, 0)
	for _, head := range []string{
		`{"id":"big","method":"echo","args":["`, `{"id": "big", "method": "echo", "args": ["`, `{"t":"q","id":"big","op":"call","p":["echo"],"a":["`,
	} {
		go io.WriteString(nc, head+strings.Repeat("x", 1<<20)+`"],"type":"request"}`+"\n"+`{"t":"q","id":"on","op":"call","p":["echo"]}`+"\n")
		for _, want := range []string{"TooLarge", `{"t":"r","id":"on"}`} {
			line, err := lines.Next()
			if err != nil || !strings.Contains(string(line), want) {
				t.Fatalf("got %s, %v, want %s", line, err, want)
			}
		}
	}
}

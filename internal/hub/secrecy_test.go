package hub

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"regexp"
	"strings"
	"sync"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// inside is what an answer tells of the program when it should not: a stack, a
// source file, a Go type or package, the folder of the state.
var inside = regexp.MustCompile(`goroutine|\.go:\d|panic|runtime error|interface \{\}|\*?\b(rpc|hub|json|reflect|strconv|trust|statesvc|session|errors|url|http|net|time|map)\.[A-Z][A-Za-z]*|\b(map|func)\[|\bu?int64\b|float64|<nil>|0x[0-9a-f]{6,}|internal/`)

// Whatever is wrong with a call, the answer says nothing of the program's
// inside, and the log nothing of what was sent: over the whole table.
func TestErrorsAndLogKeepSecrets(t *testing.T) {
	t.Parallel()
	h := startHub(t, Options{Demo: true})
	owner := h.dial()
	r := owner.call("hub.methods", `{}`)
	var methods []struct {
		Name      string
		StreamOut bool `json:"stream_out"`
		StreamIn  bool `json:"stream_in"`
		Params    []struct{ Name string }
	}
	if r.Error != nil || json.Unmarshal(r.Result, &methods) != nil {
		t.Fatal(r)
	}
	const secret = "s3cr3t-s3cr3t"
	wrong := []string{
		`"` + secret + `"`, `{"` + secret + `":1}`, `["` + secret + `",{"` + secret + `":[]},null,true,1e400,[],"x"]`, `[[["` + secret + `"]]]`,
		`[-9223372036854775809,1e300,"` + secret + `"]`, `[{"a":{"b":{"c":"` + secret + `"}}}]`, `["\u0000` + secret + `"]`,
	}
	answers := 0
	for _, m := range methods {
		if m.StreamIn || m.Name == "echo" || m.Name == "hub.debug" || m.Name == "hub.diagnose" {
			continue
		}
		params := wrong
		for _, bad := range []string{`"` + secret + `"`, `{"` + secret + `":1}`, `["` + secret + `"]`, `-1`, `1e300`, `true`} {
			var members []string
			for _, p := range m.Params {
				members = append(members, fmt.Sprintf("%q:%s", p.Name, bad))
			}
			params = append(params, "{"+strings.Join(members, ",")+"}")
		}
		w := h.dial() // one that waits does not hold up the others
		for i, p := range params {
			w.send(fmt.Sprintf(`{"action":"rpc_request","request_id":"%d","method":%q,"params":%s,"timeout":0.5}`+"\n", i, m.Name, p))
		}
		for range params {
			r := w.reply()
			if r.Error == nil {
				continue
			}
			answers++
			text := strings.ReplaceAll(*r.Error, secret, "") // a method may quote what is wrong
			if found := inside.FindString(text); found != "" || strings.Contains(text, h.dir) {
				t.Errorf("%s %s: %q tells of the inside (%q)", m.Name, params[0], *r.Error, found)
			}
			if len(*r.Error) > 1100 {
				t.Errorf("%s: an error of %d bytes", m.Name, len(*r.Error))
			}
		}
		w.Close()
	}
	if answers < 200 {
		t.Errorf("%d errors only", answers)
	}
	for _, e := range h.logs.All() {
		switch e.Message {
		case "session opened", "session closed", "token created", "token revoked": // the name of what they are about
			continue
		}
		if line := e.Message + fmt.Sprint(e.ContextMap()); strings.Contains(line, secret) {
			t.Errorf("the log has a parameter: %s", line)
		}
	}
}

// Nothing of what peers send is in the log, at its most talkative, whatever they
// send: calls that are denied, fail or panic, and messages that are none, in
// every protocol. Nor can they forge a line of it.
func TestLogKeepsSecretsOfEveryProtocol(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-s3cr3t"
	const evil = `\n{\"level\":\"error\",\"msg\":\"forged\"}\u001b[31m\u2028` + secret
	var out lockedBuffer
	h := startHub(t, Options{Demo: true, Listen: fiveListeners, KrpcGet: true, Log: jsonLog(&out)})
	all, lines := h.tcpListeners()
	tokens := []string{h.token("reader", `,"scopes":["read"]`), h.token("caller", ""), "hubd_" + secret}
	calls := []struct{ method, arguments string }{
		{"state.put", `"` + secret + `","` + secret + `"`}, {"demo.fail", `"` + secret + `"`}, {"math.add", `"` + secret + `","` + evil + `"`},
		{"nosuch", `"` + secret + `"`}, {"demo.getUserProfile", `"` + evil + `"`}, {"state.watch", `"` + secret + `"`},
		{"token.create", `"` + secret + `",["` + secret + `"]`}, {"session.open", `"` + secret + ` x"`}, {"file.download", `"` + secret + `"`},
	}
	for _, token := range tokens[:2] {
		for _, s := range h.speakers(token) {
			for _, c := range calls {
				if s.protocol == "snekrpc" && c.method == "state.watch" {
					continue // it would go on
				}
				s.call(c.method, c.arguments)
			}
		}
	}
	// Messages that are none, and tokens that are none, each on its own connection.
	head := "Host: " + all + "\r\nX-" + secret + ": " + secret + "\r\n"
	upgrade := func(path string) string {
		return "GET " + path + " HTTP/1.1\r\n" + head + "Authorization: Bearer " + tokens[1] + "\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
			"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
	}
	form := "json=%7B%22method%22%3A%22" + secret
	frames := func(messages ...string) (text string) {
		for _, m := range messages {
			text += "\x00\x00\x00" + string(rune(len(m))) + m
		}
		return text
	}
	for _, text := range []string{
		`{"action":"` + secret + `"}` + "\n", `{"type":"` + secret + `"}` + "\n", `{"action":"hello","version":"` + secret + `"}` + "\n",
		`{"action":"rpc_request","params":"` + secret + `"}` + "\n", `{"action":"rpc_request","request_id":{"` + secret + `":1}}` + "\n",
		`{"action":"rpc_request","request_id":"1","method":"` + evil + `"}` + "\n", secret + "\n", `{"` + secret + `":1,"` + secret + `":2}` + "\n",
		`{"action":"rpc_reply","request_id":"` + secret + `"}` + "\n", `{"action":"hello","version":1,"token":"` + tokens[2] + `"}` + "\n",
		`{"action":"shutdown","reason":"` + evil + `"}` + "\n", `{"action":"message","content":"` + secret + `"}` + "\n",
		frames(`["` + secret + `"]`), frames(`"` + secret + `"`), frames(secret), frames(`["CommandMessage",1]`, "\x92\xa5"+secret),
		upgrade("/kkrpc") + wsFrame(1, secret) + wsFrame(1, `{"t":"`+secret+`"}`) + wsFrame(1, `["`+secret+`"]`),
		upgrade("/capnweb") + wsFrame(1, secret), upgrade("/capnweb") + wsFrame(1, `["`+secret+`"]`),
		upgrade("/capnweb") + wsFrame(1, `["push",["`+secret+`"]]`), upgrade("/capnweb") + wsFrame(1, `["push",["bigint","`+secret+`"]]`),
		upgrade("/capnweb") + wsFrame(1, `["push",["bytes","","`+secret+`"]]`), upgrade("/capnweb") + wsFrame(1, `["push",["pipeline",0,["remap"]]]`),
		upgrade("/capnweb") + wsFrame(1, `["abort",["error","Error","`+secret+`"]]`), upgrade("/capnweb") + wsFrame(2, secret),
		upgrade("/capnweb") + wsFrame(1, `["push",["request","`+secret+`",{}]]`), upgrade("/capnweb") + wsFrame(1, `["resolve",7,"`+secret+`"]`),
		upgrade("/capnweb") + wsFrame(8, "\x03\xe8"+secret),
		"POST /capnweb HTTP/1.1\r\n" + head + "Content-Length: 20\r\nConnection: close\r\n\r\n[\"" + secret + "\",1,2]",
		"POST /" + secret + "?" + secret + " HTTP/1.1\r\n" + head + "Content-Type: application/x-www-form-urlencoded\r\nConnection: close\r\nContent-Length: " +
			itoa(len(form)) + "\r\n\r\n" + form,
		"GET /krpc?json=" + secret + "&token=" + tokens[2] + " HTTP/1.1\r\n" + head + "Sec-Hubd: 1\r\n" + "Connection: close\r\n\r\n",
		"GET /metrics?token=" + tokens[2] + " HTTP/1.1\r\n" + head + "Connection: close\r\n\r\n",
		"GET /metrics HTTP/1.1\r\nHost: " + secret + "\r\nOrigin: " + secret + "\r\nConnection: close\r\n\r\n",
		"GET /metrics HTTP/1.1\r\n" + head + "Origin: " + secret + "\r\nConnection: close\r\n\r\n",
		"GET /metrics HTTP/1.1\r\n" + head + "Authorization: Bearer " + tokens[2] + "\r\nConnection: close\r\n\r\n",
		"GET /%zz" + secret + " HTTP/1.1\r\n\r\n", secret + " / HTTP/1.1\r\n\r\n", "GET / HTTP/1.1\r\n" + secret + "\r\n\r\n",
	} {
		w := dial(t, "tcp", all)
		w.send(text)
		if c, ok := w.Conn.(interface{ CloseWrite() error }); ok {
			c.CloseWrite()
		}
		io.Copy(io.Discard, w.r) // until the hub has dealt with it
	}
	for _, line := range []string{secret, `{"t":"` + secret + `"}`, `{"t":"q","id":"` + secret + `","op":"` + secret + `"}`, `{"type":"` + secret + `"}`} {
		w := dial(t, "tcp", lines)
		w.send(line + "\n")
		w.Conn.(interface{ CloseWrite() error }).CloseWrite()
		io.Copy(io.Discard, w.r)
	}
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	text := out.String()
	failed := 0
	for line := range strings.Lines(text) {
		var entry map[string]any
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Errorf("a line that the hub did not write: %s", line)
		}
		if strings.Contains(line, secret) || entry["msg"] == "forged" {
			t.Errorf("the log has what a peer sent: %s", line)
		}
		for _, token := range tokens {
			if strings.Contains(line, token) {
				t.Errorf("the log has a token: %s", line)
			}
		}
		switch entry["msg"] {
		case "frame failed", "call denied", "token refused", "session ended", "request denied":
			failed++
		}
	}
	if failed < 30 {
		t.Errorf("%d lines about what went wrong, the log is not at its most talkative: %s", failed, text)
	}
}

// lockedBuffer is a log that is written by many and read by one.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// jsonLog writes all levels as the daemon does.
func jsonLog(w io.Writer) *zap.Logger {
	return zap.New(zapcore.NewCore(zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig()), zapcore.AddSync(w), zapcore.DebugLevel))
}

// What a handler panics with may be what it was called with: the log has the
// place, and the words of the runtime alone.
func TestPanicsKeepSecrets(t *testing.T) {
	t.Parallel()
	const secret = "s3cr3t-s3cr3t"
	var out lockedBuffer
	h := &hub{log: jsonLog(&out), audit: newAudit(zap.NewNop()), level: zap.NewAtomicLevelAt(zap.DebugLevel), metrics: newMetrics("test", rpc.Protocols())}
	table := rpc.NewTable()
	panicking := func(name string, with func(rpc.Value)) *rpc.Method {
		return rpc.NewMethod(&rpc.Method{Name: name, Run: rpc.Inline, AnyParams: true}, func(c *rpc.Call) (rpc.Value, error) {
			with(c.Args.First())
			return rpc.Value{}, nil
		})
	}
	text := func(v rpc.Value) string { s, _ := v.AsString(); return s }
	if err := table.Add(
		panicking("a", func(v rpc.Value) { panic(text(v)) }),
		panicking("b", func(v rpc.Value) { panic(fmt.Errorf("cannot do %s", text(v))) }),
		panicking("c", func(v rpc.Value) { _ = text(v)[len(text(v))+3] }),
		panicking("d", func(v rpc.Value) { _ = any(text(v)).(int) }),
	); err != nil {
		t.Fatal(err)
	}
	link := rpc.NewLink(&rpc.Gate{Observer: callObserver{h}})
	for _, name := range []string{"a", "b", "c", "d"} {
		c := &rpc.Call{Peer: rpc.Local, Protocol: rpc.Kollabor, Args: rpc.ListArgs(rpc.String(secret)), Reply: nobody{}}
		link.Start(nil, table.Lookup(name), c)
	}
	log := out.String()
	if strings.Count(log, "handler panicked") != 4 || !strings.Contains(log, "index out of range") || !strings.Contains(log, "secrecy_test.go") {
		t.Errorf("the log does not say what happened: %s", log)
	}
	if strings.Contains(log, secret) {
		t.Errorf("the log has a parameter: %s", log)
	}
}

// nobody waits for the answer.
type nobody struct{ rpc.Reply }

func (nobody) Result(*rpc.Batch, *rpc.Call, rpc.Value) {}
func (nobody) Error(*rpc.Batch, *rpc.Call, *rpc.Error) {}
func (nobody) Own()                                    {}

package kollabor

import (
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

const attachAck = `{"type":"attach_ack","agent_id":"a1b2c3d4e5f6","mode":%q,"uptime":0,"hub":{"identity":%q,"is_coordinator":false}}`

func attachTo(t *testing.T, r *room, o setup) *peer {
	t.Helper()
	o.cfg.Sessions = house{r.name: r}
	return dial(t, o)
}

func TestAttachReplaysThenFollows(t *testing.T) {
	r := newRoom("demo")
	r.publish("output", `{"type":"output","rendered":"history 1","ts":1.5,"seq":1}`)
	r.publish("stream_chunk", `{"type":"stream_chunk","chunk":"history 2","ts":2.5,"seq":2}`)
	p := attachTo(t, r, setup{})
	p.send(`{"action":"attach","mode":"readonly","client_id":"attach-4242"}`)
	p.want(fmt.Sprintf(attachAck, "readonly", "demo"))
	p.want(`{"type":"output","rendered":"history 1","ts":1.5,"seq":1}`)
	p.want(`{"type":"stream_chunk","chunk":"history 2","ts":2.5,"seq":2}`)
	r.publish("x", `{"type":"x","n":NaN,"ts":3.5,"seq":3}`)
	p.want(`{"type":"x","n":NaN,"ts":3.5,"seq":3}`)
	p.send(request("a", "echo", `{"i":1}`))
	p.want(result("a", `{"i":1}`))
	p.send(`{"type":"detach"}`)
	if _, err := p.line(); err != io.EOF {
		t.Errorf("after detach: %v", err)
	}
	if err := p.wait(); err != nil || r.count() != 0 {
		t.Errorf("%v, %d followers", err, r.count())
	}
}

func TestAttachOptions(t *testing.T) {
	r := newRoom("other")
	for i := range 5 {
		r.publish("x", fmt.Sprintf(`{"type":"x","seq":%d}`, i+1))
	}
	p := attachTo(t, r, setup{})
	p.send(`{"action":"attach"}`)
	p.want(`{"type":"error","msg":"no such session: demo"}`)
	p.send(`{"action":"attach","session":"other","since_seq":-1}`)
	if m := p.read(); m["type"] != "error" {
		t.Error(m)
	}
	p.send(`{"action":"subscribe","session":"other","since_seq":3,"mode":"watch"}`)
	p.want(fmt.Sprintf(attachAck, "watch", "other"))
	p.want(`{"type":"x","seq":4}`)
	p.want(`{"type":"x","seq":5}`)
	p.send(`{"action":"attach"}`, `{"action":"ping"}`, `{"type":"nope"}`, `garbage`) // ignored from now on
	p.quiet()
	o := r.follows[0]
	if !strings.HasPrefix(o.ClientID, "attach-") || o.Mode != "readonly" || o.Peer != everybody || o.Link != p.link {
		t.Errorf("%+v", o)
	}
}

func TestInput(t *testing.T) {
	r := newRoom("demo")
	p := attachTo(t, r, setup{})
	p.send(`{"action":"attach","mode":"interactive","client_id":"me"}`)
	p.read()
	p.send(`{"type":"input","text":"hello\r"}`, `{"type":"input","text":""}`, `{"type":"input","text":7}`, `{"type":"input"}`)
	p.want(`{"type":"input","text":"hello\r","client_id":"me"}`)
	p.quiet()
	if fmt.Sprintf("%q", r.inputs) != `["hello\r"]` {
		t.Errorf("%q", r.inputs)
	}

	p = attachTo(t, r, setup{})
	p.send(`{"action":"attach","since_seq":1}`)
	p.read()
	p.send(`{"type":"input","text":"no"}`)
	if m := p.read(); m["type"] != "error" || m["msg"] == "" {
		t.Error(m)
	}
	if len(r.inputs) != 1 {
		t.Errorf("%q", r.inputs)
	}
}

func TestHeartbeat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRoom("demo")
		p := attachTo(t, r, setup{})
		began := time.Now()
		at := func(want time.Duration, text string) {
			t.Helper()
			p.want(text)
			if d := time.Since(began); d != want {
				t.Errorf("%s after %v, want %v", text, d, want)
			}
		}
		p.send(`{"action":"attach"}`)
		at(0, fmt.Sprintf(attachAck, "readonly", "demo"))
		at(5*time.Second, `{"type":"heartbeat"}`)
		time.Sleep(2 * time.Second)
		r.publish("output", `{"type":"output","rendered":"resets idle timer"}`)
		at(7*time.Second, `{"type":"output","rendered":"resets idle timer"}`)
		at(12*time.Second, `{"type":"heartbeat"}`)
		at(17*time.Second, `{"type":"heartbeat"}`)
		p.send(`{"type":"detach"}`)
		if _, err := p.line(); err != io.EOF {
			t.Error(err)
		}
		p.wait()
	})
}

func TestSessionCloses(t *testing.T) {
	r := newRoom("demo")
	p := attachTo(t, r, setup{})
	p.send(`{"action":"attach"}`)
	p.read()
	r.publish("output", `{"type":"output","rendered":"last words"}`)
	r.close()
	p.want(`{"type":"output","rendered":"last words"}`)
	if _, err := p.line(); err != io.EOF {
		t.Error(err)
	}
	p.wait()
}

func TestGoodbye(t *testing.T) {
	g := newGauge()
	s := newTestServer(setup{cfg: Config{Observer: g, Sessions: house{"demo": newRoom("demo")}}})
	p := dialServer(t, s, setup{})
	p.send(`{"action":"attach"}`)
	p.read()
	other := dialServer(t, s, setup{})
	s.Goodbye("over and out")
	p.want(`{"type":"shutdown","reason":"over and out"}`)
	other.quiet() // nothing that a one-shot client did not ask for
}

func TestControlActions(t *testing.T) {
	r := newRoom("demo")
	r.task = "testing"
	asked := make(chan string, 1)
	p := attachTo(t, r, setup{cfg: Config{OnShutdown: func(reason string, peer *rpc.Peer) { asked <- reason + " by " + peer.Name }}})
	p.send(`{"action":"get_output"}`)
	p.want(`{"type":"output","lines":["(no recent output)"]}`)
	r.publish("output", `{"type":"output","rendered":"line one\nline two"}`)
	r.publish("output", `{"type":"output","rendered":"third"}`)
	p.send(`{"action":"get_output","lines":1}`, `{"action":"get_output","lines":100}`, `{"action":"get_output","lines":"x"}`, `{"action":"get_context","lines":200}`)
	p.want(`{"type":"output","lines":["third"]}`)
	p.want(`{"type":"output","lines":["line one\nline two","third"]}`)
	p.want(`{"type":"output","lines":["line one\nline two","third"]}`)
	p.want(`{"type":"context","content":""}`)
	p.send(`{"action":"get_status"}`)
	m := p.read()
	if m["identity"] != "demo" || m["state"] != "idle" || m["current_task"] != "testing" || fmt.Sprint(m["uptime"]) != "0" || m["pid"] == nil || len(m) != 6 {
		t.Error(m)
	}
	p.send(`{"action":"message","id":"dup-1","content":"a"}`, `{"action":"message","id":7}`, `{"action":"message"}`)
	p.want(`{"type":"ack","id":"dup-1"}`)
	p.want(`{"type":"ack","id":7}`)
	p.want(`{"type":"ack","id":"given"}`)
	p.send(`{"action":"roster_update","agents":[{"identity":"lapis"}]}`)
	p.want(`{"type":"ack"}`)
	if r.roster != `[{"identity":"lapis"}]` || len(r.delivered) != 3 {
		t.Error(r.roster, r.delivered)
	}
	p.send(`{"action":"shutdown","reason":"clean\nup"}`)
	p.want(`{"type":"ack"}`)
	if got := <-asked; got != `clean\u000aup by test` {
		t.Errorf("%q", got)
	}
}

func TestWithoutSessions(t *testing.T) {
	p := dial(t, setup{})
	p.send(`{"action":"attach"}`, `{"action":"get_output"}`, `{"action":"message","id":"m"}`)
	p.want(`{"type":"error","msg":"display tap not available"}`)
	p.want(`{"type":"output","lines":["(no display tap)"]}`)
	p.want(`{"type":"ack","id":"m"}`)
	p.send(`{"action":"message"}`)
	if m := p.read(); len(m["id"].(string)) != 32 {
		t.Error(m)
	}
}

func TestHello(t *testing.T) {
	other := &rpc.Peer{UID: -1, Name: "other", Scopes: rpc.ScopeRead}
	var told *rpc.Peer
	p := dial(t, setup{cfg: Config{Version: "1.2", Authenticate: func(c *Conn, token string) (*rpc.Peer, error) {
		if token != "secret" || c.ID != 7 {
			return nil, rpc.Errorf(rpc.CodeUnauthenticated, "unknown token")
		}
		return other, nil
	}}, conn: func(c *Conn) { c.OnPeer = func(p *rpc.Peer) { told = p } }})
	p.send(`{"action":"hello","version":9,"features":["x"],"identity":"me","token":"wrong"}`)
	p.want(`{"type":"error","msg":"hello: unknown token","error_kind":"unauthenticated"}`)
	p.send(request("f", "demo.fail", `{"message":"m"}`)) // no hello was accepted
	if m := p.read(); len(m) != 5 {
		t.Error(m)
	}
	p.send(`{"action":"hello","version":9,"token":"secret"}`)
	m := p.read()
	if m["type"] != "hello" || fmt.Sprint(m["version"]) != "1" || m["server"] != "hubd/1.2" || m["identity"] != "demo" || len(m["features"].([]any)) == 0 {
		t.Error(m)
	}
	p.send(request("a", "admin.only", `{}`))
	if m := p.read(); m["error_kind"] != "permission" || told != other {
		t.Error(m, told)
	}
}

// Every frame that a client of old gets while attached stays below its limit,
// and what it shows is the whole text.
func TestLongEventsAreSplit(t *testing.T) {
	long := strings.Repeat("äöü😀 text ", 12000) // 200 KB
	lines := strings.Repeat("a line of the output, with some words in it\n", 4000) + "end"
	oneLine := strings.Repeat("x", 150000)
	escaped := strings.Repeat(`\ud83d\ude00`, 20000)
	for _, c := range []struct {
		name, typ, member string
		text              string // JSON literal
		glue              string // between the pieces
	}{
		{"stream_chunk", "stream_chunk", "chunk", string(rpc.AppendString(nil, long, false)), ""},
		{"stream_chunk in ASCII", "stream_chunk", "chunk", string(rpc.AppendString(nil, long, true)), ""},
		{"stream_chunk of escaped pairs", "stream_chunk", "chunk", `"x` + escaped + `"`, ""},
		{"output", "output", "rendered", string(rpc.AppendString(nil, lines, false)), "\n"},
		{"output of one line", "output", "rendered", string(rpc.AppendString(nil, oneLine, false)), ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newRoom("demo")
			event := fmt.Sprintf(`{"type":%q,%q:%s,"ts":1.5,"seq":1}`, c.typ, c.member, c.text)
			r.publish(c.typ, event)
			r.publish("end", `{"type":"end"}`)
			p := attachTo(t, r, setup{unix: true})
			p.send(`{"action":"attach"}`)
			p.read()
			var pieces []string
			for {
				text, err := p.line()
				if err != nil {
					t.Fatal(err)
				}
				if len(text) > smallLine || !utf8.ValidString(text) {
					t.Fatalf("a line of %d bytes", len(text))
				}
				m := decode(t, text)
				if m["type"] == "end" {
					break
				}
				if m["type"] != c.typ || fmt.Sprintf("%v %v", m["seq"], m["ts"]) != "1 1.5" || len(m) != 4 {
					t.Fatal(cutText(text))
				}
				piece := m[c.member].(string)
				if rest, ok := strings.CutPrefix(piece, "raw:"); ok {
					piece = rpc.Unquote([]byte(rest))
				}
				pieces = append(pieces, piece)
			}
			if got := strings.Join(pieces, c.glue); got != rpc.Unquote([]byte(c.text)) {
				t.Errorf("%d pieces do not make the whole: %d bytes, want %d", len(pieces), len(got), len(rpc.Unquote([]byte(c.text))))
			}

			p = attachTo(t, r, setup{unix: true})
			p.send(`{"action":"hello","version":1}`, `{"action":"attach"}`)
			p.read()
			p.read()
			p.want(event) // a client that said hello gets it whole
		})
	}
}

func TestOtherLongEventsAreTruncated(t *testing.T) {
	for _, event := range []string{
		`{"type":"message","message_type":"assistant","content":"` + strings.Repeat("word ", 30000) + `","kwargs":{},"seq":4,"ts":1}`,
		`{"type":"message","content":"x","kwargs":{"a":"` + strings.Repeat("x", 100000) + `"},"seq":4,"ts":1}`,
		`{"type":"output","lines":["` + strings.Repeat("x", 100000) + `"],"seq":4,"ts":1}`,
		`{"type":"output","rendered":"x","more":"` + strings.Repeat("x", 100000) + `","seq":4,"ts":1}`,
	} {
		v, _ := rpc.Parse([]byte(event))
		typ, _ := v.Member("type")
		n := 0
		for piece := range split(Event{Type: frame.Text(typ), JSON: []byte(event)}, smallLine) {
			n++
			m := decode(t, string(piece))
			if len(piece) > smallLine || m["truncated"] != true || m["type"] != frame.Text(typ) || fmt.Sprintf("%v %v", m["seq"], m["ts"]) != "4 1" {
				t.Errorf("%d bytes: %s", len(piece), cutText(string(piece)))
			}
		}
		if n != 1 {
			t.Errorf("%d frames", n)
		}
	}
}

func TestOutputIsTrimmed(t *testing.T) {
	r := newRoom("demo")
	for i := range 3000 {
		r.publish("output", fmt.Sprintf(`{"type":"output","rendered":"line %d of some length"}`, i))
	}
	p := attachTo(t, r, setup{unix: true})
	p.send(`{"action":"get_output","lines":3000}`)
	text, err := p.line()
	if err != nil || len(text) > smallLine || len(text) < smallLine-100 {
		t.Fatalf("%d bytes, %v", len(text), err)
	}
	lines := decode(t, text)["lines"].([]any)
	if lines[len(lines)-1] != "line 2999 of some length" {
		t.Error(lines[len(lines)-1])
	}
	r.publish("output", fmt.Sprintf(`{"type":"output","rendered":"%s end"}`, strings.Repeat("ü", 100000)))
	p.send(`{"action":"get_output","lines":2}`)
	if text, err = p.line(); err != nil || len(text) > smallLine || !strings.HasSuffix(text, ` end"]}`) {
		t.Errorf("%d bytes, %v", len(text), err)
	}
}

func FuzzSplit(f *testing.F) {
	f.Add("stream_chunk", `plain text`, 60)
	f.Add("output", `a\nb\n\nc`, 70)
	f.Add("stream_chunk", `\ud83d\ude00\ud83d\ud800\\\"ü😀`, 64)
	f.Fuzz(func(t *testing.T, typ, content string, limit int) {
		if limit < 120 || limit > 1000 {
			return
		}
		if typ != "output" {
			typ = "stream_chunk"
		}
		member := map[string]string{"output": "rendered", "stream_chunk": "chunk"}[typ]
		text := fmt.Sprintf(`{"type":%q,%q:"%s","seq":1}`, typ, member, content)
		whole, err := rpc.Parse([]byte(text))
		if err != nil || len(text) <= limit {
			return
		}
		if v, _ := whole.Member(member); len(raw(v)) != len(content)+2 {
			return // the content broke out of its string
		}
		joined := ""
		for piece := range split(Event{Type: typ, JSON: []byte(text)}, limit) {
			v, err := rpc.Parse(piece)
			if err != nil || len(piece) > limit {
				t.Fatalf("%v: %d bytes: %s", err, len(piece), piece)
			}
			m, _ := v.Member(member)
			joined += string(raw(m)[1:len(raw(m))-1]) + "|"
		}
		got := strings.ReplaceAll(joined, "|", "")
		want := strings.ReplaceAll(content, "|", "")
		if typ == "output" { // a line break was left out at each cut, at most
			got, want = strings.ReplaceAll(got, `\n`, ""), strings.ReplaceAll(want, `\n`, "")
		}
		if got != want {
			t.Fatalf("pieces %q\nof     %q", got, want)
		}
	})
}

// Who attaches to read may only read from then on, on that connection.
func TestReadersMayOnlyRead(t *testing.T) {
	r := newRoom("demo")
	p := attachTo(t, r, setup{})
	p.send(request("before", "admin.only", `{}`))
	if m := p.read(); m["error_kind"] != nil {
		t.Errorf("before: %v", m)
	}
	p.send(`{"action":"attach","mode":"readonly"}`)
	p.want(fmt.Sprintf(attachAck, "readonly", "demo"))
	p.send(request("after", "admin.only", `{}`))
	if m := p.read(); m["error_kind"] != "permission" {
		t.Errorf("after: %v", m)
	}
	p.send(request("read", "echo", `{"i":1}`))
	p.want(result("read", `{"i":1}`))

	p = attachTo(t, r, setup{})
	p.send(`{"action":"attach","mode":"interactive"}`)
	p.want(fmt.Sprintf(attachAck, "interactive", "demo"))
	p.send(request("after", "admin.only", `{}`))
	if m := p.read(); m["error_kind"] != nil {
		t.Errorf("interactive: %v", m)
	}
}

// What a client that said hello is told beyond what all are told.
func TestModernAttachment(t *testing.T) {
	r := newRoom("demo")
	r.epoch = "life-1"
	r.publish("output", `{"type":"output","rendered":"one\ntwo","seq":1}`)
	p := attachTo(t, r, setup{})
	p.send(`{"action":"hello","version":1}`)
	p.read()
	p.send(`{"action":"get_context","lines":200}`)
	p.want(`{"type":"context","content":"one\ntwo"}`)
	p.send(`{"action":"attach","since_seq":1,"epoch":"life-1"}`)
	if m := p.read(); m["type"] != "attach_ack" || m["epoch"] != "life-1" {
		t.Error(m)
	}
	if o := r.follows[0]; o.Epoch != "life-1" || *o.SinceSeq != 1 {
		t.Errorf("%+v", o)
	}
}

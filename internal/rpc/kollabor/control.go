package kollabor

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"os"
	"strconv"
	"time"
	"unicode/utf8"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
)

// smallLine is what a line to a client of old may have, event frames and
// get_output: some of them read lines of up to 64 KiB only.
const smallLine = 60000

// control handles a line of the command phase that belongs to no call. Its
// answer is queued at once, so that answers come in the order of the questions.
func (c *conn) control(line []byte) {
	f := &c.frame
	switch f.Action {
	case "ping", "message", "get_context", "get_output", "get_status", "roster_update", "shutdown", "attach", "subscribe", frame.Hello, frame.Goodbye:
		c.in(f.Action, line)
	case "":
		switch f.Type {
		case "input", "detach":
			c.complain(&frame.Error{Reason: frame.Misplaced, Text: "not attached: " + f.Type + " means nothing here"})
		default:
			c.complain(&frame.Error{Reason: frame.UnknownAction, Text: "unknown action: the frame has none"})
		}
		return
	default:
		c.complain(&frame.Error{Reason: frame.UnknownAction, Text: "unknown action: " + f.Action})
		return
	}
	switch f.Action {
	case "ping":
		c.answer(func(dst []byte) []byte {
			dst = append(dst, `{"type":"pong","agent_id":`...)
			return append(rpc.AppendString(dst, c.s.cfg.AgentID, false), '}')
		})
	case frame.Hello:
		c.hello()
	case frame.Goodbye:
		c.leave()
	case "attach", "subscribe":
		c.attach()
	case "message":
		c.message()
	case "roster_update":
		if c.may(rpc.ScopeCall, "session.publish") {
			if s := c.session(c.conn.Session); s != nil {
				if err := s.SetRoster(c.link, f.Member("agents")); err != nil {
					c.sendError(nil, rpc.AsError(context.Background(), err).Text())
					return
				}
			}
			c.answer(func(dst []byte) []byte { return append(dst, `{"type":"ack"}`...) })
		}
	case "shutdown":
		c.shutdown()
	case "get_status":
		if c.may(rpc.ScopeRead, "session.info") {
			c.ask()
		}
	default:
		if c.may(rpc.ScopeRead, "session.history") {
			c.ask()
		}
	}
}

// answer queues one control answer; f leaves the line feed out.
func (c *conn) answer(f func([]byte) []byte) {
	c.send(&c.batch, "control", func(dst []byte) []byte { return append(f(dst), '\n') })
}

// may reports whether the peer may do what the method of that name does, and
// tells it if not: an action is no way around the patterns of a token.
func (c *conn) may(s rpc.Scope, method string) bool {
	p := c.link.Peer(c.peer)
	if p.Permits(s, method) {
		return true
	}
	c.sendError(echoable(c.frame.RequestID), "not allowed: "+c.frame.Action+p.Why(s, method))
	if o := c.s.cfg.Observer; o != nil {
		o.Denied(&c.conn, c.frame.Action)
	}
	return false
}

// ask answers the questions about the session of the socket.
func (c *conn) ask() {
	f := &c.frame
	s := c.session(c.conn.Session)
	switch f.Action {
	case "get_context":
		// Clients of old have never been given anything else than "".
		content := ""
		if s != nil && c.modern.Load() {
			content = tail(s.Context(c.lineCount(200)), maxContext)
		}
		c.answer(func(dst []byte) []byte {
			dst = append(dst, `{"type":"context","content":`...)
			return append(rpc.AppendString(dst, content, false), '}')
		})
	case "get_output":
		lines := []string{"(no display tap)"}
		if s != nil {
			lines = s.Output(c.lineCount(100))
			if len(lines) == 0 {
				lines = []string{"(no recent output)"}
			}
		}
		c.answer(func(dst []byte) []byte { return appendOutput(dst, lines, c.lineLimit()) })
	case "get_status":
		st := Status{Name: c.conn.Session, State: "unknown", Opened: c.s.cfg.Started}
		if s != nil {
			st = s.Status()
		}
		c.answer(func(dst []byte) []byte {
			dst = append(dst, `{"type":"status","identity":`...)
			dst = rpc.AppendString(dst, st.Name, false)
			dst = append(dst, `,"state":`...)
			dst = rpc.AppendString(dst, st.State, false)
			dst = append(dst, `,"pid":`...)
			dst = strconv.AppendInt(dst, int64(os.Getpid()), 10)
			dst = append(dst, `,"uptime":`...)
			dst = strconv.AppendInt(dst, int64(time.Since(c.s.cfg.Started)/time.Second), 10)
			dst = append(dst, `,"current_task":`...)
			return append(rpc.AppendString(dst, st.Task, false), '}')
		})
	}
}

// maxContext is the most bytes of text that get_context answers.
const maxContext = 1 << 20

// tail returns the last whole characters of text that have at most limit bytes.
func tail(text string, limit int) string {
	at := max(0, len(text)-limit)
	for at > 0 && at < len(text) && !utf8.RuneStart(text[at]) {
		at++
	}
	return text[at:]
}

// lineCount is the member "lines" of a question, or what it is by default.
func (c *conn) lineCount(otherwise int) int {
	n, err := c.frame.Member("lines").AsInt()
	if err != nil {
		return otherwise
	}
	return int(max(0, min(n, 10000)))
}

// session returns the open session of that name, nil if there is none.
func (c *conn) session(name string) Session {
	if c.s.cfg.Sessions == nil {
		return nil
	}
	return c.s.cfg.Sessions.Session(name)
}

// lineLimit is what an event or output line to this peer may have.
func (c *conn) lineLimit() int {
	if c.modern.Load() {
		return frame.MaxLine
	}
	return smallLine
}

// appendOutput writes the latest of lines that fit.
func appendOutput(dst []byte, lines []string, limit int) []byte {
	room := limit - len(`{"type":"output","lines":[]}`)
	from := len(lines)
	for from > 0 {
		n := len(rpc.AppendString(nil, lines[from-1], false)) + 1
		if n > room {
			break
		}
		room -= n
		from--
	}
	dst = append(dst, `{"type":"output","lines":[`...)
	for i, l := range lines[from:] {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = rpc.AppendString(dst, l, false)
	}
	if from == len(lines) && from > 0 { // even the last one is too long: its end
		last := lines[from-1]
		dst = rpc.AppendString(dst, tail(last, limit/6), false) // a byte takes up to six
	}
	return append(dst, "]}"...)
}

// message takes a message in and acknowledges it.
func (c *conn) message() {
	if !c.may(rpc.ScopeCall, "session.send") {
		return
	}
	f := &c.frame
	var id rpc.Value
	if s := c.session(c.conn.Session); s != nil {
		var err error
		if id, err = s.Deliver(c.link, f.Whole); err != nil {
			c.sendError(nil, rpc.AsError(context.Background(), err).Text())
			return
		}
	} else if id = f.Member("id"); id.IsUndefined() {
		id = rpc.String(randomHex(16))
	}
	c.answer(func(dst []byte) []byte {
		dst = append(dst, `{"type":"ack","id":`...)
		return append(append(dst, raw(id)...), '}')
	})
}

func randomHex(bytes int) string {
	b := make([]byte, bytes)
	rand.Read(b) // never fails
	return hex.EncodeToString(b)
}

// shutdown asks the hub to stop. The peer has its acknowledgement before that.
func (c *conn) shutdown() {
	if !c.may(rpc.ScopeAdmin, "hub.shutdown") {
		return
	}
	if c.s.cfg.OnShutdown == nil {
		c.sendError(nil, "shutdown is not possible here")
		return
	}
	reason := rpc.CleanText(frame.Text(c.frame.Member("reason")), 256)
	c.answer(func(dst []byte) []byte { return append(dst, `{"type":"ack"}`...) })
	c.flush()
	c.s.cfg.OnShutdown(reason, c.link.Peer(c.peer))
}

// maxName is how many bytes of the name of a program are kept.
const maxName = 128

// leave ends the connection of a peer that says that it will not come back.
func (c *conn) leave() {
	c.link.Goodbye()
	c.done = true
}

// hello notes that the peer knows what this package adds, and answers.
func (c *conn) hello() {
	f := &c.frame
	version, err := f.Member("version").AsInt()
	if err != nil || version < 1 {
		c.failed(&frame.Error{Reason: frame.BadType, Text: "hello without a version"})
		c.sendErrorOf(nil, kinds[rpc.CodeInvalidParams], "hello: version must be an integer from 1")
		return
	}
	if token := f.Member("token"); !token.IsUndefined() && !token.IsNull() && c.s.cfg.Authenticate != nil {
		peer, err := c.s.cfg.Authenticate(&c.conn, frame.Text(token))
		if err != nil {
			e := rpc.AsError(context.Background(), err)
			c.sendErrorOf(nil, kinds[e.Code], "hello: "+e.Text())
			return
		}
		c.peer = peer
		c.link.SetPeer(peer)
		if c.conn.OnPeer != nil {
			c.conn.OnPeer(peer)
		}
	}
	if name := frame.Text(f.Member("name")); name != "" && c.conn.OnName != nil {
		c.conn.OnName(rpc.CleanText(name, maxName))
	}
	if identity := frame.Text(f.Member("identity")); identity != "" && !c.named {
		c.named = true
		if c.conn.OnIdentity != nil {
			c.conn.OnIdentity(identity)
		}
	}
	c.modern.Store(true)
	c.send(&c.batch, "control", func(dst []byte) []byte {
		return frame.AppendWelcome(dst, frame.Greeting{
			Version: frame.Version, Server: fmt.Sprintf("hubd/%s", c.s.cfg.Version),
			Identity: c.conn.Session, Features: c.s.welcome,
		})
	})
}

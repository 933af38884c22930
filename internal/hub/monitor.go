package hub

import (
	"bytes"
	"context"
	"encoding/base64"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"
	"golang.org/x/time/rate"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// hub.monitor: what happens on the connections, as it happens, for operators.
// It never slows a connection down: what a monitor is not quick enough for, or
// what is over its rate, is counted and dropped. Values are never shown, only
// the envelope and sizes, unless the operator asks for raw bytes; those are
// shown without tokens and passwords (redact.go).

const (
	monitorQueue   = 1024 // events that wait for one monitor
	monitorRate    = 200  // events a second that a monitor gets by default
	monitorMaxRate = 100_000
	monitorRaw     = 1 << 10 // raw bytes that are shown of a frame
	maxMonitors    = 8
)

// What happened.
const (
	sawBegin       = "begin"        // the monitor sees all that comes from now on
	sawCall        = "call"         // a call was answered
	sawFailedFrame = "failed_frame" // a frame was not understood
	sawConnection  = "connection"   // a connection has begun to speak a protocol
	sawEnd         = "end"          // ... and ended
	sawFrame       = "frame"        // bytes were read or written
	sawDropped     = "dropped"      // events that this monitor missed
)

// monitorEvent is an item of hub.monitor.
type monitorEvent struct {
	Time      string  `json:"time"`
	Event     string  `json:"event"`
	Conn      uint64  `json:"conn,omitempty"`
	Protocol  string  `json:"protocol,omitempty"`
	Peer      string  `json:"peer,omitempty"`
	Method    string  `json:"method,omitempty"`
	Call      uint64  `json:"call,omitempty"`
	Code      string  `json:"code,omitempty"`
	Took      float64 `json:"took,omitempty"`   // seconds
	Reason    string  `json:"reason,omitempty"` // of a failed frame, or of an end
	Direction string  `json:"direction,omitempty"`
	Bytes     int     `json:"bytes,omitempty"`
	Text      string  `json:"text,omitempty"` // of a line, without values
	Data      string  `json:"data,omitempty"` // the first bytes, base64; only when raw was asked for
	Count     uint64  `json:"count,omitempty"`
}

// monitors are those who look now.
type monitors struct {
	any    atomic.Bool // the only cost while there is no monitor
	frames atomic.Bool // somebody wants frames
	raw    atomic.Bool // with their bytes

	mu   sync.Mutex
	list []*monitor
}

// monitor is one caller of hub.monitor.
type monitor struct {
	protocol rpc.Protocol // "" for all
	conn     uint64       // 0 for all
	frames   bool
	raw      bool
	limit    *rate.Limiter
	events   chan monitorEvent
	missed   atomic.Uint64
}

func (s *monitors) enter(m *monitor) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.list) >= maxMonitors {
		return false
	}
	s.list = append(slices.Clone(s.list), m)
	s.setLocked()
	return true
}

func (s *monitors) leave(m *monitor) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.list = slices.DeleteFunc(slices.Clone(s.list), func(o *monitor) bool { return o == m })
	s.setLocked()
}

func (s *monitors) setLocked() {
	s.any.Store(len(s.list) > 0)
	s.frames.Store(slices.ContainsFunc(s.list, func(m *monitor) bool { return m.frames }))
	s.raw.Store(slices.ContainsFunc(s.list, func(m *monitor) bool { return m.raw }))
}

// present returns the list as it is; it is never changed in place.
func (s *monitors) present() []*monitor {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.list
}

// tell passes an event to those who want it.
func (s *monitors) tell(e monitorEvent) {
	e.Time = time.Now().UTC().Format(time.RFC3339Nano)
	for _, m := range s.present() {
		if m.wants(e.Protocol, e.Conn) && m.allows() {
			m.put(e)
		}
	}
}

func (m *monitor) wants(protocol string, conn uint64) bool {
	return (m.protocol == "" || string(m.protocol) == protocol) && (m.conn == 0 || m.conn == conn)
}

// allows reports whether the monitor is within its rate. What it does not take
// is counted.
func (m *monitor) allows() bool {
	if !m.limit.Allow() {
		m.missed.Add(1)
		return false
	}
	return true
}

func (m *monitor) put(e monitorEvent) {
	select {
	case m.events <- e:
	default:
		m.missed.Add(1)
	}
}

// call tells of an answered call.
func (s *monitors) call(c *rpc.Call, err *rpc.Error, took time.Duration) {
	e := monitorEvent{Event: sawCall, Protocol: string(c.Protocol), Call: c.ID(), Took: round(took), Code: string(rpc.CodeOK)}
	if c.Method != nil {
		e.Method = c.Method.Name
	}
	if err != nil {
		e.Code = string(err.Code)
	}
	if l := c.Link(); l != nil {
		if at, ok := l.Conn.(*conn); ok {
			e.Conn, e.Peer = at.id, at.peerName()
		}
	}
	s.tell(e)
}

// frame tells of bytes that were read or written. v is the view of that
// direction.
func (s *monitors) frame(c *conn, v *view, direction string, p []byte) {
	protocol := c.protocolName()
	raw := s.raw.Load()
	if !raw {
		*v = view{}
	}
	for piece := range pieces(protocol, p) {
		e := monitorEvent{
			Time: time.Now().UTC().Format(time.RFC3339Nano), Event: sawFrame, Conn: c.id, Protocol: string(protocol),
			Direction: direction, Bytes: len(piece),
		}
		if protocol == rpc.Kollabor {
			e.Text = envelope(piece)
		}
		var before, plain []byte
		if raw {
			before, plain = v.follow(protocol, piece)
		}
		data := ""
		for _, m := range s.present() {
			if !m.frames || !m.wants(string(protocol), c.id) || !m.allows() {
				continue
			}
			if e.Data = ""; m.raw && raw {
				if data == "" {
					data = base64.StdEncoding.EncodeToString(shownOf(before, plain))
				}
				e.Data = data
			}
			m.put(e)
		}
	}
}

// pieces yields what is shown as one frame: the lines of the native protocol,
// else what was read or written at once.
func pieces(protocol rpc.Protocol, p []byte) func(func([]byte) bool) {
	return func(yield func([]byte) bool) {
		if protocol != rpc.Kollabor {
			yield(p)
			return
		}
		for line := range bytes.Lines(p) {
			if !yield(line) {
				return
			}
		}
	}
}

// shown are the members of a native frame whose values say nothing of what
// programs tell each other.
var shown = []string{
	"action", "request_id", "method", "error_kind", "retry", "seq", "n", "stream", "timeout", "type", "session", "mode",
	"since_seq", "version", "features",
}

// envelope writes a line of the native protocol without its values; "" when it
// is none, or not all of one.
func envelope(line []byte) string {
	v, err := rpc.Parse(line)
	if err != nil || v.Kind() != '{' {
		return ""
	}
	text := []byte{'{'}
	for name, value := range v.Members() {
		if len(text) > 1 {
			text = append(text, ", "...)
		}
		key := rpc.Unquote(name)
		text = append(rpc.AppendString(text, rpc.CleanText(key, 64), false), ": "...)
		raw, _ := value.Raw()
		switch {
		case value.IsNull(), slices.Contains(shown, key) && len(raw) <= 256:
			text = append(text, raw...)
		default:
			text = strconv.AppendInt(append(text, '<'), int64(len(raw)), 10)
			text = append(text, " bytes>"...)
		}
	}
	return string(append(text, '}'))
}

// monitor is the method.
func (h *hub) monitor(ctx context.Context, in struct {
	Protocol string `rpc:"protocol" default:"\"\"" doc:"only connections that speak this"`
	Conn     uint64 `rpc:"conn" default:"0" doc:"only this connection"`
	Frames   bool   `rpc:"frames" default:"false" doc:"every frame, too: envelope and size"`
	Raw      bool   `rpc:"raw" default:"false" doc:"with the first bytes of each frame, values and all but tokens and passwords"`
	Rate     int    `rpc:"rate" default:"200" doc:"events a second at most; others are counted"`
}, send func(monitorEvent) error) error {
	if in.Protocol != "" && !slices.Contains(rpc.Protocols(), rpc.Protocol(in.Protocol)) {
		return rpc.Errorf(rpc.CodeInvalidParams, "no protocol %q", rpc.CleanText(in.Protocol, 64))
	}
	if in.Rate < 1 || in.Rate > monitorMaxRate {
		return rpc.Errorf(rpc.CodeInvalidParams, "rate must be from 1 to %d", monitorMaxRate)
	}
	m := &monitor{
		protocol: rpc.Protocol(in.Protocol), conn: in.Conn, frames: in.Frames || in.Raw, raw: in.Raw,
		limit: rate.NewLimiter(rate.Limit(in.Rate), in.Rate), events: make(chan monitorEvent, monitorQueue),
	}
	if !h.monitors.enter(m) {
		return rpc.Errorf(rpc.CodeOverloaded, "%d monitors look already", maxMonitors)
	}
	defer h.monitors.leave(m)
	if err := send(monitorEvent{Time: time.Now().UTC().Format(time.RFC3339Nano), Event: sawBegin}); err != nil {
		return err
	}
	own := ownConn(ctx)
	if in.Raw {
		h.log.Warn("raw bytes of frames are shown to a monitor", zap.Uint64("conn", own))
	}
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	for {
		select {
		case e := <-m.events:
			if e.Conn == own && e.Event == sawFrame { // it would see itself for ever
				continue
			}
			if err := send(e); err != nil {
				return err
			}
		case <-tick.C:
			if n := m.missed.Swap(0); n > 0 {
				e := monitorEvent{Time: time.Now().UTC().Format(time.RFC3339Nano), Event: sawDropped, Count: n}
				if err := send(e); err != nil {
					return err
				}
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// ownConn is the connection that a call came on, 0 for none.
func ownConn(ctx context.Context) uint64 {
	if c := rpc.From(ctx); c != nil && c.Link() != nil {
		if at, ok := c.Link().Conn.(*conn); ok {
			return at.id
		}
	}
	return 0
}

package session

import (
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Limits of what one look at a session returns.
const (
	maxHistory      = 10000
	maxHistoryBytes = 8 << 20
)

// History returns what the ring holds after the event with number after, oldest
// first, at most limit events and 8 MiB. next is the number to go on after, 0
// when there is no more.
func (s *Session) History(after uint64, limit int) (events []Event, next uint64) {
	limit = min(limit, maxHistory)
	s.mu.Lock()
	defer s.mu.Unlock()
	bytes := 0
	for i := s.ring.after(after); i < s.ring.n; i++ {
		e := s.ring.at(i)
		bytes += len(e.JSON)
		if len(events) >= limit || len(events) > 0 && bytes > maxHistoryBytes {
			if len(events) == 0 {
				return nil, after
			}
			return events, events[len(events)-1].Seq
		}
		events = append(events, *e)
	}
	return events, 0
}

// Output returns the member "rendered" of the last n output events in the
// ring, oldest first: strings, as they were published. Of a session that has
// none it returns the last n lines of its stream_chunk events.
func (s *Session) Output(n int) []rpc.Value {
	if n <= 0 {
		return nil
	}
	if outputs := s.texts("output", "rendered", n); len(outputs) > 0 {
		return outputs
	}
	var text strings.Builder
	for _, v := range s.texts("stream_chunk", "chunk", maxHistory) {
		chunk, _ := v.AsString()
		text.WriteString(chunk)
	}
	if text.Len() == 0 {
		return nil
	}
	lines := strings.Split(strings.TrimSuffix(strings.ReplaceAll(text.String(), "\r\n", "\n"), "\n"), "\n")
	lines = lines[max(0, len(lines)-n):]
	values := make([]rpc.Value, len(lines))
	for i, l := range lines {
		values[i] = rpc.String(l)
	}
	return values
}

// texts returns a string member of the last n events of a type, oldest first.
func (s *Session) texts(eventType, member string, n int) []rpc.Value {
	s.mu.Lock()
	var events []Event
	for i := s.ring.n - 1; i >= 0 && len(events) < n; i-- {
		if e := s.ring.at(i); e.Type == eventType {
			events = append(events, *e)
		}
	}
	s.mu.Unlock()
	var texts []rpc.Value
	for i := len(events) - 1; i >= 0; i-- {
		if v, ok := events[i].Value().Member(member); ok && v.Kind() == '"' {
			texts = append(texts, v)
		}
	}
	return texts
}

// Context returns the last n lines of the output in the ring as one text.
func (s *Session) Context(n int) string {
	if n <= 0 {
		return ""
	}
	var text strings.Builder
	for i, v := range s.Output(maxHistory) {
		line, _ := v.AsString()
		if i > 0 {
			text.WriteByte('\n')
		}
		text.WriteString(strings.TrimSuffix(line, "\n"))
	}
	all := text.String()
	at := len(all)
	for range n {
		if at = strings.LastIndexByte(all[:at], '\n'); at < 0 {
			return all
		}
	}
	return all[at+1:]
}

// Status is what get_status tells of a session.
type Status struct {
	Identity    string
	State       string // "idle", "ready" (it has an owner), "working", "blocked" (a prompt is open); or "state" of the meta
	CurrentTask string // the member "current_task" of the session's meta, else its title
	Uptime      time.Duration
	OwnerPID    int // 0 when there is no owner or nobody knows
}

// Status returns the state of the session: what its producer says of it, in
// the meta of session.open or the latest state_snapshot, and what is known here.
func (s *Session) Status() Status {
	s.mu.Lock()
	defer s.mu.Unlock()
	st := Status{Identity: s.name, State: "idle", CurrentTask: s.title, Uptime: time.Since(s.opened)}
	if s.owner != nil {
		st.State = "ready"
		if p := s.owner.peer; p != nil && p.PID > 0 {
			st.OwnerPID = p.PID
		}
	}
	if s.snapshot.Seq > 0 {
		if v, ok := s.snapshot.Value().Member("is_processing"); ok {
			if busy, err := v.AsBool(); err == nil && busy {
				st.State = "working"
			}
		}
	}
	if len(s.prompts) > 0 {
		st.State = "blocked"
	}
	if text := textMember(s.meta, "state"); text != "" {
		st.State = text
	}
	if text := textMember(s.meta, "current_task"); text != "" {
		st.CurrentTask = text
	}
	return st
}

// Snapshot returns the latest state_snapshot, and whether there is one.
func (s *Session) Snapshot() (Event, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.snapshot, s.snapshot.Seq > 0
}

package session

import (
	"slices"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Answers to permission prompts. Whatever is none of them counts as Deny.
const (
	ApproveOnce       = "APPROVE_ONCE"
	ApproveSession    = "APPROVE_SESSION"
	ApproveProject    = "APPROVE_PROJECT"
	ApproveAlways     = "APPROVE_ALWAYS"
	ApproveToolAlways = "APPROVE_TOOL_ALWAYS"
	Deny              = "DENY"
	Cancel            = "CANCEL"
)

var answers = []string{ApproveOnce, ApproveSession, ApproveProject, ApproveAlways, ApproveToolAlways, Deny, Cancel}

// answerOf reads an answer as a client gave it.
func answerOf(response string) string {
	if a := strings.ToUpper(strings.TrimSpace(response)); slices.Contains(answers, a) {
		return a
	}
	return Deny
}

const (
	maxPrompts = 256 // open ones of a session
	maxToolID  = 256 // bytes
)

// openPrompt is a permission_request that nobody has answered yet. A prompt is
// opened by its event and ends once: answered, expired, withdrawn by its
// producer (with a permission_resolved of its own) or by a newer one of its id.
type openPrompt struct {
	toolID string
	event  Event
	charge *rpc.Kept
	timer  *time.Timer
}

// canAnswer reports whether a prompt has an id by which it can be answered.
func canAnswer(toolID string) bool { return toolID != "" && len(toolID) <= maxToolID }

// addPromptLocked opens a prompt and says how many others gave way to it. One
// without an id cannot be answered, so it is only shown.
func (s *Session) addPromptLocked(d *draft, e Event) (withdrawn int) {
	if !canAnswer(d.toolID) {
		return 0
	}
	if s.dropPromptLocked(d.toolID) != nil {
		withdrawn++
	}
	if len(s.prompts) >= maxPrompts {
		s.dropPromptLocked(s.prompts[0].toolID)
		withdrawn++
	}
	p := &openPrompt{toolID: d.toolID, event: e, charge: d.charge}
	p.timer = time.AfterFunc(s.registry.opts.PromptTimeout, func() { s.expire(p) })
	s.prompts = append(s.prompts, p)
	return withdrawn
}

// dropPromptLocked takes a prompt away, nil if it is not open.
func (s *Session) dropPromptLocked(toolID string) *openPrompt {
	i := slices.IndexFunc(s.prompts, func(p *openPrompt) bool { return p.toolID == toolID })
	if i < 0 {
		return nil
	}
	p := s.prompts[i]
	p.timer.Stop()
	p.charge.Free()
	s.prompts = slices.Delete(s.prompts, i, i+1)
	return p
}

// expire denies a prompt that nobody has answered in time.
func (s *Session) expire(p *openPrompt) {
	s.mu.Lock()
	if s.closed || !slices.Contains(s.prompts, p) {
		s.mu.Unlock()
		return
	}
	s.resolveLocked(p.toolID, Deny, "", true)
	s.mu.Unlock()
	s.registry.opts.Observer.Prompt(s, PromptExpired)
}

// Respond answers an open prompt; what it returns says whether there was one.
// The answer goes to the owner's input, and an event permission_resolved tells
// the followers. clientID is who answered, "" if nobody knows.
func (s *Session) Respond(toolID, response, clientID string) bool {
	s.mu.Lock()
	open := !s.closed && slices.ContainsFunc(s.prompts, func(p *openPrompt) bool { return p.toolID == toolID })
	if open {
		s.resolveLocked(toolID, answerOf(response), clientID, false)
	}
	s.mu.Unlock()
	if open {
		s.registry.opts.Observer.Prompt(s, PromptAnswered)
	}
	return open
}

// resolveLocked ends an open prompt with an answer.
func (s *Session) resolveLocked(toolID, answer, clientID string, expired bool) {
	s.dropPromptLocked(toolID)
	body := append([]byte(nil), `,"tool_id":`...)
	body = rpc.AppendString(body, toolID, false)
	body = append(body, `,"response":`...)
	body = rpc.AppendString(body, answer, false)
	if expired {
		body = append(body, `,"expired":true`...)
	}
	if clientID != "" {
		body = append(body, `,"client_id":`...)
		body = rpc.AppendString(body, clientID, false)
	}
	body = append(body, '}')
	s.input.deliverLocked(inputItem{value: ownItem(`{"type":"permission_response"`, body), kind: answerItem}, true)
	d, err := draftOf(ownItem(`{"type":"permission_resolved"`, body))
	if err == nil {
		s.appendLocked(&d)
	}
}

// ownItem makes a Value of text that this package has written.
func ownItem(head string, body []byte) rpc.Value {
	return rpc.RawString(head + string(body))
}

// Prompts returns the ids of the open prompts, oldest first.
func (s *Session) Prompts() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var ids []string
	for _, p := range s.prompts {
		ids = append(ids, p.toolID)
	}
	return ids
}

// CanAnswer reports whether anybody who follows may answer a prompt: only
// interactive followers count.
func (s *Session) CanAnswer() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range s.followers {
		if f.Interactive() {
			return true
		}
	}
	return false
}

// follows reports whether a connection follows the session.
func (s *Session) follows(link *rpc.Link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.onLinkLocked(link) != nil
}

// onlyReads reports whether a connection follows the session, and only to read.
func (s *Session) onlyReads(link *rpc.Link) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	f := s.onLinkLocked(link)
	return f != nil && !f.Interactive()
}

// clientOn returns what the follower on a connection calls itself, "" if there is none.
func (s *Session) clientOn(link *rpc.Link) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if f := s.onLinkLocked(link); f != nil {
		return f.opts.ClientID
	}
	return ""
}

// onLinkLocked returns the follower on a connection, nil if there is none. Of
// several it is an interactive one, and the first one that came.
func (s *Session) onLinkLocked(link *rpc.Link) (best *Follower) {
	if link == nil {
		return nil
	}
	for _, f := range s.followers {
		switch {
		case f.opts.Link != link:
		case best == nil, f.Interactive() && !best.Interactive(), f.Interactive() == best.Interactive() && f.id < best.id:
			best = f
		}
	}
	return best
}

// Respond answers the open prompt of that id: in the session named, else in
// one that link follows, else in the only one that has it. A follower on link
// goes by its own name, anybody else by clientID; one that only reads is
// refused. The problem is what the caller is told in a successful answer; ""
// means that it worked.
func (r *Registry) Respond(session, toolID, response, clientID string, link *rpc.Link) (problem string, err error) {
	var candidates []*Session
	if session != "" {
		s, err := r.Find(session)
		if err != nil {
			return "", err
		}
		candidates = []*Session{s}
	} else {
		for _, s := range r.List() {
			if slices.Contains(s.Prompts(), toolID) {
				candidates = append(candidates, s)
			}
		}
		if followed := slices.DeleteFunc(slices.Clone(candidates), func(s *Session) bool { return !s.follows(link) }); len(followed) > 0 {
			candidates = followed
		}
	}
	if len(candidates) > 1 {
		return "several sessions have a pending prompt for " + toolID + ": name the session", nil
	}
	if len(candidates) == 1 {
		if candidates[0].onlyReads(link) {
			return "", errReadOnly
		}
		if id := candidates[0].clientOn(link); id != "" {
			clientID = id
		}
		if candidates[0].Respond(toolID, response, clientID) {
			return "", nil
		}
	}
	return "no pending prompt for " + toolID, nil
}

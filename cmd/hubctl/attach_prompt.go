package main

import (
	"context"
	"fmt"
	"strings"
	"sync"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
)

// promptList has the permission prompts of a session that nobody has answered
// yet. The first is on the screen, where one key answers it.
type promptList struct {
	t      *attaching
	client *client.Client
	ctx    context.Context
	keys   bool // there is a keyboard to answer with

	mu   sync.Mutex
	open []openPrompt
	mine map[string]bool // answered here, and not resolved yet
	told map[string]bool // the same, and the user knows
}

type openPrompt struct {
	toolID string
	text   string
	later  bool // the user has put it off
}

// promptKeys are the keys that answer.
var promptKeys = []struct {
	key            byte
	answer, phrase string
}{
	{'y', "APPROVE_ONCE", "yes"},
	{'s', "APPROVE_SESSION", "session"},
	{'p', "APPROVE_PROJECT", "project"},
	{'a', "APPROVE_ALWAYS", "always"},
	{'t', "APPROVE_TOOL_ALWAYS", "tool"},
	{'n', "DENY", "no"},
	{'c', "CANCEL", "cancel"},
}

const keyEscape = 0x1b

// ask takes a prompt in and shows it when it is the first. It runs within
// screen.show, as does resolved.
func (l *promptList) ask(event rpc.Value) {
	details, _ := event.Member("details")
	id := textOf(details, "tool_id")
	p := openPrompt{toolID: id, text: promptText(details)}
	l.mu.Lock()
	for i, o := range l.open {
		if o.toolID == id { // a newer one takes its place
			l.open = append(l.open[:i], l.open[i+1:]...)
			break
		}
	}
	l.open = append(l.open, p)
	first := len(l.open) == 1 || !l.waitingLocked()
	l.mu.Unlock()
	if first {
		l.show(p)
	}
}

func (l *promptList) show(p openPrompt) {
	l.t.screen.talk("permission asked: " + p.text)
	if !l.keys || p.toolID == "" {
		return
	}
	var parts []string
	for _, k := range promptKeys {
		parts = append(parts, fmt.Sprintf("[%c]%s", k.key, k.phrase[1:]))
	}
	l.t.screen.plain("  allow? " + strings.Join(parts, " ") + " [Esc]later")
}

// resolved says how a prompt ended and shows the next one.
func (l *promptList) resolved(event rpc.Value) {
	id, answer := textOf(event, "tool_id"), textOf(event, "response")
	l.mu.Lock()
	known := false
	for i, o := range l.open {
		if o.toolID == id {
			l.open = append(l.open[:i], l.open[i+1:]...)
			known = true
			break
		}
	}
	mine := l.mine[id]
	delete(l.mine, id)
	told := l.told[id]
	delete(l.told, id)
	var next *openPrompt
	for i := range l.open {
		if !l.open[i].later {
			next = &l.open[i]
			break
		}
	}
	l.mu.Unlock()
	expired, _ := event.Member("expired")
	gone, _ := expired.AsBool()
	who := textOf(event, "client_id")
	switch {
	case told:
	case mine:
		l.t.screen.talk("answered: " + answer)
	case gone:
		l.t.screen.talk("permission was denied: nobody answered in time")
	case who != "":
		l.t.screen.talk(fmt.Sprintf("permission was decided by %s: %s", who, answer))
	default:
		l.t.screen.talk("permission was decided: " + answer)
	}
	if known && next != nil {
		l.show(*next)
	}
}

// waiting reports whether the next key answers a prompt.
func (l *promptList) waiting() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.waitingLocked()
}

func (l *promptList) waitingLocked() bool {
	if !l.keys {
		return false
	}
	for _, p := range l.open {
		if !p.later && p.toolID != "" && !l.mine[p.toolID] {
			return true
		}
	}
	return false
}

// key takes a key for the prompt on the screen and reports whether it was one
// that ends it.
func (l *promptList) key(c byte) bool {
	answer := ""
	for _, k := range promptKeys {
		if c|0x20 == k.key {
			answer = k.answer
		}
	}
	l.mu.Lock()
	var p *openPrompt
	for i := range l.open {
		if o := &l.open[i]; !o.later && o.toolID != "" && !l.mine[o.toolID] {
			p = o
			break
		}
	}
	switch {
	case p == nil:
		l.mu.Unlock()
		return true
	case c == keyEscape:
		p.later = true
		l.mu.Unlock()
		l.t.screen.notice(`later; "answer" on the command line answers it then`)
		return true
	case answer == "":
		l.mu.Unlock()
		l.t.bell()
		return false
	}
	id := p.toolID
	l.mine[id] = true
	l.mu.Unlock()
	l.t.app.spawn(func() { // ends with the answer
		if err := l.respond(l.ctx, id, answer); err != nil && l.ctx.Err() == nil {
			l.t.screen.notice("the answer was not taken: %s", messageOf(err))
		}
	})
	return true
}

// respond answers a prompt. Who comes too late is told so.
func (l *promptList) respond(ctx context.Context, toolID, answer string) error {
	l.mu.Lock()
	l.mine[toolID] = true
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	var result struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	}
	params := map[string]string{"tool_id": toolID, "response": answer, "session": l.t.session}
	err := l.client.Call(ctx, "permission.respond", params, &result)
	if err == nil && !result.OK {
		err = fmt.Errorf("%s", result.Error)
	}
	if err != nil {
		l.mu.Lock()
		delete(l.mine, toolID)
		l.mu.Unlock()
	}
	return err
}

// knows notes whether the user need not be told how a prompt ends.
func (l *promptList) knows(toolID string, told bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if told {
		l.told[toolID] = true
	} else {
		delete(l.told, toolID)
	}
}

// first returns the oldest prompt that is open, those that were put off included.
func (l *promptList) first() (toolID string, ok bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, p := range l.open {
		if p.toolID != "" {
			return p.toolID, true
		}
	}
	return "", false
}

// promptText says in one line what is asked.
func promptText(details rpc.Value) string {
	var parts []string
	what := textOf(details, "tool_name")
	if what == "" {
		what = textOf(details, "tool_type")
	}
	if what != "" {
		parts = append(parts, what)
	}
	for _, name := range []string{"command", "file_path", "mcp_tool_name", "server_name"} {
		if text := textOf(details, name); text != "" && text != what {
			parts = append(parts, text)
		}
	}
	text := strings.Join(parts, ": ")
	if risk := textOf(details, "risk_level"); risk != "" {
		if reason := textOf(details, "risk_reason"); reason != "" {
			risk += ", " + reason
		}
		text += " (risk " + risk + ")"
	}
	if text == "" {
		text = cellText(details)
	}
	return oneLine(text)
}

func textOf(object rpc.Value, name string) string {
	m, _ := object.Member(name)
	s, _ := m.AsString()
	return s
}

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
)

// eventPrinter writes the events of a session for people. What a program
// rendered for terminals is written as it is, escape sequences included.
type eventPrinter struct {
	w      io.Writer
	notice func(format string, args ...any)
	open   bool // the last chunk did not end its line
}

func (p *eventPrinter) print(e client.Event) error {
	v, err := rpc.Parse(e.JSON)
	if err != nil {
		return fmt.Errorf("the hub sent an event that is no JSON: %w", err)
	}
	text := func(name string) string {
		m, _ := v.Member(name)
		s, _ := m.AsString()
		return s
	}
	switch e.Type {
	case "heartbeat", "thinking", "state_snapshot", "stream_start":
		return nil
	case "output":
		return p.line(text("rendered"))
	case "message":
		if content := text("content"); content != "" {
			return p.line(label(text("message_type")) + content)
		}
		return nil
	case "stream_chunk":
		chunk := text("chunk")
		if chunk != "" {
			p.open = !strings.HasSuffix(chunk, "\n")
		}
		_, err := io.WriteString(p.w, chunk)
		return err
	case "stream_end":
		return p.flush()
	case "input":
		return p.line(text("client_id") + "> " + strings.TrimRight(strings.ReplaceAll(text("text"), "\r", "\n"), "\n"))
	case "gap":
		p.flush()
		p.notice("%d events are missing here", e.Gap())
		return nil
	case "permission_request":
		p.flush()
		details, _ := v.Member("details")
		p.notice("the session asks for permission: %s", cellText(details))
		return nil
	case "permission_resolved":
		p.flush()
		p.notice("permission was decided: %s", cellText(v))
		return nil
	case "shutdown":
		p.flush()
		p.notice("the hub is shutting down")
		return nil
	}
	return p.line(string(appendCompact(nil, e.JSON, plain)))
}

func label(who string) string {
	if who == "" {
		return ""
	}
	return who + ": "
}

// line writes a whole line, behind what an unfinished chunk left.
func (p *eventPrinter) line(s string) error {
	if err := p.flush(); err != nil {
		return err
	}
	if !strings.HasSuffix(s, "\n") {
		s += "\n"
	}
	_, err := io.WriteString(p.w, s)
	return err
}

// flush ends a line that a chunk left open.
func (p *eventPrinter) flush() error {
	if !p.open {
		return nil
	}
	p.open = false
	_, err := io.WriteString(p.w, "\n")
	return err
}

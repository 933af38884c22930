package main

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"strings"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
)

// eventPrinter writes the events of a session for people. What a program wrote
// to a terminal of its own is written as it is, escape sequences included; all
// else anybody may have published, and is text.
type eventPrinter struct {
	w        io.Writer // the screen, line by line; a terminal shows control characters of text
	screen   *screen
	prompts  *promptList
	terminal bool   // the session is a program on a terminal
	past     uint64 // events up to that number are replayed
	open     bool   // the last chunk did not end its line
	exit     string // how the session's program ended
	status   *programExit
}

// noteExit keeps the status of the session's program.
func (p *eventPrinter) noteExit(e client.Event) {
	if e.Type == "exit" {
		p.status = new(programExit)
		_ = json.Unmarshal(e.JSON, p.status) // what says nothing is nothing
	}
}

// print runs within screen.show.
func (p *eventPrinter) print(e client.Event) error {
	v, err := rpc.Parse(e.JSON)
	if err != nil {
		return fmt.Errorf("the hub sent an event that is not JSON: %w", err)
	}
	text := func(name string) string { return textOf(v, name) }
	switch e.Type {
	case "heartbeat", "thinking", "state_snapshot", "stream_start", "resize":
		return nil
	case "output":
		return p.line(text("rendered"))
	case "message":
		if content := text("content"); content != "" {
			return p.line(label(text("message_type")) + content)
		}
		return nil
	case "stream_chunk":
		return p.chunk(v, e.Seq)
	case "stream_end":
		return p.flush()
	case "input":
		if p.terminal { // the program shows what it wants to show of it
			return nil
		}
		return p.line(text("client_id") + "> " + strings.TrimRight(strings.ReplaceAll(text("text"), "\r", "\n"), "\n"))
	case "gap":
		if err := p.flush(); err != nil {
			return err
		}
		if n := e.Gap(); n > 0 {
			p.talk("%d events are missing here", n)
		} else {
			p.talk("the session began anew here")
		}
		return nil
	case "permission_request":
		if err := p.flush(); err != nil {
			return err
		}
		p.prompts.ask(v)
		return nil
	case "permission_resolved":
		if err := p.flush(); err != nil {
			return err
		}
		p.prompts.resolved(v)
		return nil
	case "exit":
		p.exit = exitText(v)
		return nil
	case "shutdown":
		if err := p.flush(); err != nil {
			return err
		}
		p.talk("the hub is shutting down")
		return nil
	}
	return p.line(string(appendCompact(nil, e.JSON, plain)))
}

// chunk writes a piece of a stream: bytes for a terminal, or text.
func (p *eventPrinter) chunk(v rpc.Value, seq uint64) error {
	chunk := textOf(v, "chunk")
	if chunk == "" {
		return nil
	}
	p.open = !strings.HasSuffix(chunk, "\n")
	tty, _ := v.Member("tty")
	if own, _ := tty.AsBool(); !own {
		_, err := io.WriteString(p.w, chunk)
		return err
	}
	p.terminal = true
	all := []byte(chunk)
	if text := textOf(v, "bytes"); text != "" {
		if b, err := base64.StdEncoding.DecodeString(text); err == nil {
			all = b
		}
	}
	return p.screen.terminal(all, seq <= p.past)
}

// exitText says how a program ended.
func exitText(v rpc.Value) string {
	if name := textOf(v, "signal"); name != "" {
		return ": its program was ended by " + oneLine(name)
	}
	code, _ := v.Member("code")
	if n, err := code.AsInt(); err == nil {
		return fmt.Sprintf(": its program ended with status %d", n)
	}
	return ""
}

func (p *eventPrinter) talk(format string, args ...any) {
	p.screen.talk(oneLine(fmt.Sprintf(format, args...)))
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
	if !p.open || p.screen.modes.fullScreen() {
		return nil
	}
	p.open = false
	_, err := io.WriteString(p.w, "\n")
	return err
}

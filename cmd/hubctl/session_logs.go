package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
)

// sessionLogs is the command "session logs": what a session keeps, without a
// terminal of its own.
type sessionLogs struct {
	app    *app
	follow bool
	tail   int
}

func newSessionLogs(a *app) *cobra.Command {
	l := &sessionLogs{app: a}
	cmd := &cobra.Command{
		Use:   "logs NAME",
		Short: "Print what a session keeps of its output",
		Long: `Print what a session keeps of its output, also when it has ended. With --follow
go on with what comes, until it ends. Nothing is read from this terminal.`,
		Example: `  hubctl session logs build
  hubctl session logs build --tail 20 --follow
  hubctl session logs build -o jsonl | jq -c 'select(.type == "exit")'`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeSession,
		RunE: func(cmd *cobra.Command, args []string) error {
			if cmd.Flags().Changed("tail") && l.tail < 0 {
				return usageError{"--tail must not be negative", ""}
			}
			return l.run(cmd.Context(), args[0])
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&l.follow, "follow", "f", false, "go on with what comes")
	flags.IntVarP(&l.tail, "tail", "n", -1, "begin with the last `N` lines (with -o json and jsonl: events)")
	flags.Lookup("tail").DefValue = "0" // help shows no default
	return cmd
}

func (l *sessionLogs) run(ctx context.Context, session string) error {
	a := l.app
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	var info struct {
		Meta struct {
			Terminal bool `json:"terminal"`
		} `json:"meta"`
	}
	err = c.Call(ctx, "session.info", map[string]string{"session": session}, &info)
	if err != nil && client.KindOf(err) != client.KindMalformed { // the meta of a session may be anything
		return noSession(err, session)
	}
	events, err := history(ctx, c, session)
	if err != nil {
		return noSession(err, session)
	}
	// It follows with the machinery of attach, but never touches the keyboard.
	t := &attaching{app: a, noStdin: true, session: session, client: c}
	format := a.formatOr("")
	p, values := t.prepare(ctx, format, info.Meta.Terminal)
	defer a.leave()
	show := func(e client.Event) error {
		err := t.screen.show(func() error {
			if format != "" {
				return values.print(e.JSON)
			}
			return p.print(e)
		})
		if errors.Is(err, errScreenLeft) {
			return t.endError(ctx, ctx.Err())
		}
		return err
	}
	var last uint64
	if len(events) > 0 {
		last = events[len(events)-1].Seq
		p.past = last
	}
	if err := l.past(p, format, events, show); err != nil {
		return err
	}
	if l.follow {
		a.endUnread()
		for e, err := range c.Attach(ctx, session, &client.AttachOptions{Since: &last}) {
			if err != nil {
				t.leaveScreen(p)
				return t.endError(ctx, err)
			}
			if err := show(e); err != nil {
				return err
			}
		}
	}
	t.leaveScreen(p)
	return nil
}

// past prints what the session keeps, or the end of it.
func (l *sessionLogs) past(p *eventPrinter, format string, events []client.Event, show func(client.Event) error) error {
	if l.tail >= 0 && format != "" {
		events = events[max(0, len(events)-l.tail):]
	}
	if l.tail < 0 || format != "" {
		for _, e := range events {
			if err := show(e); err != nil {
				return err
			}
		}
		return nil
	}
	// Lines are what is printed, so all of it is, to memory: the hub keeps 4 MiB.
	var text bytes.Buffer
	out, screen := p.w, p.screen
	p.w, p.screen = l.app.textTo(&text), newScreen(context.Background(), &text, io.Discard, false)
	for _, e := range events {
		if err := p.print(e); err != nil {
			return err
		}
	}
	p.w, p.screen = out, screen
	tail := lastLines(text.Bytes(), l.tail)
	return screen.show(func() error { return screen.terminal(tail, true) })
}

// lastLines returns the end of text: n lines, the last of which may be unfinished.
func lastLines(text []byte, n int) []byte {
	at := len(bytes.TrimSuffix(text, []byte("\n")))
	for range n {
		if at = bytes.LastIndexByte(text[:at], '\n'); at < 0 {
			return text
		}
	}
	if n == 0 {
		return nil
	}
	return text[at+1:]
}

// history returns all events that a session keeps.
func history(ctx context.Context, c *client.Client, session string) ([]client.Event, error) {
	var all []client.Event
	var after uint64
	for {
		var page struct {
			Events []json.RawMessage
			Next   uint64
		}
		err := c.Call(ctx, "session.history", map[string]any{"session": session, "after_seq": after, "limit": 1000}, &page, client.Idempotent())
		if err != nil {
			return nil, err
		}
		for _, text := range page.Events {
			var head struct {
				Seq  uint64 `json:"seq"`
				Type string `json:"type"`
			}
			if err := json.Unmarshal(text, &head); err != nil {
				return nil, fmt.Errorf("the hub's history of the session is of another form: %w", err)
			}
			all = append(all, client.Event{Seq: head.Seq, Type: head.Type, JSON: text})
		}
		if page.Next <= after {
			return all, nil
		}
		after = page.Next
	}
}

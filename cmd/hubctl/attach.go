package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hubd-dev/hubd/client"
)

// attaching is the command "attach".
type attaching struct {
	app         *app
	interactive bool
	readOnly    bool
	noStdin     bool
	json        bool
	since       int64
	keysText    string
	keys        detachKeys
	raw         bool // the terminal is in raw mode
	session     string
}

func newAttach(a *app) *cobra.Command {
	t := &attaching{app: a}
	cmd := &cobra.Command{
		Use:   "attach [SESSION]",
		Short: "Follow a session, and type into it",
		Long: `Follow a session: print what it keeps for newcomers, then what is published. It
ends when the session is closed. A broken connection is made again; what came
meanwhile is printed then, and what was lost is said.

With --interactive what is typed goes to the owner of the session, key by key
from a terminal. Without it nothing is sent. On a terminal the detach keys
(Ctrl-P Ctrl-Q) leave the session running and end hubctl.

Without SESSION the session of the socket is followed.`,
		Example: `  hubctl attach demo
  hubctl attach demo --interactive
  hubctl attach demo --since 120 --json | jq -c 'select(.type == "output")'
  hubctl attach demo --detach-keys 'ctrl-]'`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeSession,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 1 {
				t.session = args[0]
			}
			if cmd.Flags().Changed("since") && t.since < 0 {
				return usageError{"--since must not be negative", ""}
			}
			return t.run(cmd.Context())
		},
	}
	flags := cmd.Flags()
	flags.BoolVarP(&t.interactive, "interactive", "i", false, "send what is typed to the owner of the session")
	flags.BoolVar(&t.readOnly, "read-only", false, "send nothing (this is the default)")
	flags.BoolVar(&t.noStdin, "no-stdin", false, "do not read stdin, not even for the detach keys")
	flags.BoolVar(&t.json, "json", false, "print every event as one line of JSON (the same as -o jsonl)")
	flags.Int64Var(&t.since, "since", -1, "begin after the event with that `number`")
	flags.StringVar(&t.keysText, "detach-keys", "ctrl-p,ctrl-q", "`keys` that detach, such as ctrl-] or ctrl-a,d; or none")
	return cmd
}

// errDetached is the cause of the context when the detach keys were pressed.
var errDetached = errors.New("detached")

func (t *attaching) run(ctx context.Context) error {
	switch {
	case t.interactive && t.readOnly:
		return usageError{"--interactive and --read-only exclude each other", ""}
	case t.interactive && t.noStdin:
		return usageError{"--interactive needs stdin: it goes without --no-stdin", ""}
	}
	var err error
	if t.keys, err = parseKeys(t.keysText); err != nil {
		return err
	}
	format := t.app.formatOr("")
	if t.json {
		format = formatJSONL
	}
	c, err := t.app.dial(ctx)
	if err != nil {
		return err
	}
	if t.session == "" {
		t.session = c.Server().Identity
	}
	if err := c.Call(ctx, "session.info", map[string]string{"session": t.session}, nil); err != nil {
		return t.endError(ctx, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	if err := t.takeTerminal(); err != nil {
		return err
	}
	defer t.app.leave()

	screen := &eventPrinter{w: t.lineWriter(t.app.out, t.app.outTTY), notice: t.notice}
	opts := &client.AttachOptions{
		Interactive: t.interactive,
		OnBreak: func(err error) {
			t.notice("connection lost: %s; trying to come back", messageOf(err))
		},
		OnResume: func(r client.Resumed) { t.notice("%s", resumedText(r)) },
	}
	if t.since >= 0 {
		since := uint64(t.since)
		opts.Since = &since
	}
	if !t.noStdin && (t.interactive || t.raw) {
		go t.input(ctx, cancel, c) // ends with stdin or with the program
	}
	if t.interactive && t.raw {
		stop := t.watchSize(ctx, c)
		defer stop()
	}
	values := t.app.printer(format)
	values.w = screen.w
	t.greet()
	for e, err := range c.Attach(ctx, t.session, opts) {
		if err != nil {
			screen.flush()
			return t.endError(ctx, err)
		}
		if format != "" {
			err = values.print(e.JSON)
		} else {
			err = screen.print(e)
		}
		if err != nil {
			return err
		}
	}
	screen.flush()
	t.notice("session %s is closed", oneLine(t.session))
	return nil
}

// endError is what an ended loop means: leaving with the detach keys is no failure.
func (t *attaching) endError(ctx context.Context, err error) error {
	if context.Cause(ctx) == errDetached {
		t.notice("detached; session %s goes on", oneLine(t.session))
		return nil
	}
	if e, ok := errors.AsType[*client.Error](err); ok && e.Kind == client.KindNotFound && !e.NoMethod() {
		return hintedError{fmt.Errorf("no such session %q%w", t.session, silent{err}), sessionsHint}
	}
	return err
}

// greet says, on a terminal, what happens now and how to leave.
func (t *attaching) greet() {
	if !t.app.errTTY {
		return
	}
	mode := "read-only"
	if t.interactive {
		mode = "interactive"
	}
	leave := "Ctrl-C leaves"
	if t.raw && len(t.keys) > 0 {
		leave = t.keys.String() + " detaches"
	}
	t.notice("attached to %s, %s; %s", oneLine(t.session), mode, leave)
}

// notice writes a line of talk.
func (t *attaching) notice(format string, args ...any) {
	fmt.Fprintf(t.lineWriter(t.app.err, t.app.errTTY), "hubctl: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

// messageOf is the text of an error without the method, which nobody typed.
func messageOf(err error) string {
	if e, ok := errors.AsType[*client.Error](err); ok && e.Message != "" {
		return e.Message
	}
	return err.Error()
}

func resumedText(r client.Resumed) string {
	away := r.Away.Round(100 * time.Millisecond)
	switch {
	case r.Restarted:
		return fmt.Sprintf("back after %v; the session is a new one, what it had before is gone", away)
	case r.Behind == 0:
		return fmt.Sprintf("back after %v; nothing was missed", away)
	case r.Behind == 1:
		return fmt.Sprintf("back after %v; 1 event came meanwhile", away)
	}
	return fmt.Sprintf("back after %v; %d events came meanwhile", away, r.Behind)
}

// takeTerminal switches the terminal to raw mode, when there is one to read
// from: keys come one by one, Ctrl-C among them. app.leave switches it back.
func (t *attaching) takeTerminal() error {
	stdin, ok := t.app.in.(*os.File)
	if t.noStdin || !t.app.inTTY || !ok || len(t.keys) == 0 && !t.interactive {
		return nil
	}
	fd := int(stdin.Fd())
	state, err := term.MakeRaw(fd)
	if err != nil {
		return fmt.Errorf("cannot take the terminal: %w", err)
	}
	t.app.keep(func() { term.Restore(fd, state) })
	t.raw = true
	return nil
}

// lineWriter is w, with CR before each LF where a terminal in raw mode needs that.
func (t *attaching) lineWriter(w io.Writer, tty bool) io.Writer {
	if t.raw && tty {
		return &crlfWriter{w: w}
	}
	return w
}

// crlfWriter writes LF as CR LF, and CR LF as it is.
type crlfWriter struct {
	w    io.Writer
	last byte
}

func (c *crlfWriter) Write(p []byte) (int, error) {
	out := make([]byte, 0, len(p)+len(p)/16+8)
	for _, b := range p {
		if b == '\n' && c.last != '\r' {
			out = append(out, '\r')
		}
		out = append(out, b)
		c.last = b
	}
	if _, err := c.w.Write(out); err != nil {
		return 0, err
	}
	return len(p), nil
}

const ctrlC = 3

// input reads keys until stdin ends: it looks for the detach keys and sends the
// rest to the session. A read-only follower leaves with Ctrl-C as well.
func (t *attaching) input(ctx context.Context, cancel context.CancelCauseFunc, c *client.Client) {
	filter := keyFilter{}
	if t.raw {
		filter.keys = t.keys
	}
	var part []byte // an unfinished character
	buf := make([]byte, 4096)
	for ctx.Err() == nil {
		n, err := t.app.in.Read(buf)
		text, detach := filter.pass(buf[:n])
		if err != nil {
			text = append(append([]byte(nil), text...), filter.rest()...)
		}
		if t.interactive {
			part = append(part, text...)
			whole := len(part) - unfinished(part)
			if detach || err != nil {
				whole = len(part)
			}
			if whole > 0 {
				t.sendInput(ctx, c, string(part[:whole]))
				part = append([]byte(nil), part[whole:]...)
			}
		} else {
			for _, key := range text {
				if key == ctrlC {
					cancel(errInterrupted)
					return
				}
			}
		}
		if detach {
			cancel(errDetached)
			return
		}
		if err != nil {
			return
		}
	}
}

// sendLimit bounds the wait for the hub to take what was typed.
const sendLimit = 10 * time.Second

func (t *attaching) sendInput(ctx context.Context, c *client.Client, text string) {
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	if err := c.Input(ctx, t.session, text); err != nil && !errors.Is(err, context.Canceled) {
		t.notice("input was not taken: %s", messageOf(err))
	}
}

// watchSize tells the session the size of the terminal, now and when it changes.
func (t *attaching) watchSize(ctx context.Context, c *client.Client) (stop func()) {
	out, ok := t.app.out.(*os.File)
	if !ok || !t.app.outTTY {
		return func() {}
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, sizeSignals...)
	ctx, cancel := context.WithCancel(ctx)
	go func() { // ends with stop
		for {
			if cols, rows, err := term.GetSize(int(out.Fd())); err == nil {
				limited, done := context.WithTimeout(ctx, sendLimit)
				c.Resize(limited, t.session, cols, rows) // a session that has no use for it says so: no matter
				done()
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	}()
	return func() {
		signal.Stop(changed)
		cancel()
	}
}

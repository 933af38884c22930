package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strconv"
	"sync/atomic"
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
	exitStatus  bool // to end with the status of the session's program
	keysText    string
	keys        detachKeys
	commandText string
	command     detachKeys // one key, or none
	raw         bool       // the terminal is in raw mode
	rawOut      bool       // its output alone is
	session     string
	name        string // what this follower calls itself

	client   *client.Client
	screen   *screen
	prompts  *promptList
	sender   *sender
	commands *commandLine
	away     atomic.Bool // the connection is broken
}

func newAttach(a *app) *cobra.Command {
	t := &attaching{app: a}
	cmd := &cobra.Command{
		Use:   "attach [SESSION]",
		Short: "Follow a session, and type into it",
		Long: `Follow a session: print what it keeps for new followers, then what is published. It
ends when the session is closed. A broken connection is made again: what came
meanwhile is printed, and if something was lost it says so.

With --interactive what is typed goes to the owner of the session, key by key
from a terminal, the size of the terminal is told, and permission prompts are
answered with a key. Without it nothing is sent.

On a terminal the detach keys (Ctrl-P Ctrl-Q) leave the session running and end
hubctl, and Ctrl-\ opens a command line: call METHOD, methods, state get KEY,
who, detach, help. Pressed twice it is sent to the session.

Without SESSION the session of the socket is followed.`,
		Example: `  hubctl attach demo
  hubctl attach demo --interactive
  hubctl attach demo --since 120 --json | jq -c 'select(.type == "output")'
  hubctl attach demo --detach-keys 'ctrl-]' --command-key none`,
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
	flags.BoolVar(&t.exitStatus, "exit-status", false, "when the session ends, exit with the status of its program")
	flags.Int64Var(&t.since, "since", -1, "begin after event number `N`")
	flags.Lookup("since").DefValue = "0" // help shows no default
	flags.StringVar(&t.keysText, "detach-keys", "ctrl-p,ctrl-q", "`keys` that detach, such as ctrl-] or ctrl-a,d; or none")
	flags.StringVar(&t.commandText, "command-key", "ctrl-\\", "`key` that opens the command line; or none")
	return cmd
}

// errDetached is the cause of the context when the detach keys were pressed.
var errDetached = errors.New("detached")

func (t *attaching) check() (err error) {
	switch {
	case t.interactive && t.readOnly:
		return usageError{"--interactive and --read-only exclude each other", ""}
	case t.interactive && t.noStdin:
		return usageError{"--interactive needs stdin: it goes without --no-stdin", ""}
	}
	if t.keys, err = parseKeys("--detach-keys", t.keysText); err != nil {
		return err
	}
	if t.command, err = parseKeys("--command-key", t.commandText); err != nil {
		return err
	}
	switch {
	case len(t.command) > 1:
		return usageError{"--command-key: it is one key", `such as "ctrl-]"`}
	case len(t.command) == 1 && bytes.IndexByte(t.keys, t.command[0]) >= 0:
		return usageError{fmt.Sprintf("%s cannot both detach and open the command line", t.command), "--command-key none switches that off"}
	}
	return nil
}

func (t *attaching) run(ctx context.Context) error {
	if err := t.check(); err != nil {
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
	t.client = c
	if t.session == "" {
		t.session = c.Server().Identity
	}
	var info struct {
		Seq  uint64 `json:"seq"`
		Meta struct {
			Terminal bool `json:"terminal"`
		} `json:"meta"`
	}
	err = c.Call(ctx, "session.info", map[string]string{"session": t.session}, &info)
	if client.KindOf(err) == client.KindMalformed { // the meta of a session may be anything
		err = nil
	}
	if err != nil {
		return t.endError(ctx, err)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	events, values := t.prepare(ctx, format, info.Meta.Terminal)
	events.past = info.Seq
	defer t.app.leave()
	t.name = t.clientName()
	opts := &client.AttachOptions{
		Interactive: t.interactive, Name: t.name,
		OnBreak: func(err error) {
			t.away.Store(true)
			t.screen.notice("connection lost: %s; trying to come back", messageOf(err))
		},
		OnResume: func(r client.Resumed) {
			t.away.Store(false)
			events.past = 0
			if r.Restarted {
				events.past = r.Behind
			}
			t.screen.notice("%s", resumedText(r))
			t.askRedraw(ctx) // the hub has forgotten the size, too
		},
	}
	if t.since >= 0 {
		since := uint64(t.since)
		opts.Since = &since
	}
	t.app.endUnread()
	t.greet()
	t.startKeyboard(ctx, cancel)
	if t.interactive && t.raw {
		stop := t.watchSize(ctx, c)
		defer stop()
	}
	for e, err := range c.Attach(ctx, t.session, opts) {
		if err != nil {
			t.leaveScreen(events)
			return t.endError(ctx, err)
		}
		err = t.screen.show(func() error {
			events.noteExit(e)
			if format != "" {
				return values.print(e.JSON)
			}
			return events.print(e)
		})
		if errors.Is(err, errScreenLeft) {
			t.leaveScreen(events)
			return t.endError(ctx, ctx.Err())
		}
		if err != nil {
			return err
		}
	}
	t.leaveScreen(events)
	t.screen.notice("session %s is closed%s", oneLine(t.session), events.exit)
	if t.exitStatus {
		if events.status == nil { // it came before the first event that was printed
			events.status = statusOf(ctx, c, t.session)
		}
		return events.status.status(t.session)
	}
	return nil
}

// prepare takes the terminal and returns what writes events to it: for people,
// or as values where there is a format. terminal says that the session is a
// program on a terminal.
func (t *attaching) prepare(ctx context.Context, format string, terminal bool) (*eventPrinter, *printer) {
	t.raw = !t.noStdin && t.app.inTTY && (t.app.outTTY || t.interactive)
	t.rawOut = !t.raw && t.app.outTTY && terminal && format == ""
	out := styled(t.app.out)
	t.screen = newScreen(ctx, out, t.lineWriter(styled(t.app.err), t.app.errTTY), t.app.outTTY)
	t.screen.width = t.width
	t.takeTerminal(ctx)
	t.prompts = &promptList{t: t, client: t.client, ctx: ctx, keys: t.interactive && t.raw, mine: map[string]bool{}, told: map[string]bool{}}
	lines := t.lineWriter(out, t.app.outTTY)
	events := &eventPrinter{w: t.app.textTo(lines), screen: t.screen, prompts: t.prompts, terminal: terminal}
	values := t.app.printer(format)
	values.w = lines
	return events, values
}

// textTo is a writer of text to w, which is stdout or becomes it later.
func (a *app) textTo(w io.Writer) io.Writer {
	if a.outTTY {
		return &visible{w: w}
	}
	return w
}

// startKeyboard begins to read stdin, where that means anything.
func (t *attaching) startKeyboard(ctx context.Context, cancel context.CancelCauseFunc) {
	t.sender = newSender(t)
	if t.noStdin || !t.interactive && !t.raw {
		return
	}
	k := &keyboard{t: t, ctx: ctx, cancel: cancel}
	t.commands = &commandLine{t: t, client: t.client, cancel: cancel, out: holder{t.screen}}
	if t.raw {
		k.filter.keys = t.keys
		if len(t.command) > 0 && t.app.outTTY {
			k.command = t.command[0]
		}
	}
	if t.interactive {
		t.app.spawn(func() { t.sender.run(ctx, t.client) }) // ends with ctx or the end of stdin
	}
	t.app.spawn(k.read) // ends with stdin or with the program
}

// leaveScreen ends the output: the last line, and what the session's program
// has done to the terminal.
func (t *attaching) leaveScreen(events *eventPrinter) {
	t.screen.leave(events.flush)
}

// clientName is how other followers see this one.
func (t *attaching) clientName() string {
	user := t.app.getenv("USER")
	if user == "" {
		user = "hubctl"
	}
	return user + "-" + strconv.Itoa(os.Getpid())
}

// width returns the columns of the terminal.
func (t *attaching) width() int {
	if out, ok := fileOf(t.app.out); ok {
		if cols, _, err := term.GetSize(int(out.Fd())); err == nil && cols > 0 {
			return cols
		}
	}
	return 80
}

// bell says that a key means nothing here.
func (t *attaching) bell() {
	if t.app.errTTY {
		fmt.Fprint(styled(t.app.err), "\a")
	}
}

// noTTY reports whether what is sent comes from a file or a program.
func (t *attaching) noTTY() bool { return !t.raw }

// endError is what an ended loop means: leaving with the detach keys is no failure.
func (t *attaching) endError(ctx context.Context, err error) error {
	if context.Cause(ctx) == errInterrupted { // by a key or by a signal
		return errInterrupted
	}
	if context.Cause(ctx) == errUnread {
		return errUnread
	}
	if context.Cause(ctx) == errDetached {
		t.screen.notice("detached; session %s goes on", oneLine(t.session))
		return nil
	}
	if t.screen != nil && client.KindOf(err) == client.KindNotFound {
		return fmt.Errorf("session %s is gone: it ended while the hub could not be reached%w", oneLine(t.session), silent{err})
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
	if t.raw && len(t.command) > 0 && t.app.outTTY {
		leave += ", " + t.command.String() + " opens a command line"
	}
	t.screen.notice("attached to %s, %s; %s", oneLine(t.session), mode, leave)
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

// takeTerminal switches the terminal to raw mode where stdin and stdout are
// one, or -i says so: keys come one by one, Ctrl-C among them, and output passes
// as it is. Where stdin is not read, and the session is a program on a terminal,
// that is so for the output alone. app.leave switches it back.
func (t *attaching) takeTerminal(ctx context.Context) {
	own := &ownTerminal{
		stop:   t.screen.suspend,
		resume: func() { t.screen.resume(); t.askRedraw(ctx) },
		end:    func() { t.screen.leave(nil) },
	}
	stdin, isFile := t.app.in.(*os.File)
	t.raw = t.raw && isFile
	switch {
	case t.raw:
		own.fd, own.change = int(stdin.Fd()), rawMode
		if !t.app.outTTY { // what reads our output may write to this terminal
			own.change = rawInput
		}
		t.app.in = keyReader{stdin}
	case t.rawOut:
		out, ok := fileOf(t.app.out)
		if !ok {
			return
		}
		own.fd, own.change = int(out.Fd()), passOutput
	default:
		return
	}
	t.app.takeTerminal(own)
}

// lineWriter is w, with CR before each LF where a terminal in raw mode needs that.
func (t *attaching) lineWriter(w io.Writer, tty bool) io.Writer {
	if (t.raw || t.rawOut) && tty {
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

// sendLimit bounds the wait for the hub to take what was typed.
const sendLimit = 10 * time.Second

// watchSize tells the session the size of the terminal, now and when it changes.
func (t *attaching) watchSize(ctx context.Context, c *client.Client) (stop func()) {
	out, ok := fileOf(t.app.out)
	if !ok || !t.app.outTTY {
		return func() {}
	}
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, sizeSignals...)
	ctx, cancel := context.WithCancel(ctx)
	t.app.spawn(func() { // ends with stop
		for {
			if cols, rows, err := term.GetSize(int(out.Fd())); err == nil {
				limited, done := context.WithTimeout(ctx, sendLimit)
				_ = c.Resize(limited, t.session, cols, rows) // a session that has no use for it says so: no matter
				done()
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			}
		}
	})
	return func() {
		signal.Stop(changed)
		cancel()
	}
}

// askRedraw tells the session the size of the terminal, which makes a
// full-screen program draw anew.
func (t *attaching) askRedraw(ctx context.Context) {
	out, ok := fileOf(t.app.out)
	if !ok || !t.app.outTTY || !t.raw || !t.interactive {
		return
	}
	cols, rows, err := term.GetSize(int(out.Fd()))
	if err != nil {
		return
	}
	t.app.spawn(func() { // ends with the call
		ctx, cancel := context.WithTimeout(ctx, sendLimit)
		defer cancel()
		_ = t.client.Resize(ctx, t.session, cols, rows) // a session that has no use for it says so: no matter
	})
}

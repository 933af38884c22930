package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/creack/pty"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
)

// running is the command "run": a program on a pseudo-terminal whose output is
// the session's events and whose input is what interactive followers type.
type running struct {
	app     *app
	session string
	title   string
	detach  bool
	ring    int
	size    string

	initial  *pty.Winsize
	keys     bool         // -i
	back     atomic.Int64 // when the connection to the hub was last made again
	unread   atomic.Bool  // nobody reads stdout any more
	screen   *screen
	client   *client.Client
	hubBack  chan struct{} // holds one: the hub is back
	program  *program
	producer *client.Producer
}

func newRun(a *app) *cobra.Command {
	r := &running{app: a}
	cmd := &cobra.Command{
		Use:   "run [--session NAME] [-d] [--] COMMAND [ARG]...",
		Short: "Run a program as a session that others can attach to",
		Long: `Run a program on a terminal of its own, as a session: everybody who attaches sees
its output, those who attach interactively type into it, and the window that was
resized last sets its size. The session ends with the program, and hubctl exits
with the program's status.

With -d the program is detached: hubctl returns as soon as it runs, and closing
this terminal does not end it. Without -d, what is typed here goes to the
program, too, where stdin and stdout are the terminal, or with -i.

A restart of the hub does no harm: the program goes on, and what it writes
meanwhile is published when the hub is back (up to 8 MiB; beyond that it waits,
for a minute at most, and then output is dropped and the followers are told).`,
		Example: `  hubctl run -d --session build -- make       then, anywhere: hubctl attach build
  hubctl run -d --session repl -- python3     hubctl attach -i repl
  hubctl run --session deploy -- ./deploy.sh  here, and for everybody who attaches`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{"which command?", "usage: hubctl run --session NAME -- COMMAND"}
			}
			return nil
		},
		ValidArgsFunction: func(_ *cobra.Command, args []string, _ string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault
		},
		RunE: func(cmd *cobra.Command, args []string) error { return r.run(cmd.Context(), args) },
	}
	flags := cmd.Flags()
	flags.SetInterspersed(false) // what follows COMMAND is its own
	flags.StringVarP(&r.session, "session", "s", "", "`name` of the session; without it that of the command")
	flags.BoolVarP(&r.detach, "detach", "d", false, "let the program run without this terminal")
	flags.BoolVarP(&r.keys, "interactive", "i", false, "take the keyboard, though stdout is not the terminal")
	flags.StringVar(&r.title, "title", "", "`text` shown with the session; without it, the command line")
	flags.IntVar(&r.ring, "ring", 4096, "show new followers the latest `N` pieces of output, within 4 MiB")
	flags.StringVar(&r.size, "size", "", "start at `COLSxROWS`; without it, the size of this terminal, or 80x24")
	return cmd
}

// exitStatus is the status of a program that hubctl ran, to be passed on.
type exitStatus struct{ code int }

func (e exitStatus) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// The codes with which shells say that a program could not be run.
const (
	exitNotRun   = 126
	exitNotFound = 127
)

// notRun is a program that could not be started.
type notRun struct {
	error
	code int
}

func (e notRun) Unwrap() error { return e.error }

func notRunnable(name string, err error) error {
	code := exitNotRun
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		code, err = exitNotFound, errors.New("there is no such program")
	} else if e, ok := errors.AsType[*fs.PathError](err); ok {
		err = e.Err
	} else if e, ok := errors.AsType[*exec.Error](err); ok {
		err = e.Err
	}
	return notRun{fmt.Errorf("cannot run %s: %w", name, err), code}
}

func (r *running) run(ctx context.Context, args []string) error {
	if err := r.check(args); err != nil {
		return err
	}
	// A pipe without a reader is an error of Write.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE)
	inside := r.app.getenv(detachedEnv) != "" // this is the process without terminal
	if r.detach && !inside {
		return r.app.runDetached(r.session, r.initial)
	}
	c, err := r.app.dial(ctx)
	if err != nil {
		return err
	}
	input := newInputLine()
	defer input.close()
	r.client, r.hubBack = c, make(chan struct{}, 1)
	r.producer, err = c.Produce(ctx, r.session, &client.ProduceOptions{
		Title: r.title, Ring: r.ring,
		Meta:    map[string]any{"terminal": true, "command": args},
		OnInput: input.take,
		OnResume: func(time.Duration) {
			r.back.Store(time.Now().UnixNano())
			poke(r.hubBack)
		},
	})
	if kind := client.KindOf(err); kind == client.KindConflict || kind == client.KindPermission {
		err = hintedError{err, fmt.Sprintf(`look at it with "hubctl attach %s", or choose another --session`, r.session)}
	}
	if err != nil {
		return err
	}
	r.program, err = startProgram(args, r.session, r.initial)
	if err != nil {
		_ = r.endSession(ctx, time.Second) // it ends with the connection otherwise
		return notRunnable(args[0], err)
	}
	// While the program runs a signal is for it; then it ends hubctl, as ever.
	r.app.divert(r.program.signal)
	defer r.app.divert(nil)
	r.app.spawn(func() {
		<-r.program.done
		r.app.divert(nil)
	})
	r.screen = newScreen(context.WithoutCancel(ctx), styled(r.app.out), &crlfWriter{w: styled(r.app.err)}, r.app.outTTY)
	defer forwardSignals(r.program)()
	defer r.app.leave()
	if inside {
		r.app.started()
	} else {
		r.shareTerminal()
	}
	r.app.spawn(func() { input.run(r) })
	status := r.pump(ctx)
	r.screen.leave(nil)
	r.app.leave()
	return r.finish(ctx, status, inside)
}

// check completes what was not given, before anything is started.
func (r *running) check(args []string) error {
	if _, err := exec.LookPath(args[0]); err != nil {
		return notRunnable(args[0], err)
	}
	if r.session == "" {
		r.session = sessionNameOf(args[0])
	}
	if r.title == "" {
		r.title = rpc.CleanText(strings.Join(args, " "), 200)
	}
	if r.ring < 0 {
		return usageError{"--ring must not be negative", ""}
	}
	r.initial = &pty.Winsize{Cols: 80, Rows: 24}
	size := r.size
	if size == "" {
		size = r.app.getenv(detachedEnv)
	}
	if size != "" {
		cols, rows, _ := strings.Cut(size, "x")
		c, err := strconv.ParseUint(cols, 10, 16)
		l, err2 := strconv.ParseUint(rows, 10, 16)
		if err != nil || err2 != nil || c == 0 || l == 0 {
			return usageError{fmt.Sprintf("--size %s: no size such as 80x24", size), ""}
		}
		r.initial.Cols, r.initial.Rows = uint16(c), uint16(l)
	} else if out, ok := fileOf(r.app.out); ok && r.app.outTTY {
		if cols, rows, err := term.GetSize(int(out.Fd())); err == nil && cols > 0 && rows > 0 {
			r.initial.Cols, r.initial.Rows = uint16(cols), uint16(rows)
		}
	}
	return nil
}

// sessionNameOf makes a session name of a command.
func sessionNameOf(command string) string {
	name := strings.Map(func(c rune) rune {
		if c < 0x80 && (c == '.' || c == '_' || c == '-' || c >= '0' && c <= '9' || c|0x20 >= 'a' && c|0x20 <= 'z') {
			return c
		}
		return '-'
	}, filepath.Base(command))
	if name == "." || name == ".." {
		return "session"
	}
	return name[:min(len(name), 32)]
}

// pump publishes what the program writes until it has ended.
func (r *running) pump(ctx context.Context) exitStatus {
	output := newChunker()
	show := func([]byte) {}
	if r.app.getenv(detachedEnv) == "" {
		show = r.show
	}
	r.app.spawn(func() { // ends with the terminal of the program
		r.program.read(func(p []byte) {
			show(p)
			output.write(p)
		})
		output.end()
	})
	o := outlet{producer: r.producer}
	r.app.spawn(func() { // ends with this function, or before
		select {
		case <-r.producer.Done():
		case <-r.program.done:
			return
		}
		if r.app.getenv(detachedEnv) != "" { // nobody can ever see it again
			r.program.signal(syscall.SIGHUP)
		} else {
			r.notice("the session is gone: %s", messageOf(r.producer.Err()))
		}
	})
	o.publish(ctx, map[string]any{"type": "resize", "cols": r.initial.Cols, "rows": r.initial.Rows})
	for piece := output.next(); piece != nil; piece = output.next() {
		o.chunk(ctx, piece)
	}
	status := r.program.wait()
	exit := map[string]any{"type": "exit", "code": status.code}
	if name := r.program.killedBy(); name != "" {
		exit["signal"] = name
	}
	o.publish(ctx, exit)
	return status
}

// show shows the output of the program here. Once nobody reads it the program
// is told as if its terminal were gone.
func (r *running) show(p []byte) {
	err := r.screen.show(func() error { return r.screen.terminal(p, false) })
	if errors.Is(err, syscall.EPIPE) && r.unread.CompareAndSwap(false, true) {
		r.program.signal(syscall.SIGHUP)
	}
}

// How long the end of a program waits for a hub that is away.
const (
	lastWait         = 5 * time.Second
	lastWaitDetached = 10 * time.Minute

	// comeBack is how long followers need who lost the connection when this
	// program did.
	comeBack = 4 * time.Second
)

// finish closes the session of a program that has ended.
func (r *running) finish(ctx context.Context, status exitStatus, detached bool) error {
	// Followers that are on their way back, too, shall see the end.
	select {
	case <-time.After(time.Until(time.Unix(0, r.back.Load()).Add(comeBack))):
	case <-ctx.Done():
	}
	limit := lastWait
	if detached {
		limit = lastWaitDetached
	}
	err := r.endSession(ctx, limit)
	if err != nil && r.producer.Err() == nil {
		r.notice("the end of the output did not reach the hub: %s", messageOf(err))
	}
	return status
}

func (r *running) endSession(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return r.producer.Close(ctx)
}

func (r *running) notice(format string, args ...any) {
	r.screen.notice(format, args...)
}

// outlet publishes for a program. It never holds the program up for longer
// than its patience.
type outlet struct {
	producer *client.Producer
	lost     int // bytes of output since the hub had no room for more
}

// patience is how long a program is held up when there is no room for its output.
const patience = time.Minute

func (o *outlet) chunk(ctx context.Context, piece []byte) {
	if o.lost > 0 {
		text := fmt.Sprintf("%d bytes of output are missing here: the hub was away for too long", o.lost+len(piece))
		if o.try(ctx, 0, map[string]any{"type": "message", "message_type": "system", "content": text}) != nil {
			o.lost += len(piece)
			return
		}
		o.lost = 0
		return
	}
	if o.try(ctx, patience, chunkEvent(piece)) != nil {
		o.lost += len(piece)
	}
}

func (o *outlet) publish(ctx context.Context, event any) {
	_ = o.try(ctx, patience, event) // fails when the session is gone, which the program need not know
}

func (o *outlet) try(ctx context.Context, limit time.Duration, event any) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	return o.producer.Publish(ctx, event)
}

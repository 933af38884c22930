package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
)

// Exit codes. They are an interface: scripts rely on them.
const (
	exitOK          = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnreachable = 3
	exitDenied      = 4
	exitTimeout     = 5
	exitNoMethod    = 6
	exitCancelled   = 7
	exitInterrupted = 130
	exitUnread      = 128 + int(syscall.SIGPIPE) // what a shell says of programs that die of it
)

func newExitCodes() *cobra.Command {
	return &cobra.Command{
		Use:   "exit-codes",
		Short: "What the exit codes mean",
		Long: `Exit codes of hubctl:

    0  ok
    1  the call failed: the method said so, or its arguments did not fit
    2  wrong usage of hubctl itself
    3  the hub cannot be reached, or closed the connection
    4  the hub refused: not allowed, or not authenticated
    5  no answer in time: of the method, or of the hub itself
    6  the hub has no such method
    7  the hub cancelled the call
  130  interrupted (Ctrl-C, SIGTERM); the call was cancelled in the hub

"hubctl run", "session wait" and "attach --exit-status" end with the status of the program; 128 and the number of the
signal when one killed it, 126 when the program could not be run, 127 when there
is none.`,
	}
}

// usageError is a mistake on the command line.
type usageError struct{ text, hint string }

func (e usageError) Error() string { return e.text }

// hintedError is an error that somebody can do something about.
type hintedError struct {
	error
	hint string
}

func (e hintedError) Unwrap() error { return e.error }

// exitCode says what an error means to a script.
func exitCode(ctx context.Context, err error) int {
	if err == nil {
		return exitOK
	}
	if _, ok := errors.AsType[usageError](err); ok {
		return exitUsage
	}
	if status, ok := errors.AsType[exitStatus](err); ok {
		return status.code
	}
	if e, ok := errors.AsType[notRun](err); ok {
		return e.code
	}
	if context.Cause(ctx) == errInterrupted || errors.Is(err, errInterrupted) {
		return exitInterrupted
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return exitFailed
	}
	switch e.Kind {
	case client.KindDisconnected:
		return exitUnreachable
	case client.KindPermission, client.KindUnauthenticated:
		return exitDenied
	case client.KindTimeout:
		return exitTimeout
	case client.KindCancelled:
		return exitCancelled
	case client.KindNotFound:
		if e.NoMethod() {
			return exitNoMethod
		}
	case client.KindUnavailable:
		if _, dialing := errors.AsType[unreachable](err); dialing {
			return exitUnreachable
		}
	}
	return exitFailed
}

// report prints err, if it is one, and returns the exit code.
func (a *app) report(ctx context.Context, err error) int {
	if plugin, ok := errors.AsType[pluginResult](err); ok {
		return int(plugin)
	}
	code := exitCode(ctx, err)
	if code == exitOK {
		return code
	}
	if _, ok := errors.AsType[exitStatus](err); ok {
		return code // the program has spoken for itself
	}
	if code == exitInterrupted {
		fmt.Fprintln(a.err, "hubctl: interrupted")
		return code
	}
	if errors.Is(context.Cause(ctx), errUnread) || errors.Is(err, syscall.EPIPE) {
		return exitUnread
	}
	if errors.Is(err, os.ErrClosed) && client.KindOf(err) == client.KindInternal {
		return code // nobody reads stdout any more
	}
	text, hint := explain(err)
	fmt.Fprintf(a.err, "hubctl: %s\n", oneLine(text))
	if e, ok := errors.AsType[*client.Error](err); ok && len(e.Data) > 0 {
		fmt.Fprintf(a.err, "data: %s\n", e.Data)
	}
	if hint != "" {
		fmt.Fprintf(a.err, "hint: %s\n", hint)
	}
	return code
}

// explain returns the error line and the hint line of err.
func explain(err error) (text, hint string) {
	text = err.Error()
	if e, ok := errors.AsType[hintedError](err); ok {
		return text, e.hint
	}
	if e, ok := errors.AsType[usageError](err); ok {
		return text, e.hint
	}
	if e, ok := errors.AsType[unreachable](err); ok {
		return text, e.hint()
	}
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return text, ""
	}
	if strings.HasPrefix(e.Method, "file.") {
		text, hint = fileText(e, text)
	}
	switch e.Kind {
	case client.KindNotFound:
		if e.NoMethod() {
			return fmt.Sprintf("no such method %q", e.Method), `"hubctl methods" lists what there is`
		}
		if strings.HasPrefix(e.Method, "session.") {
			hint = sessionsHint
		}
	case client.KindInvalidParams:
		switch {
		case strings.Contains(e.Message, "result as a stream"):
			hint = "add --stream"
		case strings.Contains(e.Message, "expected a stream or an array"):
			hint = "--send FILE sends the items in a file, --send - those of stdin"
		case e.Method != "":
			hint = fmt.Sprintf(`"hubctl describe %s" shows its arguments`, e.Method)
		}
	case client.KindTimeout:
		hint = "--timeout allows more time"
	case client.KindPermission:
		if strings.Contains(e.Message, "hub.whoami") {
			hint = `"hubctl whoami" shows who the hub takes you for, and what gives the scopes`
		}
	case client.KindUnauthenticated:
		hint = "put the token into the variable HUBD_TOKEN"
	case client.KindOverloaded:
		hint = "a limit of the hub is reached: try again later"
	case client.KindDisconnected:
		if e.Retry == client.RetryUnknown {
			hint = "the method may have run: look before you call again"
		}
	}
	return text, hint
}

const sessionsHint = `"hubctl session ls" lists the sessions`

// oneLine keeps what came from elsewhere from writing to the terminal as it likes.
func oneLine(s string) string { return rpc.CleanText(s, 4*rpc.MaxErrorMessage) }

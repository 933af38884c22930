package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/client"
)

// programExit is how the program of a session has ended, as session.wait and
// the member exit of session.info say it.
type programExit struct {
	Code   *int
	Signal *string
}

// String says it in a few words.
func (e *programExit) String() string {
	switch {
	case e == nil || e.Code == nil:
		return "ended"
	case e.Signal != nil:
		return "ended by " + oneLine(*e.Signal)
	}
	return fmt.Sprintf("ended, status %d", *e.Code)
}

// status makes it the exit status of hubctl. A program of which nobody said
// how it ended has failed.
func (e *programExit) status(session string) error {
	switch {
	case e == nil || e.Code == nil:
		return fmt.Errorf("session %s has ended without an exit event: its producer was gone, or closed it without saying how its program ended", oneLine(session))
	case *e.Code == 0:
		return nil
	case *e.Code < 0 || *e.Code > 255:
		return exitStatus{exitFailed} // 0 is all that the lower bits might say
	}
	return exitStatus{*e.Code}
}

func newSessionWait(a *app) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait NAME",
		Short: "Wait for the end of a session, and exit with the status of its program",
		Long: `Wait until a session has ended and exit with the status of its program: 128 and
the number of the signal when one ended it, 1 when nobody has said how it ended.
A session that has ended is there for a while (10 minutes, if the hub's
limits.session_ended do not say otherwise). A restart of the hub does no harm.`,
		Example: `  hubctl run -d --session build -- make
  hubctl session wait build && hubctl session logs build --tail 5`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeSession,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			c, err := a.dial(ctx)
			if err != nil {
				return err
			}
			exit, err := waitForSession(ctx, c, args[0])
			if err != nil {
				return noSession(err, args[0])
			}
			return exit.status(args[0])
		},
	}
	spanFlag(cmd.Flags(), &timeout, "timeout", "t", 0, "give up after that time, such as 500ms or 2m")
	return cmd
}

// How long a session is waited for while the hub is away, and while the hub is
// back and does not know it: its producer may bring it back.
const (
	hubReturns     = 2 * time.Minute
	sessionReturns = 15 * time.Second
)

// waitForSession returns when a session has ended, whatever becomes of the hub meanwhile.
func waitForSession(ctx context.Context, c *client.Client, session string) (*programExit, error) {
	var broke, unknown time.Time
	pause := 100 * time.Millisecond
	for {
		exit := new(programExit)
		err := c.Call(ctx, "session.wait", map[string]string{"session": session}, exit, client.Idempotent())
		if err == nil || ctx.Err() != nil {
			return exit, err
		}
		switch client.KindOf(err) {
		case client.KindUnavailable, client.KindDisconnected, client.KindOverloaded:
			unknown = time.Time{}
			if broke.IsZero() {
				broke, pause = time.Now(), 100*time.Millisecond
			}
			if time.Since(broke) > hubReturns {
				return nil, err
			}
		case client.KindNotFound:
			if broke.IsZero() || !unknown.IsZero() && time.Since(unknown) > sessionReturns {
				return nil, err
			}
			if unknown.IsZero() {
				unknown = time.Now()
			}
		default:
			return nil, err
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil, err
		}
		pause = min(2*pause, 2*time.Second)
	}
}

func newSessionKill(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "kill NAME [SIGNAL]",
		Short: "Send the program of a session a signal",
		Long: `Send a signal to the program of a session and its children: TERM, if it is not
said otherwise, by name or number. "hubctl run" passes it on.`,
		Example: `  hubctl session kill build
  hubctl session kill build KILL
  hubctl session kill build && hubctl session wait build`,
		Args:              cobra.RangeArgs(1, 2),
		ValidArgsFunction: a.completeSession,
		RunE: func(cmd *cobra.Command, args []string) error {
			params := map[string]string{"session": args[0]}
			if len(args) == 2 {
				params["signal"] = args[1]
				if n, err := strconv.Atoi(args[1]); err == nil {
					if params["signal"] = unix.SignalName(syscall.Signal(n)); params["signal"] == "" {
						return usageError{fmt.Sprintf("there is no signal %d", n), "such as TERM, INT, HUP or 9"}
					}
				}
			}
			c, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			return noSession(c.Call(cmd.Context(), "session.kill", params, nil), args[0])
		},
	}
}

func newSessionRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "rm NAME...",
		Short: "Forget sessions that have ended",
		Example: `  hubctl session rm build
  hubctl session ls -o json | jq -r '.[] | select(.ended).session' | xargs -r hubctl session rm`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeSession,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			for _, name := range args {
				err := c.Call(cmd.Context(), "session.remove", map[string]string{"session": name}, nil)
				if client.KindOf(err) == client.KindConflict {
					return hintedError{err, fmt.Sprintf(`end it first: "hubctl session kill %s", or "hubctl session close %s"`, name, name)}
				}
				if err != nil {
					return noSession(err, name)
				}
			}
			return nil
		},
	}
}

// noSession is err, with a hint when the session is not there.
func noSession(err error, session string) error {
	if e, ok := err.(*client.Error); ok && e.Kind == client.KindNotFound && !e.NoMethod() && e.Message == "session not found: "+session { //nolint:errorlint // as it comes from a call
		return hintedError{fmt.Errorf("no such session %q%w", session, silent{err}), sessionsHint}
	}
	return err
}

// statusOf asks how the program of a session that has ended did.
func statusOf(ctx context.Context, c *client.Client, session string) *programExit {
	var info struct {
		Ended json.Number
		Exit  *programExit
	}
	if c.Call(ctx, "session.info", map[string]string{"session": session}, &info, client.Idempotent()) != nil || info.Ended == "" {
		return nil
	}
	return info.Exit
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"strings"
	"syscall"
	"time"

	"github.com/hubd-dev/hubd/internal/hub"
)

// reloadLimit bounds the whole of a reload.
const reloadLimit = 30 * time.Second

const reloadUsage = "usage: hubd reload [--state DIR]   make the running hub read its configuration again, and wait for the result\n"

// runReload is "hubd reload": it finds the hub by its state folder, asks it to
// read its configuration again, and says what came of it. It takes the flags of
// hubd, of which those count that say where the state is.
func runReload(args []string, stdout, stderr io.Writer) int {
	command, err := parse(args)
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "hubd: %v\n%s", err, reloadUsage)
		return hub.ExitUsage
	case command.help:
		fmt.Fprint(stdout, reloadUsage)
		return hub.ExitOK
	}
	o, broken := command.load() // even a broken file may say where the state is
	r, err := hub.FindRunning(o.StateFolder())
	if err == nil {
		err = reload(r, stdout)
	}
	if refused, ok := errors.AsType[refusedError](err); ok {
		fmt.Fprintf(stderr, "hubd: the configuration is not taken over, the old one stays:\n%s\n", refused)
		return hub.ExitUsage
	}
	if err == nil {
		return hub.ExitOK
	}
	fmt.Fprintf(stderr, "hubd: %v\n", err)
	if broken != nil {
		return fail(stderr, broken)
	}
	if errors.Is(err, fs.ErrPermission) {
		fmt.Fprintln(stderr, "hint: run it as the user of the hub or as root")
	} else {
		fmt.Fprintln(stderr, "hint: --state names the folder of the hub that is meant")
	}
	return hub.ExitFailure
}

// refusedError is what the hub says of a configuration that it does not take over.
type refusedError string

func (e refusedError) Error() string { return string(e) }

// reload asks the hub r and prints what it says.
func reload(r hub.Running, stdout io.Writer) error {
	ctx, cancel := context.WithTimeout(context.Background(), reloadLimit)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://hub/-/reload", nil)
	if err != nil {
		return err
	}
	unix := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", r.Socket)
	}}
	resp, err := (&http.Client{Transport: unix}).Do(req)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED) || errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("no hub runs: process %d, which listened at %s, is gone", r.PID, r.Socket)
	case errors.Is(err, os.ErrDeadlineExceeded) || errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("the hub (process %d) gives no answer within %v", r.PID, reloadLimit)
	case err != nil:
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
	if err != nil {
		return err
	}
	said := strings.TrimRight(string(text), "\n")
	switch resp.StatusCode {
	case http.StatusOK:
		_, err := fmt.Fprintln(stdout, "hubd: "+said)
		return err
	case http.StatusInternalServerError:
		return refusedError(said)
	}
	return fmt.Errorf("the hub (process %d) answers %s: %s", r.PID, resp.Status, said)
}

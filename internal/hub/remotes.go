package hub

import (
	"context"
	"fmt"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc/snekrpc"
)

// learnWait bounds how long a list of methods waits for remotes that are not known.
const learnWait = 2 * time.Second

// mountRemotes adds the far services that the configuration names. None is
// connected before it is used.
func (h *hub) mountRemotes() error {
	for _, text := range h.opts.Remotes {
		alias, far, err := parseRemote(text)
		if err != nil {
			return &ConfigError{[]error{err}}
		}
		service := far.Fragment
		if service == "" {
			service = alias
		}
		codec := far.Query().Get("codec")
		far.Fragment, far.RawQuery = "", ""
		client, err := snekrpc.NewClient(snekrpc.ClientConfig{URL: far.String(), Codec: codec, MaxFrame: h.opts.Limits.Frame})
		if err != nil {
			return &ConfigError{[]error{fmt.Errorf("remote %q: %w", text, err)}}
		}
		r, err := snekrpc.Mount(snekrpc.RemoteConfig{
			Alias: alias, Service: service, Client: client, Table: h.table, Removed: h.metrics.removed,
			Changed: func(alias string, methods int, err error) {
				if err != nil {
					h.log.Warn("remote cannot be reached", zap.String("remote", alias), zap.NamedError("reason", reasonOf(err)))
					return
				}
				h.log.Info("remote is known", zap.String("remote", alias), zap.Int("methods", methods))
			},
		})
		if err != nil {
			client.Close()
			return &ConfigError{[]error{fmt.Errorf("remote %q: %w", text, err)}}
		}
		h.remotes = append(h.remotes, r)
	}
	return nil
}

// reasonOf returns what is behind an error that says little to strangers.
func reasonOf(err error) error {
	if e, ok := err.(interface{ Unwrap() error }); ok && e.Unwrap() != nil {
		return e.Unwrap()
	}
	return err
}

// prepareRemotes is learnRemotes, nil when there are none.
func (h *hub) prepareRemotes() func(context.Context, string) {
	if len(h.opts.Remotes) == 0 {
		return nil
	}
	return h.learnRemotes
}

// learnRemotes asks the remotes of a service, or of all, for their commands
// where they are not known, and waits for a moment.
func (h *hub) learnRemotes(ctx context.Context, service string) {
	ctx, cancel := context.WithTimeout(ctx, learnWait)
	defer cancel()
	var asking sync.WaitGroup
	for _, r := range h.remotes {
		if service == "" || service == r.Alias() {
			asking.Go(func() { _ = r.Check(ctx) }) // one that is down has no commands
		}
	}
	asking.Wait()
}

func (h *hub) closeRemotes() {
	for _, r := range h.remotes {
		r.Close()
	}
}

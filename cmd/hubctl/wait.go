package main

import (
	"context"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
)

func newWait(a *app) *cobra.Command {
	var timeout time.Duration
	cmd := &cobra.Command{
		Use:   "wait",
		Short: "Wait until the hub answers",
		Example: `  hubctl wait --timeout 10s && hubctl call echo '{"up": true}'
  hubctl wait --timeout 0                  for ever`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if timeout < 0 {
				return usageError{"--timeout must not be negative", ""}
			}
			ctx := cmd.Context()
			if timeout > 0 {
				var cancel context.CancelFunc
				ctx, cancel = context.WithTimeout(ctx, timeout)
				defer cancel()
			}
			return a.wait(ctx)
		},
	}
	spanFlag(cmd.Flags(), &timeout, "timeout", "t", 30*time.Second, "give up after that time; 0 is never")
	return cmd
}

func (a *app) wait(ctx context.Context) error {
	if a.socket == "" && a.getenv("HUBD_SOCKET") == "" {
		return a.waitAnywhere(ctx)
	}
	addr, err := a.address()
	if err != nil {
		return err
	}
	return a.waitAt(ctx, addr)
}

// waitAnywhere looks in all default places again and again: which one the hub
// will take is known when it is there.
func (a *app) waitAnywhere(ctx context.Context) error {
	for {
		addr, err := a.address()
		if err != nil {
			return err
		}
		try, cancel := context.WithTimeout(ctx, time.Second)
		err = a.waitAt(try, addr)
		cancel()
		if err == nil || ctx.Err() != nil || client.KindOf(err) != client.KindTimeout {
			return err
		}
	}
}

func (a *app) waitAt(ctx context.Context, addr client.Address) error {
	opts, err := a.options()
	if err != nil {
		return err
	}
	c, err := client.WaitFor(ctx, addr.String(), opts)
	if err != nil {
		return unreachable{addr, err}
	}
	a.client = c
	return c.Call(ctx, "ping", nil, nil, client.Idempotent())
}

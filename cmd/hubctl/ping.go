package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"
)

type pinging struct {
	app      *app
	count    int
	interval time.Duration
	timeout  time.Duration
}

func newPing(a *app) *cobra.Command {
	p := &pinging{app: a}
	cmd := &cobra.Command{
		Use:   "ping",
		Short: "Ask whether the hub answers, and how fast",
		Example: `  hubctl ping
  hubctl ping -c 10 -i 200ms
  hubctl ping -c 0                         until Ctrl-C`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return p.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	flags.IntVarP(&p.count, "count", "c", 1, "ask `N` times; 0 is until interrupted")
	spanFlag(flags, &p.interval, "interval", "i", time.Second, "time between two of them")
	spanFlag(flags, &p.timeout, "timeout", "t", 5*time.Second, "longest wait for each answer")
	return cmd
}

// pong is one line of the result.
type pong struct {
	Seq      int     `json:"seq"`
	Status   string  `json:"status"`
	PID      int     `json:"daemon_pid"`
	Identity string  `json:"identity"`
	Uptime   float64 `json:"uptime"`
	MS       float64 `json:"ms"` // from the call to its answer
}

func (p *pinging) run(ctx context.Context) error {
	if p.count < 0 || p.interval < 0 || p.timeout <= 0 {
		return usageError{"--count and --interval must not be negative, --timeout must be above zero", ""}
	}
	p.app.patience = p.timeout
	c, err := p.app.dial(ctx)
	if err != nil {
		return err
	}
	table := p.app.formatOr(formatTable) == formatTable
	out := p.app.printer(p.app.formatOr(formatTable))
	software := oneLine(c.Server().Software)
	var took []time.Duration
	sent := 0
	timer := time.NewTimer(0)
	defer timer.Stop()
	var last error
	for p.count == 0 || sent < p.count {
		select {
		case <-timer.C:
			timer.Reset(p.interval)
		case <-ctx.Done():
		}
		if ctx.Err() != nil {
			break
		}
		try, cancel := context.WithTimeout(ctx, p.timeout)
		one := pong{Seq: sent + 1}
		began := time.Now()
		err := c.Call(try, "ping", nil, &one)
		d := time.Since(began)
		cancel()
		if ctx.Err() != nil {
			break
		}
		sent++
		if err != nil {
			last = err
			if p.count != 1 {
				fmt.Fprintf(p.app.err, "hubctl: seq=%d: %s\n", sent, oneLine(err.Error()))
			}
			continue
		}
		took = append(took, d)
		one.MS = milliseconds(d)
		if table {
			fmt.Fprintf(p.app.out, "%s answered: seq=%d time=%.3f ms pid=%d session=%s up=%s\n",
				software, one.Seq, one.MS, one.PID, oneLine(one.Identity), age(one.Uptime))
		} else if err := out.printAny(one); err != nil {
			return err
		}
	}
	if table && sent > 1 {
		p.summary(sent, took)
	}
	if p.count == 0 && len(took) == sent && sent > 0 {
		return nil // Ctrl-C is how this one ends
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return last
}

func (p *pinging) summary(sent int, took []time.Duration) {
	fmt.Fprintf(p.app.out, "\n%d sent, %d answered, %d lost\n", sent, len(took), sent-len(took))
	if len(took) == 0 {
		return
	}
	slices.Sort(took)
	var sum time.Duration
	for _, d := range took {
		sum += d
	}
	at := func(q float64) string {
		return fmt.Sprintf("%.3f", milliseconds(took[min(len(took)-1, int(q*float64(len(took))))]))
	}
	mean := fmt.Sprintf("%.3f", milliseconds(sum/time.Duration(len(took))))
	fmt.Fprintf(styled(p.app.out), "%s", appendGrid(nil, []string{"MIN", "MEAN", "P50", "P90", "P99", "MAX", ""},
		[][]string{{at(0), mean, at(0.5), at(0.9), at(0.99), at(1), "ms"}}, p.app.coloured(), 0))
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }

// age writes a number of seconds the way people say it.
func age(s float64) string {
	d := time.Duration(s * float64(time.Second))
	switch {
	case d >= 48*time.Hour:
		return fmt.Sprintf("%dd%dh", d/(24*time.Hour), d%(24*time.Hour)/time.Hour)
	case d >= time.Hour:
		return fmt.Sprintf("%dh%dm", d/time.Hour, d%time.Hour/time.Minute)
	case d >= time.Minute:
		return fmt.Sprintf("%dm%ds", d/time.Minute, d%time.Minute/time.Second)
	case d >= 10*time.Second:
		return fmt.Sprintf("%.0fs", d.Seconds())
	}
	return fmt.Sprintf("%.1fs", d.Seconds())
}

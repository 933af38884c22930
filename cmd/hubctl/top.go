package main

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/rivo/uniseg"
	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hubd-dev/hubd/client"
)

// topping is the command "top".
type topping struct {
	app      *app
	interval time.Duration
	count    int
	sort     string
}

// topOrders are what the methods can be sorted by.
var topOrders = []string{"calls", "p99", "errors", "in-flight", "name"}

func newTop(a *app) *cobra.Command {
	t := &topping{app: a}
	cmd := &cobra.Command{
		Use:   "top",
		Short: "Watch how busy the hub is, method by method",
		Long: `Show calls a second, median and 99th percentile of how long calls took, calls in
flight, slow ones and errors, by method, and the busiest peers, again and again.

On a terminal the picture is drawn anew each time, until q or Ctrl-C. Elsewhere
each round is one line; with -o jsonl, one JSON object.`,
		Example: `  hubctl top
  hubctl top -i 500ms --sort p99
  hubctl top -n 3 -i 1s -o jsonl`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return t.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	spanFlag(flags, &t.interval, "interval", "i", 2*time.Second, "time between two rounds")
	flags.IntVarP(&t.count, "count", "n", 0, "end after `N` rounds; 0 is until interrupted")
	flags.StringVar(&t.sort, "sort", "calls", "`order` of the methods: "+strings.Join(topOrders, ", "))
	cmd.RegisterFlagCompletionFunc("sort", cobra.FixedCompletions(topOrders, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// topCounts is what hub.top tells.
type topCounts struct {
	Now                   float64
	Connections, Sessions int
	InFlight              int `json:"in_flight"`
	OutboxBytes           int `json:"outbox_bytes"`
	Methods               []struct {
		Method              string
		Calls, Errors, Slow uint64
		InFlight            int `json:"in_flight"`
		Took                []topBucket
	}
}

type topBucket struct {
	Seconds float64 `json:"le"`
	Calls   uint64  `json:"n"`
}

// topRound is what happened between two looks.
type topRound struct {
	Seconds     float64   `json:"seconds"`
	CallsPerSec float64   `json:"calls_per_second"`
	P50         float64   `json:"p50"` // seconds, of the calls that ended in this round
	P99         float64   `json:"p99"`
	Errors      float64   `json:"errors_per_second"`
	Slow        uint64    `json:"slow"`
	InFlight    int       `json:"in_flight"`
	Connections int       `json:"connections"`
	Sessions    int       `json:"sessions"`
	OutboxBytes int       `json:"outbox_bytes"`
	Methods     []topLine `json:"methods"`
}

type topLine struct {
	Method      string  `json:"method"`
	CallsPerSec float64 `json:"calls_per_second"`
	P50         float64 `json:"p50"`
	P99         float64 `json:"p99"`
	Errors      float64 `json:"errors_per_second"`
	Slow        uint64  `json:"slow"`
	InFlight    int     `json:"in_flight"`
}

func (t *topping) run(ctx context.Context) error {
	a := t.app
	if t.interval < 10*time.Millisecond || t.count < 0 {
		return usageError{"--interval must be at least 10ms, --count must not be negative", ""}
	}
	if !slices.Contains(topOrders, t.sort) {
		return usageError{fmt.Sprintf("unknown order %q", t.sort), "one of " + strings.Join(topOrders, ", ")}
	}
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	var before topCounts
	if err := c.Call(ctx, "hub.top", nil, &before); err != nil {
		return err
	}
	screen := a.outTTY && a.format == ""
	quit := make(chan struct{})
	if screen {
		defer t.takeScreen(quit)()
	}
	timer := time.NewTicker(t.interval)
	defer timer.Stop()
	for n := 0; t.count == 0 || n < t.count; n++ {
		select {
		case <-timer.C:
		case <-quit:
			return nil
		case <-ctx.Done():
			if screen {
				return nil // it ended as it was meant to
			}
			return ctx.Err()
		}
		var now topCounts
		if err := c.Call(ctx, "hub.top", nil, &now); err != nil {
			return err
		}
		r := between(before, now)
		before = now
		t.order(r.Methods)
		if err := t.show(ctx, c, r, screen); err != nil {
			return err
		}
	}
	return nil
}

// show prints one round.
func (t *topping) show(ctx context.Context, c *client.Client, r topRound, screen bool) error {
	a := t.app
	switch {
	case screen:
		var peers []topPeer
		if err := listAll(ctx, c, "hub.peers", nil, &peers); err != nil {
			return err
		}
		_, err := styled(a.out).Write(t.picture(r, peers, c.Server().Software))
		return err
	case a.formatOr(formatTable) == formatTable:
		_, err := fmt.Fprintln(a.out, r.line())
		return err
	default:
		return a.printer(a.format).printAny(r)
	}
}

// line is a round for pipes and logs.
func (r topRound) line() string {
	busiest := ""
	if len(r.Methods) > 0 && r.Methods[0].CallsPerSec > 0 {
		busiest = " busiest " + oneLine(r.Methods[0].Method)
	}
	return fmt.Sprintf("%s calls/s %.1f p50 %s p99 %s errors/s %.1f slow %d in-flight %d connections %d sessions %d outbox %s%s",
		time.Now().Format("15:04:05"), r.CallsPerSec, shortTime(r.P50), shortTime(r.P99), r.Errors, r.Slow, r.InFlight, r.Connections,
		r.Sessions, shortBytes(r.OutboxBytes), busiest)
}

// between makes rates of two looks. A hub that was started anew meanwhile
// counts from nothing.
func between(before, now topCounts) topRound {
	if now.Now < before.Now {
		before = topCounts{}
	}
	r := topRound{
		Seconds: now.Now - before.Now, InFlight: now.InFlight, Connections: now.Connections, Sessions: now.Sessions,
		OutboxBytes: now.OutboxBytes, Methods: []topLine{},
	}
	seconds := max(r.Seconds, 1e-9)
	old := map[string]int{}
	for i, m := range before.Methods {
		old[m.Method] = i
	}
	all := map[float64]uint64{}
	for _, m := range now.Methods {
		line := topLine{Method: m.Method, InFlight: m.InFlight}
		took := map[float64]uint64{}
		for _, b := range m.Took {
			took[b.Seconds] += b.Calls
		}
		calls, errs, slow := m.Calls, m.Errors, m.Slow
		if i, ok := old[m.Method]; ok {
			was := before.Methods[i]
			calls, errs, slow = since(calls, was.Calls), since(errs, was.Errors), since(slow, was.Slow)
			for _, b := range was.Took {
				took[b.Seconds] = since(took[b.Seconds], b.Calls)
			}
		}
		for upper, n := range took {
			all[upper] += n
		}
		line.CallsPerSec, line.Errors, line.Slow = float64(calls)/seconds, float64(errs)/seconds, slow
		line.P50, line.P99 = quantile(took, 0.5), quantile(took, 0.99)
		r.CallsPerSec += line.CallsPerSec
		r.Errors += line.Errors
		r.Slow += slow
		r.Methods = append(r.Methods, line)
	}
	r.P50, r.P99 = quantile(all, 0.5), quantile(all, 0.99)
	return r
}

// since is now - before of two counters, never below zero: a histogram may
// have made its buckets wider.
func since(now, before uint64) uint64 {
	if now < before {
		return 0
	}
	return now - before
}

// quantile returns the upper bound of the bucket in which the quantile q lies,
// 0 when there are none. Buckets are a tenth wide.
func quantile(took map[float64]uint64, q float64) float64 {
	var uppers []float64
	var total uint64
	for upper, n := range took {
		if n > 0 {
			uppers = append(uppers, upper)
			total += n
		}
	}
	slices.Sort(uppers)
	var sum uint64
	for _, upper := range uppers {
		if sum += took[upper]; float64(sum) >= q*float64(total) {
			return upper
		}
	}
	return 0
}

func (t *topping) order(lines []topLine) {
	slices.SortStableFunc(lines, func(a, b topLine) int {
		var x, y float64
		switch t.sort {
		case "p99":
			x, y = a.P99, b.P99
		case "errors":
			x, y = a.Errors, b.Errors
		case "in-flight":
			x, y = float64(a.InFlight), float64(b.InFlight)
		case "calls":
			x, y = a.CallsPerSec, b.CallsPerSec
		}
		switch {
		case x > y:
			return -1
		case x < y:
			return 1
		}
		return strings.Compare(a.Method, b.Method)
	})
}

// topPeer is a row of hub.peers.
type topPeer struct {
	Conn           uint64
	Protocol, Peer string
	InFlight       int `json:"in_flight"`
	Outbox         int
}

// picture draws a round over the one before: line by line, without clearing
// the screen first, so that nothing flickers.
func (t *topping) picture(r topRound, peers []topPeer, software string) []byte {
	width, height := 80, 24
	if f, ok := fileOf(t.app.out); ok {
		if w, h, err := term.GetSize(int(f.Fd())); err == nil {
			width, height = w, h
		}
	}
	var lines []string
	add := func(format string, args ...any) { lines = append(lines, fmt.Sprintf(format, args...)) }
	add("%s   %s   every %s, q ends", oneLine(software), time.Now().Format("15:04:05"), t.interval)
	add("%.1f calls/s   p50 %s   p99 %s   %d in flight   %d slow   %.1f errors/s", r.CallsPerSec, shortTime(r.P50), shortTime(r.P99),
		r.InFlight, r.Slow, r.Errors)
	add("%s   %s   %s queued for peers", count(r.Connections, "connection"), count(r.Sessions, "session"), shortBytes(r.OutboxBytes))
	add("")
	slices.SortStableFunc(peers, func(a, b topPeer) int {
		if a.Outbox != b.Outbox {
			return b.Outbox - a.Outbox
		}
		return b.InFlight - a.InFlight
	})
	forPeers := min(len(peers)+2, max(4, height/4))
	const columns = 53 // those behind the name
	name := len("METHOD")
	for _, m := range r.Methods {
		name = max(name, uniseg.StringWidth(oneLine(m.Method)))
	}
	name = max(minWidth, min(name, width-columns))
	add("%s %10s %9s %9s %6s %5s %8s", pad("METHOD", name), "CALLS/S", "P50", "P99", "FLIGHT", "SLOW", "ERRORS/S")
	for _, m := range r.Methods {
		if len(lines) >= height-forPeers-1 {
			break
		}
		add("%s %10.1f %9s %9s %6d %5d %8.1f", pad(oneLine(m.Method), name), m.CallsPerSec, shortTime(m.P50), shortTime(m.P99),
			m.InFlight, m.Slow, m.Errors)
	}
	add("")
	add("%6s %-9s %6s %10s  %s", "CONN", "PROTOCOL", "FLIGHT", "QUEUED", "PEER")
	for _, p := range peers {
		if len(lines) >= height-1 {
			break
		}
		add("%6d %-9s %6d %10s  %s", p.Conn, oneLine(p.Protocol), p.InFlight, shortBytes(p.Outbox), oneLine(p.Peer))
	}
	dst := []byte("\x1b[H")
	for i, line := range lines {
		if i >= height {
			break
		}
		line = clip(line, width)
		if t.app.coloured() && (strings.HasPrefix(line, "METHOD") || strings.HasPrefix(line, "  CONN")) {
			line = "\x1b[1m" + line + "\x1b[0m"
		}
		dst = append(dst, line...)
		dst = append(dst, "\x1b[K"...)
		if i < height-1 {
			dst = append(dst, "\r\n"...)
		}
	}
	return append(dst, "\x1b[J"...)
}

// takeScreen switches to the other screen of the terminal and reads keys: q
// closes quit. What it returns undoes all that; it also runs when a signal ends
// the program.
func (t *topping) takeScreen(quit chan struct{}) (undo func()) {
	a := t.app
	screen := styled(a.out)
	show := func() { fmt.Fprint(screen, "\x1b[?1049h\x1b[?25l") }
	hide := func() { fmt.Fprint(screen, "\x1b[?25h\x1b[?1049l") }
	show()
	own := &ownTerminal{change: func(int) (func(), error) { return func() {}, nil }, stop: hide, resume: show, end: hide}
	if out, ok := fileOf(a.out); ok {
		own.fd = int(out.Fd())
	}
	if f, ok := a.in.(*os.File); ok && a.inTTY {
		own.fd, own.change = int(f.Fd()), rawMode
		a.spawn(func() { // ends with a key that ends top, or with the program
			var key [1]byte
			for {
				n, err := keyReader{f}.Read(key[:])
				if err != nil {
					return
				}
				if n == 1 && (key[0] == 'q' || key[0] == 3) {
					close(quit)
					return
				}
			}
		})
	}
	a.takeTerminal(own)
	return a.leave
}

// shortTime writes seconds with three digits.
func shortTime(seconds float64) string {
	switch {
	case seconds <= 0:
		return "-"
	case seconds < 1e-3:
		return fmt.Sprintf("%.3gµs", seconds*1e6)
	case seconds < 1:
		return fmt.Sprintf("%.3gms", seconds*1e3)
	}
	return fmt.Sprintf("%.3gs", seconds)
}

func shortBytes(n int) string {
	switch {
	case n < 10<<10:
		return fmt.Sprintf("%d B", n)
	case n < 10<<20:
		return fmt.Sprintf("%d KiB", n>>10)
	}
	return fmt.Sprintf("%d MiB", n>>20)
}

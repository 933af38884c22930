package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
)

// Exit codes of "hubctl check": those that monitoring plugins have agreed on
// (Monitoring Plugins Development Guidelines, "Plugin Return Codes").
const (
	pluginOK       = 0
	pluginWarning  = 1
	pluginCritical = 2
	pluginUnknown  = 3
)

var pluginWords = [...]string{"OK", "WARNING", "CRITICAL", "UNKNOWN"}

// pluginResult is the error that carries such a code; it has been printed.
type pluginResult int

func (r pluginResult) Error() string { return pluginWords[r] }

// checkResult is what a check has found.
type checkResult struct {
	Status string     `json:"status"`
	Code   int        `json:"code"`
	Detail string     `json:"detail"`
	Data   *checkData `json:"data,omitempty"` // absent when the hub did not answer
}

// checkData are the numbers of a hub that answers.
type checkData struct {
	Time        float64 `json:"time"` // of one call, in seconds
	Connections int     `json:"connections"`
	InFlight    int     `json:"in_flight"`
	Sessions    int     `json:"sessions"`
	OutboxBytes int     `json:"outbox_bytes"`
}

type checking struct {
	app               *app
	warning, critical time.Duration
	timeout           time.Duration
}

func newCheck(a *app) *cobra.Command {
	c := &checking{app: a}
	cmd := &cobra.Command{
		Use:   "check",
		Short: "Check the hub for a monitoring system",
		Long: `Check whether the hub answers in time and finds nothing wrong with itself, and say
so in the form of a monitoring plugin: one line with performance data, and the
exit code 0 OK, 1 WARNING, 2 CRITICAL or 3 UNKNOWN. With -o json the same is an
object.`,
		Example: `  hubctl check
  hubctl check --warning 20ms --critical 500ms`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return c.run(cmd.Context()) },
	}
	flags := cmd.Flags()
	spanFlag(flags, &c.warning, "warning", "w", 100*time.Millisecond, "an answer that takes longer is a warning")
	spanFlag(flags, &c.critical, "critical", "c", time.Second, "an answer that takes longer is critical")
	spanFlag(flags, &c.timeout, "timeout", "t", 10*time.Second, "longest time for the whole check")
	return cmd
}

func (c *checking) run(ctx context.Context) error {
	if c.warning <= 0 || c.critical <= 0 || c.timeout <= 0 {
		return c.end(pluginUnknown, "--warning, --critical and --timeout must be above zero", nil)
	}
	ctx, cancel := context.WithTimeout(ctx, c.timeout)
	defer cancel()
	addr, err := c.app.address()
	if err != nil {
		return c.end(pluginUnknown, err.Error(), nil)
	}
	opts, err := c.app.options()
	if err != nil {
		return c.end(pluginUnknown, err.Error(), nil)
	}
	cl, err := client.Dial(ctx, addr.String(), opts)
	if err != nil {
		return c.end(pluginCritical, unreachable{addr, err}.Error(), nil)
	}
	defer cl.Close()
	if err := cl.Call(ctx, "ping", nil, nil); err != nil { // the connection is warm now
		return c.end(pluginCritical, err.Error(), nil)
	}
	began := time.Now()
	if err := cl.Call(ctx, "ping", nil, nil); err != nil {
		return c.end(pluginCritical, err.Error(), nil)
	}
	took := time.Since(began)
	code, texts := pluginOK, []string{}
	switch {
	case took > c.critical:
		code = pluginCritical
		texts = append(texts, "slow answer")
	case took > c.warning:
		code = pluginWarning
		texts = append(texts, "slow answer")
	}
	var d struct{ Findings []finding }
	err = cl.Call(ctx, "hub.diagnose", nil, &d)
	switch kind := client.KindOf(err); {
	case err == nil:
	case kind == client.KindPermission || kind == client.KindUnauthenticated:
		texts = append(texts, "not allowed to look inside")
	default:
		return c.end(pluginCritical, err.Error(), nil)
	}
	for _, f := range d.Findings {
		if f.Name == "access" {
			continue // what the configuration means is nothing to wake somebody for; the doctor says it
		}
		switch f.Level {
		case levelFail:
			code = pluginCritical
		case levelWarn:
			code = max(code, pluginWarning)
		default:
			continue
		}
		texts = append(texts, f.Name+": "+f.Detail)
	}
	data := checkData{Time: took.Seconds()}
	if err := cl.Call(ctx, "hub.stats", nil, &data); err != nil {
		return c.end(pluginCritical, err.Error(), nil)
	}
	text := fmt.Sprintf("answers in %s", took.Round(time.Microsecond))
	if len(texts) > 0 {
		text += "; " + strings.Join(texts, "; ")
	}
	return c.end(code, text, &data)
}

// end prints the result and carries its code.
func (c *checking) end(code int, text string, data *checkData) error {
	if err := c.print(code, oneLine(text), data); err != nil {
		return err
	}
	if code == pluginOK {
		return nil
	}
	return pluginResult(code)
}

func (c *checking) print(code int, text string, data *checkData) error {
	if f := c.app.formatOr(formatTable); f != formatTable {
		return c.app.printer(f).printAny(checkResult{pluginWords[code], code, text, data})
	}
	line := "HUBD " + pluginWords[code] + " - " + strings.ReplaceAll(text, "|", "/")
	if data != nil {
		line += fmt.Sprintf(" | time=%.6fs;%.6f;%.6f;0 connections=%d;;;0 in_flight=%d;;;0 sessions=%d;;;0 outbox=%dB;;;0",
			data.Time, c.warning.Seconds(), c.critical.Seconds(), data.Connections, data.InFlight, data.Sessions, data.OutboxBytes)
	}
	_, err := fmt.Fprintln(c.app.out, line)
	return err
}

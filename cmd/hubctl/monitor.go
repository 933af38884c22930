package main

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
)

// seen is an item of hub.monitor.
type seen struct {
	Time                          time.Time
	Event, Protocol, Peer, Method string
	Code, Reason, Direction, Text string
	Conn, Call, Count             uint64
	Bytes                         int
	Took                          float64
	Data                          []byte
}

func newMonitor(a *app) *cobra.Command {
	var in struct {
		Protocol string `json:"protocol"`
		Conn     uint64 `json:"conn"`
		Frames   bool   `json:"frames"`
		Raw      bool   `json:"raw"`
		Rate     int    `json:"rate"`
	}
	cmd := &cobra.Command{
		Use:   "monitor",
		Short: "Watch what happens in the hub, as it happens",
		Long: `Watch the calls of all connections as they are answered, connections as they come
and go, and frames that were not understood. --frames shows every frame, with its
envelope and size. Values are never shown, except with --hex, which prints the
first bytes of each frame, with asterisks in the place of tokens and passwords; the
hub's log says that somebody did.

What comes faster than --rate is counted and left out; the hub is not slowed down.`,
		Example: `  hubctl monitor
  hubctl monitor --protocol kkrpc
  hubctl monitor --conn 17 --frames
  hubctl monitor --hex --protocol snekrpc
  hubctl monitor -o jsonl | jq 'select(.code != "ok")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			c, err := a.dial(ctx)
			if err != nil {
				return err
			}
			s, err := c.Open(ctx, "hub.monitor", in)
			if err != nil {
				return err
			}
			defer s.Close()
			var out *printer
			if f := a.formatOr(formatTable); f != formatTable {
				out = a.printer(f)
			}
			a.endUnread()
			for item, err := range s.Items() {
				if err != nil {
					return err
				}
				if out != nil {
					err = out.print(item)
				} else {
					err = a.printSeen(item)
				}
				if err != nil {
					return err
				}
			}
			return s.Result(nil)
		},
	}
	flags := cmd.Flags()
	flags.StringVar(&in.Protocol, "protocol", "", "only connections that speak this `protocol`")
	flags.Uint64Var(&in.Conn, "conn", 0, "only connection `N` (hubctl status shows them)")
	flags.BoolVar(&in.Frames, "frames", false, "show every frame, too")
	flags.BoolVar(&in.Raw, "hex", false, "show every frame with its first bytes, values and all but tokens and passwords")
	flags.IntVar(&in.Rate, "rate", 200, "show at most `N` events a second")
	cmd.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions(
		[]string{"kollabor", "kkrpc", "capnweb", "krpc", "snekrpc"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// printSeen writes one event as a line for people.
func (a *app) printSeen(item json.RawMessage) error {
	var e seen
	if err := json.Unmarshal(item, &e); err != nil {
		return fmt.Errorf("the hub's event is of another form: %w", err)
	}
	_, err := io.WriteString(a.out, e.text())
	return err
}

func (e seen) text() string {
	var b strings.Builder
	at := e.Time.Local().Format("15:04:05.000000")
	switch e.Event {
	case "begin":
		fmt.Fprintf(&b, "%s  watching; Ctrl-C ends it", at)
	case "dropped":
		fmt.Fprintf(&b, "%s  %d events were too many and are left out", at, e.Count)
	case "call":
		method := e.Method
		if method == "" {
			method = "(no such method)"
		}
		fmt.Fprintf(&b, "%s  %5d %-8s call   %-25s %-10s %s", at, e.Conn, e.Protocol, oneLine(method), oneLine(e.Code),
			time.Duration(e.Took*float64(time.Second)).Round(time.Microsecond))
	case "frame":
		arrow := "<-"
		if e.Direction == "out" {
			arrow = "->"
		}
		fmt.Fprintf(&b, "%s  %5d %-8s %s     %d bytes", at, e.Conn, e.Protocol, arrow, e.Bytes)
		if e.Text != "" {
			b.WriteString("  " + oneLine(e.Text))
		}
		if len(e.Data) > 0 {
			b.WriteString("\n" + strings.TrimRight(hex.Dump(e.Data), "\n"))
		}
	default:
		fmt.Fprintf(&b, "%s  %5d %-8s %s", at, e.Conn, e.Protocol, oneLine(e.Event))
		for _, s := range []string{e.Peer, e.Reason} {
			if s != "" {
				b.WriteString("  " + oneLine(s))
			}
		}
	}
	b.WriteByte('\n')
	return b.String()
}

func newLogLevel(a *app) *cobra.Command {
	levels := []string{"debug", "info", "warn", "error"}
	return &cobra.Command{
		Use:   "log-level [LEVEL]",
		Short: "Show or change how much the hub logs",
		Long: `Show the level of the hub's log, or change it to debug, info, warn or error. A
change holds until the hub reloads its configuration or is started again.`,
		Example: `  hubctl log-level
  hubctl log-level debug`,
		Args:      cobra.MaximumNArgs(1),
		ValidArgs: levels,
		RunE: func(cmd *cobra.Command, args []string) error {
			params := map[string]string{}
			if len(args) == 1 {
				params["level"] = args[0]
			}
			c, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			var r struct {
				Level string `json:"level"`
				Was   string `json:"was"`
			}
			if err := c.Call(cmd.Context(), "hub.log_level", params, &r); err != nil {
				if client.KindOf(err) == client.KindInvalidParams {
					return usageError{fmt.Sprintf("unknown level %q", oneLine(args[0])), "one of " + strings.Join(levels, ", ")}
				}
				return err
			}
			if f := a.formatOr(formatRaw); f != formatRaw {
				return a.printer(f).printAny(r)
			}
			_, err = fmt.Fprintln(a.out, oneLine(r.Level))
			return err
		},
	}
}

// decodeDebug returns what hub.debug sent.
func decodeDebug(encoding, data string) ([]byte, error) {
	switch encoding {
	case "text":
		return []byte(data), nil
	case "base64":
		return base64.StdEncoding.DecodeString(data)
	}
	return nil, errors.New("the hub's data is of another form")
}

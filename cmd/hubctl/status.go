package main

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
)

func newStatus(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "status",
		Short: "Show what the hub is and does at the moment",
		Example: `  hubctl status
  hubctl status -o json | jq .calls`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			return a.status(cmd.Context(), c)
		},
	}
}

// status is the result of four methods under one roof.
type status struct {
	Info  json.RawMessage `json:"info"`
	Peers json.RawMessage `json:"peers"`
	Calls json.RawMessage `json:"calls"`
	Stats json.RawMessage `json:"stats"`
}

func (a *app) status(ctx context.Context, c *client.Client) error {
	var s status
	for method, part := range map[string]*json.RawMessage{
		"hub.info": &s.Info, "hub.peers": &s.Peers, "hub.calls": &s.Calls, "hub.stats": &s.Stats,
	} {
		if err := listAll(ctx, c, method, nil, part); err != nil {
			return err
		}
	}
	if f := a.formatOr(formatTable); f != formatTable {
		return a.printer(f).printAny(s)
	}
	text, err := a.statusText(s)
	if err != nil {
		return err
	}
	_, err = styled(a.out).Write(text)
	return err
}

// runningCall is a row of hub.calls.
type runningCall struct {
	Call                   uint64
	Method, Peer, Protocol string
	Age                    float64
	Deadline               *float64
	Slow                   bool
}

func (a *app) statusText(s status) ([]byte, error) {
	var info struct {
		Name, Version, Identity, Started string
		PID                              int
		Uptime                           float64
		Demo                             bool
		Protocols, Listeners             []string
	}
	var peers []struct {
		Conn                     uint64
		Protocol, Peer, Listener string
		Since                    float64
		InFlight                 int `json:"in_flight"`
		Outbox                   int
	}
	var calls []runningCall
	for text, into := range map[*json.RawMessage]any{&s.Info: &info, &s.Peers: &peers, &s.Calls: &calls} {
		if err := json.Unmarshal(*text, into); err != nil {
			return nil, fmt.Errorf("the hub's status is of another form: %w", err)
		}
	}
	calls = slices.DeleteFunc(calls, func(k runningCall) bool { return k.Method == "hub.calls" }) // the question itself
	title := fmt.Sprintf("%s %s, process %d, up %s", info.Name, info.Version, info.PID, age(info.Uptime))
	if info.Demo {
		title += ", with demo methods"
	}
	dst := append([]byte(oneLine(title)), '\n')
	dst = appendGrid(dst, nil, [][]string{
		{"  session", oneLine(info.Identity)},
		{"  protocols", oneLine(strings.Join(info.Protocols, ", "))},
		{"  listeners", oneLine(strings.Join(info.Listeners, ", "))},
		{"  connections", fmt.Sprint(len(peers))},
		{"  running calls", fmt.Sprint(len(calls))},
	}, false, 0)
	if len(peers) > 0 {
		rows := make([][]string, len(peers))
		for i, p := range peers {
			rows[i] = []string{
				fmt.Sprint(p.Conn), oneLine(p.Protocol), oneLine(p.Peer), age(p.Since), fmt.Sprint(p.InFlight), fmt.Sprint(p.Outbox),
			}
		}
		dst = append(dst, '\n')
		dst = appendGrid(dst, []string{"CONN", "PROTOCOL", "PEER", "SINCE", "CALLS", "OUTBOX"}, rows, a.coloured(), a.width())
	}
	if len(calls) > 0 {
		rows := make([][]string, len(calls))
		for i, k := range calls {
			left, slow := "", ""
			if k.Deadline != nil {
				left = age(*k.Deadline)
			}
			if k.Slow {
				slow = "slow"
			}
			rows[i] = []string{fmt.Sprint(k.Call), oneLine(k.Method), oneLine(k.Peer), age(k.Age), left, slow}
		}
		dst = append(dst, '\n')
		dst = appendGrid(dst, []string{"CALL", "METHOD", "PEER", "AGE", "LEFT", ""}, rows, a.coloured(), a.width())
	}
	return dst, nil
}

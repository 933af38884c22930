package main

import (
	"encoding/json"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func newPublish(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "publish SESSION [JSON | key=text | key:=json]... | @FILE | -",
		Short: "Publish events on a session",
		Long: `Publish an event, an object with a string member "type", on a session: all who
follow the session get it. Without a type the event is of type "output", whose
member "rendered" is text for a terminal. @FILE and - read events from a file or
from stdin, one JSON object after another.`,
		Example: `  hubctl publish demo rendered='build finished'
  hubctl publish demo type=progress done:=7 of:=9
  tail -f events.jsonl | hubctl publish demo -`,
		Args:              cobra.MinimumNArgs(2),
		ValidArgsFunction: a.completeSession,
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			events, err := a.callParams(args[1:])
			if err != nil {
				return err
			}
			for text, err := range events {
				if err != nil {
					return err
				}
				event, err := withType(text)
				if err != nil {
					return err
				}
				c := a.client
				if c == nil {
					if c, err = a.dial(ctx); err != nil {
						return err
					}
				}
				if err := c.Publish(ctx, args[0], event); err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// withType checks that text is an object and gives it the type "output" when it has none.
func withType(text json.RawMessage) (json.RawMessage, error) {
	v, err := rpc.Parse(text)
	if err != nil || v.Kind() != '{' {
		return nil, usageError{"an event is a JSON object", `such as type=progress done:=7, or '{"type": "progress"}'`}
	}
	if _, ok := v.Member("type"); ok {
		return text, nil
	}
	if isEmpty(v) {
		return nil, usageError{"an event without members says nothing", ""}
	}
	raw, _ := v.Raw()
	return json.RawMessage(fmt.Sprintf(`{"type":"output",%s`, raw[1:])), nil
}

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
)

func newSessionSend(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "send NAME TEXT",
		Short: "Type text into a session",
		Long: `Type text into a session, as a follower with "attach -i" does: \r is the key
Enter, \x03 Ctrl-C. TEXT may be a JSON string. When the session has no producer it says that nobody reads it.`,
		Example: `  hubctl session send repl $'print(1)\r'
  hubctl session send repl '"print(1)\r"'`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeSession,
		RunE: func(cmd *cobra.Command, args []string) error {
			typed, err := checkedText([]byte(args[1]), "TEXT")
			if err != nil {
				return err
			}
			if strings.HasPrefix(typed, `"`) {
				_ = json.Unmarshal([]byte(typed), &typed) // what is no JSON is typed as it is
			}
			c, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			text, err := c.CallRaw(cmd.Context(), "session.send", map[string]string{"session": args[0], "text": typed})
			if err != nil {
				return noSession(err, args[0])
			}
			if err := a.printer(a.formatOr(formatJSON)).print(text); err != nil {
				return err
			}
			if !wasDelivered(text) {
				fmt.Fprintf(a.err, "hubctl: %s\n", nobodyReads(args[0]))
			}
			return nil
		},
	}
}

// sendInput types text into a session and reports whether anybody reads it.
func sendInput(ctx context.Context, c *client.Client, session, text string) (delivered bool, err error) {
	answer, err := c.CallRaw(ctx, "session.send", map[string]string{"session": session, "text": text})
	return err == nil && wasDelivered(answer), err
}

func wasDelivered(answer json.RawMessage) bool {
	a := struct{ Delivered bool }{true}
	_ = json.Unmarshal(answer, &a) // a hub that says nothing of it has delivered it
	return a.Delivered
}

func nobodyReads(session string) string {
	return fmt.Sprintf("nobody reads what is typed into %s: it has no producer", oneLine(session))
}

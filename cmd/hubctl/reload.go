package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
)

func newReload(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "reload",
		Short: "Make the hub read its configuration again",
		Long: `Make the hub read its configuration again, and wait for the result. What is wrong
with it is printed, with file and line; then the old configuration stays. Changes
that need a restart are named.`,
		Example: "  hubctl reload",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			var r struct {
				Restart []string `json:"restart"`
			}
			if err := c.Call(cmd.Context(), "hub.reload", nil, &r); err != nil {
				return a.refusedReload(err)
			}
			if f := a.formatOr(formatTable); f != formatTable {
				return a.printer(f).printAny(r)
			}
			text := "reloaded"
			if len(r.Restart) > 0 {
				text += "; these changes need a restart: " + oneLine(strings.Join(r.Restart, ", "))
			}
			_, err = fmt.Fprintln(a.out, text)
			return err
		},
	}
}

// refusedReload prints what is wrong with the configuration, if that is what
// err says: an excerpt with a caret does not fit into one line.
func (a *app) refusedReload(err error) error {
	var detail struct{ Problems []string }
	e, ok := err.(*client.Error)
	if !ok || json.Unmarshal(e.Data, &detail) != nil || len(detail.Problems) == 0 {
		return err
	}
	for _, p := range detail.Problems {
		for line := range strings.Lines(p) {
			fmt.Fprintln(a.err, oneLine(strings.TrimRight(line, "\n")))
		}
	}
	return hintedError{fmt.Errorf("the configuration is not taken over, the old one stays"), "mend what is above, then reload again"}
}

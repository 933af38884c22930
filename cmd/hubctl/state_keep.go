package main

import (
	"fmt"
	"strconv"

	"github.com/spf13/cobra"
)

func newStateTouch(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "touch KEY TIME|never",
		Short: "Set the time that a key has left",
		Long: `Set the time that a key has left, from now on, and print the revision. The value
stays. With never the key stays until it is deleted.`,
		Example: `  hubctl state touch lock/deploy 10m
  hubctl state touch lock/deploy never`,
		Args:              cobra.ExactArgs(2),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			params := map[string]any{"key": args[0], "ttl": nil}
			var ttl lifetime
			if err := ttl.Set(args[1]); err != nil {
				return usageError{err.Error(), ""}
			}
			if ttl.left > 0 {
				params["ttl"] = seconds(ttl.left)
			}
			result, err := a.callState(cmd.Context(), "state.touch", params)
			if err != nil {
				return err
			}
			return a.printer(a.formatOr(formatJSONL)).print(result)
		},
	}
}

func newStateCompact(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "compact REVISION|now",
		Short: "Forget the changes up to a revision",
		Long: `Forget the changes up to a revision, which "hubctl state history" and watches that
begin in the past are made of, and print the lowest revision that a watch can begin
after now. What the keys hold stays. The hub forgets the oldest changes by itself:
this is for what nobody should read any more. It needs the scope admin.`,
		Example: `  hubctl state compact 1200
  hubctl state compact now`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx := cmd.Context()
			revision, err := strconv.ParseUint(args[0], 10, 64)
			if args[0] == "now" {
				var info struct{ Revision uint64 }
				text, err := a.callState(ctx, "state.info", nil)
				if err != nil {
					return err
				}
				if err := decodeState(text, &info); err != nil {
					return err
				}
				revision = info.Revision
			} else if err != nil {
				return usageError{fmt.Sprintf("%q is neither a revision nor now", args[0]), ""}
			}
			result, err := a.callState(ctx, "state.compact", map[string]any{"revision": revision})
			if err != nil {
				return err
			}
			return a.printer(a.formatOr(formatJSONL)).print(result)
		},
	}
}

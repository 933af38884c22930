package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/nearest"
)

func newState(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "state",
		Short: "Read, change and follow the state that the hub keeps",
		Long: `The state is a map from keys to values that survives restarts. Every change has
a revision, higher than all before it. A write is answered when it is on disk.`,
		Example: `  hubctl state put site/title "Good morning"
  hubctl state get site/title
  hubctl state ls site/
  hubctl state watch --prefix site/            changes as JSON lines
  hubctl state edit site/settings              in $EDITOR
  hubctl state backup hub.backup`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return unknownStateCommand(cmd, args[0])
		},
	}
	cmd.AddCommand(
		newStateGet(a), newStatePut(a), newStatePatch(a), newStateRemove(a), newStateList(a), newStateTree(a),
		newStateWatch(a), newStateEdit(a), newStateHistory(a), newStateTxn(a), newStateImport(a), newStateExport(a),
		newStateBackup(a), newStateRestore(a), newStateInfo(a), newStateTouch(a), newStateCompact(a),
	)
	return cmd
}

func unknownStateCommand(cmd *cobra.Command, name string) error {
	var names []string
	for _, sub := range cmd.Commands() {
		names = append(names, sub.Name())
	}
	hint := `"hubctl state --help" lists the commands`
	if near := nearest.Of(name, names, 1); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q?", near[0])
	}
	return usageError{fmt.Sprintf("unknown command %q of \"hubctl state\"", name), hint}
}

// stateItem is a key with its value, as state.get and state.list return it.
type stateItem struct {
	Key      string          `json:"key"`
	Value    json.RawMessage `json:"value"`
	Revision uint64          `json:"revision"`
	Updated  string          `json:"updated"`
	TTL      *float64        `json:"ttl"`
}

// ifRevision is the flag --if-revision, which is no condition until it is given.
type ifRevision struct {
	given    bool
	revision uint64
}

func (r *ifRevision) String() string {
	if !r.given {
		return ""
	}
	return strconv.FormatUint(r.revision, 10)
}

func (r *ifRevision) Set(s string) error {
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return errors.New("a revision is a whole number, 0 or more")
	}
	r.given, r.revision = true, n
	return nil
}

func (r *ifRevision) Type() string { return "revision" }

// add makes the condition one of the arguments.
func (r *ifRevision) add(params map[string]any) {
	if r.given {
		params["if_revision"] = r.revision
	}
}

// callState makes one call on a new connection and returns the result.
func (a *app) callState(ctx context.Context, method string, params any) (json.RawMessage, error) {
	c, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	result, err := c.CallRaw(ctx, method, params)
	return result, stateError(err)
}

// stateError adds to an error of the state service what can be done about it.
func stateError(err error) error {
	e, ok := errors.AsType[*client.Error](err)
	if !ok {
		return err
	}
	hint := ""
	switch e.Kind {
	case client.KindConflict:
		hint = `read the key again: "hubctl state get --meta KEY" shows its revision`
	case client.KindCompacted:
		hint = "begin again without --from: what is there comes first"
		if lowest, ok := lowestRevision(e); ok {
			hint += fmt.Sprintf("; or with --from %d, the lowest that works, and miss what was before", lowest)
		}
	case client.KindNotFound:
		if e.NoMethod() {
			return err
		}
		hint = `"hubctl state ls" lists the keys`
	case client.KindUnavailable:
		if e.Retry == client.RetrySafe {
			hint = "nothing was changed: try again later"
		}
	}
	if hint == "" {
		return err
	}
	return hintedError{fmt.Errorf("%s%w", e.Message, silent{err}), hint}
}

func lowestRevision(e *client.Error) (uint64, bool) {
	var data struct {
		Lowest *uint64 `json:"lowest"`
	}
	if json.Unmarshal(e.Data, &data) != nil || data.Lowest == nil {
		return 0, false
	}
	return *data.Lowest, true
}

// currentRevision is the revision that the key of a conflict has, 0 when it does not exist.
func currentRevision(err error) (uint64, bool) {
	e, ok := errors.AsType[*client.Error](err)
	if !ok || e.Kind != client.KindConflict {
		return 0, false
	}
	var data struct {
		Revision *uint64 `json:"revision"`
	}
	if json.Unmarshal(e.Data, &data) != nil || data.Revision == nil {
		return 0, false
	}
	return *data.Revision, true
}

// talk writes a line to stderr.
func (a *app) talk(format string, args ...any) {
	fmt.Fprintf(a.err, "hubctl: %s\n", oneLine(fmt.Sprintf(format, args...)))
}

// completeKey completes one key with those that the hub has.
func (a *app) completeKey(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return a.keysLike(toComplete), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeKeys(_ *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	return a.keysLike(toComplete), cobra.ShellCompDirectiveNoFileComp
}

// completedKeys is how many keys a shell is offered.
const completedKeys = 200

func (a *app) keysLike(prefix string) []string {
	var page struct{ Items []stateItem }
	if !a.ask("state.list", map[string]any{"prefix": prefix, "limit": completedKeys, "keys_only": true}, &page) {
		return nil
	}
	keys := make([]string, 0, len(page.Items))
	for _, it := range page.Items {
		if it.Key == oneLine(it.Key) {
			keys = append(keys, it.Key)
		}
	}
	return keys
}

// seconds is a duration as the hub takes it.
func seconds(d time.Duration) float64 { return d.Seconds() }

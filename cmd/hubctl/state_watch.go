package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/cenkalti/backoff/v5"
	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
)

// stateEvent is an item of state.watch.
type stateEvent struct {
	Type     string          `json:"type"`
	Key      string          `json:"key"`
	Value    json.RawMessage `json:"value"`
	Revision uint64          `json:"revision"`
	Previous uint64          `json:"previous_revision"`
}

// watching is the command "state watch".
type watching struct {
	app      *app
	prefix   string
	from     ifRevision
	noValues bool
	once     bool
	count    int
	patience time.Duration
}

func newStateWatch(a *app) *cobra.Command {
	w := &watching{app: a}
	cmd := &cobra.Command{
		Use:   "watch [KEY] | watch --prefix PREFIX",
		Short: "Follow the changes of a key, of a prefix or of everything",
		Long: `Print what is there, {"type":"synced"}, and then each change, as lines of JSON:

  {"type":"put","key":"a","value":1,"revision":8,"previous_revision":7}

type is put, delete or expire. Lines that follow each other with one revision were
one change. With --from what is there is not printed, but each change after that
revision is.

A broken connection is made again and goes on where it was: no change is left out
and none is printed twice. What happened is said on stderr. When the hub does not
remember far enough back the command ends with exit code 1 and says so. Should
the connection break before "synced", what is there is asked for again: only what
differs from the lines before is printed, and what was deleted meanwhile as a
"delete" with the revision of "synced".`,
		Example: `  hubctl state watch site/title
  hubctl state watch --prefix site/ | jq -r .key
  hubctl state watch --from 1200
  hubctl state watch --once                    what is there, at one moment`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeKey,
		RunE: func(cmd *cobra.Command, args []string) error {
			return w.run(cmd, args)
		},
	}
	flags := cmd.Flags()
	flags.StringVarP(&w.prefix, "prefix", "p", "", "follow all keys that begin with that `prefix`")
	flags.VarP(&w.from, "from", "r", "print the changes after that `revision`")
	flags.BoolVar(&w.noValues, "no-values", false, "leave the values out")
	flags.BoolVar(&w.once, "once", false, `end after "synced"`)
	flags.IntVarP(&w.count, "count", "n", 0, "end after `N` changes; 0 is no end")
	spanFlag(flags, &w.patience, "patience", "", 0, "how long a broken connection is tried again; 0 is for ever")
	cmd.RegisterFlagCompletionFunc("prefix", func(_ *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
		return a.keysLike(toComplete), cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
	})
	return cmd
}

func (w *watching) run(cmd *cobra.Command, args []string) error {
	if len(args) > 0 && cmd.Flags().Changed("prefix") {
		return usageError{"a key and --prefix do not go together", ""}
	}
	if w.count < 0 {
		return usageError{"--count must not be negative", ""}
	}
	if w.patience < 0 {
		return usageError{"--patience must not be negative", ""}
	}
	params := map[string]any{}
	if len(args) > 0 {
		params["key"] = args[0]
	} else if w.prefix != "" {
		params["prefix"] = w.prefix
	}
	if w.noValues {
		params["values"] = false
	}
	ctx := cmd.Context()
	c, err := w.app.dial(ctx)
	if err != nil {
		return err
	}
	w.app.endUnread()
	out := w.app.printer(w.app.formatOr(formatJSONL))
	f := &stateFollower{
		client: c, params: params, patience: w.patience, talk: w.app.talk,
		snapshot: !w.from.given, position: w.from.revision,
	}
	changes := 0
	err = f.run(ctx, func(e *stateEvent, text json.RawMessage) (bool, error) {
		if e.Type == "progress" {
			return true, nil
		}
		if err := out.print(text); err != nil {
			return false, err
		}
		if e.Type == "synced" {
			return !w.once, nil
		}
		changes++
		return w.count == 0 || changes < w.count, nil
	})
	return stateError(err)
}

// watchValue prints the value of a key, and each one that it gets.
func (a *app) watchValue(ctx context.Context, key string) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	a.endUnread()
	out := a.printer(a.formatOr(formatRaw))
	exists := false
	f := &stateFollower{client: c, params: map[string]any{"key": key}, talk: a.talk, snapshot: true}
	return stateError(f.run(ctx, func(e *stateEvent, _ json.RawMessage) (bool, error) {
		switch e.Type {
		case "put":
			exists = true
			return true, out.print(e.Value)
		case "synced":
			if !exists {
				a.talk("%s does not exist yet", key)
			}
		case "delete", "expire":
			a.talk("%s is gone", key)
		}
		return true, nil
	}))
}

// stateFollower is a state.watch that goes on after its connection broke. All
// events of one revision belong together, so a watch can only be resumed before
// the first of them: those that were handed out already are left out then.
type stateFollower struct {
	client   *client.Client
	params   map[string]any
	patience time.Duration
	talk     func(format string, args ...any)

	snapshot bool              // what is there is still being read
	seen     map[string]uint64 // handed out of it: key and revision
	again    map[string]uint64 // what seen was, before what is there was asked for again
	position uint64            // everything up to this revision was handed out
	current  uint64            // the revision that is being handed out, if above position
	given    int               // how many of its events were handed out
	skip     int               // how many of them to leave out now
	synced   bool              // the marker was handed out
	resumed  bool              // this is not the first connection
}

// run hands out events until take says no or fails, or nothing more can come.
func (f *stateFollower) run(ctx context.Context, take func(*stateEvent, json.RawMessage) (bool, error)) error {
	var pace *backoff.ExponentialBackOff
	var broken time.Time
	for {
		more, worked, err := f.once(ctx, take, broken)
		if !more || err == nil {
			return err
		}
		if ctx.Err() != nil {
			return err
		}
		if worked || pace == nil {
			f.talk("connection lost: %s; trying to come back", messageOf(err))
			broken = time.Now()
			pace = backoff.NewExponentialBackOff()
			pace.InitialInterval, pace.MaxInterval = 50*time.Millisecond, 2*time.Second
		}
		if f.patience > 0 && time.Since(broken) > f.patience {
			return err
		}
		select {
		case <-time.After(pace.NextBackOff()):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// once follows over one connection. more says that another one may go on;
// worked, that something came over this one.
func (f *stateFollower) once(ctx context.Context, take func(*stateEvent, json.RawMessage) (bool, error), broken time.Time) (more, worked bool, err error) {
	if f.snapshot {
		delete(f.params, "from_revision")
		for key, revision := range f.again {
			if _, ok := f.seen[key]; !ok {
				f.seen[key] = revision // of an attempt that broke as well
			}
		}
		f.again, f.seen = f.seen, make(map[string]uint64)
	} else {
		f.params["from_revision"] = f.position
		if f.current > f.position {
			f.skip = f.given
		}
	}
	if err := f.checkAge(ctx); err != nil {
		return lasting(err), false, err
	}
	s, err := f.client.Open(ctx, "state.watch", f.params)
	if err != nil {
		return lasting(err), false, err
	}
	defer s.Close()
	for text, err := range s.Items() {
		if err != nil {
			return lasting(err), worked, err
		}
		var e stateEvent
		if err := decodeState(text, &e); err != nil {
			return false, worked, err
		}
		if !worked {
			worked = true
			away := time.Since(broken).Round(100 * time.Millisecond)
			switch {
			case !f.resumed:
			case f.snapshot:
				f.talk("back after %v; reading what is there once more", away)
			default:
				f.talk("back after %v; going on after revision %d", away, f.position)
			}
			f.resumed = true
		}
		on, err := f.event(&e, text, take)
		if !on || err != nil {
			return false, worked, err
		}
	}
	return true, worked, errors.New("the hub ended the watch")
}

// checkAge asks a hub that came back whether it still has what was seen: it would
// wait for revisions that are yet to come, of another state perhaps.
func (f *stateFollower) checkAge(ctx context.Context) error {
	seen := max(f.position, f.current)
	if !f.resumed || f.snapshot {
		return nil
	}
	var info struct{ Revision uint64 }
	if err := f.client.Call(ctx, "state.info", nil, &info, client.Idempotent()); err != nil {
		return err
	}
	if info.Revision < seen && f.synced {
		return hintedError{
			fmt.Errorf("the hub is back with an older state: revision %d, but %d was seen", info.Revision, seen),
			"begin again without --from",
		}
	}
	return nil
}

// lasting reports whether a watch may go on after err.
func lasting(err error) bool {
	switch client.KindOf(err) {
	case client.KindDisconnected, client.KindUnavailable, client.KindOverloaded, client.KindTimeout:
		return !errors.Is(err, client.ErrClosed)
	}
	return false
}

// event handles one item of the stream.
func (f *stateFollower) event(e *stateEvent, text json.RawMessage, take func(*stateEvent, json.RawMessage) (bool, error)) (bool, error) {
	switch e.Type {
	case "synced":
		for key, revision := range f.again {
			if f.seen[key] == 0 { // it was there before the connection broke
				gone := stateEvent{Type: "delete", Key: key, Value: json.RawMessage("null"), Revision: e.Revision, Previous: revision}
				line, err := json.Marshal(gone)
				if err != nil {
					return false, err
				}
				if on, err := take(&gone, line); !on || err != nil {
					return on, err
				}
			}
		}
		f.snapshot, f.seen, f.again = false, nil, nil
		f.advance(e.Revision)
		if f.synced {
			return true, nil // of a later connection
		}
		f.synced = true
		return take(e, text)
	case "progress":
		f.advance(e.Revision)
		return take(e, text)
	}
	if f.snapshot {
		before, ok := f.again[e.Key]
		f.seen[e.Key] = e.Revision
		if ok && before == e.Revision {
			return true, nil
		}
		return take(e, text)
	}
	if e.Revision != f.current {
		f.advance(e.Revision - 1)
		f.current, f.given, f.skip = e.Revision, 0, 0
	}
	if f.skip > 0 {
		f.skip--
		return true, nil
	}
	f.given++
	return take(e, text)
}

// advance notes that everything up to a revision was handed out.
func (f *stateFollower) advance(revision uint64) {
	f.position = max(f.position, revision)
}

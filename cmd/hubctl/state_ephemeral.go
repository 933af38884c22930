package main

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"time"

	"github.com/hubd-dev/hubd/client"
)

// presence keeps an ephemeral key: it belongs to a connection, so it is put again
// when that was made anew.
type presence struct {
	app      *app
	client   *client.Client
	key      string
	params   map[string]any
	revision uint64 // of the last put
}

// firstPutLimit bounds the wait for the answer to the first put.
const firstPutLimit = 10 * time.Second

// leaveLimit bounds the deletion of the key at the end.
const leaveLimit = 2 * time.Second

// keepEphemeral puts a key and stays until the context ends, or until somebody
// else takes the key away.
func (a *app) keepEphemeral(ctx context.Context, key string, params map[string]any) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	p := &presence{app: a, client: c, key: key, params: params}
	// Not to be interrupted: the answer tells what to take away in the end.
	first, cancel := context.WithTimeout(context.WithoutCancel(ctx), firstPutLimit)
	result, err := p.put(first, params)
	cancel()
	if err != nil {
		return stateError(err)
	}
	defer p.remove(ctx)
	if err := a.printer(a.formatOr(formatJSONL)).print(result); err != nil {
		return err
	}
	if a.errTTY {
		a.talk("%s is there until Ctrl-C", key)
	}
	for {
		err := p.stay(ctx)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !lasting(err) {
			return stateError(err)
		}
		a.talk("connection lost: %s; trying to come back", messageOf(err))
		if err := p.again(ctx); err != nil {
			return stateError(err)
		}
		a.talk("back; %s is at revision %d", key, p.revision)
	}
}

func (p *presence) put(ctx context.Context, params map[string]any) (json.RawMessage, error) {
	result, err := p.client.CallRaw(ctx, "state.put", params)
	if err != nil {
		return nil, err
	}
	var done struct{ Revision uint64 }
	if err := decodeState(result, &done); err != nil {
		return nil, err
	}
	p.revision = done.Revision
	return result, nil
}

// stay returns when the connection broke or the key is no longer that of p.
func (p *presence) stay(ctx context.Context) error {
	for text, err := range p.client.Stream(ctx, "state.watch", map[string]any{"key": p.key, "from_revision": p.revision, "values": false}) {
		if err != nil {
			return err
		}
		var e stateEvent
		if err := decodeState(text, &e); err != nil {
			return err
		}
		switch {
		case e.Type == "put" && e.Revision > p.revision:
			return fmt.Errorf("somebody else has put %q, at revision %d", p.key, e.Revision)
		case e.Type == "delete":
			return fmt.Errorf("somebody else has deleted %q, at revision %d", p.key, e.Revision)
		case e.Type == "expire": // the connection was made anew between the put and the watch
			if err := p.again(ctx); err != nil {
				return err
			}
		}
	}
	return &client.Error{Kind: client.KindUnavailable, Message: "the hub ended the watch", Retry: client.RetrySafe}
}

// again puts the key on the present connection, unless somebody else has it now.
func (p *presence) again(ctx context.Context) error {
	params := maps.Clone(p.params)
	params["if_revision"] = p.revision
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		before := p.revision
		_, err := p.put(ctx, params)
		if err == nil {
			return nil
		}
		if now, ok := currentRevision(err); ok && now == 0 && params["if_revision"] != uint64(0) {
			params["if_revision"] = uint64(0) // its time was over
			continue
		}
		if !lasting(err) {
			return err
		}
		p.revision = before
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// remove deletes the key at once, if it is still that of p; else it would
// outlive the connection by the hub's time of grace.
func (p *presence) remove(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveLimit)
	defer cancel()
	_ = p.client.Call(ctx, "state.delete", map[string]any{"key": p.key, "if_revision": p.revision}, nil) // the time of grace ends it otherwise
}

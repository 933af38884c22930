package main

import (
	"bytes"
	"context"
	"encoding/json"
	"maps"

	"github.com/hubd-dev/hubd/client"
)

// pagedBy has the methods that return a list in pages, with the member of a row
// that the next page begins after.
var pagedBy = map[string]string{"hub.methods": "name", "hub.peers": "conn", "hub.calls": "call", "session.list": "session"}

// callAll calls a method; of a list that comes in pages it returns all.
func callAll(ctx context.Context, c *client.Client, method string, params map[string]any) (json.RawMessage, error) {
	key, paged := pagedBy[method]
	if !paged {
		return c.CallRaw(ctx, method, params)
	}
	params = maps.Clone(params)
	var all []json.RawMessage
	for {
		text, err := c.CallRaw(ctx, method, params)
		if len(all) > 0 && client.KindOf(err) == client.KindInvalidParams {
			break // a hub that returns all at once
		}
		if err != nil {
			return nil, err
		}
		var page []json.RawMessage
		if err := json.Unmarshal(text, &page); err != nil {
			return text, nil // whoever reads it says so
		}
		if len(page) == 0 || len(all) > 0 && bytes.Equal(page[0], all[0]) {
			break
		}
		all = append(all, page...)
		var last map[string]json.RawMessage
		if json.Unmarshal(page[len(page)-1], &last) != nil || last[key] == nil {
			break
		}
		if params == nil {
			params = map[string]any{}
		}
		params["after"] = last[key]
	}
	return append(append([]byte{'['}, bytes.Join(asBytes(all), []byte{','})...), ']'), nil
}

func asBytes(list []json.RawMessage) [][]byte {
	out := make([][]byte, len(list))
	for i, text := range list {
		out[i] = text
	}
	return out
}

// listAll is callAll into result.
func listAll(ctx context.Context, c *client.Client, method string, params map[string]any, result any) error {
	text, err := callAll(ctx, c, method, params)
	if err != nil {
		return err
	}
	return json.Unmarshal(text, result)
}

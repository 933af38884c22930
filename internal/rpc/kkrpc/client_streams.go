package kkrpc

import (
	"slices"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// takesStreams reports whether streams are among what c passes.
func takesStreams(c *rpc.Call) bool {
	if c.Input != nil {
		return true
	}
	for v := range c.Args.List() {
		if isStream(v) {
			return true
		}
	}
	return false
}

func isStream(v rpc.Value) bool {
	if _, raw := v.Raw(); raw || v.IsUndefined() {
		return false
	}
	_, ok := v.Tree().(rpc.Readable)
	return ok
}

// collect makes arrays of the streams that c passes, which is how every peer of
// this protocol takes them, and then sends the call. It runs in a goroutine that
// ends with the streams or with the call.
func (s *Session) collect(c *rpc.Call, op kind) {
	var list []rpc.Value
	for v := range c.Args.List() {
		if isStream(v) {
			r, _ := v.AsReader()
			var err error
			if v, err = s.arrayOf(c, r); err != nil {
				c.Finish(nil, rpc.Value{}, err)
				return
			}
		}
		list = append(list, v)
	}
	if c.Input != nil { // it came beside the arguments: at the place of its parameter, else behind them
		v, err := s.arrayOf(c, rpc.ReaderOf(c.Input))
		if err != nil {
			c.Finish(nil, rpc.Value{}, err)
			return
		}
		at := len(list)
		if c.Method != nil {
			if i := slices.IndexFunc(c.Method.Params, func(p rpc.Param) bool { return p.Stream }); i >= 0 {
				at = min(i, at)
			}
		}
		list = slices.Insert(list, at, v)
	}
	var named []rpc.Named
	for name, v := range c.Args.ByName() {
		named = append(named, rpc.Named{Name: name, Value: v})
	}
	s.ask(nil, c, op, rpc.MixedArgs(list, named))
}

// arrayOf reads a stream to its end.
func (s *Session) arrayOf(c *rpc.Call, r *rpc.Reader) (rpc.Value, error) {
	defer r.Close(nil)
	var items []rpc.Value
	size := 0
	for v, err := range r.All(c) {
		if err != nil {
			return rpc.Value{}, err
		}
		raw, _ := v.Raw()
		items, size = append(items, v), size+len(raw)
		if len(items) > rpc.MaxCollected || size > s.limits.MaxMessage {
			return rpc.Value{}, &rpc.Error{Code: rpc.CodeTooLarge, Message: "the stream is too long for this peer, which takes it as an array", Ran: rpc.RanNo}
		}
	}
	return rpc.Array(items), nil
}

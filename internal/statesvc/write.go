package statesvc

import (
	"math"
	"strconv"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

type putParams struct {
	Key        string    `rpc:"key" doc:"the key: 1 byte to 1 KiB of UTF-8 without control characters"`
	Value      rpc.Value `rpc:"value" doc:"anything but functions, streams and files"`
	IfRevision *uint64   `rpc:"if_revision" doc:"only if the key is at this revision; 0: only if it does not exist"`
	TTL        *float64  `rpc:"ttl" doc:"seconds until the key goes away by itself"`
	Ephemeral  bool      `rpc:"ephemeral" default:"false" doc:"the key goes away with this connection, after a grace time"`
}

type patchParams struct {
	Key        string    `rpc:"key" doc:"the key, which must exist"`
	Merge      rpc.Value `rpc:"merge,optional" doc:"an RFC 7396 merge patch"`
	Ops        rpc.Value `rpc:"ops,optional" doc:"an RFC 6902 patch, in place of merge"`
	IfRevision *uint64   `rpc:"if_revision" doc:"only if the key is at this revision"`
}

type touchParams struct {
	Key string    `rpc:"key" doc:"the key, which must exist"`
	TTL rpc.Value `rpc:"ttl" doc:"seconds from now on until the key goes away; null: it stays"`
}

type deleteParams struct {
	Key        *string `rpc:"key" doc:"the key"`
	Prefix     *string `rpc:"prefix" doc:"in place of key: all keys that begin with it"`
	IfRevision *uint64 `rpc:"if_revision" doc:"only if the key is at this revision"`
}

type compactParams struct {
	Revision uint64 `rpc:"revision" doc:"history up to and including it is forgotten"`
}

type revisionResult struct {
	Revision uint64 `json:"revision"`
}

// The writes run on the reader of the connection and wait for nothing: each takes its place in the commit order, which is
// the order in which they were sent, and the store finishes it after the sync.
func (s *Service) writeMethods() []*rpc.Method {
	quick := rpc.In(rpc.Inline)
	return []*rpc.Method{
		rpc.HandleTarget[putParams, revisionResult]("state.put", s.put, quick,
			rpc.Doc("Store a value under a key and answer when it is durable.")),
		rpc.HandleTarget[patchParams, revisionResult]("state.patch", s.patch, quick,
			rpc.Doc("Change parts of the value of a key, by a merge patch or by a list of operations.")),
		rpc.HandleTarget[touchParams, revisionResult]("state.touch", s.touch, quick,
			rpc.Doc("Set the time a key has left.")),
		rpc.HandleTarget[deleteParams, map[string]any]("state.delete", s.delete, quick,
			rpc.Doc("Delete a key or all keys with a prefix.")),
		rpc.HandleTarget[txnParams, map[string]any]("state.txn", s.txn, quick,
			rpc.Doc("Do several operations at once, all or none, under one revision: then when all conditions hold, else otherwise.")),
		rpc.HandleTarget[compactParams, revisionResult]("state.compact", s.compact, quick, rpc.Needs(rpc.ScopeAdmin),
			rpc.Doc("Forget history up to a revision and return the lowest revision from which a watch can resume.")),
	}
}

// keep makes c outlive Start. Its arguments are bound and what is needed of them is copied by the store, so they are
// not copied here. It reports whether the call still runs.
func keep(c *rpc.Call) bool {
	c.Args = rpc.Args{}
	c.Own()
	return !c.Settled()
}

// commit gives tx its place in the commit order. result makes the answer; it runs on the store's goroutine.
func (s *Service) commit(b *rpc.Batch, c *rpc.Call, tx *Tx, result func(Result) (rpc.Value, error)) {
	if !keep(c) {
		return
	}
	err := s.store.Commit(tx, func(r Result, err error) {
		if c.Settled() {
			return // the caller gave up; the write happened all the same
		}
		var v rpc.Value
		if err == nil {
			v, err = result(r)
		}
		if err != nil {
			c.Finish(s.replies(), rpc.Value{}, fault(err))
			return
		}
		c.Finish(s.replies(), v, nil)
	})
	if err != nil {
		c.Finish(b, rpc.Value{}, fault(err))
	}
}

func atRevision(r Result) (rpc.Value, error) { return revisionValue(r.Revision), nil }

func (s *Service) put(b *rpc.Batch, c *rpc.Call, in putParams) {
	op := Op{Kind: OpPut, Key: in.Key}
	err := s.fillPut(c, &op, in.Value, in.TTL, in.Ephemeral)
	if err != nil {
		c.Finish(b, rpc.Value{}, fault(err))
		return
	}
	op.setIf(in.IfRevision)
	s.commit(b, c, OneOp(op), atRevision)
}

// fillPut completes an OpPut.
func (s *Service) fillPut(c *rpc.Call, op *Op, v rpc.Value, ttl *float64, ephemeral bool) (err error) {
	if op.Value, err = StoredValue(v); err != nil {
		return err
	}
	if ttl != nil {
		if op.TTL, err = ttlOf(*ttl); err != nil {
			return err
		}
	}
	if ephemeral {
		op.Owner, err = s.ownerFor(c)
	}
	return err
}

func (op *Op) setIf(revision *uint64) {
	if revision != nil {
		op.HasIf, op.If = true, *revision
	}
}

// ttlOf turns seconds into a time to live, which is never 0.
func ttlOf(seconds float64) (time.Duration, error) {
	if math.IsNaN(seconds) || seconds <= 0 || seconds > maxTTL.Seconds() {
		return 0, invalid("ttl must be a number of seconds above 0 and at most %.0f (100 years)", maxTTL.Seconds())
	}
	return max(time.Duration(seconds*float64(time.Second)), 1), nil
}

func (s *Service) patch(b *rpc.Batch, c *rpc.Call, in patchParams) {
	change, err := s.patchOf(in.Key, in.Merge, in.Ops, newAllowance())
	if err != nil {
		c.Finish(b, rpc.Value{}, fault(err))
		return
	}
	op := Op{Kind: OpPatch, Key: in.Key, Patch: change}
	op.setIf(in.IfRevision)
	s.commit(b, c, OneOp(op), atRevision)
}

// patchOf makes the function of an OpPatch, whose work is done already where that is possible.
func (s *Service) patchOf(key string, merge, ops rpc.Value, left *allowance) (func(*Item) (Value, error), error) {
	change, err := patchWork(merge, ops)
	if err != nil {
		return nil, err
	}
	a, err := newAhead(s, key, left, change)
	if err != nil {
		return nil, err
	}
	return a.of, nil
}

// patchWork reads a patch. Exactly one of merge and ops is there; null beside the other counts as absent.
func patchWork(merge, ops rpc.Value) (func(old *Item, most int) (Value, int, error), error) {
	hasMerge, hasOps := !merge.IsUndefined(), !ops.IsUndefined() && !ops.IsNull()
	if hasOps && merge.IsNull() {
		hasMerge = false
	}
	switch {
	case hasMerge == hasOps:
		return nil, invalid("a patch has either merge or ops")
	case hasOps:
		steps, err := parsePatch(ops)
		if err != nil {
			return nil, err
		}
		return steps.change, nil
	}
	merge = merge.Own()
	size := sizeOf(merge)
	return func(old *Item, most int) (Value, int, error) {
		cost := (len(old.Value.Data) + size) / 8
		if cost > most {
			return Value{}, 0, errTooMuchWork
		}
		v, err := LoadedValue(old.Value)
		if err != nil {
			return Value{}, cost, err
		}
		result, err := StoredValue(mergePatch(v, merge, 0))
		return result, cost, err
	}, nil
}

// sizeOf is about how many bytes v has as text.
func sizeOf(v rpc.Value) int {
	if text, ok := v.Raw(); ok {
		return len(text)
	}
	data, err := StoredValue(v)
	if err != nil {
		return 0 // storing it will fail as well
	}
	return len(data.Data)
}

func (s *Service) touch(b *rpc.Batch, c *rpc.Call, in touchParams) {
	op := Op{Kind: OpTouch, Key: in.Key}
	ttl, err := optionalTTL(in.TTL)
	if err != nil {
		c.Finish(b, rpc.Value{}, fault(err))
		return
	}
	op.TTL = ttl
	s.commit(b, c, OneOp(op), atRevision)
}

// optionalTTL reads seconds, or null for no limit.
func optionalTTL(v rpc.Value) (time.Duration, error) {
	if v.IsNull() || v.IsUndefined() {
		return 0, nil
	}
	seconds, err := v.AsFloat()
	if err != nil {
		return 0, invalid("ttl: %v", err)
	}
	return ttlOf(seconds)
}

func (s *Service) delete(b *rpc.Batch, c *rpc.Call, in deleteParams) {
	op, err := deleteOp(in.Key, in.Prefix)
	if err != nil {
		c.Finish(b, rpc.Value{}, fault(err))
		return
	}
	op.setIf(in.IfRevision)
	s.commit(b, c, OneOp(op), func(r Result) (rpc.Value, error) {
		o := newObject(48)
		o.uint("revision", r.Revision)
		o.uint("deleted", uint64(r.Results[0].Deleted))
		return o.end(), nil
	})
}

func deleteOp(key, prefix *string) (Op, error) {
	switch {
	case (key == nil) == (prefix == nil):
		return Op{}, invalid("a deletion has either a key or a prefix")
	case key != nil:
		return Op{Kind: OpDelete, Key: *key}, nil
	}
	return Op{Kind: OpDeletePrefix, Key: *prefix}, nil
}

func (s *Service) compact(b *rpc.Batch, c *rpc.Call, in compactParams) {
	if !keep(c) {
		return
	}
	err := s.store.Compact(in.Revision, func(lowest uint64, err error) {
		switch {
		case c.Settled():
		case err != nil:
			c.Finish(s.replies(), rpc.Value{}, fault(err))
		default:
			c.Finish(s.replies(), revisionValue(lowest), nil)
		}
	})
	if err != nil {
		c.Finish(b, rpc.Value{}, fault(err))
	}
}

// PathKey returns the key that a path names: its segments joined by slashes.
func PathKey(path []rpc.PathPart) string {
	if len(path) == 1 && !path[0].IsIndex {
		return path[0].Name
	}
	var b strings.Builder
	for i, p := range path {
		if i > 0 {
			b.WriteByte('/')
		}
		if p.IsIndex {
			b.WriteString(strconv.Itoa(p.Index))
		} else {
			b.WriteString(p.Name)
		}
	}
	return b.String()
}

// Get returns the value of key alone, for protocols that read properties. An absent key is an *rpc.Error of
// CodeNotFound. The value refers to memory of the store, which is never changed.
func (s *Service) Get(key string) (rpc.Value, error) {
	it, err := s.item(key, nil)
	if err != nil {
		return rpc.Value{}, fault(err)
	}
	v, err := LoadedValue(it.Value)
	if err != nil {
		return rpc.Value{}, fault(err)
	}
	return v, nil
}

// Set stores v under key, for protocols that write properties: it takes its place in the commit order and finishes c with
// true after the sync. It never blocks; v may be borrowed. The peer of c needs the permission to call state.put, which
// the protocol has to ask for.
func (s *Service) Set(b *rpc.Batch, c *rpc.Call, key string, v rpc.Value) {
	data, err := StoredValue(v)
	if err != nil {
		c.Finish(b, rpc.Value{}, fault(err))
		return
	}
	s.commit(b, c, OneOp(Op{Kind: OpPut, Key: key, Value: data}), func(Result) (rpc.Value, error) { return rpc.True, nil })
}

// Putter returns Set as a Target, for a protocol that starts calls through Link.Start: the last argument is the value.
func (s *Service) Putter(key string) rpc.Target {
	return rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) {
		v := rpc.Null // Python leaves a value of None out
		for a := range c.Args.List() {
			v = a
		}
		s.Set(b, c, key, v)
	})
}

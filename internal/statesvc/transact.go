package statesvc

import (
	"slices"
	"strings"
	"time"

	"github.com/tidwall/btree"
)

// step is an Op as the committer sees it: checked, and with memory of its own.
type step struct {
	kind  OpKind
	key   string
	item  *Item // OpPut: key and value are in place, the rest is filled in when it is applied
	patch func(old *Item) (Value, error)
	hasIf bool
	rev   uint64
	ttl   time.Duration
	owner string
}

// newSteps appends the operations to steps, which is empty and may have room.
func newSteps(ops []Op, steps []step) []step {
	if len(ops) == 0 {
		return nil
	}
	steps = slices.Grow(steps, len(ops))[:len(ops)]
	for i := range ops {
		op := &ops[i]
		s := &steps[i]
		*s = step{kind: op.Kind, patch: op.Patch, hasIf: op.HasIf, rev: op.If, ttl: op.TTL}
		if op.Kind == OpPut {
			s.item = newItem(op.Key, op.Value)
			s.key = s.item.Key
			s.owner = strings.Clone(op.Owner)
		} else {
			s.key = strings.Clone(op.Key)
		}
	}
	return steps
}

// effect is what a transaction does to one key so far.
type effect struct {
	key    string
	before *Item // as the transaction found it
	after  *Item // nil: absent
	expire bool
}

// batch evaluates transactions one after the other on a private version of the tree. Nothing of it is seen by anybody
// until the engine publishes it, and it is simply dropped when the log refuses it.
type batch struct {
	tree  *btree.Map[string, *Item]
	rev   uint64
	total int64 // cost of all items
	bytes int64 // keys and values
	now   time.Time

	limits  *Limits
	alive   func(owner string) bool
	commits []*commit

	effects []effect       // of the transaction being evaluated
	index   map[string]int // into effects, once there are more than a few
}

func newBatch(v *view, l *Limits, now time.Time, alive func(string) bool) *batch {
	return &batch{tree: v.tree.Copy(), rev: v.rev, total: v.total, bytes: v.bytes, now: now, limits: l, alive: alive}
}

const smallTx = 8

func (b *batch) find(key string) *effect {
	if b.index != nil {
		if i, ok := b.index[key]; ok {
			return &b.effects[i]
		}
		return nil
	}
	for i := range b.effects {
		if b.effects[i].key == key {
			return &b.effects[i]
		}
	}
	return nil
}

// set notes that key, seen as old by this transaction, becomes after.
func (b *batch) set(key string, old, after *Item) {
	if e := b.find(key); e != nil {
		e.after = after
		return
	}
	b.add(effect{key: key, before: old, after: after})
}

func (b *batch) add(e effect) {
	b.effects = append(b.effects, e)
	if b.index != nil {
		b.index[e.key] = len(b.effects) - 1
	} else if len(b.effects) > smallTx {
		b.index = make(map[string]int, 4*smallTx)
		for i := range b.effects {
			b.index[b.effects[i].key] = i
		}
	}
}

// transact evaluates one transaction. On an error the batch is as it was before. results is empty and may have room.
func (b *batch) transact(conds []Condition, then, els []step, results []OpResult) (Result, error) {
	b.effects, b.index = b.effects[:0], nil
	res := Result{Succeeded: true}
	for i := range conds {
		ok, err := b.holds(&conds[i])
		if err != nil {
			return Result{}, err
		}
		if !ok {
			res.Succeeded = false
			break
		}
	}
	steps := then
	if !res.Succeeded {
		steps = els
	}
	if len(steps) > 0 {
		res.Results = slices.Grow(results, len(steps))[:len(steps)]
	}
	for i := range steps {
		if err := b.step(&steps[i], &res.Results[i]); err != nil {
			return Result{}, err
		}
	}
	if err := b.finish(); err != nil {
		return Result{}, err
	}
	res.Revision = b.rev
	return res, nil
}

func (b *batch) holds(c *Condition) (bool, error) {
	it, _ := b.tree.Get(c.Key)
	if c.Equal != nil {
		return c.Equal(it)
	}
	if it == nil {
		return c.Revision == 0, nil
	}
	return it.Revision == c.Revision, nil
}

func (b *batch) step(s *step, res *OpResult) error {
	if s.kind == OpDeletePrefix {
		n, err := b.deletePrefix(s.key)
		res.Deleted = n
		return err
	}
	var old *Item
	if e := b.find(s.key); e != nil {
		old = e.after
	} else {
		old, _ = b.tree.Get(s.key)
	}
	if s.hasIf {
		var at uint64
		if old != nil {
			at = old.Revision
		}
		if at != s.rev {
			return &ConflictError{Key: s.key, Revision: at}
		}
	}
	switch s.kind {
	case OpGet:
		res.Item = old
		return nil
	case OpDelete:
		if old != nil {
			b.set(s.key, old, nil)
			res.Deleted = 1
		}
		return nil
	case OpPut:
		if s.owner != "" && !b.alive(s.owner) {
			return ErrOwner
		}
		s.item.Lease = newLease(b.now, s.ttl, s.owner)
		res.Item = b.put(old, s.item)
		return nil
	}
	if old == nil {
		return &NotFoundError{Key: s.key}
	}
	switch s.kind {
	case OpTouch:
		owner := ""
		if old.Lease != nil {
			owner = old.Lease.Owner
		}
		it := *old // shares key and value with the old item
		it.Lease = newLease(b.now, s.ttl, owner)
		res.Item = b.put(old, &it)
	case OpPatch:
		v, err := s.patch(old)
		if err != nil {
			return err
		}
		if len(v.Data) > b.limits.Value {
			return &LimitError{Limit: LimitValue, Max: int64(b.limits.Value)}
		}
		it := newItem(s.key, v)
		it.Lease = old.Lease
		res.Item = b.put(old, it)
	}
	return nil
}

func (b *batch) put(old, it *Item) *Item {
	it.Revision = b.rev + 1
	it.Updated = b.now.UnixNano()
	it.Created = it.Updated
	if old != nil {
		it.Created = old.Created
	}
	b.set(it.Key, old, it)
	return it
}

func (b *batch) deletePrefix(prefix string) (int, error) {
	n := 0
	var size int64
	for i := range b.effects {
		if e := &b.effects[i]; e.after != nil && strings.HasPrefix(e.key, prefix) {
			e.after = nil
			n++
		}
	}
	touched := len(b.effects) > 0
	b.tree.Ascend(prefix, func(key string, it *Item) bool {
		if !strings.HasPrefix(key, prefix) {
			return false
		}
		if touched && b.find(key) != nil {
			return true
		}
		size += int64(len(key)) + itemOverhead
		if size > b.limits.TxBytes {
			return false
		}
		if touched {
			b.add(effect{key: key, before: it})
		} else {
			b.effects = append(b.effects, effect{key: key, before: it})
		}
		n++
		return true
	})
	if size > b.limits.TxBytes {
		return 0, &LimitError{Limit: LimitTransaction, Max: b.limits.TxBytes}
	}
	if !touched && len(b.effects) > smallTx { // later operations of this transaction must find them
		b.index = make(map[string]int, len(b.effects))
		for i := range b.effects {
			b.index[b.effects[i].key] = i
		}
	}
	return n, nil
}

// finish turns the effects into a commit, if anything changed.
func (b *batch) finish() error {
	var delta, size, bytes int64
	changed := 0
	for i := range b.effects {
		e := &b.effects[i]
		if e.before == nil && e.after == nil {
			continue
		}
		changed++
		size += int64(len(e.key)) + itemOverhead
		if e.before != nil {
			delta -= e.before.cost()
			bytes -= e.before.size()
		}
		if e.after != nil {
			delta += e.after.cost()
			bytes += e.after.size()
			size += int64(len(e.after.Value.Data))
		}
	}
	if changed == 0 {
		return nil
	}
	if delta > 0 && b.total+delta > b.limits.Total {
		return &LimitError{Limit: LimitTotal, Max: b.limits.Total}
	}
	if size > b.limits.TxBytes+int64(b.limits.Value) {
		return &LimitError{Limit: LimitTransaction, Max: b.limits.TxBytes}
	}
	rev := b.rev + 1
	now := b.now.UnixNano()
	c := &commit{rev: rev, time: now}
	c.events = slices.Grow(c.one[:0], changed)
	for i := range b.effects {
		e := &b.effects[i]
		if e.before == nil && e.after == nil {
			continue
		}
		ev := &c.event // in the same piece of memory
		if changed > 1 {
			ev = new(Event)
		}
		ev.Type, ev.Key, ev.Revision, ev.Time, ev.Item = EventPut, e.key, rev, now, e.after
		if e.before != nil {
			ev.Previous = e.before.Revision
			ev.Key = e.before.Key // the key's first copy: one less to keep
		}
		if e.after == nil {
			ev.Type = EventDelete
			if e.expire {
				ev.Type = EventExpire
			}
			b.tree.Delete(e.key)
		} else {
			ev.Key = e.after.Key
			b.tree.Set(e.after.Key, e.after)
		}
		c.events = append(c.events, ev)
	}
	c.complete()
	b.rev = rev
	b.total += delta
	b.bytes += bytes
	b.commits = append(b.commits, c)
	clear(b.effects)
	return nil
}

// expire removes those of keys that are still at the revision given, under one revision.
func (b *batch) expire(keys []expiring) error {
	b.effects, b.index = b.effects[:0], nil
	for _, k := range keys {
		if it, ok := b.tree.Get(k.key); ok && it.Revision == k.rev {
			b.add(effect{key: k.key, before: it, expire: true})
		}
	}
	return b.finish()
}

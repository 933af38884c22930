package statesvc

import (
	"bytes"

	"github.com/hubd-dev/hubd/internal/rpc"
)

type txnParams struct {
	If   rpc.Value `rpc:"if,optional" doc:"conditions: {key, revision} (0: absent) or {key, value}"`
	Then rpc.Value `rpc:"then,optional" doc:"operations {op, key, ...}: put, patch, touch, delete and get with the parameters of these methods"`
	Else rpc.Value `rpc:"else,optional" doc:"operations for when a condition does not hold"`
}

const (
	// maxValueConditions bounds the comparisons of values of one transaction: they run on the committer.
	maxValueConditions = 128
	// maxTxnResult bounds the values that the get operations of one transaction return.
	maxTxnResult = 8 << 20
)

func (s *Service) txn(b *rpc.Batch, c *rpc.Call, in txnParams) {
	tx := new(Tx)
	err := s.fillTx(c, tx, in)
	if err != nil {
		c.Finish(b, rpc.Value{}, fault(err))
		return
	}
	s.commit(b, c, tx, func(r Result) (rpc.Value, error) {
		ops := tx.Then
		if !r.Succeeded {
			ops = tx.Else
		}
		return txnResult(ops, r)
	})
}

func (s *Service) fillTx(c *rpc.Call, tx *Tx, in txnParams) (err error) {
	left := newAllowance()
	if tx.If, err = s.conditions(c, in.If, left); err != nil {
		return err
	}
	if tx.Then, err = s.operations(c, "then", in.Then, left); err != nil {
		return err
	}
	tx.Else, err = s.operations(c, "else", in.Else, left)
	return err
}

// list reads an optional array of objects.
func list(name string, v rpc.Value) ([]rpc.Value, error) {
	if v.IsUndefined() || v.IsNull() {
		return nil, nil
	}
	items, err := v.AsList()
	if err != nil {
		return nil, invalid("%s: %v", name, err)
	}
	return items, nil
}

// A transaction is no way around the patterns of a token: each operation, and each
// condition, needs what the method needs that does the same alone.
var operationScopes = map[string]rpc.Scope{
	"put": rpc.ScopeCall, "patch": rpc.ScopeCall, "touch": rpc.ScopeCall, "delete": rpc.ScopeCall, "get": rpc.ScopeRead,
}

func (s *Service) conditions(c *rpc.Call, v rpc.Value, left *allowance) ([]Condition, error) {
	items, err := list("if", v)
	if err != nil {
		return nil, err
	}
	if len(items) > 0 {
		if err := c.Peer.Allows(rpc.ScopeRead, "state.get"); err != nil {
			return nil, err
		}
	}
	conds := make([]Condition, len(items))
	values := 0
	for i, item := range items {
		f, err := fieldsOf(item)
		if err != nil {
			return nil, invalid("condition %d: %v", i+1, err)
		}
		cond := &conds[i]
		cond.Key = f.str("key", true)
		revision := f.uint("revision")
		want, hasValue := f.take("value")
		switch {
		case hasValue && revision != nil || !hasValue && revision == nil:
			f.fail("it has either a revision or a value")
		case revision != nil:
			cond.Revision = *revision
		default:
			if values++; values > maxValueConditions {
				return nil, rpc.Errorf(rpc.CodeTooLarge, "a transaction compares at most %d values", maxValueConditions)
			}
			if cond.Equal, err = s.valueIs(cond.Key, want.Own(), left); err != nil {
				return nil, err
			}
		}
		if err := f.end(); err != nil {
			return nil, invalid("condition %d: %v", i+1, err)
		}
	}
	return conds, nil
}

// valueIs returns a condition that holds for items whose value means the same as want.
func (s *Service) valueIs(key string, want rpc.Value, left *allowance) (func(*Item) (bool, error), error) {
	wanted, raw := want.Raw()
	size := sizeOf(want)
	a, err := newAhead(s, key, left, func(it *Item, most int) (bool, int, error) {
		if raw && it.Value.Encoding == EncodingJSON && bytes.Equal(wanted, it.Value.Data) {
			return true, 1, nil
		}
		cost := (len(it.Value.Data) + size) / 4
		if cost > most {
			return false, 0, errTooMuchWork
		}
		v, err := LoadedValue(it.Value)
		if err != nil {
			return false, cost, nil
		}
		work := equalWork(len(it.Value.Data))
		return equalValues(v, want, &work), cost, nil
	})
	if err != nil {
		return nil, err
	}
	return func(it *Item) (bool, error) {
		if it == nil {
			return false, nil
		}
		return a.of(it)
	}, nil
}

func (s *Service) operations(c *rpc.Call, name string, v rpc.Value, left *allowance) ([]Op, error) {
	items, err := list(name, v)
	if err != nil {
		return nil, err
	}
	ops := make([]Op, len(items))
	for i, item := range items {
		f, err := fieldsOf(item)
		if err == nil {
			err = s.operation(c, &ops[i], f, left)
		}
		if err != nil {
			e := *fault(err)
			if e.Code == rpc.CodeInvalidParams {
				e.Message = invalid("%s, operation %d: %s", name, i+1, e.Message).Message
			}
			return nil, &e
		}
	}
	return ops, nil
}

func (s *Service) operation(c *rpc.Call, op *Op, f *fields, left *allowance) (err error) {
	kind := f.str("op", true)
	if scope, known := operationScopes[kind]; known {
		if err := c.Peer.Allows(scope, "state."+kind); err != nil {
			return err
		}
	}
	switch kind {
	case "put":
		op.Kind, op.Key = OpPut, f.str("key", true)
		v, ok := f.take("value")
		if !ok {
			f.fail("put misses its value")
		}
		ttl, ephemeral := f.float("ttl"), f.bool("ephemeral")
		if f.err == nil {
			err = s.fillPut(c, op, v, ttl, ephemeral)
		}
	case "patch":
		op.Kind, op.Key = OpPatch, f.str("key", true)
		merge, _ := f.take("merge")
		ops, _ := f.take("ops")
		if f.err == nil {
			op.Patch, err = s.patchOf(op.Key, merge, ops, left)
		}
	case "touch":
		op.Kind, op.Key = OpTouch, f.str("key", true)
		ttl, ok := f.take("ttl")
		if !ok {
			f.fail("touch misses its ttl")
		}
		op.TTL, err = optionalTTL(ttl)
	case "delete":
		var key, prefix *string
		if k, ok := f.optionalStr("key"); ok {
			key = &k
		}
		if p, ok := f.optionalStr("prefix"); ok {
			prefix = &p
		}
		if f.err == nil {
			*op, err = deleteOp(key, prefix)
		}
	case "get":
		op.Kind, op.Key = OpGet, f.str("key", true)
	default:
		f.fail("unknown operation %q", rpc.CleanText(kind, 32))
	}
	op.setIf(f.uint("if_revision"))
	if e := f.end(); e != nil {
		return e
	}
	return err
}

// txnResult is the answer of a transaction: one result per operation of the branch that ran.
func txnResult(ops []Op, r Result) (rpc.Value, error) {
	results := make([]rpc.Value, len(r.Results))
	size := 0
	for i := range r.Results {
		res := &r.Results[i]
		switch ops[i].Kind {
		case OpGet:
			results[i] = rpc.Null
			if res.Item == nil {
				continue
			}
			if size += len(res.Item.Key) + len(res.Item.Value.Data); size > maxTxnResult {
				return rpc.Value{}, &rpc.Error{Code: rpc.CodeTooLarge, Ran: rpc.RanYes,
					Message: "the transaction was done, but what it reads is too large for one answer"}
			}
			v, err := shownItem(nil, res.Item, true)
			if err != nil {
				return rpc.Value{}, err
			}
			results[i] = v
		case OpDelete, OpDeletePrefix:
			o := newObject(32)
			o.uint("deleted", uint64(res.Deleted))
			results[i] = o.end()
		default:
			results[i] = revisionValue(r.Revision)
		}
	}
	o := newObject(96)
	o.value("succeeded", rpc.Bool(r.Succeeded))
	o.uint("revision", r.Revision)
	o.value("results", rpc.Array(results))
	return o.end(), nil
}

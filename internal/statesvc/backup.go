package statesvc

import (
	"context"
	"encoding/base64"
	"iter"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// A backup is a stream of objects, so that it can be kept as JSON lines:
//
//	{"type": "snapshot", "format": 1, "revision": R, "keys": N, "bytes": B, "time": T}
//	{"type": "item", "key": K, "value": V, "revision": r, "created": T, "updated": T}
//	{"type": "end", "revision": R, "keys": N}
//
// An item whose value JSON does not carry exactly, or whose text a JSON wire might change, has "encoding" ("json" or
// "typed") and "data" (base64) in place of "value". "ttl" is the seconds that are left, "limit" its whole time, "owner"
// whom an ephemeral key belongs to. Restore also takes bare items: {"key": K, "value": V}, without first and last object.
const backupFormat = 1

// maxRestoredRevision leaves room for revisions to go on, and is exact in every protocol.
const maxRestoredRevision = 1 << 53

// maxCopies bounds the snapshots being sent at a time: each holds memory of values that are overwritten meanwhile.
const maxCopies = 8

type restoreParams struct {
	Items     *rpc.Reader `rpc:"items" doc:"what state.snapshot returned, or items {key, value}"`
	Overwrite bool        `rpc:"overwrite,unlisted" default:"false" doc:"replace what is there; all watches end"`
}

type restoreResult struct {
	Revision uint64 `json:"revision"`
	Keys     int    `json:"keys"`
}

func (s *Service) snapshotMethod() *rpc.Method {
	return rpc.HandleStream("state.snapshot", s.snapshot, rpc.Needs(rpc.ScopeRead), rpc.NeverSlow(),
		rpc.Returns(rpc.Type{Kind: rpc.KindObject}),
		rpc.Doc("Stream a consistent backup of everything, for state.restore."))
}

func (s *Service) restoreMethod() *rpc.Method {
	return rpc.Handle("state.restore", s.restore, rpc.Needs(rpc.ScopeAdmin), rpc.Also("state.put", "state.delete"), rpc.NeverSlow(),
		rpc.Doc("Make the items of a backup the state. It refuses over a store that was ever written to, unless overwrite is set."))
}

func (s *Service) snapshot(_ context.Context, _ struct{}, send func(rpc.Value) error) error {
	s.mu.Lock()
	full := s.copies >= maxCopies
	if !full {
		s.copies++
	}
	s.mu.Unlock()
	if full {
		return rpc.Errorf(rpc.CodeOverloaded, "more than %d snapshots are being sent", maxCopies)
	}
	defer func() {
		s.mu.Lock()
		s.copies--
		s.mu.Unlock()
	}()
	snap := s.store.Snapshot()
	head := newObject(128)
	head.str("type", "snapshot")
	head.uint("format", backupFormat)
	head.uint("revision", snap.Revision)
	head.uint("keys", uint64(snap.Keys))
	head.uint("bytes", uint64(max(snap.Bytes, 0)))
	head.str("time", stamp(time.Now().UnixNano()))
	if err := send(head.end()); err != nil {
		return err
	}
	for it := range snap.Items {
		if err := send(backupOf(it)); err != nil {
			return err
		}
	}
	tail := newObject(64)
	tail.str("type", "end")
	tail.uint("revision", snap.Revision)
	tail.uint("keys", uint64(snap.Keys))
	return send(tail.end())
}

// changeable are the traits of a text that a JSON wire or reader on the way might not keep.
const changeable = rpc.HasNewline | rpc.HasNonFinite | rpc.HasSurrogate | rpc.HasBigInt

func backupOf(it *Item) rpc.Value {
	o := newObject(len(it.Key) + len(it.Value.Data)*4/3 + 200)
	o.str("type", "item")
	o.str("key", it.Key)
	v, err := LoadedValue(it.Value)
	switch {
	case it.Value.Encoding == EncodingJSON && err == nil && !v.Traits().Has(changeable):
		o.value("value", v)
	case it.Value.Encoding == EncodingJSON:
		o.str("encoding", "json")
		o.str("data", base64.StdEncoding.EncodeToString(it.Value.Data))
	default:
		o.str("encoding", "typed")
		o.str("data", base64.StdEncoding.EncodeToString(it.Value.Data))
	}
	o.uint("revision", it.Revision)
	o.str("created", stamp(it.Created))
	o.str("updated", stamp(it.Updated))
	if left, ok := it.TTL(); ok {
		o.value("ttl", rpc.RawString(string(rpc.AppendFloat(nil, left.Seconds(), rpc.Form{}))))
		o.value("limit", rpc.RawString(string(rpc.AppendFloat(nil, it.Lease.TTL.Seconds(), rpc.Form{}))))
	}
	if it.Lease != nil && it.Lease.Owner != "" {
		o.str("owner", it.Lease.Owner)
	}
	return o.end()
}

func (s *Service) restore(ctx context.Context, in restoreParams) (restoreResult, error) {
	defer in.Items.Close(nil)
	r := &backupReader{now: time.Now()}
	first, ok, err := in.Items.Recv(ctx)
	if err != nil {
		return restoreResult{}, err
	}
	if ok {
		if err := r.begin(first); err != nil {
			return restoreResult{}, err
		}
	}
	// The revision of the backup is in its first object, so that is read before Restore begins.
	res, err := s.store.Restore(ctx, r.items(ctx, in.Items, first, ok), RestoreOptions{Revision: r.revision, Overwrite: in.Overwrite})
	if err != nil {
		if ctx.Err() != nil {
			return restoreResult{}, err
		}
		return restoreResult{}, fault(err)
	}
	return restoreResult(res), nil
}

// backupReader turns the objects of a backup into items.
type backupReader struct {
	now      time.Time
	whole    bool // there was a first object: the last one must come as well
	ended    bool
	revision uint64
	keys     uint64 // announced
	n        uint64 // seen
}

// begin looks at the first object.
func (r *backupReader) begin(v rpc.Value) error {
	f, err := fieldsOf(v)
	if err != nil {
		return invalid("item 1: %v", err)
	}
	if kind, _ := f.optionalStr("type"); kind != "snapshot" {
		return nil
	}
	format := f.uint("format")
	if f.err == nil && (format == nil || *format != backupFormat) {
		return invalid("the backup has a format that this program does not read")
	}
	revision, keys := f.uint("revision"), f.uint("keys")
	if f.err == nil && (revision == nil || keys == nil) {
		f.fail("the backup misses its revision or its number of keys")
	}
	if f.err != nil {
		return f.err
	}
	if *revision > maxRestoredRevision {
		return invalid("the revision of the backup is out of range")
	}
	r.whole, r.revision, r.keys = true, *revision, *keys
	return nil
}

func (r *backupReader) items(ctx context.Context, in *rpc.Reader, first rpc.Value, hasFirst bool) iter.Seq2[*Item, error] {
	return func(yield func(*Item, error) bool) {
		if hasFirst && !r.whole {
			it, err := r.item(first)
			if !yield(it, err) || err != nil {
				return
			}
		}
		for v, err := range in.All(ctx) {
			var it *Item
			if err == nil {
				it, err = r.item(v)
			}
			if err != nil {
				yield(nil, err)
				return
			}
			if it != nil && !yield(it, nil) {
				return
			}
		}
		if r.whole && (!r.ended || r.n != r.keys) {
			yield(nil, invalid("the backup is not complete: it has %d of %d keys", r.n, r.keys))
		}
	}
}

// item reads one object; nil is the last one.
func (r *backupReader) item(v rpc.Value) (*Item, error) {
	at := r.n + 1
	f, err := fieldsOf(v)
	if err != nil {
		return nil, invalid("item %d: %v", at, err)
	}
	if r.ended {
		return nil, invalid("item %d: the backup goes on after its end", at)
	}
	switch kind, _ := f.optionalStr("type"); kind {
	case "end":
		r.ended = r.whole
		if !r.whole {
			return nil, invalid("item %d: an end without a beginning", at)
		}
		return nil, nil
	case "", "item":
	default:
		return nil, invalid("item %d: unknown type %q", at, rpc.CleanText(kind, 32))
	}
	r.n++
	it := &Item{Key: f.str("key", true)}
	value, hasValue := f.take("value")
	encoding, encoded := f.optionalStr("encoding")
	data := f.str("data", encoded)
	switch {
	case f.err != nil:
	case hasValue == encoded:
		f.fail("it has either a value or data with an encoding")
	case encoded:
		it.Value, err = storedData(encoding, data)
	default:
		it.Value, err = StoredValue(value)
	}
	if err != nil {
		f.fail("%s", fault(err).Message)
	}
	if revision := f.uint("revision"); revision != nil {
		if it.Revision = *revision; it.Revision > maxRestoredRevision {
			f.fail("the revision is out of range")
		}
	}
	it.Created, it.Updated = f.time("created", r.now), f.time("updated", r.now)
	f.lease(it, r.now)
	if err := f.end(); err != nil {
		return nil, invalid("item %d: %s", at, fault(err).Message)
	}
	return it, nil
}

// storedData reads a value that came as base64, and checks it.
func storedData(encoding, data string) (Value, error) {
	raw, err := base64.StdEncoding.DecodeString(data)
	if err != nil {
		return Value{}, invalid("data is not base64")
	}
	v := Value{Data: raw}
	switch encoding {
	case "json":
		text, err := rpc.Parse(raw)
		if err != nil {
			return Value{}, invalid("data is not JSON")
		}
		v.Data, _ = text.Raw()
	case "typed":
		v.Encoding = EncodingTyped
	default:
		return Value{}, invalid("unknown encoding %q", rpc.CleanText(encoding, 32))
	}
	_, err = LoadedValue(v)
	return v, err
}

func (f *fields) time(name string, absent time.Time) int64 {
	s, ok := f.optionalStr(name)
	if !ok {
		return absent.UnixNano()
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil || t.Year() < 1970 || t.Year() > 2200 {
		f.fail("%s is not a time", name)
		return 0
	}
	return t.UnixNano()
}

func (f *fields) lease(it *Item, now time.Time) {
	left, limit := f.float("ttl"), f.float("limit")
	owner := f.str("owner", false)
	if f.err != nil || left == nil && owner == "" {
		return
	}
	it.Lease = &Lease{Owner: owner}
	if left == nil {
		return
	}
	if limit == nil || *limit < *left {
		limit = left
	}
	whole, err := ttlOf(*limit)
	if err != nil {
		f.fail("%s", fault(err).Message)
		return
	}
	it.Lease.TTL = whole
	it.Lease.Deadline = now.Add(max(0, time.Duration(*left*float64(time.Second))))
}

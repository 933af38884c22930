package statesvc

import (
	"context"
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Limits of the answers that hold many items, so that they fit into one frame of every protocol.
const (
	maxListItems  = 10_000
	maxListBytes  = 4 << 20
	maxReadBuffer = 64 << 10 // of the buffers that are kept for get
)

type getParams struct {
	Key      string  `rpc:"key" doc:"the key"`
	Revision *uint64 `rpc:"revision" doc:"the value at that revision instead of the newest"`
}

type listParams struct {
	Prefix   string  `rpc:"prefix" default:"\"\"" doc:"only keys that begin with it"`
	After    *string `rpc:"after" doc:"only keys greater than this: the next of the page before"`
	Limit    int     `rpc:"limit" default:"1000" doc:"at most so many items, up to 10000; a page may be shorter"`
	KeysOnly bool    `rpc:"keys_only" default:"false" doc:"leave the values out"`
}

type historyParams struct {
	Key   string `rpc:"key" doc:"the key"`
	Limit int    `rpc:"limit" default:"100" doc:"the newest so many events, up to 10000"`
}

var readBuffers = sync.Pool{New: func() any { return new([]byte) }}

func (s *Service) readMethods() []*rpc.Method {
	read := rpc.Needs(rpc.ScopeRead)
	return []*rpc.Method{
		rpc.HandleTarget[getParams, map[string]any]("state.get", s.get, rpc.In(rpc.Inline), read,
			rpc.Doc("Return the value of a key with its revision and times.")),
		rpc.Handle("state.list", s.list, read,
			rpc.Doc("List keys with their values in the order of the keys, all of one revision. Pass next as after for the next page.")),
		rpc.Handle("state.history", s.history, read,
			rpc.Doc("Return the changes of a key that history still holds, the newest last.")),
		rpc.Handle("state.info", s.info, read,
			rpc.Doc("Say what kind of store this is and what an acknowledgement of a write means.")),
		rpc.Handle("state.stats", s.stats, read,
			rpc.Doc("Return counters since the start and present sizes of the store.")),
	}
}

// get runs on the reader: it is a lookup in a tree and one copy.
func (s *Service) get(b *rpc.Batch, c *rpc.Call, in getParams) {
	it, err := s.item(in.Key, in.Revision)
	if err != nil {
		c.Finish(b, rpc.Value{}, fault(err))
		return
	}
	buf := readBuffers.Get().(*[]byte)
	v, err := shownItem(*buf, it, true)
	if err != nil {
		readBuffers.Put(buf)
		c.Finish(b, rpc.Value{}, fault(err))
		return
	}
	c.Finish(b, v, nil) // borrows v
	// A tree may be kept by whoever reads it; it holds text of its beginning.
	if text, ok := v.Raw(); ok && cap(text) <= maxReadBuffer {
		*buf = text[:0]
		readBuffers.Put(buf)
	}
}

func (s *Service) item(key string, revision *uint64) (*Item, error) {
	if revision == nil {
		if it, err := s.store.Get(key); err == nil {
			return it, nil
		}
	}
	if err := CheckKey(key, 1<<20); err != nil {
		return nil, err
	}
	if revision == nil {
		return s.store.Get(key)
	}
	return s.store.GetAt(key, *revision)
}

func (s *Service) list(_ context.Context, in listParams) (rpc.Value, error) {
	if in.Limit < 1 {
		return rpc.Value{}, invalid("limit must be at least 1")
	}
	opts := ListOptions{Prefix: in.Prefix, Limit: min(in.Limit, maxListItems), MaxBytes: maxListBytes, KeysOnly: in.KeysOnly}
	if in.After != nil {
		opts.After = *in.After
	}
	page, err := s.store.List(opts)
	if err != nil {
		return rpc.Value{}, fault(err)
	}
	items := make([]rpc.Value, len(page.Items))
	for i, it := range page.Items {
		if items[i], err = shownItem(nil, it, !in.KeysOnly); err != nil {
			return rpc.Value{}, fault(err)
		}
	}
	o := newObject(64)
	o.value("items", rpc.Array(items))
	o.uint("revision", page.Revision)
	if page.More && len(page.Items) > 0 {
		o.str("next", page.Items[len(page.Items)-1].Key)
	}
	return o.end(), nil
}

func (s *Service) history(_ context.Context, in historyParams) (rpc.Value, error) {
	if in.Limit < 1 {
		return rpc.Value{}, invalid("limit must be at least 1")
	}
	events, err := s.store.History(in.Key, min(in.Limit, maxListItems))
	if err != nil {
		return rpc.Value{}, fault(err)
	}
	size, first := 0, len(events)
	for first > 0 && size <= maxListBytes { // the newest that fit
		first--
		size += len(events[first].Key)
		if it := events[first].Item; it != nil {
			size += len(it.Value.Data)
		}
	}
	items := make([]rpc.Value, 0, len(events)-first)
	for _, e := range events[first:] {
		v, err := shownEvent(e, true)
		if err != nil {
			return rpc.Value{}, fault(err)
		}
		items = append(items, v)
	}
	return rpc.Array(items), nil
}

type infoResult struct {
	Engine    string `json:"engine"`
	Durable   bool   `json:"durable"`
	Ack       string `json:"ack"`
	Revision  uint64 `json:"revision"`
	Compacted uint64 `json:"compacted"`
}

func (s *Service) info(context.Context, struct{}) (infoResult, error) {
	return infoResult(s.store.Info()), nil
}

type statsResult struct {
	Revision      uint64 `json:"revision"`
	Compacted     uint64 `json:"compacted"`
	Keys          int    `json:"keys"`
	Bytes         int64  `json:"bytes"`
	HistoryEvents int    `json:"history_events"`
	HistoryBytes  int64  `json:"history_bytes"`
	Queue         int    `json:"queue"`
	QueueBytes    int64  `json:"queue_bytes"`
	Watchers      int    `json:"watchers"`
	Owners        int    `json:"owners"`
	Leases        int    `json:"leases"`
	Commits       uint64 `json:"commits"`
	Batches       uint64 `json:"batches"`
	Refused       uint64 `json:"refused"`
	Expired       uint64 `json:"expired"`
	LogBytes      int64  `json:"log_bytes"`
	Snapshots     uint64 `json:"snapshots"`
	SnapshotBytes int64  `json:"snapshot_bytes"`
	LastSnapshot  uint64 `json:"last_snapshot"`
	TornBytes     int64  `json:"torn_bytes"`
	LogFailures   uint64 `json:"log_failures"`
}

func (s *Service) stats(context.Context, struct{}) (statsResult, error) {
	return statsResult(s.store.Stats()), nil
}

package statesvc

import (
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

type watchParams struct {
	Key          *string   `rpc:"key" doc:"one key"`
	Prefix       rpc.Value `rpc:"prefix,optional" doc:"all keys that begin with it; a function here gets each later event of the key"`
	FromRevision *uint64   `rpc:"from_revision" doc:"begin with the first event after this revision"`
	Snapshot     *bool     `rpc:"snapshot" doc:"begin with what is there; without from_revision the default"`
	Values       bool      `rpc:"values" default:"true" doc:"false: leave the values out"`
}

type watchItem struct {
	Type             string    `json:"type"`
	Key              string    `json:"key"`
	Value            rpc.Value `json:"value"`
	Revision         uint64    `json:"revision"`
	PreviousRevision uint64    `json:"previous_revision"`
}

func (s *Service) watchMethod() *rpc.Method {
	return rpc.HandleTarget[watchParams, watchItem]("state.watch", s.watch, rpc.In(rpc.Inline), rpc.Needs(rpc.ScopeRead),
		rpc.Streams(), rpc.Endless(), rpc.NeverSlow(), rpc.Within(-1),
		rpc.Doc("Follow a key, a prefix or everything. Without from_revision what is there comes first, then {type: \"synced\"}, then each change "+
			"in order, none left out; {type: \"progress\"} tells an idle watch how far it is. Called with a key and a function it calls the function "+
			"for each later event of the key and returns a reference whose release ends that."))
}

// watchBatch is how many items one turn of a watch sends.
const watchBatch = 256

// receiver is where the items of a watch go: a stream, or calls of a function.
type receiver interface {
	// send passes one item on, against credit. It does not block.
	send(b *rpc.Batch, v rpc.Value)
	// outbox returns the way to the peer, nil when there is none that could fill up.
	outbox() *rpc.Outbox
	// finish tells the receiver that no more comes. It is called at most once.
	finish(b *rpc.Batch, err *rpc.Error)
	// marks reports whether it wants what is no event: synced, progress.
	marks() bool
}

// States of a watch. Whoever brings it from idle to another state sees to it that it is served.
const (
	watchOpening = iota // its receiver is not there yet
	watchIdle
	watchQueued
	watchRunning
	watchAgain // running, and something came in meanwhile
)

// watch is one state.watch.
type watch struct {
	s      *Service
	store  Watcher
	values bool

	mu      sync.Mutex  // never held while the receiver or the store is called
	timer   *time.Timer // for progress; nil without
	out     receiver
	state   int
	credit  int
	more    bool // the store may have something
	idle    bool // the progress timer fired
	waiting bool // for room on the way to the peer
	stopped bool // nobody wants more
	onStop  func()

	// These belong to whoever serves it.
	batch  Batch
	items  int // sent of batch.Items
	events int // sent of batch.Events
	synced bool
	sent   time.Time
}

func (s *Service) watch(b *rpc.Batch, c *rpc.Call, in watchParams) {
	if fn, ok := in.Prefix.AsRef(); ok {
		s.watchWithFunction(b, c, in, fn)
		return
	}
	w, err := s.openWatch(c, in)
	if err != nil {
		c.Finish(b, rpc.Value{}, fault(err))
		return
	}
	if !keep(c) {
		w.stop()
		return
	}
	out := &streamReceiver{link: c.Link()}
	out.sink = c.Open(b, w)
	w.begin(out)
}

// watchOptions checks what the stream form was called with.
func (in *watchParams) watchOptions(c *rpc.Call) (WatchOptions, error) {
	var opts WatchOptions
	if c.Unary {
		return opts, invalid("state.watch streams without end: ask for its result as a stream")
	}
	if in.Key != nil {
		if err := CheckKey(*in.Key, 1<<20); err != nil {
			return opts, err
		}
		opts.Key = *in.Key
	}
	if !in.Prefix.IsUndefined() && !in.Prefix.IsNull() {
		prefix, err := in.Prefix.AsString()
		if err != nil {
			return opts, invalid("argument %q: %v", "prefix", err)
		}
		if in.Key != nil {
			return opts, invalid("a watch has a key or a prefix, not both")
		}
		opts.Prefix = prefix
	}
	opts.Snapshot = in.FromRevision == nil
	if in.Snapshot != nil {
		opts.Snapshot = *in.Snapshot
	}
	if in.FromRevision != nil {
		opts.Resume, opts.From = true, *in.FromRevision
	}
	return opts, nil
}

func (s *Service) openWatch(c *rpc.Call, in watchParams) (*watch, error) {
	opts, err := in.watchOptions(c)
	if err != nil {
		return nil, err
	}
	w, err := s.newWatch(opts, in.Values)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.timer = time.AfterFunc(s.opts.Progress, w.tick)
	w.mu.Unlock()
	return w, nil
}

// newWatch registers a watch whose receiver comes with begin.
func (s *Service) newWatch(opts WatchOptions, values bool) (*watch, error) {
	w := &watch{s: s, values: values, more: true, sent: time.Now()}
	opts.Wake = w.wake
	var err error
	if w.store, err = s.store.Watch(opts); err != nil {
		return nil, err
	}
	s.mu.Lock()
	closed := s.closed
	if !closed {
		s.watches[w] = struct{}{}
	}
	s.mu.Unlock()
	if closed {
		w.store.Close()
		return nil, ErrClosed
	}
	return w, nil
}

// begin lets the watch send.
func (w *watch) begin(out receiver) {
	w.mu.Lock()
	w.out = out
	w.state = watchQueued
	w.mu.Unlock()
	w.s.pump.add(w)
}

// Grant adds credit; it may come before begin.
func (w *watch) Grant(n int) {
	w.mu.Lock()
	w.credit = min(w.credit+max(n, 0), 1<<30)
	w.mu.Unlock()
	w.kick()
}

// Stop ends the watch: nobody wants more, and nobody is told.
func (w *watch) Stop(*rpc.Error) { w.stop() }

// stop gives back what the watch holds. It reports whether this call was the first.
func (w *watch) stop() bool {
	w.mu.Lock()
	if w.stopped {
		w.mu.Unlock()
		return false
	}
	w.stopped = true
	timer, onStop := w.timer, w.onStop
	w.mu.Unlock()
	if timer != nil {
		timer.Stop()
	}
	w.store.Close()
	w.s.mu.Lock()
	delete(w.s.watches, w)
	w.s.mu.Unlock()
	if onStop != nil {
		onStop()
	}
	return true
}

// end stops the watch and tells its receiver why.
func (w *watch) end(b *rpc.Batch, err *rpc.Error) {
	w.mu.Lock()
	out := w.out
	w.mu.Unlock()
	if w.stop() && out != nil {
		out.finish(b, err)
	}
}

// kick sees to it that the watch is looked at.
func (w *watch) kick() {
	w.mu.Lock()
	queue := w.state == watchIdle && !w.stopped
	switch {
	case queue:
		w.state = watchQueued
	case w.state == watchRunning:
		w.state = watchAgain
	}
	w.mu.Unlock()
	if queue {
		w.s.pump.add(w)
	}
}

// wake is called by the store. It serves the watch at once, so that one event on its way to many watchers is encoded
// once and flushed once; what does not fit into a turn is left to the pump.
func (w *watch) wake() {
	w.mu.Lock()
	w.more = true
	now := w.state == watchIdle && !w.stopped && w.credit > 0
	switch {
	case now:
		w.state = watchQueued
	case w.state == watchRunning:
		w.state = watchAgain
	}
	w.mu.Unlock()
	if now {
		w.serve(w.s.wakes())
	}
}

// tick is called by the timer when it is time to look whether the watch was silent.
func (w *watch) tick() {
	w.mu.Lock()
	w.idle = true
	w.mu.Unlock()
	w.kick()
}

// serve gives the watch one turn.
func (w *watch) serve(b *rpc.Batch) {
	w.mu.Lock()
	w.state = watchRunning
	out := w.out
	w.mu.Unlock()
	again, err := w.turn(b, out)
	if err != nil {
		w.end(b, fault(err))
		return
	}
	w.mu.Lock()
	again = (again || w.state == watchAgain) && !w.stopped
	w.state = watchIdle
	if again {
		w.state = watchQueued
	}
	w.mu.Unlock()
	if again {
		w.s.pump.add(w)
	}
}

// turn sends what there is credit, room and a batch for. again says that there may be more to do now.
func (w *watch) turn(b *rpc.Batch, out receiver) (again bool, err error) {
	for sent := 0; sent < watchBatch; {
		w.mu.Lock()
		credit, more, stopped := w.credit, w.more, w.stopped
		w.mu.Unlock()
		if stopped || credit == 0 || w.crowded(out) {
			return false, nil
		}
		if w.empty() {
			if !more {
				w.progress(b, out)
				return false, nil
			}
			if err := w.fetch(min(credit, watchBatch)); err != nil {
				return false, err
			}
			continue
		}
		n, err := w.sendBatch(b, out, min(credit, watchBatch-sent))
		if err != nil {
			return false, err
		}
		if n > 0 {
			w.sent = time.Now()
			w.mu.Lock()
			w.credit -= n
			w.mu.Unlock()
		}
		sent += max(n, 1) // a mark that nobody wants counts too: the turn ends
	}
	return true, nil
}

func (w *watch) empty() bool {
	return w.items == len(w.batch.Items) && w.events == len(w.batch.Events) && !w.batch.Synced
}

// fetch takes the next batch from the store.
func (w *watch) fetch(n int) (err error) {
	w.mu.Lock()
	w.more = false // before Next: a wake that follows it must not be lost
	w.mu.Unlock()
	w.batch, err = w.store.Next(n)
	w.items, w.events = 0, 0
	if err == nil && !w.batch.Idle {
		w.mu.Lock()
		w.more = true
		w.mu.Unlock()
	}
	return err
}

// sendBatch sends up to n items of the batch: items of the snapshot, events, then the mark that ends both.
func (w *watch) sendBatch(b *rpc.Batch, out receiver, n int) (sent int, err error) {
	for ; sent < n && w.items < len(w.batch.Items); sent++ {
		it := w.batch.Items[w.items]
		v, err := shownChange(EventPut, it.Key, it, it.Revision, 0, w.values)
		if err != nil {
			return sent, err
		}
		w.items++
		out.send(b, v)
		if w.crowded(out) {
			return sent + 1, nil
		}
	}
	for ; sent < n && w.events < len(w.batch.Events); sent++ {
		v, err := shownEvent(w.batch.Events[w.events], w.values)
		if err != nil {
			return sent, err
		}
		w.events++
		out.send(b, v)
		if w.crowded(out) {
			return sent + 1, nil
		}
	}
	if w.batch.Synced && sent < n && w.items == len(w.batch.Items) && w.events == len(w.batch.Events) {
		w.batch.Synced, w.synced = false, true
		if out.marks() {
			out.send(b, shownMark("synced", w.batch.Revision))
			sent++
		}
	}
	if w.empty() {
		w.batch = Batch{} // lets go of items and events
		w.items, w.events = 0, 0
	}
	return sent, nil
}

// progress tells a watch that was silent for long how far it is, and sets the timer anew. The watch has nothing else to
// send, and there is credit.
func (w *watch) progress(b *rpc.Batch, out receiver) {
	w.mu.Lock()
	due := w.idle && !w.stopped && w.timer != nil
	w.idle = false
	w.mu.Unlock()
	if !due {
		return
	}
	quiet := time.Since(w.sent)
	if quiet >= w.s.opts.Progress {
		quiet = 0
		if w.synced && out.marks() {
			out.send(b, shownMark("progress", w.store.Revision()))
			w.sent = time.Now()
			w.mu.Lock()
			w.credit--
			w.mu.Unlock()
		}
	}
	w.mu.Lock()
	if !w.stopped {
		w.timer.Reset(w.s.opts.Progress - quiet)
	}
	w.mu.Unlock()
}

// streamReceiver is the answer of a call.
type streamReceiver struct {
	link *rpc.Link // nil for calls of Go code
	sink rpc.Sink
}

func (r *streamReceiver) send(b *rpc.Batch, v rpc.Value)      { r.sink.Item(b, v) }
func (r *streamReceiver) finish(b *rpc.Batch, err *rpc.Error) { r.sink.End(b, err) }
func (r *streamReceiver) marks() bool                         { return true }

func (r *streamReceiver) outbox() *rpc.Outbox { return outboxOf(r.link) }

func outboxOf(l *rpc.Link) *rpc.Outbox {
	if l == nil {
		return nil
	}
	return l.Out
}

// crowded reports whether the peer has too much to take already; the watch is looked at again when that is over.
func (w *watch) crowded(out receiver) bool {
	o := out.outbox()
	if o == nil || !o.Crowded() {
		return false
	}
	w.mu.Lock()
	waiting := w.waiting
	w.waiting = true
	w.mu.Unlock()
	if !waiting {
		o.OnRoom(func() {
			w.mu.Lock()
			w.waiting = false
			w.mu.Unlock()
			w.kick()
		})
	}
	return true
}

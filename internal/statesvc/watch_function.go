package statesvc

import (
	"github.com/hubd-dev/hubd/internal/rpc"
)

// functionWindow is how many calls of a function may wait for their answers.
const functionWindow = 64

// watchWithFunction is state.watch(key, fn): fn is called for each later event of the key, in order. The answer is a
// reference: its release, a call of it, or the end of the connection stops the watch.
func (s *Service) watchWithFunction(b *rpc.Batch, c *rpc.Call, in watchParams, fn *rpc.Ref) {
	w, err := s.openFunctionWatch(c, in, fn)
	if err != nil {
		c.Finish(b, rpc.Value{}, fault(err))
		return
	}
	stop := rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) {
		if len(c.Path) > 0 {
			c.Finish(b, rpc.Value{}, rpc.NoMethod(c.Path[0].Name))
			return
		}
		w.stop()
		c.Finish(b, rpc.True, nil)
	})
	c.Finish(b, rpc.TreeValue(rpc.NewRef(stop, func() { w.stop() })), nil)
	w.begin(&functionReceiver{w: w, fn: fn, link: c.Link(), peer: c.Peer, protocol: c.Protocol})
}

func (s *Service) openFunctionWatch(c *rpc.Call, in watchParams, fn *rpc.Ref) (*watch, error) {
	if in.Key == nil {
		return nil, invalid("a watch with a function has a key")
	}
	if err := CheckKey(*in.Key, 1<<20); err != nil {
		return nil, err
	}
	if in.FromRevision != nil || in.Snapshot != nil {
		return nil, invalid("a watch with a function begins with the next event")
	}
	w, err := s.newWatch(WatchOptions{Key: *in.Key}, in.Values)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.credit = functionWindow
	w.mu.Unlock()
	l := c.Link()
	if l == nil {
		w.hold(fn, nil)
		return w, nil
	}
	s.mu.Lock()
	st, fresh := s.linkLocked(l)
	st.watches[w] = struct{}{}
	s.mu.Unlock()
	end := c.Subscribe() // the limit was looked at when the call came
	w.hold(fn, func() {
		end()
		s.mu.Lock()
		delete(st.watches, w)
		s.mu.Unlock()
	})
	if fresh {
		l.OnClose(func() { s.linkClosed(l, st) })
	}
	return w, nil
}

// hold keeps fn for as long as the watch lasts; then is called, too, when it ends.
func (w *watch) hold(fn *rpc.Ref, then func()) {
	fn.Retain() // that of the argument ends with the call
	release := func() {
		fn.Release()
		if then != nil {
			then()
		}
	}
	w.mu.Lock()
	stopped := w.stopped
	w.onStop = release
	w.mu.Unlock()
	if stopped {
		release()
	}
}

// functionReceiver calls a function for each event.
type functionReceiver struct {
	w        *watch
	fn       *rpc.Ref
	link     *rpc.Link
	peer     *rpc.Peer
	protocol rpc.Protocol
}

func (r *functionReceiver) marks() bool                   { return false }
func (r *functionReceiver) outbox() *rpc.Outbox           { return outboxOf(r.link) }
func (r *functionReceiver) finish(*rpc.Batch, *rpc.Error) {}

// send calls the function under a hold of its own: the watch may be stopped meanwhile, on another goroutine, and a peer
// that was told of the release must not hear of the function again.
func (r *functionReceiver) send(b *rpc.Batch, v rpc.Value) {
	r.w.mu.Lock()
	stopped := r.w.stopped
	if !stopped {
		r.fn.Retain() // the watch has one, which it gives back only after it is marked as stopped
	}
	r.w.mu.Unlock()
	if stopped {
		return
	}
	defer r.fn.Release()
	r.fn.Target.Start(b, &rpc.Call{Args: rpc.ListArgs(v), Peer: r.peer, Protocol: r.protocol, Unary: true, Reply: eventReply{r.w}})
}

// eventReply takes the answer of the function: it makes room for the next call. A function that fails goes on being
// called, one that is gone does not.
type eventReply struct{ w *watch }

func (r eventReply) Result(_ *rpc.Batch, _ *rpc.Call, v rpc.Value) {
	rpc.Drop(v) // whatever the function returns
	r.w.Grant(1)
}

func (r eventReply) Error(_ *rpc.Batch, _ *rpc.Call, e *rpc.Error) {
	if e.Code == rpc.CodeUnavailable {
		r.w.stop()
		return
	}
	r.w.Grant(1)
}

func (r eventReply) Open(_ *rpc.Batch, c *rpc.Call, src rpc.Source) rpc.Sink {
	return rpc.Collect(c, src)
}
func (r eventReply) Own() {}

package capnweb

import (
	"strconv"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Flow control of streams that we send: as many bytes as may be on their way
// without an acknowledgement, and the most that one message carries.
const (
	pumpWindow = 256 << 10
	pumpPiece  = 64 << 10
)

// pump sends a stream to the peer through a pipe: each item is a stream
// message, whose answer makes room for more. Its fields are guarded by Session.mu.
type pump struct {
	s  *Session
	id int64 // of the pipe

	src     rpc.Source // nil until the stream is attached
	queue   []rpc.Value
	ended   bool
	end     *rpc.Error
	closing bool // close or abort was sent
	gone    bool // nothing more may be sent
	flying  int  // bytes that were not acknowledged
	granted int  // items that src may still send
	mean    int  // bytes of an item, about
	pieces  bool // the items are bytes whose bounds mean nothing
}

// newPumpLocked takes the id of a pipe; the caller announces it.
func (s *Session) newPumpLocked() *pump {
	s.lastOut++
	p := &pump{s: s, id: s.lastOut, mean: 4 << 10}
	s.imports[p.id] = &imported{mentions: 1, broken: p.broken, pump: p}
	return p
}

// begin attaches to the stream, once the message that mentions it is queued.
func (ps pumpStart) begin(b *rpc.Batch) {
	p := ps.pump
	src := ps.from.Attach(p)
	p.s.mu.Lock()
	p.src = src
	gone := p.gone
	grant := p.creditLocked()
	p.s.mu.Unlock()
	switch {
	case gone:
		src.Stop(rpc.ErrPeerGone)
	case grant > 0:
		src.Grant(grant)
	}
}

// Item queues an item and sends what the window has room for.
func (p *pump) Item(b *rpc.Batch, v rpc.Value) {
	p.work(b, func() {
		if p.ended || p.gone {
			return
		}
		p.granted = max(p.granted-1, 0)
		if data, ok := v.Tree().(rpc.Bytes); ok && p.pieces && len(data.Data) > pumpPiece && (data.Kind == "" || data.Kind == "Uint8Array") {
			own := append([]byte(nil), data.Data...)
			for len(own) > 0 {
				n := min(len(own), pumpPiece)
				p.queue = append(p.queue, rpc.TreeValue(rpc.Bytes{Data: own[:n:n]}))
				own = own[n:]
			}
			return
		}
		p.queue = append(p.queue, rpc.Keep(v))
	})
}

// End sends the end after what is queued.
func (p *pump) End(b *rpc.Batch, err *rpc.Error) {
	p.work(b, func() {
		if !p.ended {
			p.ended, p.end = true, err
		}
	})
}

// work changes the pump under the lock, sends, and grants new credit.
func (p *pump) work(b *rpc.Batch, change func()) {
	b, flush := batched(b)
	defer flush()
	p.s.mu.Lock()
	change()
	undone, sent := p.sendLocked(b)
	grant := p.creditLocked()
	src := p.src
	p.s.mu.Unlock()
	for _, u := range undone {
		u.unref()
	}
	dropAll(sent)
	if grant > 0 {
		src.Grant(grant)
	}
}

// sendLocked returns what has to be given back without the lock.
func (p *pump) sendLocked(b *rpc.Batch) (undone []*promise, sent []rpc.Value) {
	s := p.s
	for !p.gone && !p.closing && s.ended == nil {
		if len(p.queue) == 0 {
			if p.ended {
				p.closing = true
				p.closeLocked(b)
			}
			return undone, sent
		}
		if p.flying >= pumpWindow {
			return undone, sent
		}
		v := p.queue[0]
		p.queue[0] = rpc.Value{}
		p.queue = p.queue[1:]
		if _, raw := v.Raw(); !raw {
			sent = append(sent, v)
		}
		e := encoder{s: s, out: s.scratch[:0], depth: 1}
		e.text(`["stream",["pipeline",`)
		e.out = strconv.AppendInt(e.out, p.id, 10)
		e.text(`,["write"],[`)
		e.value(v)
		e.end("]]]")
		if e.err == nil && len(e.pumps) > 0 {
			e.cannot("a stream inside a stream")
		}
		if e.err != nil {
			undone, sent = append(undone, e.undo()...), append(sent, p.queue...)
			p.queue, p.ended, p.end = nil, true, e.err
			continue
		}
		size := len(e.out)
		p.mean += (size - p.mean) / 8
		p.flying += size
		e.finish(b)
		s.lastOut++
		s.imports[s.lastOut] = &imported{quiet: true, answer: func(b *rpc.Batch, from *promise, rejected bool) {
			pl, fail := from.take(rejected)
			pl.drop(nil)
			p.acknowledged(b, size, fail)
		}}
	}
	return undone, sent
}

// closeLocked sends the end of the stream.
func (p *pump) closeLocked(b *rpc.Batch) {
	s := p.s
	e := encoder{s: s, out: s.scratch[:0]}
	e.text(`["stream",["pipeline",`)
	e.out = strconv.AppendInt(e.out, p.id, 10)
	if p.end == nil {
		e.text(`,["close"],[]]]`)
	} else {
		e.text(`,["abort"],[`)
		from := len(e.out)
		e.depth = 1
		e.tree(p.end)
		e.end("]]]")
		if e.err != nil {
			name, message := wireName(p.end)
			e.out = e.out[:from]
			e.errorForm(name, message, nil)
			e.text("]]]")
		}
	}
	e.finish(b)
	s.lastOut++
	s.imports[s.lastOut] = &imported{quiet: true, answer: func(b *rpc.Batch, from *promise, rejected bool) {
		pl, _ := from.take(rejected)
		pl.drop(nil)
		p.leave(b)
	}}
}

// cutStreams ends the streams that go to the peer: there is no time for what
// waits to be sent, but for why it ends.
func (s *Session) cutStreams(cause *rpc.Error) {
	var open []*pump
	s.mu.Lock()
	for _, x := range s.imports {
		if x.pump != nil {
			open = append(open, x.pump)
		}
	}
	s.mu.Unlock()
	for _, p := range open {
		p.cut(cause)
	}
}

func (p *pump) cut(cause *rpc.Error) {
	b, flush := batched(nil)
	defer flush()
	p.s.mu.Lock()
	var left []rpc.Value
	if !p.closing && !p.gone && p.s.ended == nil {
		if len(p.queue) > 0 || !p.ended {
			left, p.queue = p.queue, nil
			p.ended, p.end = true, cause
		}
		p.closing = true
		p.closeLocked(b)
	}
	src := p.src
	p.s.mu.Unlock()
	dropAll(left)
	if src != nil {
		src.Stop(cause)
	}
}

// acknowledged makes room; a rejection says that nobody reads any more.
func (p *pump) acknowledged(b *rpc.Batch, size int, fail *rpc.Error) {
	if fail == nil {
		p.work(b, func() { p.flying -= size })
		return
	}
	p.s.mu.Lock()
	left := p.queue
	p.queue = nil
	src := p.src
	wait := p.closing // leave comes with the answer to close
	p.s.mu.Unlock()
	dropAll(left)
	if src != nil {
		src.Stop(fail)
	}
	if !wait {
		p.leave(b)
	}
}

// leave releases the pipe.
func (p *pump) leave(b *rpc.Batch) {
	b, flush := batched(b)
	defer flush()
	p.s.mu.Lock()
	left := p.queue
	defer func() { dropAll(left) }()
	defer p.s.mu.Unlock()
	if p.gone {
		return
	}
	p.gone, p.queue = true, nil
	if p.s.imports[p.id] != nil {
		delete(p.s.imports, p.id)
		p.s.sayRelease(b, p.id, 1)
	}
}

// broken is called when the session has ended.
func (p *pump) broken(cause *rpc.Error) {
	p.s.mu.Lock()
	left := p.queue
	p.gone, p.queue = true, nil
	src := p.src
	p.s.mu.Unlock()
	dropAll(left)
	if src != nil {
		src.Stop(cause)
	}
}

// creditLocked says how many items src may send so that the window is used.
func (p *pump) creditLocked() int {
	if p.src == nil || p.ended || p.gone || p.closing {
		return 0
	}
	room := 0
	if len(p.queue) == 0 {
		room = max(1, min((pumpWindow-p.flying)/max(p.mean, 64), 256))
	}
	if room <= p.granted/2 || p.flying >= pumpWindow {
		return 0
	}
	n := room - p.granted
	if n <= 0 || p.granted > 0 && n < room/2 {
		return 0
	}
	p.granted += n
	return n
}

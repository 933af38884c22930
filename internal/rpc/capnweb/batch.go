package capnweb

import (
	"bytes"
	"errors"
	"net/http"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// maxBatchAnswer bounds the answers of one batch.
const maxBatchAnswer = 64 << 20

// goneTick is how often it is looked for whether a client that has ended its
// sending side is gone for good.
const goneTick = 50 * time.Millisecond

// lines collects the answers of a batch, one per line.
type lines struct {
	mu   sync.Mutex
	text []byte
	full bool
	why  string // of the abort
}

func (l *lines) send(_ *rpc.Batch, msg []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.full || len(l.text)+len(msg) > maxBatchAnswer {
		l.full = true
		return rpc.ErrOutboxFull
	}
	if len(l.text) > 0 {
		l.text = append(l.text, '\n')
	}
	l.text = append(l.text, msg...)
	return nil
}

func (l *lines) abort(_ []byte, reason string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.why == "" {
		l.why = reason
	}
}

// batch serves one POST: a session that lives as long as the request. The
// client cannot be reached but through the answer, so streams are collected,
// and what waits for the client waits until the limit.
func (sv *Server) batch(w http.ResponseWriter, r *http.Request, a Admission) {
	if r.ContentLength > int64(sv.conf.Limits.MaxMessage) { // not a byte of it is read
		w.Header().Set("Connection", "close")
		sv.tooLarge(w)
		return
	}
	body, err := a.Share.ReadMessage(nil, http.MaxBytesReader(w, r.Body, int64(sv.conf.Limits.MaxMessage)), sv.conf.Limits.MaxMessage)
	if err != nil {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			sv.tooLarge(w)
			return
		}
		http.Error(w, "the batch did not come whole", http.StatusBadRequest)
		return
	}
	link := rpc.NewLink(sv.conf.Gate)
	link.Quota = a.Quota
	if a.OnLink != nil {
		a.OnLink(link)
	}
	out := new(lines)
	s := newSession(out, link, a.Peer, &mainObject{table: sv.conf.Table}, sv.conf.Limits)
	s.unary, s.observer = true, sv.conf.Observer
	s.trace = traceOf(r)
	defer func() {
		s.End(rpc.ErrPeerGone)
		link.Close(rpc.ErrPeerGone, sv.conf.Drain)
	}()
	var b rpc.Batch
	b.Begin()
	for line := range bytes.SplitSeq(rpc.SkipBOM(body), []byte{'\n'}) {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			continue
		}
		if err := s.Receive(&b, line); err != nil {
			out.mu.Lock()
			why := out.why
			out.mu.Unlock()
			http.Error(w, "bad batch: "+rpc.CleanText(why, 512), http.StatusBadRequest)
			return
		}
	}
	b.Flush()
	t := time.NewTimer(sv.conf.BatchWait)
	defer t.Stop()
	ended := r.Context().Done() // the client has ended its sending side, at least
	var look <-chan time.Time
	for s.owes() {
		select {
		case <-s.paid:
		case <-t.C:
			link.Rejected(LimitBatch)
			http.Error(w, "the batch did not end in time", http.StatusGatewayTimeout)
			return
		case <-ended:
			if a.Gone == nil {
				return
			}
			ended = nil
			tick := time.NewTicker(goneTick)
			defer tick.Stop()
			look = tick.C
		case <-look:
			if a.Gone() {
				return
			}
		case <-sv.quit:
			goingDown(w)
			return
		}
	}
	out.mu.Lock()
	defer out.mu.Unlock()
	switch {
	case out.why != "":
		http.Error(w, "bad batch: "+rpc.CleanText(out.why, 512), http.StatusBadRequest)
		return
	case out.full:
		http.Error(w, "the answers of the batch are too large", http.StatusInternalServerError)
		return
	}
	if s.observer != nil {
		s.observer.MessageOut(len(out.text))
	}
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	_, _ = w.Write(out.text)
}

func (sv *Server) tooLarge(w http.ResponseWriter) {
	sv.conf.Gate.Rejected(LimitMessage)
	http.Error(w, "the batch is too large", http.StatusRequestEntityTooLarge)
}

// owes reports whether a pulled promise has not been answered.
func (s *Session) owes() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.owed > 0 && s.ended == nil
}

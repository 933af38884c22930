package session

import (
	"crypto/rand"
	"encoding/hex"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// A session that is opened anew counts its events from 1 again. Its epoch
// tells the lives of a name apart: a number of another epoch means nothing.
// The epoch outlives a restart of the hub in good order, because it is saved
// with the events, and a crash of the hub when the producer brings it back.
//
// A producer that numbers what it publishes can repeat what it does not know
// to have arrived: an event whose number was taken before is not published
// again. So neither a broken connection nor a restart loses or doubles events.

const maxLifeText = 64 // bytes of an epoch, and of the name of a producer

// newEpoch names a life of a session.
func newEpoch() string {
	var b [8]byte
	rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Life is what a producer has to know to go on.
type Life struct {
	Epoch string
	Seq   uint64 // of the latest event
	Taken uint64 // the producer's own number of the latest event that was taken from it
}

// Life returns where the session stands.
func (s *Session) Life() Life {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Life{s.epoch, s.seq, s.taken}
}

// Numbered is how a producer publishes an event that it may have to repeat.
type Numbered struct {
	// N is the producer's own number of the event, from 1 without holes.
	N uint64
	// Seq is the number that the session gave the event in the past, if it had
	// it before and the hub has lost its memory since; else 0.
	Seq uint64
	// Link is the connection that publishes: that of the session's owner.
	Link *rpc.Link
	// Call is what is charged with the event; nil: nobody is.
	Call *rpc.Call
}

// PublishNumbered is Publish for the producer that owns the session. An event
// that was taken before is left out, and the number returned is 0.
func (s *Session) PublishNumbered(event rpc.Value, by Numbered) (seq uint64, err error) {
	d, err := draftOf(event)
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	switch {
	case s.closed:
		err = errClosed
	case s.producer == "" || s.owner == nil || s.owner.link != by.Link:
		err = rpc.Errorf(rpc.CodeConflict, "session %s was not opened by this producer", s.name)
	case by.N > s.taken+1:
		err = rpc.Errorf(rpc.CodeConflict, "event %d of the producer is missing", s.taken+1)
	case by.Seq > 1<<53:
		err = rpc.Errorf(rpc.CodeInvalidParams, "there is no event of that number")
	}
	if err != nil || by.N <= s.taken {
		s.mu.Unlock()
		return 0, err
	}
	if err := s.admitLocked(&d, by.Call); err != nil {
		s.mu.Unlock()
		return 0, d.refused(err)
	}
	switch {
	case by.Seq > s.seq+1:
		s.skipLocked(by.Seq - 1)
	case by.Seq == 0 && s.ahead > s.seq: // a new event, while followers have seen greater numbers
		s.skipLocked(s.ahead)
	}
	s.taken = by.N
	e, withdrawn := s.appendLocked(&d)
	s.mu.Unlock()
	s.published(e, withdrawn)
	return e.Seq, nil
}

// skipLocked lets the numbers go on after seq: the events between were not
// the producer's, such as input, so it cannot bring them back. The ring has a
// gap event in their place. The log has no holes, so it begins anew: what
// followers had not read of it they find in the ring.
func (s *Session) skipLocked(seq uint64) {
	s.log.dropUpTo(s.seq)
	if s.ring.n == 0 {
		s.ring.floor = seq
	} else {
		s.replayableLocked(holeEvent(seq-s.seq, seq))
	}
	s.seq = seq
}

// producerLocked notes who publishes, and how far it says it was.
func (s *Session) producerLocked(opts OpenOptions) {
	if opts.Producer == "" {
		return
	}
	if s.producer != opts.Producer {
		s.producer, s.taken = opts.Producer, 0
	}
	s.taken = max(s.taken, min(opts.Taken, 1<<53))
}

// knownAs reports whether a number of that epoch is one of this life. Who
// does not say is believed.
func (s *Session) knownAs(epoch string) bool { return epoch == "" || epoch == s.epoch }

package session

import "github.com/hubd-dev/hubd/internal/rpc"

// What a peer makes a session keep is charged to that peer, whoever owns the
// session: titles and metadata to who opened it, messages, rosters and what was
// typed to who sent it, until somebody has taken it.

// held is the charge for an item that several queues may have. It is guarded
// by the session's mutex. A nil one charges nobody.
type held struct {
	kept *rpc.Kept
	n    int // how many have it
}

// hold charges who sends an item of so many bytes, for one who has it.
func hold(by *rpc.Link, bytes int) (*held, error) {
	if by == nil {
		return nil, nil
	}
	h := &held{by.Keep(), 1}
	if !h.kept.Set(int64(bytes)) {
		return nil, h.kept.Over(int64(bytes))
	}
	return h, nil
}

func (h *held) add() {
	if h != nil {
		h.n++
	}
}

func (h *held) drop() {
	if h == nil {
		return
	}
	if h.n--; h.n == 0 {
		h.kept.Free()
	}
}

// replaceCharge charges by with what takes the place of something that is
// charged to old, and returns the charge. If it is too much, ok is false and
// old is as before.
func replaceCharge(by *rpc.Link, bytes int, old *rpc.Kept, oldBytes int) (charge *rpc.Kept, ok bool) {
	charge = by.Keep()
	if charge.Set(int64(bytes)) {
		old.Free()
		return charge, true
	}
	old.Free()
	if charge.Set(int64(bytes)) {
		return charge, true
	}
	old.Set(int64(oldBytes))
	return charge, false
}

// tooMuch is what describeLocked could not charge.
type tooMuch struct {
	charge *rpc.Kept
	bytes  int
}

// refused makes the error of it, without locks of sessions.
func (t tooMuch) refused(err error) error {
	if err == errOver { //nolint:errorlint // it is never wrapped
		return t.charge.Over(int64(t.bytes))
	}
	return err
}

// describe gives a new session its title and metadata.
func (s *Session) describe(opts OpenOptions) error {
	s.mu.Lock()
	over, err := s.describeLocked(opts)
	s.mu.Unlock()
	return over.refused(err)
}

// describeLocked sets title and metadata, as far as they are given, and charges
// the owner with them.
func (s *Session) describeLocked(opts OpenOptions) (tooMuch, error) {
	title, meta, old := s.title, s.meta, s.aboutBytes()
	if opts.Title != "" {
		title = opts.Title
	}
	if !opts.Meta.IsUndefined() {
		meta = opts.Meta
	}
	n := len(title) + meta.Weight()
	r := s.registry
	if more := int64(n - old); r.described.Add(more) > int64(r.opts.Memory)/2 && more > 0 {
		r.described.Add(-more)
		return tooMuch{}, rpc.Errorf(rpc.CodeOverloaded, "titles and meta of all sessions take too much: more than %d bytes", r.opts.Memory/2)
	}
	if given := opts.Title != "" || !opts.Meta.IsUndefined(); given || s.about == nil {
		charge, ok := replaceCharge(opts.Owner, n, s.about, old)
		if !ok {
			r.described.Add(int64(old - n))
			return tooMuch{charge, n}, errOver
		}
		s.about = charge
	}
	s.title, s.meta = title, meta
	s.weighLocked()
	return tooMuch{}, nil
}

// aboutBytes is what title and metadata count.
func (s *Session) aboutBytes() int { return len(s.title) + s.meta.Weight() }

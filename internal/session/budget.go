package session

// Kept returns how many bytes all sessions keep: events for replay and for
// followers that lag (one that is kept for both counts twice), the latest
// snapshots, open prompts, titles and metadata, and what waits for owners.
func (r *Registry) Kept() int64 { return r.kept.Load() }

// weighLocked counts what the session keeps beside its two windows. It is
// called whenever that has changed.
func (s *Session) weighLocked() {
	n := s.aboutBytes()
	for _, in := range s.input.readers {
		n += in.queue.bytes
	}
	s.fixed = n
	n += s.inbox.bytes + s.input.backlog.bytes
	if s.snapshot.Seq > 0 {
		n += cost(&s.snapshot)
	}
	for _, p := range s.prompts {
		n += cost(&p.event)
	}
	if !s.gone {
		s.registry.kept.Add(int64(n - s.beside))
	}
	s.beside = n
}

// balance frees memory when all sessions together keep more than they may: the
// one that keeps most loses its oldest events, until a sixteenth is free again.
// Its followers find a gap where they had not read those. When there are none
// left but the latest of each, those go, and then snapshots, prompts, which are
// denied, and what waits for owners. It is called without locks; of several
// callers one does the work.
func (r *Registry) balance() {
	limit := int64(r.opts.Memory)
	if r.kept.Load() <= limit || !r.balancing.CompareAndSwap(false, true) {
		return
	}
	defer r.balancing.Store(false)
	for r.kept.Load() > limit-limit/16 {
		if !r.shedLargest((*Session).keeps, (*Session).shed) && !r.shedLargest((*Session).keepsInAll, (*Session).shedRest) {
			return
		}
	}
}

// shedLargest takes something from the session of which size says most, and
// reports whether there was anything.
func (r *Registry) shedLargest(size func(*Session) int, shed func(*Session) bool) bool {
	var largest *Session
	most := 0
	all := r.List()
	r.past.Range(func(s, _ any) bool {
		all = append(all, s.(*Session))
		return true
	})
	for _, s := range all {
		if n := size(s); n > most {
			largest, most = s, n
		}
	}
	return largest != nil && shed(largest)
}

// keeps returns how many bytes the session could give up and still have its
// latest event.
func (s *Session) keeps() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, w := range []*window{&s.log, &s.ring} {
		if w.n > 1 {
			n += w.bytes
		}
	}
	return n + s.old.bytes
}

func (s *Session) keepsInAll() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.log.bytes + s.old.bytes + s.ring.bytes + s.beside - s.fixed
}

// shed drops the older half of what the session keeps, but for its latest
// event, and reports whether there was anything.
func (s *Session) shed() bool {
	s.mu.Lock()
	if s.gone {
		s.mu.Unlock()
		return false
	}
	dropped := s.old.n
	s.cutReplaysLocked()
	for _, w := range []*window{&s.log, &s.ring} {
		for half := w.bytes / 2; w.n > 1 && w.bytes > half; dropped++ {
			w.drop()
		}
	}
	s.mu.Unlock()
	if dropped > 0 {
		s.registry.opts.Observer.Evicted(s, dropped)
	}
	return dropped > 0
}

// shedRest drops the latest event, else the snapshot, else the oldest prompt,
// else what waits for the owner, and reports whether there was anything.
func (s *Session) shedRest() bool {
	s.mu.Lock()
	before, dropped, denied := s.log.bytes+s.old.bytes+s.ring.bytes+s.beside, 0, 0
	switch {
	case s.gone:
	case s.log.n+s.ring.n > 0:
		dropped = s.log.n + s.old.n + s.ring.n
		s.cutReplaysLocked()
		s.log.dropUpTo(s.seq)
		s.ring.dropUpTo(s.seq)
	case s.snapshot.Seq > 0:
		s.charge.Free()
		s.snapshot, s.charge = Event{}, nil
		dropped = 1
	case len(s.prompts) > 0:
		s.resolveLocked(s.prompts[0].toolID, Deny, "", true)
		denied = 1
	default:
		s.inbox.forgetLocked()
		s.input.backlog.clear()
	}
	s.weighLocked()
	freed := s.gone || s.log.bytes+s.old.bytes+s.ring.bytes+s.beside < before
	s.mu.Unlock()
	o := s.registry.opts.Observer
	if dropped > 0 {
		o.Evicted(s, dropped)
	}
	for range denied {
		o.Prompt(s, PromptExpired)
	}
	return freed
}

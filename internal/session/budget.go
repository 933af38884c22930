package session

// Kept returns how many bytes the events have that all sessions keep, for
// replay and for followers that lag. An event that is kept for both counts twice.
func (r *Registry) Kept() int64 { return r.kept.Load() }

// balance frees memory when all sessions together keep more than they may: the
// one that keeps most loses its oldest events, until a sixteenth is free again.
// Its followers find a gap where they had not read those. It is called without
// locks; of several callers one does the work.
func (r *Registry) balance() {
	limit := int64(r.opts.Memory)
	if r.kept.Load() <= limit || !r.balancing.CompareAndSwap(false, true) {
		return
	}
	defer r.balancing.Store(false)
	for r.kept.Load() > limit-limit/16 {
		var largest *Session
		most := 0
		for _, s := range r.List() {
			if n := s.keeps(); n > most {
				largest, most = s, n
			}
		}
		if largest == nil || largest.shed() == 0 {
			return // what is left is the latest event of each
		}
	}
}

// keeps returns how many bytes the session could give up.
func (s *Session) keeps() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, w := range []*window{&s.log, &s.ring} {
		if w.n > 1 {
			n += w.bytes
		}
	}
	return n
}

// shed drops the older half of what the session keeps, but for its latest
// event, and returns how many events that were.
func (s *Session) shed() (dropped int) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return 0
	}
	for _, w := range []*window{&s.log, &s.ring} {
		for half := w.bytes / 2; w.n > 1 && w.bytes > half; dropped++ {
			w.drop()
		}
	}
	s.mu.Unlock()
	if dropped > 0 {
		s.registry.opts.Observer.Evicted(s, dropped)
	}
	return dropped
}

package statesvc

import (
	"crypto/rand"
	"encoding/hex"
	"sync"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Service is the state of a Store as methods. It is made by NewService; its methods may be called by many goroutines.
type Service struct {
	store   Store
	opts    ServiceOptions
	batches *Batches // never nil
	hooked  bool     // the store flushes batches
	boot    string   // makes the owners of this run different from those of the runs before

	pump pump
	late budget // for work on values that could not be done ahead

	mu        sync.Mutex
	links     map[*rpc.Link]*linkState
	owners    map[string]int // how many links hold it
	nextOwner uint64
	copies    int // snapshots being sent
	watches   map[*watch]struct{}
	closed    bool
}

// ServiceOptions configures a Service. The zero value works.
type ServiceOptions struct {
	// Batches is what Install was given to the options of the store; nil: every answer leaves by itself.
	Batches *Batches

	// OwnerOf names the owner of the ephemeral keys that a call puts, so that a client that comes back under the same
	// name finds its keys still there. "" or a nil function: the connection itself. A name must not be something that
	// a stranger can take: put the user id into it.
	OwnerOf func(*rpc.Call) string

	// Grace is how long ephemeral keys outlive their connection. 0: 10 s; negative: not at all.
	Grace time.Duration

	// Progress is how long a watch is silent before it says how far it is. 0: 30 s.
	Progress time.Duration

	// Workers is how many watches are served at the same time. 0: 4.
	Workers int
}

// Batches collects what the store's own goroutines answer, so that the answers of one sync leave in few writes. Its zero
// value is ready; it serves one store.
type Batches struct {
	replies rpc.Batch // of the goroutine that calls done functions
	wakes   rpc.Batch // of the goroutine that calls Wake functions
}

// Install makes the store that is opened with o flush b. Hooks that o already has are called as well.
func (b *Batches) Install(o *Options) {
	replies, wakes := o.AfterReplies, o.AfterWakes
	o.AfterReplies = func() {
		b.replies.Flush()
		if replies != nil {
			replies()
		}
	}
	o.AfterWakes = func() {
		b.wakes.Flush()
		if wakes != nil {
			wakes()
		}
	}
}

// NewService returns the service of store, which stays the caller's to close, after the service.
func NewService(store Store, opts ServiceOptions) *Service {
	if opts.Grace == 0 {
		opts.Grace = 10 * time.Second
	}
	opts.Grace = max(opts.Grace, 0)
	if opts.Progress <= 0 {
		opts.Progress = 30 * time.Second
	}
	if opts.Workers <= 0 {
		opts.Workers = 4
	}
	var nonce [6]byte
	rand.Read(nonce[:]) // never fails
	s := &Service{
		store: store, opts: opts, batches: opts.Batches, hooked: opts.Batches != nil, boot: hex.EncodeToString(nonce[:]),
		links: map[*rpc.Link]*linkState{}, owners: map[string]int{}, watches: map[*watch]struct{}{},
	}
	s.pump.workers = opts.Workers
	return s
}

// replies returns the batch for what is answered from done functions.
func (s *Service) replies() *rpc.Batch {
	if s.hooked {
		return &s.batches.replies
	}
	return nil
}

// wakes returns the batch for what is sent from Wake functions.
func (s *Service) wakes() *rpc.Batch {
	if s.hooked {
		return &s.batches.wakes
	}
	return nil
}

// Close ends all watches and waits until nothing is sent any more. It comes before the store's Close and may be called
// twice; writes that the store has accepted are still answered.
func (s *Service) Close() {
	s.mu.Lock()
	s.closed = true
	all := make([]*watch, 0, len(s.watches))
	for w := range s.watches {
		all = append(all, w)
	}
	s.mu.Unlock()
	for _, w := range all {
		w.end(nil, fault(ErrClosed))
	}
	s.pump.close()
}

// Store returns the store that the service was made for.
func (s *Service) Store() Store { return s.store }

// Ready returns nil when writes are accepted, else the reason why not.
func (s *Service) Ready() error { return s.store.Ready() }

// Methods returns the rows for the method table. It makes new ones each time.
func (s *Service) Methods() []*rpc.Method {
	return append(append(s.readMethods(), s.writeMethods()...), s.watchMethod(), s.snapshotMethod(), s.restoreMethod())
}

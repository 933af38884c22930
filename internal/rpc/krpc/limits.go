package krpc

import (
	"errors"
	"sync/atomic"
	"time"
)

// Limits bounds what a request may take. A zero field means its default.
type Limits struct {
	JSON       int           // bytes of the call, decoded
	JSONAll    int           // bytes of all calls that are being read
	Upload     int64         // bytes of the files of one request
	Parts      int           // of a multipart body
	PartHeader int           // bytes of the head of one part
	Result     int           // bytes of one JSON result
	BodyWait   time.Duration // how long a body may take at any pace, and how long it may stand still
	BodyRate   int           // bytes per second that it must come at after that, on average
	BeyondIdle time.Duration // how long to wait for what follows a body that is not complete
	Beyond     time.Duration // ... in all
	Linger     time.Duration // how long the peer has to close its side after the answer
}

// Defaults of the limits.
const (
	DefaultJSON       = 16 << 20
	DefaultJSONAll    = 256 << 20
	DefaultUpload     = 2 << 30
	DefaultParts      = 1000
	DefaultPartHeader = 64 << 10
	DefaultResult     = 16 << 20
	DefaultBodyWait   = 30 * time.Second
	DefaultBodyRate   = 1 << 10
	DefaultBeyondIdle = 3 * time.Second
	DefaultBeyond     = 15 * time.Second
	DefaultLinger     = 2 * time.Second

	// overhead is what the parts of a request that are no files may take
	// beyond the JSON, in all.
	overhead = 16 << 20
)

func (l Limits) withDefaults() Limits {
	fill(&l.JSON, DefaultJSON)
	fill(&l.JSONAll, DefaultJSONAll)
	fill(&l.Upload, DefaultUpload)
	fill(&l.Parts, DefaultParts)
	fill(&l.PartHeader, DefaultPartHeader)
	fill(&l.Result, DefaultResult)
	fill(&l.BodyWait, DefaultBodyWait)
	fill(&l.BodyRate, DefaultBodyRate)
	fill(&l.BeyondIdle, DefaultBeyondIdle)
	fill(&l.Beyond, DefaultBeyond)
	fill(&l.Linger, DefaultLinger)
	return l
}

func fill[T comparable](v *T, value T) {
	var zero T
	if *v == zero {
		*v = value
	}
}

// What ends the reading of a request. Each becomes an HTTP status: see refusalOf.
var (
	errTooLarge     = errors.New("the request is too large")
	errCallTooLarge = errors.New("the call is too large")
	errBusy         = errors.New("too many requests are being read")
	errSpoolFull    = errors.New("there is no room for more uploads")
	errParts        = errors.New("the body has too many parts")
	errPartHeader   = errors.New("the head of a part is too large")
	errIncomplete   = errors.New("the body ends before its closing delimiter")
	errBoundary     = errors.New("the content type has no usable boundary")
	errNoCall       = errors.New("there is no call in the request")
	errSlow         = errors.New("the body comes too slowly")
)

// budget counts the bytes that all requests together hold in memory.
type budget struct {
	used atomic.Int64
	max  int64
}

func (b *budget) take(n int64) bool {
	if b.used.Add(n) > b.max {
		b.used.Add(-n)
		return false
	}
	return true
}

func (b *budget) give(n int64) { b.used.Add(-n) }

// text collects the JSON of a call, within the limit of one and the budget of all.
type text struct {
	b      []byte
	limit  int
	budget *budget
	held   int64
}

func (t *text) add(p []byte) error {
	if len(t.b)+len(p) > t.limit {
		return errCallTooLarge
	}
	if need := len(t.b) + len(p); need > cap(t.b) {
		grown := int64(max(need, min(2*cap(t.b), t.limit), 1<<10))
		if !t.budget.take(grown - t.held) {
			return errBusy
		}
		t.held = grown
		b := make([]byte, len(t.b), grown)
		copy(b, t.b)
		t.b = b
	}
	t.b = append(t.b, p...)
	return nil
}

// release gives the memory back to the budget. The bytes must not be used any more.
func (t *text) release() {
	t.budget.give(t.held)
	t.b, t.held = nil, 0
}

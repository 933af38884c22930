package snekrpc

import (
	"context"
	"io"
	"net/http"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Config is what a Server needs. Only Table is required.
type Config struct {
	Table    *rpc.Table
	Gate     *rpc.Gate // nil: default limits, nothing is observed
	Observer Observer  // nil: nothing is observed

	Version  string // of the hub, for _meta.status and the Server header
	Codec    string // what the handshake announces; "": msgpack
	MaxFrame int    // bytes of a message; 0: DefaultMaxFrame
	// SoftOutbox and HardOutbox are limits in bytes; 0: those of rpc.NewOutbox.
	// What a client that still sends has not read is at most HardOutbox.
	SoftOutbox, HardOutbox int
	Drain                  time.Duration // how long a connection that ends waits for its handlers and its outbox; 0: 2 s

	// Prepare is called before metadata of a service are told ("": of all) and
	// may wait until they are known, but not long. nil: they are known.
	Prepare func(ctx context.Context, service string)
}

// Observer is the hub's view of the wire: metrics and logs. Its methods are
// called from any goroutine and must not block.
type Observer interface {
	MessageIn(bytes int)
	MessageOut(bytes int)
	// FailedFrame comes for each message that was refused, and for an
	// announced length over the limit, after which the connection ends.
	FailedFrame(reason Reason, c *Conn, err error)
}

// Reason says why a message was refused.
type Reason string

// The reasons.
const (
	TooLong    Reason = "too_long"
	Malformed  Reason = "malformed"
	OutOfOrder Reason = "out_of_order"
)

// Reasons lists them all.
func Reasons() []Reason { return []Reason{TooLong, Malformed, OutOfOrder} }

// Conn is one accepted connection, as the hub hands it over.
type Conn struct {
	Reader    io.Reader        // of what the peer sends
	Wire      rpc.Wire         // to the peer; Serve closes it
	Peer      func() *rpc.Peer // who it is at present
	ID        uint64           // for logs
	Quota     *rpc.Quota       // of the peer's user; may be nil
	Transport string           // tcp, unix or http, for _meta.status
	Chunked   bool             // messages are HTTP chunks, behind a response head
	Header    http.Header      // more for that head; may be nil
	Trace     rpc.TraceContext // of the request that opened a tunnel: that of each of its commands

	// OnLink is called once, before the first call, with the in-flight side of
	// the connection; its Out is set. May be nil.
	OnLink func(*rpc.Link)
	// Gone reports whether the peer has closed its whole side, once the end of
	// its stream was read. While it has not (it has only said that no more
	// commands come), running calls are still answered. nil: it has.
	Gone func() bool
	// HalfClose bounds how long Gone is believed; 0: as long as it says so. Over
	// TCP the end of a stream does not tell whether the peer still reads.
	HalfClose time.Duration
	// Patience is told when the peer begins to send a stream, and when it has
	// sent it: in between it takes no answers, and must not be given up for
	// that. May be nil.
	Patience func(on bool)
}

// Server serves connections. Serve may be called from many goroutines.
type Server struct {
	cfg   Config
	codec codec // what the handshake announces
	meta  *metadata
}

// New returns a server. cfg.Table must not be nil.
func New(cfg Config) *Server {
	if cfg.Drain == 0 {
		cfg.Drain = 2 * time.Second
	}
	if cfg.MaxFrame == 0 {
		cfg.MaxFrame = DefaultMaxFrame
	}
	if cfg.SoftOutbox == 0 {
		cfg.SoftOutbox = rpc.DefaultSoft
	}
	if cfg.HardOutbox == 0 {
		cfg.HardOutbox = rpc.DefaultHard
	}
	s := &Server{cfg: cfg, codec: codecOf(cfg.Codec)}
	if s.codec == nil {
		s.codec = msgpackCodec{}
	}
	s.meta = newMetadata(s)
	return s
}

// Serve serves one connection until it is over: the peer has left, the wire
// failed, or ctx has ended (its cause, if that is an *rpc.Error, is why running
// calls are cancelled). When it returns, everything that the connection held is
// free and the wire is closed. The error says why it is over; nil is the peer's
// own wish.
func (s *Server) Serve(ctx context.Context, c Conn) error {
	return newConn(s, c).serve(ctx)
}

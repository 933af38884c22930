package hub

import (
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/trust"
)

// auditPart names the lines of the audit log.
const auditPart = "audit"

// What one address may cause in lines of the audit log: a burst, then one each second.
const (
	auditBurst     = 10
	auditEvery     = time.Second
	auditAddresses = 1024
)

// audit writes a line for what was denied to a peer: who, from where, what.
// Never with what: parameters and tokens do not appear in the log. An address
// that is denied much gets few lines; the next one says how many were left out.
type audit struct {
	log   *zap.Logger
	limit trust.Limiter

	mu   sync.Mutex
	left int // lines that were left out
}

func newAudit(log *zap.Logger) *audit {
	return &audit{
		log:   log.Named(auditPart),
		limit: trust.Limiter{Burst: auditBurst, Every: auditEvery, Max: auditAddresses},
	}
}

// write adds a line about c, or counts it.
func (a *audit) write(c *conn, msg string, fields ...zap.Field) {
	origin := "unknown"
	if c != nil {
		origin = c.origin()
	}
	if !a.limit.Allow(origin) {
		a.mu.Lock()
		a.left++
		a.mu.Unlock()
		return
	}
	a.mu.Lock()
	left := a.left
	a.left = 0
	a.mu.Unlock()
	if c != nil {
		fields = append(fields, zap.Uint64("conn", c.id), zap.String("peer", c.peerName()), zap.String("from", origin),
			zap.Stringer("listener", c.listener))
	}
	if left > 0 {
		fields = append(fields, zap.Int("left_out", left))
	}
	a.log.Warn(msg, fields...)
}

// denied is told of every call that ended in err.
func (a *audit) denied(c *rpc.Call, err *rpc.Error) {
	if err.Code != rpc.CodePermissionDenied && err.Code != rpc.CodeUnauthenticated {
		return
	}
	var at *conn
	if l := c.Link(); l != nil {
		at, _ = l.Conn.(*conn)
	}
	fields := []zap.Field{zap.String("protocol", string(c.Protocol)), zap.String("code", string(err.Code))}
	if c.Method != nil {
		fields = append(fields, zap.String("method", c.Method.Name))
	}
	if c.Peer != nil && c.Peer.Name != "" {
		fields = append(fields, zap.String("as", c.Peer.Name))
	}
	a.write(at, "call denied", fields...)
}

// action is told of an action of the native protocol that was denied.
func (a *audit) action(c *conn, name string) {
	a.write(c, "call denied", zap.String("protocol", string(rpc.Kollabor)), zap.String("code", string(rpc.CodePermissionDenied)),
		zap.String("action", name))
}

// attempt is told of a token that was refused.
func (a *audit) attempt(c *conn, why error) {
	a.write(c, "token refused", zap.String("protocol", string(c.protocolName())), zap.String("why", why.Error()))
}

// request is told of a request that was turned away before any method was known.
func (a *audit) request(c *conn, why string) {
	a.write(c, "request denied", zap.String("why", why))
}

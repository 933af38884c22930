package hub

import (
	"strconv"
	"sync"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/trust"
)

// What one peer may cause in lines of the log, and how long a line is.
const (
	logBurst = 10
	logEvery = 100 * time.Millisecond // one more line
	logPeers = 4096                   // that are told apart; beyond, the quietest is forgotten
	logWait  = 5 * time.Second        // until what was left out is summed up
	maxLine  = 8 << 10                // bytes of the texts in a line
)

// limitedLog is a zapcore.Core that lets each peer cause a few lines each
// second, and cuts long texts. What it leaves out is counted and summed up in a
// line. The lines of the hub itself, those that are denied (which the audit
// log bounds) and, at level debug, what was asked for are not limited.
type limitedLog struct {
	zapcore.Core
	lines *peerLines
	peer  string // whose lines these are; "" for nobody's
}

// peerLines is what the cores of one log share.
type peerLines struct {
	limit    trust.Limiter
	sum      zapcore.Core // takes the summary
	rejected func()       // is told of each line that is left out

	mu   sync.Mutex
	left map[string]int // lines of each peer since the last summary
}

// limitLog bounds what peers may write into log; rejected is called for each
// line that is left out.
func limitLog(log *zap.Logger, rejected func()) *zap.Logger {
	return log.WithOptions(zap.WrapCore(func(core zapcore.Core) zapcore.Core {
		return &limitedLog{Core: core, lines: &peerLines{
			limit: trust.Limiter{Burst: logBurst, Every: logEvery, Max: logPeers},
			sum:   core, rejected: rejected, left: map[string]int{},
		}}
	}))
}

// byPeer makes a field that no log shows: it says whose line this is. Lines
// without it are those of their connection, if they name one.
func byPeer(c *conn) zap.Field {
	return zap.Field{Type: zapcore.SkipType, Interface: linesOf(c.logPeer())}
}

type linesOf string

// logPeer is the process at the other end, or where it comes from.
func (c *conn) logPeer() string {
	if p := c.base; p != nil && p.PID > 0 {
		return c.peerName()
	}
	return c.origin()
}

// peerOf finds whose line it is that has these fields; owner is what is known already.
func peerOf(owner string, fields []zapcore.Field) string {
	for _, f := range fields {
		if of, ok := f.Interface.(linesOf); ok && f.Type == zapcore.SkipType {
			return string(of)
		}
		if owner == "" && f.Key == "conn" && f.Type == zapcore.Uint64Type {
			owner = "conn " + strconv.FormatUint(uint64(f.Integer), 10)
		}
	}
	return owner
}

// With returns a core whose lines have fields as well.
func (l *limitedLog) With(fields []zapcore.Field) zapcore.Core {
	return &limitedLog{Core: l.Core.With(shortened(fields)), lines: l.lines, peer: peerOf(l.peer, fields)}
}

// Check adds the core to ce if the level is enabled. What is below decides once
// more, so that it may leave out what repeats.
func (l *limitedLog) Check(e zapcore.Entry, ce *zapcore.CheckedEntry) *zapcore.CheckedEntry {
	if l.Enabled(e.Level) {
		return ce.AddCore(e, l)
	}
	return ce
}

// Write passes a line on, or counts it.
func (l *limitedLog) Write(e zapcore.Entry, fields []zapcore.Field) error {
	if e.Level > zapcore.DebugLevel && e.LoggerName != auditPart {
		if peer := peerOf(l.peer, fields); peer != "" && !l.lines.limit.Allow(peer) {
			l.lines.leaveOut(peer)
			return nil
		}
	}
	if below := l.Core.Check(e, nil); below != nil {
		below.Write(shortened(fields)...)
	}
	return nil
}

func (p *peerLines) leaveOut(peer string) {
	p.rejected()
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.left) == 0 {
		time.AfterFunc(logWait, p.sumUp)
	}
	if _, known := p.left[peer]; !known && len(p.left) >= logPeers {
		peer = "others"
	}
	p.left[peer]++
}

// sumUp says how many lines were left out, and who caused most of them.
func (p *peerLines) sumUp() {
	p.mu.Lock()
	left := p.left
	p.left = map[string]int{}
	p.mu.Unlock()
	lines, most := 0, ""
	for peer, n := range left {
		lines += n
		if n > left[most] {
			most = peer
		}
	}
	e := zapcore.Entry{Level: zapcore.WarnLevel, Time: time.Now(), Message: "lines of peers were left out"}
	if ce := p.sum.Check(e, nil); ce != nil {
		ce.Write(zap.Int("lines", lines), zap.Int("peers", len(left)), zap.String("most", most))
	}
}

// shortened returns fields with so much of their texts as fits into a line.
func shortened(fields []zapcore.Field) []zapcore.Field {
	room, own := maxLine, false
	for i, f := range fields {
		var text string
		switch f.Type {
		case zapcore.StringType:
			text = f.String
		case zapcore.ByteStringType:
			b, _ := f.Interface.([]byte)
			text = string(b)
		case zapcore.ErrorType:
			if err, ok := f.Interface.(error); ok && err != nil {
				text = err.Error()
			}
		}
		if room -= len(text); room >= 0 {
			continue
		}
		if !own {
			fields, own = append([]zapcore.Field(nil), fields...), true
		}
		fields[i] = zap.String(f.Key, rpc.CutText(text, max(room+len(text), 0))+"...")
		room = 0
	}
	return fields
}

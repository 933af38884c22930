package hub

import (
	"fmt"
	"io"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// newLog makes the log on standard error: text on a terminal, entries with
// fields where it is the journal, else JSON. Entries that repeat many times in
// a second are sampled.
func newLog(level zap.AtomicLevel) *zap.Logger {
	core := stderrCore(level)
	if toJournal() {
		core = newJournal(level, core)
	}
	return zap.New(zapcore.NewSamplerWithOptions(core, time.Second, 100, 100))
}

// stderrCore writes lines. The journal has its own time stamps.
func stderrCore(level zap.AtomicLevel) zapcore.Core {
	config := zap.NewProductionEncoderConfig()
	config.TimeKey, config.EncodeTime = "time", zapcore.RFC3339NanoTimeEncoder
	config.MessageKey, config.NameKey = "msg", "part"
	config.EncodeDuration = zapcore.SecondsDurationEncoder
	var encoder zapcore.Encoder
	var out zapcore.WriteSyncer = os.Stderr
	if toJournal() {
		config.TimeKey = zapcore.OmitKey
	}
	if term.IsTerminal(int(os.Stderr.Fd())) {
		config.EncodeTime = zapcore.TimeEncoderOfLayout("15:04:05.000")
		config.EncodeDuration = zapcore.StringDurationEncoder
		config.EncodeLevel = zapcore.CapitalLevelEncoder
		encoder, out = zapcore.NewConsoleEncoder(config), zapcore.AddSync(visibleTo{os.Stderr})
	} else {
		encoder = zapcore.NewJSONEncoder(config)
	}
	return zapcore.NewCore(encoder, zapcore.Lock(out), level)
}

// visibleTo writes to a terminal, whole lines at once: what peers call
// themselves and their methods must not control it.
type visibleTo struct{ w io.Writer }

func (v visibleTo) Write(p []byte) (int, error) {
	if _, err := v.w.Write(rpc.AppendVisible(nil, p)); err != nil {
		return 0, err
	}
	return len(p), nil
}

// toJournal reports whether standard error is the stream that systemd opened
// to the journal. The variable alone says nothing: children inherit it.
func toJournal() bool {
	dev, ino, ok := strings.Cut(os.Getenv("JOURNAL_STREAM"), ":")
	if !ok {
		return false
	}
	st, err := os.Stderr.Stat()
	if err != nil {
		return false
	}
	s, ok := st.Sys().(*syscall.Stat_t)
	return ok && dev == strconv.FormatUint(uint64(s.Dev), 10) && ino == strconv.FormatUint(s.Ino, 10)
}

// callObserver tells metrics and log about calls. It is the Gate's Observer.
// Parameters and results are never logged.
type callObserver struct{ h *hub }

func (o callObserver) Done(c *rpc.Call, err *rpc.Error, took time.Duration) {
	o.h.metrics.done(c, err, took)
	o.h.answered.Add(1)
	if err != nil {
		o.h.audit.denied(c, err)
	}
	if o.h.opts.Tracer != nil {
		o.h.span(c, err, took)
	}
	if o.h.monitors.any.Load() {
		o.h.monitors.call(c, err, took)
	}
	if o.h.phase.Load() == draining {
		select {
		case o.h.settled <- struct{}{}:
		default:
		}
	}
	slow := c.Slow()
	if !slow && c.ID() == 0 && took >= rpc.DefaultSlow && (c.Method == nil || c.Method.Slow >= 0) {
		// It ran on the reader, where nothing can tell of it while it runs.
		slow = true
		o.h.metrics.seriesOf(c).slowCounter().Inc()
	}
	if slow {
		o.h.log.Warn("slow handler ended", callFields(c, err, zap.Duration("took", took))...)
	}
	if o.h.level.Enabled(zap.DebugLevel) {
		o.h.log.Debug("call", callFields(c, err, zap.Duration("took", took))...)
	}
}

func (o callObserver) Slow(c *rpc.Call, age time.Duration) {
	o.h.metrics.seriesOf(c).slowCounter().Inc()
	o.h.log.Warn("slow handler", callFields(c, nil, zap.Duration("age", age))...)
}

func (o callObserver) Late(*rpc.Call) { o.h.metrics.late.Inc() }

func (o callObserver) Panic(c *rpc.Call, value any, stack []byte) {
	o.h.metrics.panics.Inc()
	o.h.log.Error("handler panicked", callFields(c, nil, zap.String("panic", panicText(value)), zap.ByteString("stack", stack))...)
}

// panicText says what a handler panicked with, if the runtime says so: any other
// value may have been made of what the handler was called with.
func panicText(value any) string {
	if e, ok := value.(runtime.Error); ok {
		return e.Error()
	}
	return fmt.Sprintf("a value of type %T", value)
}

func (o callObserver) Rejected(limit string) { o.h.metrics.rejected(limit) }

// callFields says which call it is.
func callFields(c *rpc.Call, err *rpc.Error, more ...zap.Field) []zap.Field {
	fields := append(make([]zap.Field, 0, 8), zap.String("protocol", string(c.Protocol)), zap.Uint64("call", c.ID()))
	if c.Method != nil {
		fields = append(fields, zap.String("method", c.Method.Name))
	}
	if l := c.Link(); l != nil {
		if at, ok := l.Conn.(*conn); ok {
			fields = append(fields, zap.Uint64("conn", at.id), zap.String("peer", at.peerName()), byPeer(at))
		}
	}
	if err != nil {
		// Not its message: a handler may quote its parameters there.
		fields = append(fields, zap.String("code", string(err.Code)))
	}
	if id := c.Trace.TraceID(); id != "" {
		fields = append(fields, zap.String("trace_id", id))
	}
	return append(fields, more...)
}

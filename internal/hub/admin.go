package hub

import (
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"net/http"
	netpprof "net/http/pprof"
	"net/url"
	"runtime"
	"runtime/pprof"
	"runtime/trace"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// What operators need of a running hub beyond looking at it.

type logLevel struct {
	Level string `json:"level"`
	Was   string `json:"was"`
}

// setLogLevel changes the level of the log until the next change or reload.
func (h *hub) setLogLevel(_ context.Context, in struct {
	Level *string `rpc:"level" doc:"debug, info, warn or error; without it nothing changes"`
}) (logLevel, error) {
	was := h.level.Level()
	if in.Level != nil {
		level, err := zapcore.ParseLevel(*in.Level)
		if err != nil || level < zapcore.DebugLevel || level > zapcore.ErrorLevel {
			return logLevel{}, rpc.Errorf(rpc.CodeInvalidParams, "level %q: expected debug, info, warn or error", rpc.CleanText(*in.Level, 64))
		}
		h.level.SetLevel(level)
		if level != was {
			h.log.Warn("log level changed", zap.Stringer("from", was), zap.Stringer("to", level))
		}
	}
	return logLevel{h.level.Level().String(), was.String()}, nil
}

// Parts of hub.debug.
const (
	debugGoroutines = "goroutines"
	debugHeap       = "heap"
	debugMetrics    = "metrics"
	debugConfig     = "config"
	debugTrace      = "trace"

	traceTime = 2 * time.Second // that a trace looks back and ahead
	maxDebug  = 11 << 20        // bytes of a part, which base64 makes a third longer
)

type debugResult struct {
	Part     string `json:"part"`
	Encoding string `json:"encoding"` // "text" or "base64"
	Data     string `json:"data"`
	Cut      bool   `json:"cut,omitempty"` // there was more
}

// debug returns what a report about a misbehaving hub needs.
func (h *hub) debug(ctx context.Context, in struct {
	Part string `rpc:"part" doc:"goroutines, heap, metrics, config or trace"`
}) (debugResult, error) {
	var b bytes.Buffer
	text := true
	var err error
	switch in.Part {
	case debugGoroutines:
		err = pprof.Lookup("goroutine").WriteTo(&b, 1)
	case debugHeap:
		runtime.GC() // what is shown is what lives
		text = false
		err = pprof.Lookup("heap").WriteTo(&b, 0)
	case debugMetrics:
		err = h.writeMetrics(&b)
	case debugConfig:
		err = PrintConfig(&b, h.opts, false)
	case debugTrace:
		text = false
		err = record(ctx, &b)
	default:
		return debugResult{}, rpc.Errorf(rpc.CodeInvalidParams, "part %q: expected goroutines, heap, metrics, config or trace",
			rpc.CleanText(in.Part, 64))
	}
	if err != nil {
		return debugResult{}, err
	}
	r := debugResult{Part: in.Part, Encoding: "text", Cut: b.Len() > maxDebug}
	data := b.Bytes()[:min(b.Len(), maxDebug)]
	if text {
		r.Data = strings.ToValidUTF8(string(data), "")
	} else {
		r.Encoding, r.Data = "base64", base64.StdEncoding.EncodeToString(data)
	}
	return r, nil
}

// record traces the scheduler for a while.
func record(ctx context.Context, b *bytes.Buffer) error {
	r := trace.NewFlightRecorder(trace.FlightRecorderConfig{MinAge: traceTime, MaxBytes: maxDebug / 2})
	if err := r.Start(); err != nil {
		return rpc.Errorf(rpc.CodeConflict, "a trace is being made already")
	}
	defer r.Stop()
	t := time.NewTimer(traceTime)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
		return ctx.Err()
	}
	_, err := r.WriteTo(b)
	return err
}

func (h *hub) writeMetrics(b *bytes.Buffer) error {
	families, err := h.metrics.registry.Gather()
	if err != nil {
		return err
	}
	for _, f := range families {
		if _, err := expfmt.MetricFamilyToText(b, f); err != nil {
			return fmt.Errorf("metric %s: %w", f.GetName(), err)
		}
	}
	return nil
}

func counterValue(c prometheus.Counter) float64 {
	var m dto.Metric
	if c.Write(&m) != nil {
		return 0
	}
	return m.GetCounter().GetValue()
}

// adminMethods are the rows of this file, of monitor.go and of diagnose.go.
func (h *hub) adminMethods() []*rpc.Method {
	return []*rpc.Method{
		h.reloadMethod(),
		h.whoamiMethod(),
		rpc.Handle("hub.log_level", h.setLogLevel, rpc.Needs(rpc.ScopeAdmin),
			rpc.Doc("Change the level of the log until the next reload or restart, and return it.")),
		rpc.HandleStream("hub.monitor", h.monitor, rpc.Needs(rpc.ScopeAdmin), rpc.Endless(), rpc.NeverSlow(),
			rpc.Doc("Stream what happens: calls, connections, failed frames, and on demand every frame. Values are not shown.")),
		rpc.Handle("hub.diagnose", h.diagnose, rpc.Needs(rpc.ScopeAdmin),
			rpc.Doc("Check the hub from within: store, disk, clock, limits, configuration. Each finding says what to do about it.")),
		rpc.Handle("hub.debug", h.debug, rpc.Needs(rpc.ScopeAdmin), rpc.NeverSlow(),
			rpc.Doc("Return what a report about a misbehaving hub needs: goroutines, heap, metrics, configuration or a trace of two seconds.")),
	}
}

// debugPages serves net/http/pprof to administrators on Unix sockets. There is
// no such path on TCP.
func (h *hub) debugPages() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", netpprof.Index)
	mux.HandleFunc("/debug/pprof/cmdline", http.NotFound)
	mux.HandleFunc("/debug/pprof/profile", netpprof.Profile)
	mux.HandleFunc("/debug/pprof/symbol", netpprof.Symbol)
	mux.HandleFunc("/debug/pprof/trace", netpprof.Trace)
	guarded := h.needs(rpc.ScopeAdmin, "hub.debug", mux)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if connOf(r).listener.addr.network != "unix" {
			http.NotFound(w, r)
			return
		}
		if path := pathOf(r); path != "/debug/pprof" { // the one page whose links need the slash
			r = r.WithContext(r.Context())
			r.URL = &url.URL{Path: path, RawQuery: r.URL.RawQuery}
		}
		guarded.ServeHTTP(w, r)
	})
}

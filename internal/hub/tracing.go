package hub

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// span tells the tracer of an answered call: one span of kind server, a child
// of the caller's where the caller sent its trace context. It is made when the
// call is over, so a call costs nothing while it runs, and one that is not
// sampled by its caller costs nothing at all. Names and attributes are those of
// OpenTelemetry's conventions for RPC; parameters are never part of them.
func (h *hub) span(c *rpc.Call, err *rpc.Error, took time.Duration) {
	if c.Trace.Parent != "" && !c.Trace.Sampled() {
		return
	}
	name := otherMethod
	if c.Method != nil {
		name = c.Method.Name
	}
	end := time.Now()
	_, s := h.opts.Tracer.Start(traceParent(c.Trace), name,
		trace.WithSpanKind(trace.SpanKindServer), trace.WithTimestamp(end.Add(-took)),
		trace.WithAttributes(attribute.String("rpc.system", string(c.Protocol)), attribute.String("rpc.method", name)))
	if at, ok := connOfCall(c); ok {
		s.SetAttributes(attribute.Int64("hubd.conn", int64(at.id)), attribute.Int64("hubd.call", int64(c.ID())))
	}
	if err != nil {
		s.SetAttributes(attribute.String("rpc.response.status_code", string(err.Code)))
		s.SetStatus(codes.Error, string(err.Code)) // not the message: a handler may quote its parameters there
	}
	s.End(trace.WithTimestamp(end))
}

// traceParent is a context with the caller's span in it.
func traceParent(t rpc.TraceContext) context.Context {
	ctx := context.Background()
	if t.Parent == "" {
		return ctx
	}
	id, err := trace.TraceIDFromHex(t.TraceID())
	if err != nil {
		return ctx
	}
	span, err := trace.SpanIDFromHex(t.SpanID())
	if err != nil {
		return ctx
	}
	config := trace.SpanContextConfig{TraceID: id, SpanID: span, Remote: true}
	if t.Sampled() {
		config.TraceFlags = trace.FlagsSampled
	}
	if state, err := trace.ParseTraceState(t.State); err == nil {
		config.TraceState = state
	}
	return trace.ContextWithRemoteSpanContext(ctx, trace.NewSpanContext(config))
}

// connOfCall is the connection that a call came on.
func connOfCall(c *rpc.Call) (*conn, bool) {
	l := c.Link()
	if l == nil {
		return nil, false
	}
	at, ok := l.Conn.(*conn)
	return at, ok
}

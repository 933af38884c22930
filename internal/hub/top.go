package hub

import (
	"cmp"
	"context"
	"math"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// hub.top: counts since the start, from which a client that asks twice makes
// rates and quantiles of the time between. It keeps nothing for anybody, so any
// number of them may look.

// topResult is what hub.top returns. All times are in seconds.
type topResult struct {
	Now         float64     `json:"now"` // since the start of the hub
	Connections int         `json:"connections"`
	InFlight    int         `json:"in_flight"`
	Sessions    int         `json:"sessions"`
	OutboxBytes int         `json:"outbox_bytes"`
	Methods     []topMethod `json:"methods"` // those that were called, by name
}

// topMethod has the counts of one method, over all protocols.
type topMethod struct {
	Method   string      `json:"method"`
	Calls    uint64      `json:"calls"`
	Errors   uint64      `json:"errors"`
	Slow     uint64      `json:"slow"`
	InFlight int         `json:"in_flight"`
	Took     []topBucket `json:"took"` // calls by how long they took, shortest first
}

// topBucket counts the calls that took up to Seconds, and longer than the one before.
type topBucket struct {
	Seconds float64 `json:"le"`
	Calls   uint64  `json:"n"`
}

func (h *hub) top(context.Context, struct{}) (topResult, error) {
	r := topResult{Now: h.uptime(), InFlight: h.gate.InFlight(), Sessions: h.sessionCount(), Methods: []topMethod{}}
	for _, c := range h.connections() {
		r.Connections++
		if l := c.linkOf(); l != nil && l.Out != nil {
			r.OutboxBytes += l.Out.Len()
		}
	}
	methods := map[string]*topMethod{}
	of := func(labels map[string]string) *topMethod {
		name := labels["method"]
		if methods[name] == nil {
			methods[name] = &topMethod{Method: name}
		}
		return methods[name]
	}
	eachMetric(h.metrics.calls, func(labels map[string]string, m *dto.Metric) {
		n := uint64(m.GetCounter().GetValue())
		of(labels).Calls += n
		if labels["code"] != string(rpc.CodeOK) {
			of(labels).Errors += n
		}
	})
	eachMetric(h.metrics.slow, func(labels map[string]string, m *dto.Metric) {
		of(labels).Slow += uint64(m.GetCounter().GetValue())
	})
	eachMetric(h.metrics.duration, func(labels map[string]string, m *dto.Metric) {
		t := of(labels)
		t.Took = mergeBuckets(t.Took, nativeBuckets(m.GetHistogram()))
	})
	h.eachCall(func(_ *conn, call *rpc.Call) {
		if call.Method != nil {
			of(map[string]string{"method": call.Method.Name}).InFlight++
		}
	})
	for _, m := range methods {
		if m.Calls > 0 || m.InFlight > 0 {
			r.Methods = append(r.Methods, *m)
		}
	}
	r.Methods = mostCalled(r.Methods)
	slices.SortFunc(r.Methods, func(a, b topMethod) int { return strings.Compare(a.Method, b.Method) })
	return r, nil
}

// maxTop bounds the methods of a result: clients may offer thousands.
const maxTop = 500

// mostCalled returns the methods that were called most; the others are summed
// up as those that are not in the table.
func mostCalled(list []topMethod) []topMethod {
	if len(list) <= maxTop {
		return list
	}
	slices.SortFunc(list, func(a, b topMethod) int {
		return cmp.Or(cmp.Compare(b.Calls, a.Calls), strings.Compare(a.Method, b.Method))
	})
	rest := topMethod{Method: otherMethod}
	most := make([]topMethod, 0, maxTop)
	for _, m := range list {
		if m.Method != otherMethod && len(most) < maxTop-1 {
			most = append(most, m)
			continue
		}
		rest.Calls, rest.Errors, rest.Slow = rest.Calls+m.Calls, rest.Errors+m.Errors, rest.Slow+m.Slow
		rest.InFlight += m.InFlight
		rest.Took = mergeBuckets(rest.Took, m.Took)
	}
	return append(most, rest)
}

// eachMetric visits the series of c.
func eachMetric(c prometheus.Collector, visit func(labels map[string]string, m *dto.Metric)) {
	ch := make(chan prometheus.Metric, 64)
	go func() { // ends when all series are collected
		c.Collect(ch)
		close(ch)
	}()
	for series := range ch {
		var m dto.Metric
		if series.Write(&m) != nil {
			continue
		}
		labels := make(map[string]string, len(m.Label))
		for _, l := range m.Label {
			labels[l.GetName()] = l.GetValue()
		}
		visit(labels, &m)
	}
}

// nativeBuckets are the filled buckets of a native histogram of times, which
// are never negative.
func nativeBuckets(h *dto.Histogram) (buckets []topBucket) {
	base := math.Exp2(math.Exp2(-float64(h.GetSchema())))
	if n := h.GetZeroCount(); n > 0 {
		buckets = append(buckets, topBucket{h.GetZeroThreshold(), n})
	}
	index, at := 0, 0
	count := int64(0)
	for _, span := range h.GetPositiveSpan() {
		index += int(span.GetOffset())
		for range span.GetLength() {
			count += h.GetPositiveDelta()[at]
			at++
			if count > 0 {
				buckets = append(buckets, topBucket{math.Pow(base, float64(index)), uint64(count)})
			}
			index++
		}
	}
	return buckets
}

// mergeBuckets adds up two lists that are in order.
func mergeBuckets(a, b []topBucket) []topBucket {
	merged := make([]topBucket, 0, len(a)+len(b))
	for len(a) > 0 && len(b) > 0 {
		switch {
		case a[0].Seconds < b[0].Seconds:
			merged, a = append(merged, a[0]), a[1:]
		case a[0].Seconds > b[0].Seconds:
			merged, b = append(merged, b[0]), b[1:]
		default:
			merged = append(merged, topBucket{a[0].Seconds, a[0].Calls + b[0].Calls})
			a, b = a[1:], b[1:]
		}
	}
	return append(append(merged, a...), b...)
}

// topMethods are the rows of this file.
func (h *hub) topMethods() []*rpc.Method {
	return []*rpc.Method{
		rpc.Handle("hub.top", h.top, rpc.Needs(rpc.ScopeRead),
			rpc.Doc("Return counts since the start by method, with how long calls took: what a live display asks for twice.")),
	}
}

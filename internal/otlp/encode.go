package otlp

import (
	"encoding/json"
	"math"
	"strconv"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// The types below are the JSON form of the messages of opentelemetry-proto: ids in
// hexadecimal, 64-bit numbers as strings, enumerations as numbers.

type tracesData struct {
	ResourceSpans []*resourceSpans `json:"resourceSpans"`
}

type resourceSpans struct {
	Resource struct {
		Attributes []keyValue `json:"attributes,omitempty"`
	} `json:"resource"`
	ScopeSpans []*scopeSpans `json:"scopeSpans"`
	SchemaURL  string        `json:"schemaUrl,omitempty"`
}

type scopeSpans struct {
	Scope struct {
		Name    string `json:"name"`
		Version string `json:"version,omitempty"`
	} `json:"scope"`
	Spans     []span `json:"spans"`
	SchemaURL string `json:"schemaUrl,omitempty"`
}

type span struct {
	TraceID           string     `json:"traceId"`
	SpanID            string     `json:"spanId"`
	TraceState        string     `json:"traceState,omitempty"`
	ParentSpanID      string     `json:"parentSpanId,omitempty"`
	Flags             uint32     `json:"flags,omitempty"`
	Name              string     `json:"name"`
	Kind              int        `json:"kind"`
	Start             string     `json:"startTimeUnixNano"`
	End               string     `json:"endTimeUnixNano"`
	Attributes        []keyValue `json:"attributes,omitempty"`
	DroppedAttributes int        `json:"droppedAttributesCount,omitempty"`
	Events            []event    `json:"events,omitempty"`
	DroppedEvents     int        `json:"droppedEventsCount,omitempty"`
	Links             []link     `json:"links,omitempty"`
	DroppedLinks      int        `json:"droppedLinksCount,omitempty"`
	Status            status     `json:"status"`
}

type event struct {
	Time       string     `json:"timeUnixNano"`
	Name       string     `json:"name"`
	Attributes []keyValue `json:"attributes,omitempty"`
}

type link struct {
	TraceID    string     `json:"traceId"`
	SpanID     string     `json:"spanId"`
	TraceState string     `json:"traceState,omitempty"`
	Attributes []keyValue `json:"attributes,omitempty"`
}

type status struct {
	Message string `json:"message,omitempty"`
	Code    int    `json:"code,omitempty"`
}

type keyValue struct {
	Key   string   `json:"key"`
	Value anyValue `json:"value"`
}

// anyValue has one of its fields, or none for an empty value.
type anyValue struct {
	String *string     `json:"stringValue,omitempty"`
	Bool   *bool       `json:"boolValue,omitempty"`
	Int    *string     `json:"intValue,omitempty"`
	Double any         `json:"doubleValue,omitempty"`
	Array  *arrayValue `json:"arrayValue,omitempty"`
}

type arrayValue struct {
	Values []anyValue `json:"values"`
}

// encode returns spans as a request for a collector, those of one resource and one scope together.
func encode(spans []sdk.ReadOnlySpan) []byte {
	var data tracesData
	resources := map[attribute.Distinct]*resourceSpans{}
	scopes := map[*resourceSpans]map[string]*scopeSpans{}
	for _, s := range spans {
		about := s.Resource()
		r := resources[about.Equivalent()]
		if r == nil {
			r = &resourceSpans{SchemaURL: about.SchemaURL()}
			r.Resource.Attributes = attributes(about.Attributes())
			resources[about.Equivalent()], scopes[r] = r, map[string]*scopeSpans{}
			data.ResourceSpans = append(data.ResourceSpans, r)
		}
		lib := s.InstrumentationScope()
		key := lib.Name + "\x00" + lib.Version + "\x00" + lib.SchemaURL
		sc := scopes[r][key]
		if sc == nil {
			sc = &scopeSpans{SchemaURL: lib.SchemaURL}
			sc.Scope.Name, sc.Scope.Version = lib.Name, lib.Version
			scopes[r][key] = sc
			r.ScopeSpans = append(r.ScopeSpans, sc)
		}
		sc.Spans = append(sc.Spans, encodeSpan(s))
	}
	body, _ := json.Marshal(data) // no type here can fail
	return body
}

func encodeSpan(s sdk.ReadOnlySpan) span {
	ctx, parent := s.SpanContext(), s.Parent()
	out := span{
		TraceID: ctx.TraceID().String(), SpanID: ctx.SpanID().String(), TraceState: ctx.TraceState().String(),
		Flags: uint32(ctx.TraceFlags()), Name: s.Name(), Kind: kindOf(s.SpanKind()),
		Start: nanos(s.StartTime().UnixNano()), End: nanos(s.EndTime().UnixNano()),
		Attributes: attributes(s.Attributes()), DroppedAttributes: s.DroppedAttributes(),
		DroppedEvents: s.DroppedEvents(), DroppedLinks: s.DroppedLinks(),
	}
	if parent.SpanID().IsValid() {
		out.ParentSpanID = parent.SpanID().String()
	}
	for _, e := range s.Events() {
		out.Events = append(out.Events, event{Time: nanos(e.Time.UnixNano()), Name: e.Name, Attributes: attributes(e.Attributes)})
	}
	for _, l := range s.Links() {
		out.Links = append(out.Links, link{
			TraceID: l.SpanContext.TraceID().String(), SpanID: l.SpanContext.SpanID().String(),
			TraceState: l.SpanContext.TraceState().String(), Attributes: attributes(l.Attributes),
		})
	}
	switch st := s.Status(); st.Code {
	case codes.Ok:
		out.Status.Code = 1
	case codes.Error:
		out.Status = status{Code: 2, Message: st.Description}
	}
	return out
}

// kindOf returns the number that the protocol has for a kind.
func kindOf(k trace.SpanKind) int {
	switch k {
	case trace.SpanKindServer:
		return 2
	case trace.SpanKindClient:
		return 3
	case trace.SpanKindProducer:
		return 4
	case trace.SpanKindConsumer:
		return 5
	}
	return 1 // internal
}

func nanos(n int64) string { return strconv.FormatInt(n, 10) }

func attributes(list []attribute.KeyValue) []keyValue {
	out := make([]keyValue, 0, len(list))
	for _, a := range list {
		out = append(out, keyValue{string(a.Key), valueOf(a.Value)})
	}
	return out
}

func valueOf(v attribute.Value) anyValue {
	switch v.Type() {
	case attribute.BOOL:
		return boolValue(v.AsBool())
	case attribute.INT64:
		return intValue(v.AsInt64())
	case attribute.FLOAT64:
		return doubleValue(v.AsFloat64())
	case attribute.BOOLSLICE:
		return array(v.AsBoolSlice(), boolValue)
	case attribute.INT64SLICE:
		return array(v.AsInt64Slice(), intValue)
	case attribute.FLOAT64SLICE:
		return array(v.AsFloat64Slice(), doubleValue)
	case attribute.STRINGSLICE:
		return array(v.AsStringSlice(), stringValue)
	}
	return stringValue(v.Emit())
}

func stringValue(s string) anyValue { return anyValue{String: &s} }
func boolValue(b bool) anyValue     { return anyValue{Bool: &b} }

func intValue(n int64) anyValue {
	s := strconv.FormatInt(n, 10)
	return anyValue{Int: &s}
}

// doubleValue writes numbers that JSON has not as the words that Protocol Buffers has for them.
func doubleValue(f float64) anyValue {
	switch {
	case math.IsNaN(f):
		return anyValue{Double: "NaN"}
	case math.IsInf(f, 1):
		return anyValue{Double: "Infinity"}
	case math.IsInf(f, -1):
		return anyValue{Double: "-Infinity"}
	}
	return anyValue{Double: f}
}

func array[T any](list []T, value func(T) anyValue) anyValue {
	a := &arrayValue{Values: make([]anyValue, 0, len(list))}
	for _, v := range list {
		a.Values = append(a.Values, value(v))
	}
	return anyValue{Array: a}
}

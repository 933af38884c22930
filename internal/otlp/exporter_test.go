package otlp

import (
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"
	"go.opentelemetry.io/otel/trace"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/encoding/protojson"
)

var ids = regexp.MustCompile(`"(traceId|spanId|parentSpanId)":"([0-9a-f]*)"`)

// parse reads a request with the messages of the specification. Its JSON form
// has ids in hexadecimal where that of Protocol Buffers has base64.
func parse(t *testing.T, body []byte) *otlp.TracesData {
	t.Helper()
	text := ids.ReplaceAllStringFunc(string(body), func(m string) string {
		p := ids.FindStringSubmatch(m)
		raw, err := hex.DecodeString(p[2])
		if err != nil {
			t.Error(err)
		}
		return `"` + p[1] + `":"` + base64.StdEncoding.EncodeToString(raw) + `"`
	})
	var data otlp.TracesData
	if err := protojson.Unmarshal([]byte(text), &data); err != nil {
		t.Fatalf("%v\n%s", err, body)
	}
	return &data
}

func sample() []sdk.ReadOnlySpan {
	state, _ := trace.ParseTraceState("vendor=1")
	ctx := trace.NewSpanContext(trace.SpanContextConfig{TraceID: trace.TraceID{0xab, 1}, SpanID: trace.SpanID{0xcd, 2}, TraceFlags: 1, TraceState: state})
	start := time.Unix(1_700_000_000, 5)
	stub := tracetest.SpanStub{
		Name: "math.add", SpanContext: ctx, Parent: trace.NewSpanContext(trace.SpanContextConfig{SpanID: trace.SpanID{9}}),
		SpanKind: trace.SpanKindServer, StartTime: start, EndTime: start.Add(time.Second),
		Attributes: []attribute.KeyValue{
			attribute.String("s", "tést\n"), attribute.Int64("i", math.MinInt64), attribute.Bool("b", true), attribute.Float64("f", 0.5),
			attribute.Float64("nan", math.NaN()), attribute.Float64("inf", math.Inf(-1)), attribute.Float64("zero", 0),
			attribute.StringSlice("ss", []string{"a", "b"}), attribute.Int64Slice("is", []int64{1}), attribute.String("empty", ""),
		},
		Events:   []sdk.Event{{Name: "e", Time: start, Attributes: []attribute.KeyValue{attribute.Bool("x", false)}}},
		Links:    []sdk.Link{{SpanContext: ctx}},
		Status:   sdk.Status{Code: codes.Error, Description: "failed"},
		Resource: resource.NewSchemaless(attribute.String("service.name", "hubd")),
	}
	other := stub
	other.Name, other.Status, other.SpanKind, other.Parent = "ping", sdk.Status{Code: codes.Ok}, trace.SpanKindInternal, trace.SpanContext{}
	return tracetest.SpanStubs{stub, other}.Snapshots()
}

func TestRequestFitsTheSpecification(t *testing.T) {
	data := parse(t, encode(sample()))
	if len(data.ResourceSpans) != 1 || len(data.ResourceSpans[0].ScopeSpans) != 1 || len(data.ResourceSpans[0].ScopeSpans[0].Spans) != 2 {
		t.Fatalf("not together: %v", data)
	}
	s, other := data.ResourceSpans[0].ScopeSpans[0].Spans[0], data.ResourceSpans[0].ScopeSpans[0].Spans[1]
	if s.Name != "math.add" || s.TraceId[0] != 0xab || len(s.TraceId) != 16 || s.SpanId[0] != 0xcd || len(s.SpanId) != 8 || s.ParentSpanId[0] != 9 ||
		s.TraceState != "vendor=1" || s.Kind != otlp.Span_SPAN_KIND_SERVER || s.StartTimeUnixNano != 1_700_000_000_000_000_005 ||
		s.EndTimeUnixNano != s.StartTimeUnixNano+1e9 || s.Status.Code != otlp.Status_STATUS_CODE_ERROR || s.Status.Message != "failed" || s.Flags != 1 {
		t.Errorf("%v", s)
	}
	if other.Status.Code != otlp.Status_STATUS_CODE_OK || other.Kind != otlp.Span_SPAN_KIND_INTERNAL || len(other.ParentSpanId) != 0 {
		t.Errorf("%v", other)
	}
	got := map[string]string{}
	for _, a := range s.Attributes {
		got[a.Key] = strings.ReplaceAll(a.Value.String(), " ", "")
	}
	for key, want := range map[string]string{
		"s": `string_value:"tést\n"`, "i": "int_value:-9223372036854775808", "b": "bool_value:true", "f": "double_value:0.5", "nan": "double_value:nan",
		"inf": "double_value:-inf", "zero": "double_value:0", "is": "array_value:{values:{int_value:1}}", "empty": `string_value:""`,
		"ss": `array_value:{values:{string_value:"a"}values:{string_value:"b"}}`,
	} {
		if got[key] != want {
			t.Errorf("attribute %s: %s, want %s", key, got[key], want)
		}
	}
	if len(s.Events) != 1 || s.Events[0].Name != "e" || len(s.Links) != 1 || s.Links[0].TraceId[0] != 0xab {
		t.Errorf("events %v, links %v", s.Events, s.Links)
	}
}

func TestVariablesAreHeeded(t *testing.T) {
	var requests atomic.Int32
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/base/v1/traces" || r.Header.Get("X-Key") != "a b" || r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("%s %v", r.URL, r.Header)
		}
		z, err := gzip.NewReader(r.Body)
		if err != nil {
			t.Error(err)
			return
		}
		body, err := io.ReadAll(z)
		if err != nil || len(parse(t, body).ResourceSpans) != 1 {
			t.Error(err)
		}
		if requests.Add(1) == 1 {
			http.Error(w, "later", http.StatusServiceUnavailable) // and it is sent again
		}
	}))
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", server.URL+"/base/")
	t.Setenv("OTEL_EXPORTER_OTLP_HEADERS", "X-Key=a%20b, ")
	t.Setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "20000")
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.ExportSpans(t.Context(), sample()); err != nil || requests.Load() != 2 {
		t.Errorf("%d requests, %v", requests.Load(), err)
	}
	if err := e.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	for name, value := range map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": "localhost:4318", "OTEL_EXPORTER_OTLP_HEADERS": "secret", "OTEL_EXPORTER_OTLP_COMPRESSION": "zip",
		"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT": "10s", "OTEL_EXPORTER_OTLP_CERTIFICATE": "/no/such/file",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, value)
			if _, err := New(); err == nil || strings.Contains(err.Error(), "secret") {
				t.Errorf("%s=%s: %v", name, value, err)
			}
		})
	}
}

func TestRefusedSpansAreNotSentAgain(t *testing.T) {
	requests := 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests++
		http.Error(w, "no", http.StatusBadRequest)
	}))
	defer server.Close()
	t.Setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", server.URL)
	e, err := New()
	if err != nil {
		t.Fatal(err)
	}
	if err := e.ExportSpans(t.Context(), sample()); err == nil || requests != 1 {
		t.Errorf("%d requests, %v", requests, err)
	}
	// A collector that is not there costs the timeout and no more.
	server.Close()
	e.timeout = 200 * time.Millisecond
	if err := e.ExportSpans(t.Context(), sample()); err == nil {
		t.Error("spans were taken by nobody")
	} else if errors.Is(err, io.EOF) {
		t.Error(err)
	}
}

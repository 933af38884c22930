package tests

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"google.golang.org/protobuf/proto"
)

const (
	sampleTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	sampleSpan   = "00f067aa0ba902b7"
	sampleParent = "00-" + sampleTrace + "-" + sampleSpan + "-01"
)

// otelCollector takes spans as an OpenTelemetry collector does.
type otelCollector struct {
	*httptest.Server
	mu       sync.Mutex
	spans    []*otlp.Span
	services map[string]bool
}

func startCollector(t *testing.T) *otelCollector {
	c := &otelCollector{services: map[string]bool{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var req collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &req)
		}
		if err != nil || r.URL.Path != "/v1/traces" {
			http.Error(w, "no spans", http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, resource := range req.ResourceSpans {
			for _, a := range resource.Resource.Attributes {
				if a.Key == "service.name" {
					c.services[a.Value.GetStringValue()] = true
				}
			}
			for _, scope := range resource.ScopeSpans {
				c.spans = append(c.spans, scope.Spans...)
			}
		}
	}))
	t.Cleanup(c.Close)
	return c
}

// span returns the first span of that name.
func (c *otelCollector) span(name string) *otlp.Span {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.spans {
		if s.Name == name {
			return s
		}
	}
	return nil
}

// Spans are exported where the standard variables say, as children of the
// callers' spans, and without what was passed.
func TestSpansReachTheCollector(t *testing.T) {
	c := startCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	d := startDaemon(t)
	w := d.dial()
	trace := `"traceparent":"` + sampleParent + `","tracestate":"vendor=1"`
	w.result(w.call("1", "math.add", "[1,2]", trace))
	w.call("2", "demo.fail", `["hunter2"]`, trace)
	w.result(w.call("3", "demo.range", "[1]", `"traceparent":"`+strings.TrimSuffix(sampleParent, "1")+`0"`))
	w.result(w.call("4", "ping", "{}"))

	eventually(t, "the spans arrive", func() bool {
		return c.span("math.add") != nil && c.span("demo.fail") != nil && c.span("ping") != nil
	})
	for name, failed := range map[string]bool{"math.add": false, "demo.fail": true} {
		s := c.span(name)
		if hex.EncodeToString(s.TraceId) != sampleTrace || hex.EncodeToString(s.ParentSpanId) != sampleSpan || s.TraceState != "vendor=1" {
			t.Errorf("%s: trace %x, parent %x, state %q", name, s.TraceId, s.ParentSpanId, s.TraceState)
		}
		if s.Kind != otlp.Span_SPAN_KIND_SERVER || s.EndTimeUnixNano < s.StartTimeUnixNano {
			t.Errorf("%s: kind %v from %d to %d", name, s.Kind, s.StartTimeUnixNano, s.EndTimeUnixNano)
		}
		if got := s.Status.GetCode() == otlp.Status_STATUS_CODE_ERROR; got != failed {
			t.Errorf("%s: failed is %v", name, got)
		}
		if strings.Contains(s.String(), "hunter2") {
			t.Errorf("%s: a parameter is in the span", name)
		}
	}
	if s := c.span("ping"); hex.EncodeToString(s.TraceId) == sampleTrace || len(s.ParentSpanId) != 0 {
		t.Errorf("a call without trace context belongs to %x", s.TraceId)
	}
	if c.span("demo.range") != nil {
		t.Error("a call that its caller does not sample has a span")
	}
	if !c.services["hubd"] {
		t.Errorf("services %v", c.services)
	}
}

// A trace context that came over HTTP is that of each call of the batch.
func TestTraceContextOfABatch(t *testing.T) {
	c := startCollector(t)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", c.URL)
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "50")
	d := startDaemon(t)
	body := `["push",["pipeline",0,["math","add"],[1,2]]]` + "\n" + `["pull",1]`
	req, err := http.NewRequest(http.MethodPost, "http://hub/capnweb", bytes.NewBufferString(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Traceparent", sampleParent)
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", d.socket)
		}, DisableKeepAlives: true,
	}}
	resp, err := client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	answer, err := io.ReadAll(resp.Body)
	resp.Body.Close()
	if err != nil || !strings.Contains(string(answer), "3") {
		t.Fatalf("answer %q, %v", answer, err)
	}
	eventually(t, "the span arrives", func() bool { return c.span("math.add") != nil })
	if s := c.span("math.add"); fmt.Sprintf("%x", s.TraceId) != sampleTrace {
		t.Errorf("trace %x", s.TraceId)
	}
}

// Wherever the wire of a protocol has room for it, the trace context of a call
// arrives with it.
func TestTraceContextOfEachProtocol(t *testing.T) {
	t.Parallel()
	kkrpc := filepath.Join(shortDir(t), "k.sock")
	d := startDaemon(t, "--log-level", "debug", "--listen", "unix://"+kkrpc+"?protocols=kkrpc")
	header := "Traceparent: " + sampleParent + "\r\n"
	const (
		batch   = `["push",["pipeline",0,["math","add"],[1,2]]]` + "\n" + `["pull",1]`
		form    = `json={"method":"math_add","params":[1,2]}`
		command = `["CommandMessage","math","add",[["Argument",1],["Argument",2]],{}]`
	)
	for protocol, request := range map[string]string{
		"kollabor": `{"action":"rpc_request","request_id":"1","method":"math.add","params":[1,2],"traceparent":"` + sampleParent + `"}` + "\n",
		"kkrpc": `{"t":"q","id":"1","op":"call","p":["math","add"],"a":[{"__kkrpc_next_arg__":"value","v":1},{"__kkrpc_next_arg__":"value","v":2}],` +
			`"meta":{"traceparent":"` + sampleParent + `"}}` + "\n",
		"capnweb": fmt.Sprintf("POST /capnweb HTTP/1.1\r\nHost: h\r\n%sContent-Length: %d\r\n\r\n%s", header, len(batch), batch),
		"krpc": fmt.Sprintf("POST /krpc HTTP/1.1\r\nHost: h\r\n%sContent-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\n\r\n%s",
			header, len(form), form),
		"snekrpc": fmt.Sprintf("POST /snekrpc HTTP/1.1\r\nHost: h\r\n%sContent-Type: application/octet-stream\r\nTransfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n",
			header, len(command), command),
	} {
		socket := d.socket
		if protocol == "kkrpc" {
			socket = kkrpc
		}
		c, err := net.Dial("unix", socket)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if _, err := c.Write([]byte(request)); err != nil {
			t.Fatal(err)
		}
		eventually(t, "the call over "+protocol+" is in the log with its trace", func() bool {
			for line := range strings.Lines(d.stderr.String()) {
				if strings.Contains(line, `"msg":"call"`) && strings.Contains(line, `"protocol":"`+protocol+`"`) &&
					strings.Contains(line, `"method":"math.add"`) && strings.Contains(line, `"trace_id":"`+sampleTrace+`"`) {
					return true
				}
			}
			return false
		})
	}
}

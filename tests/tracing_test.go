package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

const (
	sampleTrace  = "4bf92f3577b34da6a3ce929d0e0e4736"
	sampleSpan   = "00f067aa0ba902b7"
	sampleParent = "00-" + sampleTrace + "-" + sampleSpan + "-01"
)

// otelSpan is what these tests read of a span in OTLP's JSON form.
type otelSpan struct {
	TraceID, SpanID, ParentSpanID, TraceState, Name string
	Kind                                            int
	Start                                           uint64 `json:"startTimeUnixNano,string"`
	End                                             uint64 `json:"endTimeUnixNano,string"`
	Status                                          struct{ Code int }
	text                                            string
}

func (s *otelSpan) UnmarshalJSON(b []byte) error {
	type plain otelSpan
	err := json.Unmarshal(b, (*plain)(s))
	s.text = string(b)
	return err
}

// otelCollector takes spans as an OpenTelemetry collector does.
type otelCollector struct {
	*httptest.Server
	mu       sync.Mutex
	spans    []*otelSpan
	services map[string]bool
}

func startCollector(t *testing.T) *otelCollector {
	c := &otelCollector{services: map[string]bool{}}
	c.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var req struct {
			ResourceSpans []struct {
				Resource struct {
					Attributes []struct {
						Key   string
						Value struct{ StringValue string }
					}
				}
				ScopeSpans []struct{ Spans []*otelSpan }
			}
		}
		if err == nil {
			err = json.Unmarshal(body, &req)
		}
		if err != nil || r.URL.Path != "/v1/traces" || r.Header.Get("Content-Type") != "application/json" {
			http.Error(w, "no spans", http.StatusBadRequest)
			return
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, resource := range req.ResourceSpans {
			for _, a := range resource.Resource.Attributes {
				if a.Key == "service.name" {
					c.services[a.Value.StringValue] = true
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
func (c *otelCollector) span(name string) *otelSpan {
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
		if s.TraceID != sampleTrace || s.ParentSpanID != sampleSpan || s.TraceState != "vendor=1" {
			t.Errorf("%s: trace %s, parent %s, state %q", name, s.TraceID, s.ParentSpanID, s.TraceState)
		}
		if s.Kind != 2 || s.Start == 0 || s.End < s.Start { // a server
			t.Errorf("%s: kind %v from %d to %d", name, s.Kind, s.Start, s.End)
		}
		if got := s.Status.Code == 2; got != failed {
			t.Errorf("%s: failed is %v", name, got)
		}
		if strings.Contains(s.text, "hunter2") {
			t.Errorf("%s: a parameter is in the span", name)
		}
	}
	if s := c.span("ping"); s.TraceID == sampleTrace || s.ParentSpanID != "" {
		t.Errorf("a call without trace context belongs to %s", s.TraceID)
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
	if s := c.span("math.add"); s.TraceID != sampleTrace {
		t.Errorf("trace %s", s.TraceID)
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

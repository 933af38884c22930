package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hubd-dev/hubd/client"
)

// The fake hub calls the client as soon as it says hello.
func callsOfTheHub(t testing.TB, requests ...string) (*fakeHub, chan line) {
	replies := make(chan line, len(requests)+8)
	return newFake(t, func(c *fakeConn, f line) {
		switch f.Action {
		case "hello":
			for _, r := range requests {
				c.say("%s", r)
			}
		case "rpc_reply":
			replies <- f
		}
	}), replies
}

func TestHubCallsTheClient(t *testing.T) {
	methods := client.Methods{
		"add": func(_ context.Context, params json.RawMessage) (any, error) {
			var n []int
			if err := json.Unmarshal(params, &n); err != nil {
				return nil, err
			}
			return n[0] + n[1], nil
		},
		"fail": func(context.Context, json.RawMessage) (any, error) { return nil, errors.New("no luck") },
		"typed": func(context.Context, json.RawMessage) (any, error) {
			return nil, &client.Error{Kind: client.KindConflict, Message: "taken", Retry: client.RetrySafe, Data: json.RawMessage(`{"by":"me"}`)}
		},
		"panic":   func(context.Context, json.RawMessage) (any, error) { panic("oops") },
		"nothing": func(context.Context, json.RawMessage) (any, error) { return nil, nil },
		"raw":     func(context.Context, json.RawMessage) (any, error) { return json.RawMessage(`{"x":1.0}`), nil },
		"bad":     func(context.Context, json.RawMessage) (any, error) { return make(chan int), nil },
	}
	tests := []struct{ method, params, result, kind, text string }{
		{"add", "[2,40]", "42", "", ""},
		{"fail", "{}", "null", "handler", "no luck"},
		{"typed", "{}", "null", "conflict", "taken"},
		{"panic", "{}", "null", "internal", "panic: oops"},
		{"nothing", "{}", "null", "", ""},
		{"raw", "{}", `{"x":1.0}`, "", ""},
		{"bad", "{}", "null", "serialization", ""},
		{"unknown", "{}", "null", "not_found", "method not found: unknown"},
	}
	for _, tt := range tests {
		t.Run(tt.method, func(t *testing.T) {
			h, replies := callsOfTheHub(t, `{"action":"rpc_request","request_id":"h-1","method":"`+tt.method+`","params":`+tt.params+`}`)
			h.connect(client.Options{Handler: methods.Handle})
			f := wait(t, replies)
			kind, text := "", ""
			if f.ErrorKind != nil {
				kind, text = *f.ErrorKind, *f.Error
			}
			if f.RequestID != "h-1" || string(f.Result) != tt.result || kind != tt.kind || tt.text != "" && text != tt.text {
				t.Errorf("reply: %s", f.text)
			}
			if tt.method == "typed" && (string(f.ErrorData) != `{"by":"me"}` || f.Retry != "safe") {
				t.Errorf("reply: %s", f.text)
			}
		})
	}
}

func TestClientWithoutHandlerRefusesCalls(t *testing.T) {
	h, replies := callsOfTheHub(t, `{"action":"rpc_request","request_id":"a","method":"x","params":{}}`)
	h.connect(client.Options{})
	if f := wait(t, replies); f.ErrorKind == nil || *f.ErrorKind != "not_found" {
		t.Errorf("reply: %s", f.text)
	}
}

func TestCallOfTheHubEndsWithCancelDeadlineAndConnection(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		causes := make(chan error, 3)
		handler := func(ctx context.Context, method string, _ json.RawMessage) (any, error) {
			<-ctx.Done()
			causes <- context.Cause(ctx)
			return nil, ctx.Err()
		}
		h, replies := callsOfTheHub(t,
			`{"action":"rpc_request","request_id":"c","method":"m","params":{}}`,
			`{"action":"rpc_request","request_id":"d","method":"m","params":{},"timeout":2}`,
			`{"action":"rpc_request","request_id":"e","method":"m","params":{},"timeout":1000}`,
			`{"action":"rpc_cancel","request_id":"c"}`,
		)
		c := h.connect(client.Options{Handler: handler})
		if e, ok := (<-causes).(*client.Error); !ok || e.Kind != client.KindCancelled {
			t.Errorf("cause of the cancel: %v", e)
		}
		if f := <-replies; f.RequestID != "c" || *f.ErrorKind != "cancelled" {
			t.Errorf("reply: %s", f.text)
		}
		began := time.Now()
		if err := <-causes; !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("cause of the deadline: %v", err)
		}
		if f := <-replies; f.RequestID != "d" || *f.ErrorKind != "timeout" {
			t.Errorf("reply: %s", f.text)
		}
		if took := time.Since(began); took != 2*time.Second {
			t.Errorf("the deadline came after %v", took)
		}
		c.Close() // waits for the last handler
		if err := <-causes; !errors.Is(err, client.ErrClosed) {
			t.Errorf("cause of the close: %v", err)
		}
		h.close()
	})
}

func TestIDThatIsInUseIsRefused(t *testing.T) {
	release := make(chan bool)
	handler := func(context.Context, string, json.RawMessage) (any, error) {
		<-release
		return "first", nil
	}
	request := `{"action":"rpc_request","request_id":"x","method":"m","params":{}}`
	h, replies := callsOfTheHub(t, request, request)
	h.connect(client.Options{Handler: handler})
	if f := wait(t, replies); f.ErrorKind == nil || *f.ErrorKind != "duplicate" {
		t.Errorf("reply: %s", f.text)
	}
	close(release)
	if f := wait(t, replies); string(f.Result) != `"first"` {
		t.Errorf("reply: %s", f.text)
	}
}

func TestResultTooLargeForALine(t *testing.T) {
	h, replies := callsOfTheHub(t, `{"action":"rpc_request","request_id":"x","method":"m","params":{}}`)
	h.connect(client.Options{Handler: func(context.Context, string, json.RawMessage) (any, error) {
		return strings.Repeat("x", 17<<20), nil
	}})
	if f := wait(t, replies); f.ErrorKind == nil || *f.ErrorKind != "serialization" {
		t.Errorf("reply: %.200s", f.text)
	}
}

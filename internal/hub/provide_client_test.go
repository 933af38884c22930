package hub

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/hubd-dev/hubd/client"
)

// A Go program provides, survives a restart of the hub, and withdraws.
func TestGoClientProvides(t *testing.T) {
	state := shortDir(t)
	h := startHub(t, Options{State: state})
	c, err := client.Dial(t.Context(), h.socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, stop := context.WithCancelCause(t.Context())
	done := make(chan error, 1)
	go func() {
		done <- c.Provide(ctx, client.Service{Name: "weather", Doc: "The weather.", Methods: []client.Method{{
			Name: "today", Params: []client.Param{{Name: "city", Type: "string", Required: true}}, Result: "string",
			Call: func(_ context.Context, params json.RawMessage) (any, error) { return "rain " + string(params), nil },
		}}})
	}()
	asks := func(h *testHub) func() bool {
		return func() bool {
			w := h.dial()
			defer w.Close()
			r := w.call("weather.today", `["Oslo"]`)
			return string(r.Result) == `"rain {\"city\":\"Oslo\"}"`
		}
	}
	eventually(t, "the method can be called", asks(h))

	// The name is taken: somebody else is told so.
	other, err := client.Dial(t.Context(), h.socket, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if err := other.Provide(t.Context(), client.Service{Name: "weather", Methods: []client.Method{{Name: "x"}}}); client.KindOf(err) != client.KindConflict {
		t.Errorf("a second provider: %v", err)
	}
	if err := other.Provide(t.Context(), client.Service{Name: "b a d", Methods: []client.Method{{Name: "x"}}}); client.KindOf(err) != client.KindInvalidParams {
		t.Errorf("a bad name: %v", err)
	}

	socket := h.socket
	if err := h.stop(); err != nil {
		t.Fatal(err)
	}
	again := startHubAt(t, socket, Options{State: state})
	eventually(t, "it is offered to the new hub", asks(again))

	over := errors.New("over")
	stop(over)
	if err := <-done; !errors.Is(err, over) {
		t.Errorf("Provide ended with %v", err)
	}
	eventually(t, "the method is gone", func() bool {
		w := again.dial()
		defer w.Close()
		return w.call("weather.today", `["Oslo"]`).kind() == "not_found"
	})
}

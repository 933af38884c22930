package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"net"
	"os"
	"os/signal"
	"time"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/demo"
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/kollabor"
)

// The examples talk to a small hub that lives in this process. A
// program of yours leaves Dialer out and gives the address, or "" for the hub
// of this user.
func ExampleDial() {
	ctx := context.Background()
	c, err := client.Dial(ctx, "", &client.Options{Dialer: exampleHub})
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()

	var sum int
	if err := c.Call(ctx, "math.add", map[string]int{"a": 2, "b": 40}, &sum); err != nil {
		log.Fatal(err)
	}
	fmt.Println(sum)
	// Output: 42
}

func ExampleClient_Call_errors() {
	ctx := context.Background()
	c, _ := client.Dial(ctx, "", &client.Options{Dialer: exampleHub})
	defer c.Close()

	err := c.Call(ctx, "demo.fail", map[string]string{"message": "out of paper"}, nil)
	if e, ok := errors.AsType[*client.Error](err); ok {
		fmt.Println(e.Kind, "/", e.Message, "/", e.Retry)
	}
	err = c.Call(ctx, "no.such", nil, nil)
	fmt.Println(err)
	fmt.Println(errors.Is(err, &client.Error{Kind: client.KindNotFound}))
	// Output:
	// handler / out of paper / safe
	// method not found: no.such
	// true
}

func ExampleWithTimeout() {
	ctx := context.Background()
	c, _ := client.Dial(ctx, "", &client.Options{Dialer: exampleHub})
	defer c.Close()

	err := c.Call(ctx, "demo.sleep", map[string]int{"seconds": 60}, nil, client.WithTimeout(20*time.Millisecond))
	fmt.Println(errors.Is(err, context.DeadlineExceeded))
	// Output: true
}

func ExampleClient_Stream() {
	ctx := context.Background()
	c, _ := client.Dial(ctx, "", &client.Options{Dialer: exampleHub})
	defer c.Close()

	for item, err := range c.Stream(ctx, "demo.count", map[string]int{"n": 1000000}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(string(item))
		if string(item) == "2" {
			break // cancels the rest
		}
	}
	// Output:
	// 0
	// 1
	// 2
}

func ExampleClient_Open() {
	ctx := context.Background()
	c, _ := client.Dial(ctx, "", &client.Options{Dialer: exampleHub})
	defer c.Close()

	s, err := c.Open(ctx, "demo.sum", nil)
	if err != nil {
		log.Fatal(err)
	}
	for i := range 101 {
		if err := s.Send(i); err != nil {
			break // Result has the reason
		}
	}
	var sum int
	if err := s.Result(&sum); err != nil {
		log.Fatal(err)
	}
	fmt.Println(sum)
	// Output: 5050
}

// A client may offer methods of its own, which the hub calls.
func ExampleMethods() {
	ctx := context.Background()
	c, _ := client.Dial(ctx, "", &client.Options{
		Dialer: exampleHub,
		Handler: client.Methods{
			"greet": func(_ context.Context, params json.RawMessage) (any, error) {
				var names []string
				if err := json.Unmarshal(params, &names); err != nil {
					return nil, err
				}
				return "hello " + names[0], nil
			},
		}.Handle,
	})
	defer c.Close()

	var text string
	if err := c.Call(ctx, "demo.callClient", []string{"greet", "Ada"}, &text); err != nil {
		log.Fatal(err)
	}
	fmt.Println(text)
	// Output: hello Ada
}

// Follow a session. The loop survives restarts of the hub and ends with the session.
func ExampleClient_Attach() {
	follow := func(ctx context.Context, c *client.Client) error {
		for e, err := range c.Attach(ctx, "build-42", nil) {
			if err != nil {
				return err
			}
			if n := e.Gap(); n > 0 {
				fmt.Println(n, "events are lost")
			}
			fmt.Println(e.Seq, e.Type, string(e.JSON))
		}
		return nil // the session was closed
	}
	_ = follow
}

// exampleHub is a hub on the other end of a pipe.
func exampleHub(context.Context) (net.Conn, error) {
	table := rpc.NewTable()
	err := table.Add(demo.Methods("math.add", "demo.fail", "demo.sleep", "demo.count", "demo.sum", "demo.callClient")...)
	if err != nil {
		return nil, err
	}
	ours, theirs := net.Pipe()
	hub := kollabor.New(kollabor.Config{Table: table, Version: "example"})
	go hub.Serve(context.Background(), kollabor.Conn{
		Reader: theirs, Wire: pipeWire{theirs}, Peer: &rpc.Peer{Scopes: rpc.AllScopes},
	})
	return ours, nil
}

// pipeWire is an rpc.Wire over a connection that cannot be tried.
type pipeWire struct{ net.Conn }

func (pipeWire) TryWrite([]byte) (int, error) { return 0, nil }

func ExampleClient_Provide() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	c, err := client.Dial(ctx, "", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer c.Close()
	err = c.Provide(ctx, client.Service{Name: "dice", Doc: "Random numbers.", Methods: []client.Method{{
		Name: "roll", Doc: "Roll a die.", Result: "integer", Scope: "read",
		Params: []client.Param{{Name: "sides", Type: "integer", Default: 6}},
		Call: func(_ context.Context, params json.RawMessage) (any, error) {
			in := struct{ Sides int }{6}
			if err := json.Unmarshal(params, &in); err != nil || in.Sides < 1 {
				return nil, &client.Error{Kind: client.KindInvalidParams, Message: "sides must be a number above zero"}
			}
			return 1 + rand.IntN(in.Sides), nil
		},
	}}})
	if !errors.Is(err, context.Canceled) {
		log.Fatal(err)
	}
}

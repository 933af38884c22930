package client_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"math/rand/v2"
	"time"

	"github.com/hubd-dev/hubd/client"
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

// Publish events on a session and follow it. Both survive restarts of the hub;
// the loop ends with the session.
func ExampleClient_Produce() {
	ctx := context.Background()
	c, _ := client.Dial(ctx, "", &client.Options{Dialer: exampleHub})
	defer c.Close()

	p, err := c.Produce(ctx, "build-42", &client.ProduceOptions{Title: "make"})
	if err != nil {
		log.Fatal(err)
	}
	for _, text := range []string{"compiling", "done"} {
		if err := p.Publish(ctx, map[string]any{"type": "output", "rendered": text}); err != nil {
			log.Fatal(err)
		}
	}
	if err := p.Flush(ctx); err != nil { // the hub has them
		log.Fatal(err)
	}

	for e, err := range c.Attach(ctx, "build-42", nil) {
		if err != nil {
			log.Fatal(err)
		}
		if n := e.Gap(); n > 0 {
			fmt.Println(n, "events are lost")
		}
		fmt.Println(e.Seq, e.Type)
		if e.Seq == 2 {
			if err := p.Close(ctx); err != nil {
				log.Fatal(err)
			}
		}
	}
	// Output:
	// 1 output
	// 2 output
}

// Go on behind the last event that was seen, also in a later run of the program:
// its number counts in one life of the session, the epoch.
func ExampleClient_Attach() {
	ctx := context.Background()
	c, _ := client.Dial(ctx, "", &client.Options{Dialer: exampleHub})
	defer c.Close()
	p, err := c.Produce(ctx, "build-43", nil)
	if err != nil {
		log.Fatal(err)
	}
	defer p.Close(ctx)
	for _, text := range []string{"compiling", "done"} {
		if err := p.Publish(ctx, map[string]any{"type": "output", "rendered": text}); err != nil {
			log.Fatal(err)
		}
	}

	var seen client.Event
	for e, err := range c.Attach(ctx, "build-43", nil) {
		if err != nil {
			log.Fatal(err)
		}
		seen = e // its Seq and Epoch are what is to be kept
		break
	}
	for e, err := range c.Attach(ctx, "build-43", &client.AttachOptions{Since: &seen.Seq, Epoch: seen.Epoch}) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(e.Seq, e.Type)
		break
	}
	// Output:
	// 2 output
}

// Offer methods to the clients of every protocol, until ctx ends.
func ExampleClient_Provide() {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	c, _ := client.Dial(ctx, "", &client.Options{Dialer: exampleHub})
	defer c.Close()

	offered := make(chan error)
	go func() {
		offered <- c.Provide(ctx, client.Service{Name: "dice", Doc: "Random numbers.", Methods: []client.Method{{
			Name: "roll", Doc: "Roll a die.", Result: "integer", Scope: "read",
			Params: []client.Param{{Name: "sides", Type: "integer", Default: 6}},
			Call: func(_ context.Context, params json.RawMessage) (any, error) {
				var in struct{ Sides int }
				if err := json.Unmarshal(params, &in); err != nil || in.Sides < 1 {
					return nil, &client.Error{Kind: client.KindInvalidParams, Message: "sides must be a number above zero"}
				}
				return 1 + rand.IntN(in.Sides), nil
			},
		}}})
	}()

	// Any other client, in any protocol:
	var n int
	for {
		err := c.Call(ctx, "dice.roll", []int{1}, &n)
		if err == nil {
			break
		}
		if e := (*client.Error)(nil); !errors.As(err, &e) || !e.NoMethod() {
			log.Fatal(err)
		}
	}
	fmt.Println(n)
	stop()
	fmt.Println(<-offered)
	// Output:
	// 1
	// context canceled
}

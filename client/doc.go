// Package client talks to a running hubd over its native protocol.
//
// A [Client] is one connection, shared by any number of goroutines: calls run
// at the same time and their answers come in any order. It comes back by itself
// after the hub was restarted.
//
//	c, err := client.Dial(ctx, "", nil) // the hub of this user, or of the system
//	if err != nil {
//		return err
//	}
//	defer c.Close()
//
//	var sum int
//	err = c.Call(ctx, "math.add", map[string]int{"a": 2, "b": 40}, &sum)
//
// The context of a call bounds it on both sides: its deadline travels with the
// request, and ending it early cancels the method in the hub. A method that
// yields a stream is read with a loop; leaving the loop ends the stream:
//
//	for item, err := range c.Stream(ctx, "demo.count", map[string]int{"n": 3}) {
//		if err != nil {
//			return err
//		}
//		fmt.Println(string(item))
//	}
//
// Errors of the hub and of the connection are [*Error]; its Kind says what went
// wrong and its Retry whether the call may be repeated.
package client

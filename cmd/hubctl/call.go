package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
)

// calling is the command "call".
type calling struct {
	app     *app
	stream  bool
	send    string // file with the items of the method's stream argument
	lines   bool   // its lines are the items, as strings
	timeout time.Duration

	watch    bool          // call again and again
	interval time.Duration // so often
}

func newCall(a *app) *cobra.Command {
	c := &calling{app: a}
	cmd := &cobra.Command{
		Use:   "call METHOD [JSON | key=text | key:=json | VALUE]... | @FILE | -",
		Short: "Call a method",
		Long: `Call a method and print its result.

Arguments are one JSON object or array, or named ones (key=text for a string,
key:=json for anything else, key=@file and key:=@file from a file), or JSON
values in the method's order. @FILE and - read JSON from a file or from stdin;
each value that is found there is a call of its own, and the first one that
fails ends the rest.

With --stream the result is a stream: its items are printed one per line as they
come. Ctrl-C cancels the call in the hub; a second one does not wait for that.

With --watch a method that has one result is called again each --interval, until
Ctrl-C, and the result is printed when it is another one.`,
		Example: `  hubctl call echo '{"a": 1}'
  hubctl call math.add a:=2 b:=40          named arguments: := takes JSON, = takes text
  hubctl call math.add 2 40                the same by position
  hubctl call demo.fail message=oops
  echo '[1,2] [3,4]' | hubctl call math.add -
  hubctl call --stream demo.count n:=3
  hubctl call --watch session.list         whenever the result changes
  seq 10 | hubctl call demo.sum --send -   the items of a stream argument
  ls | hubctl call --stream demo.upper --send - --lines -o raw`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return usageError{"which method?", `"hubctl methods" lists what there is`}
			}
			return nil
		},
		ValidArgsFunction: a.completeMethod,
		RunE:              func(cmd *cobra.Command, args []string) error { return c.run(cmd.Context(), args[0], args[1:]) },
	}
	flags := cmd.Flags()
	flags.BoolVarP(&c.stream, "stream", "s", false, "take the result as a stream and print its items as they come")
	flags.BoolVarP(&c.watch, "watch", "w", false, "call again and again, and print the result when it has changed")
	spanFlag(flags, &c.interval, "interval", "i", time.Second, "with --watch: time between two calls")
	flags.StringVar(&c.send, "send", "", "send the JSON values in `FILE` (- is stdin) as the method's stream argument")
	flags.BoolVar(&c.lines, "lines", false, "with --send: each line is an item, as a string")
	spanFlag(flags, &c.timeout, "timeout", "t", 0, "give up after that time, such as 500ms or 2m; with --stream: when no first item came (the hub's default is 30s)")
	return cmd
}

func (c *calling) run(ctx context.Context, method string, args []string) error {
	if c.timeout < 0 {
		return usageError{"--timeout must not be negative", ""}
	}
	if c.watch && (c.stream || c.send != "") {
		return usageError{"--watch is for methods with one result", "a stream is followed with --stream alone"}
	}
	if c.watch && c.interval <= 0 {
		return usageError{"--interval must be above zero", ""}
	}
	if c.lines && c.send == "" {
		return usageError{"--lines goes with --send", ""}
	}
	if c.send == "-" && len(args) == 1 && args[0] == "-" {
		return usageError{"stdin cannot be both the arguments and the stream", ""}
	}
	params, err := c.app.callParams(args)
	if err != nil {
		return err
	}
	own := formatJSON
	if c.stream {
		own = formatJSONL
	}
	out := c.app.printer(c.app.formatOr(own))
	// Arguments are checked before the hub is bothered.
	next, stop := iter.Pull2(params)
	defer stop()
	first, err, ok := next()
	if err != nil {
		return err
	}
	c.app.patience = c.timeout
	cl, err := c.app.dial(ctx)
	if err != nil {
		return err
	}
	if c.watch && ok {
		if _, err, more := next(); more || err != nil {
			return usageError{"--watch makes one call again and again, not several", ""}
		}
		return c.app.suggest(ctx, hintJSON(c.again(ctx, cl, method, first, out), args))
	}
	for p := first; ok; p, err, ok = next() {
		if err == nil {
			err = c.once(ctx, cl, method, p, out)
		}
		if err != nil {
			return c.app.suggest(ctx, hintJSON(err, args))
		}
	}
	return nil
}

// hintJSON tells how a value is written that the method does not take as the
// text that key=text makes of it.
func hintJSON(err error, args []string) error {
	if e, ok := errors.AsType[*client.Error](err); !ok || e.Kind != client.KindInvalidParams || !strings.Contains(e.Message, "got a string") {
		return err
	}
	for _, arg := range args {
		name, text, ok := strings.Cut(arg, "=")
		if ok && isName(name) && rpc.Valid([]byte(text)) {
			return hintedError{err, fmt.Sprintf("%s is a string; for JSON: %s:=%s", arg, name, text)}
		}
	}
	return err
}

// again makes the call until it fails, and prints each result that is not the
// one before.
func (c *calling) again(ctx context.Context, cl *client.Client, method string, params json.RawMessage, out *printer) error {
	var opts []client.CallOption
	if c.timeout > 0 {
		opts = append(opts, client.WithTimeout(c.timeout))
	}
	var last json.RawMessage
	for {
		result, err := cl.CallRaw(ctx, method, params, opts...)
		if err != nil {
			return err
		}
		if !bytes.Equal(result, last) {
			if err := out.print(result); err != nil {
				return err
			}
			last = bytes.Clone(result)
		}
		select {
		case <-time.After(c.interval):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func (c *calling) once(ctx context.Context, cl *client.Client, method string, params json.RawMessage, out *printer) error {
	var opts []client.CallOption
	if c.timeout > 0 {
		opts = append(opts, client.WithTimeout(c.timeout))
	}
	if !c.stream && c.send == "" {
		result, err := cl.CallRaw(ctx, method, params, opts...)
		if err != nil {
			return err
		}
		return out.print(result)
	}
	s, err := cl.Open(ctx, method, params, opts...)
	if err != nil {
		return err
	}
	defer s.Close()
	sent := make(chan error, 1)
	if c.send == "" {
		sent <- nil
	} else {
		go func() { // ends with the stream, or with the program while it reads stdin
			err := c.feed(s)
			sent <- err // before the loop below sees the end of the stream
			if err != nil {
				s.Close()
			}
		}()
	}
	items := 0
	for item, err := range s.Items() {
		if err != nil {
			select {
			case cause := <-sent: // a file that is not JSON ends the call
				if cause != nil {
					err = cause
				}
			default:
			}
			return err
		}
		items++
		if err := out.print(item); err != nil {
			return err
		}
	}
	var result json.RawMessage
	if err := s.Result(&result); err != nil {
		return err
	}
	if items == 0 && !c.stream || string(result) != "null" {
		return out.print(result)
	}
	return nil
}

// feed sends the items of the stream argument. An error says that not all were sent.
func (c *calling) feed(s *client.Stream) error {
	in, name := c.app.in, "stdin"
	if c.send != "-" {
		f, err := os.Open(c.send)
		if err != nil {
			return usageError{err.Error(), ""}
		}
		defer f.Close()
		in, name = f, c.send
	}
	values := jsonValues(in, name)
	if c.lines {
		values = lineValues(in, name)
	}
	for v, err := range values {
		if err != nil {
			return err
		}
		if err := s.Send(v); err != nil {
			if errors.Is(err, io.EOF) {
				return nil // the call is over and knows why
			}
			return err
		}
	}
	return s.CloseSend()
}

// lineValues yields the lines of r as JSON strings.
func lineValues(r io.Reader, name string) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		lines := bufio.NewReader(newTextReader(r))
		for {
			line, err := readLine(lines)
			if err != nil && err != io.EOF {
				yield(nil, usageError{name + ": " + err.Error(), ""})
				return
			}
			if err == io.EOF && line == "" {
				return
			}
			text, _ := json.Marshal(strings.TrimSuffix(line, "\n"))
			if !yield(text, nil) || err == io.EOF {
				return
			}
		}
	}
}

// readLine reads up to a line feed; a line that no frame could carry is an error.
func readLine(r *bufio.Reader) (string, error) {
	var line []byte
	for {
		part, err := r.ReadSlice('\n')
		line = append(line, part...)
		if len(line) > maxFile {
			return "", errors.New("a line is longer than 16 MiB")
		}
		if err != bufio.ErrBufferFull {
			return string(line), err
		}
	}
}

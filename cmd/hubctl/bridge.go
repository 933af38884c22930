package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/stdout"
)

// bridgeQuiet is how long the bridge waits, after stdin has ended, for items of
// streams that the client has given no more credit for.
const bridgeQuiet = 5 * time.Second

func newBridge(a *app) *cobra.Command {
	protocol, textErrors, streams := "", false, false
	cmd := &cobra.Command{
		Use:   "bridge",
		Short: "Join stdin and stdout to the hub's socket",
		Long: `Join stdin and stdout to the hub's socket, byte by byte, for clients that start a
child process and talk to its standard streams. Nothing else is written to
stdout. When stdin ends, the bridge waits for the answers to all that was asked,
streams included, and exits. It fails, with exit code 3, when the hub is gone
before.

The hub detects the protocol from the first bytes. Kkrpc over lines looks like
the native protocol, so with --protocol kkrpc each line becomes a message to the
hub's WebSocket at /kkrpc and the reverse; what comes out is ASCII, and lines that
are not JSON objects are left out.`,
		Example: `  hubctl bridge
  hubctl bridge --protocol kkrpc
  echo '{"action":"ping"}' | hubctl bridge`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			ctx := cmd.Context()
			addr, err := a.bridgeAddress(protocol)
			switch {
			case err != nil:
				return err
			case protocol == "kkrpc":
				query := url.Values{}
				if textErrors {
					query.Set("errors", "string")
				}
				if streams {
					query.Set("streams", "1")
				}
				return a.bridgeKkrpc(ctx, query)
			case textErrors || streams:
				return usageError{"--text-errors and --streams are for --protocol kkrpc", ""}
			}
			opts, err := a.options()
			if err != nil {
				return err
			}
			nc, err := addr.Dial(ctx, opts.TLS)
			if err != nil {
				return unreachable{addr, errors.Join(&client.Error{Kind: client.KindDisconnected, Retry: client.RetrySafe}, err)}
			}
			return a.bridge(ctx, nc, protocol)
		},
	}
	cmd.Flags().StringVar(&protocol, "protocol", "", "the `protocol` that will be spoken: kollabor (native), kkrpc, krpc or snekrpc")
	cmd.Flags().BoolVar(&textErrors, "text-errors", false, "kkrpc: errors as plain text, for clients of versions before 0.4")
	cmd.Flags().BoolVar(&streams, "streams", false, "kkrpc: streamed results as streams, not as arrays")
	cmd.RegisterFlagCompletionFunc("protocol", cobra.FixedCompletions(bridgeProtocols, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

var bridgeProtocols = []string{"kollabor", "kkrpc", "krpc", "snekrpc"}

// bridgeAddress returns where that protocol is spoken without further ado.
func (a *app) bridgeAddress(protocol string) (client.Address, error) {
	switch {
	case protocol == "" || protocol == "native":
		return a.address()
	case protocol == "capnweb":
		return client.Address{}, usageError{"capnweb is spoken over WebSocket and HTTP only", "connect to /capnweb of a listener"}
	case !slices.Contains(bridgeProtocols, protocol):
		return client.Address{}, usageError{fmt.Sprintf("unknown protocol %q", protocol), "one of " + strings.Join(bridgeProtocols, ", ")}
	}
	return a.address()
}

// bridge copies both ways until stdin has ended and what was asked on it is
// answered, or until the hub closes the connection.
//
// Only then is the sending side closed: some protocols, and TCP in general, give up
// the calls of a peer that has done that.
func (a *app) bridge(ctx context.Context, nc net.Conn, protocol string) error {
	b := &byteBridge{nc: nc, out: a.out, protocol: protocol}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	watchStdout(a.out, func() {
		b.fail(syscall.EPIPE)
		nc.Close()
	})
	go b.input(a.in) // ends with stdin, or with the program
	err := b.output()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return b.verdict(err)
}

// byteBridge joins stdin and stdout to a connection byte by byte.
type byteBridge struct {
	nc       net.Conn
	out      io.Writer
	protocol string

	mu      sync.Mutex
	ledger  ledger // of what is spoken; nil before the first byte of stdin
	ended   bool   // stdin
	settled bool   // and the sending side was closed
	failed  error  // on this side
	quiet   *time.Timer
}

func (b *byteBridge) input(in io.Reader) {
	buf := make([]byte, 64<<10)
	for {
		n, err := in.Read(buf)
		if n > 0 {
			l := b.heard(buf[0])
			l.asked(buf[:n]) // before anything can answer
			if _, e := b.nc.Write(buf[:n]); e != nil {
				b.broken(e)
				return
			}
		}
		switch {
		case err == io.EOF:
			b.end()
			return
		case err != nil:
			b.fail(fmt.Errorf("stdin: %w", err))
			b.nc.Close()
			return
		}
	}
}

// heard returns the ledger of the protocol whose first byte on stdin is c.
func (b *byteBridge) heard(c byte) ledger {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.ledger == nil {
		b.ledger = newLedger(b.protocol, c, b.settle)
	}
	return b.ledger
}

// end notes that stdin has ended.
func (b *byteBridge) end() {
	l := b.heard('{') // if nothing has come, nothing is asked in any protocol
	last := l.end()
	b.mu.Lock()
	b.ended = true
	b.mu.Unlock()
	if len(last) > 0 {
		if _, err := b.nc.Write(last); err != nil {
			b.broken(err)
			return
		}
	}
	b.settle()
}

// settle closes the sending side once stdin has ended and nothing is owed.
func (b *byteBridge) settle() {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.ended || b.settled {
		return
	}
	owed, stalled := b.ledger.owed()
	switch {
	case owed == 0:
		b.settled = true
		if half, ok := b.nc.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // of a connection that has ended already: the reader tells
		}
	case owed == stalled: // nothing comes any more, unless it is on its way
		if b.quiet == nil {
			b.quiet = time.AfterFunc(bridgeQuiet, b.abandon)
		} else {
			b.quiet.Reset(bridgeQuiet)
		}
	}
}

// abandon ends what only waits for a client that is gone.
func (b *byteBridge) abandon() {
	b.mu.Lock()
	owed, stalled := b.ledger.owed()
	b.mu.Unlock()
	if owed == stalled {
		_, _ = b.nc.Write(b.ledger.abandon()) // of a connection that has ended: the reader tells
	}
}

// output copies what the hub sends, and returns why that has ended.
func (b *byteBridge) output() error {
	buf := make([]byte, 64<<10)
	for {
		n, err := b.nc.Read(buf)
		if n > 0 {
			if _, err := b.out.Write(buf[:n]); err != nil {
				return err
			}
			b.mu.Lock()
			l := b.ledger
			b.mu.Unlock()
			if l != nil {
				l.answered(buf[:n])
				b.settle()
			}
		}
		if err != nil {
			return err
		}
	}
}

// broken takes an error of writing. One that the other side has caused is told by the reader.
func (b *byteBridge) broken(err error) {
	if errors.Is(err, syscall.EPIPE) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, net.ErrClosed) {
		return
	}
	b.fail(fmt.Errorf("sending: %w", err))
	b.nc.Close()
}

// fail notes what has gone wrong on this side.
func (b *byteBridge) fail(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.failed == nil {
		b.failed = err
	}
}

// verdict says what it means that the connection has ended so.
func (b *byteBridge) verdict(err error) error {
	b.mu.Lock()
	l, ended, failed := b.ledger, b.ended, b.failed
	if b.quiet != nil {
		b.quiet.Stop()
	}
	b.mu.Unlock()
	owed, over := 0, ended
	if l != nil {
		meant, cut := l.closed()
		over = meant || ended
		failed = cmp.Or(failed, cut)
		owed, _ = l.owed()
	}
	switch hung := errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET); {
	case failed != nil:
		return failed
	case !hung && !errors.Is(err, net.ErrClosed):
		return err
	case over && owed == 0:
		return nil
	}
	return hungUp("", owed)
}

// hungUp says that the hub has closed a connection, and what is lost with it.
func hungUp(why string, owed int) error {
	text := "the hub closed the connection"
	if why != "" {
		text += " (" + why + ")"
	}
	retry := client.RetryUnsafe
	switch owed {
	case 0:
	case 1:
		text, retry = text+" before it had answered a request", client.RetryUnknown
	default:
		text, retry = fmt.Sprintf("%s before it had answered %d requests", text, owed), client.RetryUnknown
	}
	return &client.Error{Kind: client.KindDisconnected, Message: text, Retry: retry}
}

// watchStdout calls gone when nobody can read any more what is written to out. A
// client that was killed is noticed by that, whatever it has asked for.
func watchStdout(out io.Writer, gone func()) {
	if w, ok := out.(*stdout.Writer); ok {
		out = w.W
	}
	f, ok := out.(*os.File)
	if !ok {
		return // a terminal, whose end is a signal
	}
	go func() { // ends with the reader of stdout, or with the program
		for {
			fds := []unix.PollFd{{Fd: int32(f.Fd())}} // errors are told without being asked for
			_, err := unix.Poll(fds, -1)
			switch {
			case err == unix.EINTR:
			case err != nil || fds[0].Revents&unix.POLLNVAL != 0:
				return
			case fds[0].Revents&(unix.POLLERR|unix.POLLHUP) != 0:
				gone()
				return
			}
		}
	}()
}

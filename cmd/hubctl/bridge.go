package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
)

// bridgeQuiet is how long the bridge listens on for answers after stdin has
// ended, counted from the last byte that came.
const bridgeQuiet = 5 * time.Second

func newBridge(a *app) *cobra.Command {
	protocol, textErrors, streams := "", false, false
	cmd := &cobra.Command{
		Use:   "bridge",
		Short: "Join stdin and stdout to the hub's socket",
		Long: `Join stdin and stdout to the hub's socket, byte by byte, for clients that start a
child process and talk to its standard streams. Nothing else is written to
stdout. When stdin ends, what is still on its way is awaited and the bridge exits.

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
			return a.bridge(ctx, nc)
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

// bridge copies both ways until the hub hangs up, or stdin has ended and
// nothing more comes.
func (a *app) bridge(ctx context.Context, nc net.Conn) error {
	defer nc.Close()
	var inputEnded atomic.Bool
	go func() { // ends with stdin, or with the program
		_, err := io.Copy(nc, a.in)
		if err != nil {
			return // the hub has hung up: the other direction tells
		}
		inputEnded.Store(true)
		if half, ok := nc.(interface{ CloseWrite() error }); ok {
			_ = half.CloseWrite() // of a connection that has ended already: the other direction tells
		}
		nc.SetReadDeadline(time.Now().Add(bridgeQuiet))
	}()
	stop := context.AfterFunc(ctx, func() { nc.Close() })
	defer stop()
	buf := make([]byte, 64<<10)
	for {
		n, err := nc.Read(buf)
		if n > 0 {
			if _, err := a.out.Write(buf[:n]); err != nil {
				return err
			}
			if inputEnded.Load() {
				nc.SetReadDeadline(time.Now().Add(bridgeQuiet))
			}
		}
		switch {
		case err == nil:
		case ctx.Err() != nil:
			return ctx.Err()
		case inputEnded.Load():
			return nil
		default:
			if errors.Is(err, io.EOF) {
				err = errors.New("the hub closed the connection")
			}
			return &client.Error{Kind: client.KindDisconnected, Message: err.Error(), Retry: client.RetryUnsafe}
		}
	}
}

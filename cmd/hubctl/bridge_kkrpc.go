package main

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"sync"
	"syscall"

	"github.com/coder/websocket"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/frame"
	"github.com/hubd-dev/hubd/internal/rpc/ws"
)

// kkrpcEndpoint is where every listener of the hub speaks kkrpc.
const kkrpcEndpoint = "/kkrpc"

// kkrpcBridge joins lines on stdin and stdout to the WebSocket messages of the
// hub: lines of kkrpc look like those of the native protocol, so that the
// socket alone cannot tell them apart.
type kkrpcBridge struct {
	conn *ws.Conn
	out  io.Writer

	mu     sync.Mutex
	ledger kkrpcLedger
	ended  bool // stdin
}

// bridgeKkrpc runs until stdin has ended and what was asked is answered, or the
// hub closes the connection.
func (a *app) bridgeKkrpc(ctx context.Context, query url.Values) error {
	addr, err := a.address()
	if err != nil {
		return err
	}
	conn, err := a.dialKkrpc(ctx, addr, query)
	if err != nil {
		return unreachable{addr, errors.Join(&client.Error{Kind: client.KindDisconnected, Retry: client.RetrySafe}, err)}
	}
	b := &kkrpcBridge{conn: conn, out: a.out, ledger: newKkrpcLedger()}
	stop := context.AfterFunc(ctx, conn.Cut)
	defer stop()
	broken := make(chan error, 2)
	fail := func(err error) {
		broken <- err
		conn.Cut()
	}
	watchStdout(a.out, func() { fail(syscall.EPIPE) })
	go func() { // ends with stdin, or with the program
		if err := b.input(ctx, a.in); err != nil {
			fail(fmt.Errorf("stdin: %w", err))
		}
	}()
	err = b.output()
	why := b.verdict(err) // before the end of the connection is of our making
	conn.End()
	select {
	case err := <-broken:
		return err
	default:
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case errors.Is(err, errStdout):
		return err
	}
	return why
}

func (a *app) dialKkrpc(ctx context.Context, addr client.Address, query url.Values) (*ws.Conn, error) {
	target := "ws://localhost" + kkrpcEndpoint
	if addr.Network != "unix" {
		target = "ws://" + addr.Path + kkrpcEndpoint
	}
	opts, err := a.options()
	if err != nil {
		return nil, err
	}
	if len(query) > 0 {
		target += "?" + query.Encode()
	}
	opt := ws.DialOptions{
		Options: ws.Options{Limit: frame.MaxLine + 1},
		Dial:    func(ctx context.Context, _, _ string) (net.Conn, error) { return addr.Dial(ctx, opts.TLS) },
	}
	if opts.Token != "" && addr.Network != "unix" {
		opt.Header = http.Header{"Authorization": {"Bearer " + opts.Token}}
	}
	return ws.Dial(ctx, target, kkrpcEndpoint, opt)
}

// input sends each line of stdin as a message.
func (b *kkrpcBridge) input(ctx context.Context, in io.Reader) error {
	lines := frame.NewLineReader(in, 0)
	defer lines.Release()
	for {
		line, err := lines.Next()
		if err == io.EOF {
			b.end()
			return nil
		}
		if err != nil {
			return err
		}
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0 || line[0] != '{' && line[0] != '_':
			continue // not a message: what a program prints beside them
		case bytes.HasPrefix(line, []byte("__DESTROY__")):
			b.leave()
			return nil
		}
		b.note(line, true)
		if b.conn.Send(nil, line) != nil || b.conn.Out().Wait(ctx) != nil {
			return nil // the hub has hung up: output tells
		}
	}
}

var errStdout = errors.New("stdout is closed")

// output writes each message as a line, in ASCII: some clients decode each
// chunk of bytes for itself, others in the encoding of their locale.
func (b *kkrpcBridge) output() error {
	var msg, line []byte
	for {
		var err error
		if msg, err = b.conn.Next(msg); err != nil {
			return err
		}
		v, err := rpc.Parse(msg)
		if err != nil {
			continue
		}
		if line, err = v.AppendJSON(line[:0], rpc.Form{ASCII: true}); err != nil {
			continue
		}
		if _, err := b.out.Write(append(line, '\n')); err != nil {
			return errors.Join(errStdout, err)
		}
		b.note(msg, false)
	}
}

// note keeps account of what is asked and answered.
func (b *kkrpcBridge) note(msg []byte, in bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ledger.note(msg, in)
	b.settleLocked()
}

// end notes that stdin has ended: the client waits for what it has asked for.
func (b *kkrpcBridge) end() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended = true
	b.settleLocked()
}

// leave ends the bridge of a client that waits for nothing.
func (b *kkrpcBridge) leave() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.ended, b.ledger = true, newKkrpcLedger()
	b.settleLocked()
}

// settleLocked ends the bridge once stdin has ended and nothing is owed.
func (b *kkrpcBridge) settleLocked() {
	if b.ended && b.ledger.owed() == 0 {
		b.conn.Hangup(ws.CloseNormal, "")
	}
}

// verdict says what it means that reading has ended with err.
func (b *kkrpcBridge) verdict(err error) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	owed := b.ledger.owed()
	if b.ended && owed == 0 {
		return nil
	}
	if e := b.conn.Out().Err(); e != nil && e != rpc.ErrOutboxClosed && !hangsUp(e) {
		return fmt.Errorf("sending to the hub: %w", e)
	}
	closed, isClose := errors.AsType[websocket.CloseError](err)
	switch {
	case isClose && closed.Code == websocket.StatusNormalClosure:
		return hungUp("", owed)
	case isClose:
		return hungUp(cmp.Or(rpc.CleanText(closed.Reason, 200), fmt.Sprintf("code %d", closed.Code)), owed)
	case hangsUp(err):
		return hungUp("", owed)
	case errors.Is(err, websocket.ErrMessageTooBig), errors.Is(err, ws.ErrTooBig):
		return errors.New("an answer is larger than 16 MiB")
	}
	return err
}

// hangsUp reports whether err is how an end of the connection shows that the
// other side has caused.
func hangsUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, syscall.EPIPE)
}

// Package snekrpc speaks the protocol of Python's snekrpc: services with
// metadata, streams in both directions, two codecs, and three transports: TCP
// and Unix sockets with length-prefixed messages, and a chunked HTTP exchange
// used as a tunnel.
//
// The way of one call:
//
//	conn.read          bytes -> messages                       (frame.go, conn.go)
//	  conn.command     message -> arguments by the table's row (message.go, call.go)
//	    rpc.Link.Start admission, then the method runs
//	  call.Result      value -> message in the outbox          (call.go, out.go)
//
// A connection carries one call at a time; what a client sends ahead waits in
// a bounded queue. Clients write a whole stream before they read the first
// answer, so while a client still sends, answers that its socket does not take
// are kept (out.go) instead of making the method wait: see egress.
//
// client.go, exchange.go and remote.go are the other side: they call a far
// server, and offer its services as rows of the hub's own table.
//
// Locks, outermost first: conn.mu, call's streams (inStream.mu, outStream.mu),
// egress.mu, then those of package rpc. None is held while a call is started,
// finished or cancelled.
package snekrpc

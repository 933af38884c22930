// Package kkrpc speaks kkrpc, a symmetric protocol of JSON messages, in both of
// its dialects: the classic one (JavaScript 0.x, Python of early 2026), whose
// messages have a member type, and the compact one (JavaScript 1.x and 2.x,
// newer Python), whose messages have a member t. A connection may mix them:
// each message is answered in its own.
//
// The way of one call:
//
//	socket.go / lines.go    bytes    -> the text of one message
//	  parse                 text     -> message (message.go, superjson.go)
//	    Session.Receive     message  -> request, response, callback ... (session.go)
//	      Session.request   names    -> method or property (call.go, api.go)
//	        arguments       text     -> values, callbacks, streams (args.go)
//	          rpc.Link.Start  the method runs
//	      call.Result       value    -> text of the dialect (encode.go, errors.go)
//	  transport             text     -> one WebSocket message or one line
//
// A Session is the same at both ends: server.go makes those of the hub,
// client.go those of Go programs that connect to a peer. What the peer may call
// of ours is in call.go, what we call of the peer's in client_call.go, functions
// that cross the connection in callback.go, streams in stream_out.go and
// stream_in.go.
//
// Locks: Session.mu guards the tables of a session. Nothing is called while it
// is held.
package kkrpc

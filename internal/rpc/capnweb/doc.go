// Package capnweb speaks Cap'n Web, an object-capability protocol over
// WebSocket and over batches of HTTP. A session joins two equal peers: each
// keeps a table of what it exports and of what it imports, and may call, pass
// on and release what the other has given it.
//
// The path of one call:
//
//	websocket.go / batch.go   bytes    -> one message
//	  Session.Receive         message  -> push, pull, release ... (session.go)
//	    evaluator             text     -> values, references, promises (eval.go)
//	      promise             waits for its target and its arguments (promise.go)
//	        rpc.Link.Start    the method runs
//	      promise.Result      the value is kept until it is pulled
//	    encoder               values   -> text, exports (encode.go)
//	  transport               message  -> bytes
//
// Locks: Session.mu guards both tables and the state of all promises of the
// session. It is held while an answer is encoded and queued, so that the ids of
// exports cannot be overtaken, and never while anything outside of the session
// but the outbox is called.
package capnweb

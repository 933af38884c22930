// Package ws carries the messages of a protocol over WebSocket. It knows no
// protocol: what a message says is the caller's business.
//
// github.com/coder/websocket does the handshake, reading and control frames.
// Data frames go from the caller into the connection's rpc.Outbox directly, so
// that the answers to what was read together leave in one write, and each
// message is one frame: small hand-written clients know no fragments. Cap'n Web,
// which takes most frames out before the library sees them, has a connection of
// its own and shares AppendFrame, Mask and WireOf.
package ws

// Package rpc is the core of the hub: one method table, and calls on it that
// no protocol, socket, metric or logger is part of.
//
// The path of one call:
//
//	protocol reader   bytes -> Call           borrowed from the read buffer
//	  Link.Start      admit: limits, permission, a call id that is in use
//	    Target.Start  a Method, a provider, a commit queue, a callback: never blocks
//	  Call.Finish     the first of answer, deadline, cancel and peer gone wins
//	    Reply         Value or Error -> bytes  in the connection's Outbox
//	Batch.Flush       once per read, for every Outbox that was written to
//
// Locks, outermost first: a protocol's session tables, Link, Call, streams,
// Outbox. None is held while Start, Finish, a cancel hook, the Observer, a
// release or user code runs.
package rpc

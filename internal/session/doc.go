// Package session has the sessions of the hub: named event streams with a
// replay ring, any number of followers, an input line to their owner, prompts
// that one follower answers, and a message inbox. It knows no wire: protocols
// follow sessions through Follower, and all of them through Methods.
//
// The way of one event:
//
//	session.publish        Value -> draft            (event.go: checked, ts added)
//	  Session.Publish      draft -> Event, numbered  (session.go: encoded once, its bytes are shared)
//	    log, ring          kept                      (window.go: both bounded in events and bytes)
//	    waiting followers  woken                     (never waited for)
//	  Follower.Next        Event                     (follower.go: each at its own place in the log)
//
// Followers have no queues of their own. Each takes what the ring holds when it
// comes; from then on all read one log of the latest events, which is as long
// as the slowest of them needs and no longer than its bounds. Who falls off its
// end goes on with the ring and is told what is missing.
//
// Locks, outermost first: Registry.life, Registry.mu, Session.mu. Callbacks
// and the Observer run without Registry.mu and Session.mu.
package session

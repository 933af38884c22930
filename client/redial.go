package client

import (
	"context"
	"errors"
	"time"
)

const (
	// steady is how long a connection has to live for the next attempt to follow
	// its end at once: one that breaks as soon as it is made is not worth a hurry.
	steady = 5 * time.Second
	// refusedPause follows an attempt whose failure time alone will not mend,
	// such as a refused token. A call makes the next attempt come at once.
	refusedPause = 30 * time.Second
)

// redial is the way from a broken connection to the next one. One goroutine
// makes attempts until there is one, or the client is closed.
type redial struct {
	done chan struct{} // closed when conn or err is set
	now  chan struct{} // holds one: somebody waits, the pause is over

	// Guarded by Client.mu.
	conn    *conn
	err     error         // why there will be none
	last    error         // of the latest attempt
	refused chan struct{} // closed, and replaced, by an attempt that failed for good
}

// adoptLocked makes cn the connection of the client.
func (c *Client) adoptLocked(cn *conn) {
	c.conn = cn
	if !cn.alive() { // nobody has noticed
		c.redialLocked()
	}
}

// broke is told that cn has ended.
func (c *Client) broke(cn *conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.conn == cn {
		c.redialLocked()
	}
}

// redialLocked starts to replace the connection, if that has not begun.
func (c *Client) redialLocked() *redial {
	if c.redial == nil && !c.closed && c.opts.Reconnect >= 0 {
		r := &redial{done: make(chan struct{}), now: make(chan struct{}, 1), refused: make(chan struct{})}
		c.redial = r
		broken := c.conn
		c.wg.Go(broken.wait)
		c.wg.Go(func() { c.reconnect(r, time.Since(broken.since) < steady) })
	}
	return c.redial
}

// live returns a connection that works. After a break it waits for the next
// one, as long as the options say, and not beyond an attempt whose failure
// another one will not mend.
func (c *Client) live(ctx context.Context) (*conn, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, disconnected(ErrClosed, RetrySafe)
	}
	if cn := c.conn; cn.alive() {
		c.mu.Unlock()
		return cn, nil
	}
	r := c.redialLocked()
	if r == nil {
		defer c.mu.Unlock()
		return nil, disconnected(c.conn.cause(), RetrySafe)
	}
	refused := r.refused
	if r.last != nil && !temporary(r.last) {
		signal(r.now)
	}
	c.mu.Unlock()
	limit := c.opts.Reconnect
	if limit == 0 {
		limit = defaultReconnect
	}
	enough := time.NewTimer(limit)
	defer enough.Stop()
	select {
	case <-r.done:
		return r.conn, r.err
	case <-refused:
	case <-enough.C:
	case <-ctx.Done():
		return nil, ended(ctx, "", RetrySafe)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case r.conn != nil:
		return r.conn, nil
	case r.last != nil:
		return nil, r.last
	}
	return nil, disconnected(c.conn.cause(), RetrySafe)
}

// reconnect makes attempts until one succeeds.
func (c *Client) reconnect(r *redial, hurried bool) {
	if !hurried {
		c.pace.Reset()
	} else if !c.rest(r, c.pace.NextBackOff()) {
		return
	}
	for {
		ctx, cancel := context.WithTimeout(c.ctx, helloLimit)
		cn, err := c.connect(ctx)
		cancel()
		c.mu.Lock()
		if err == nil && !c.closed {
			c.redial, r.conn = nil, cn
			c.adoptLocked(cn)
			c.mu.Unlock()
			close(r.done)
			return
		}
		if err == nil { // closed meanwhile
			c.mu.Unlock()
			cn.close(ErrClosed)
			cn.wait()
			c.giveUp(r)
			return
		}
		pause := c.pace.NextBackOff()
		if r.last = unwrapped(err); !temporary(err) {
			pause = refusedPause
			close(r.refused)
			r.refused = make(chan struct{})
		}
		c.mu.Unlock()
		if !c.rest(r, pause) {
			return
		}
	}
}

// rest waits between two attempts. It reports false when there will be no more.
func (c *Client) rest(r *redial, pause time.Duration) bool {
	t := time.NewTimer(pause)
	defer t.Stop()
	select {
	case <-t.C:
	case <-r.now:
	case <-c.ctx.Done():
		c.giveUp(r)
		return false
	}
	return true
}

// giveUp ends r because the client is closed.
func (c *Client) giveUp(r *redial) {
	c.mu.Lock()
	c.redial, r.err = nil, disconnected(ErrClosed, RetrySafe)
	c.mu.Unlock()
	close(r.done)
}

// unwrapped returns the *Error in err, or makes one.
func unwrapped(err error) error {
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	return disconnected(err, RetrySafe)
}

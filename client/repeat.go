package client

import (
	"context"
	"errors"
	"time"

	"github.com/cenkalti/backoff/v5"
)

// maxAttempts is how often a call is made whose connection breaks each time.
const maxAttempts = 4

// repeats decides which failed calls are made again, by what docs/frame-format.md
// says of retry: those that did not run, or whose caller says that running
// twice does no harm. Calls whose connection broke are made at once on the next
// one; those that were refused, after a pause that grows.
type repeats struct {
	idempotent bool
	limit      time.Duration // of repeating what was refused
	breaks     int
	since      time.Time // of the first refusal
	pace       *backoff.ExponentialBackOff
}

func (c *Client) repeats(o callOptions) *repeats {
	r := &repeats{idempotent: o.idempotent, limit: c.opts.Repeat}
	if r.limit == 0 {
		r.limit = defaultRepeat
	}
	return r
}

// again returns nil when a call that failed is to be made once more, which may
// be after a pause, else the error for its caller.
func (r *repeats) again(ctx context.Context, failed *Error) *Error {
	if errors.Is(failed, ErrClosed) || !r.idempotent && failed.Retry != RetrySafe {
		return failed
	}
	switch failed.Kind {
	case KindDisconnected:
		r.since = time.Time{}
		if r.breaks++; r.breaks < maxAttempts {
			return nil
		}
		return failed
	case KindUnavailable, KindOverloaded:
		if failed = r.pause(ctx, failed); failed == nil {
			return nil
		}
	}
	return failed
}

// pause waits until a refused call is to be made again.
func (r *repeats) pause(ctx context.Context, failed *Error) *Error {
	if r.since.IsZero() {
		r.since, r.pace = time.Now(), pace()
	}
	left := r.limit - time.Since(r.since)
	if left <= 0 {
		return failed
	}
	t := time.NewTimer(min(left, r.pace.NextBackOff()))
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		e := ended(ctx, failed.Method, failed.Retry)
		e.Message += ": " + failed.Message
		e.cause = errors.Join(e.cause, failed)
		return e
	}
}

// try calls f until it succeeds or says that another attempt is of no use, for
// at most limit, 0 meaning for ever. The last attempt is made when limit is over.
func try(ctx context.Context, limit time.Duration, f func() (again bool, err error)) error {
	began, wait := time.Now(), pace()
	for {
		again, err := f()
		if err == nil || !again {
			return err
		}
		pause := wait.NextBackOff()
		if limit > 0 {
			left := limit - time.Since(began)
			if left <= 0 {
				return err
			}
			pause = min(pause, left)
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return err
		}
	}
}

package statesvc

import (
	"errors"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// fault turns an error of the store into one that callers understand and that each protocol spells. What the call
// itself got wrong, or what is in the way, has no effect; only a log that failed in the middle of a write leaves the
// outcome open.
func fault(err error) *rpc.Error {
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		return e
	}
	if e, ok := errors.AsType[*NotFoundError](err); ok {
		o := newObject(len(e.Key) + 16)
		o.str("key", e.Key)
		return rpc.Errorf(rpc.CodeNotFound, "no such key: %s", e.Key).With(o.end())
	}
	if e, ok := errors.AsType[*ConflictError](err); ok {
		return rpc.Errorf(rpc.CodeConflict, "%v", err).With(conflictData(e.Key, e.Revision))
	}
	if e, ok := errors.AsType[*CompactedError](err); ok {
		o := newObject(32)
		o.uint("lowest", e.Lowest)
		return rpc.Errorf(rpc.CodeCompacted, "%v", err).With(o.end())
	}
	if e, ok := errors.AsType[*FutureError](err); ok {
		return rpc.Errorf(rpc.CodeInvalidParams, "%v", err).With(revisionValue(e.Newest))
	}
	if e, ok := errors.AsType[*LimitError](err); ok {
		o := newObject(64)
		o.str("limit", e.Limit)
		o.uint("max", uint64(max(e.Max, 0)))
		return rpc.Errorf(rpc.CodeTooLarge, "%v", err).With(o.end())
	}
	if e, ok := errors.AsType[*UnavailableError](err); ok {
		// The cause names files; it is for the log.
		if e.Unknown {
			return (&rpc.Error{Code: rpc.CodeUnavailable, Ran: rpc.RanUnknown, Message: "the state log failed: the outcome of the write is unknown"}).Because(err)
		}
		return (&rpc.Error{Code: rpc.CodeUnavailable, Ran: rpc.RanNo, Message: "the state log failed: write refused"}).Because(err)
	}
	if _, ok := errors.AsType[*InvalidError](err); ok {
		return rpc.Errorf(rpc.CodeInvalidParams, "%v", err)
	}
	switch {
	case errors.Is(err, ErrOverloaded):
		return rpc.Errorf(rpc.CodeOverloaded, "%v", err)
	case errors.Is(err, ErrNoSpace), errors.Is(err, ErrClosed), errors.Is(err, ErrOwner):
		return rpc.Errorf(rpc.CodeUnavailable, "%v", err)
	case errors.Is(err, ErrNotEmpty):
		return rpc.Errorf(rpc.CodeConflict, "%v", err)
	}
	return (&rpc.Error{Code: rpc.CodeInternal, Message: "internal error"}).Because(err)
}

func conflictData(key string, revision uint64) rpc.Value {
	o := newObject(len(key) + 40)
	o.str("key", key)
	o.uint("revision", revision)
	return o.end()
}

func invalid(format string, args ...any) *rpc.Error {
	return rpc.Errorf(rpc.CodeInvalidParams, format, args...)
}

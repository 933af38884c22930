package statesvc

import (
	"errors"
	"fmt"

	"github.com/hubd-dev/hubd/internal/statesvc/disk"
)

// Errors without data. All of them mean that the transaction had no effect.
var (
	// ErrClosed is returned after Close.
	ErrClosed = errors.New("state store is closed")
	// ErrOverloaded means that too many transactions wait. Trying again later is safe.
	ErrOverloaded = errors.New("state store has too many transactions waiting")
	// ErrNoSpace means that the disk is full. Reads go on, and writes are accepted again as soon as there is room.
	ErrNoSpace = errors.New("no space left for state: write refused")
	// ErrNotEmpty means that Restore met existing data.
	ErrNotEmpty = errors.New("state is not empty: refusing to restore over existing data")
	// ErrOwner means that an ephemeral key was put for an owner that is not claimed.
	ErrOwner = errors.New("owner of the ephemeral key is gone")
)

// NotFoundError says that a key is absent.
type NotFoundError struct{ Key string }

func (e *NotFoundError) Error() string { return fmt.Sprintf("no key %q", e.Key) }

// ConflictError says that a key was not at the revision that a write asked for. Revision is the current one, 0 when absent.
type ConflictError struct {
	Key      string
	Revision uint64
}

func (e *ConflictError) Error() string {
	if e.Revision == 0 {
		return fmt.Sprintf("conflict: key %q does not exist", e.Key)
	}
	return fmt.Sprintf("conflict: key %q is at revision %d", e.Key, e.Revision)
}

// CompactedError says that history no longer reaches back far enough. Lowest is the smallest revision that works.
type CompactedError struct{ Lowest uint64 }

func (e *CompactedError) Error() string {
	return fmt.Sprintf("history is compacted: the lowest usable revision is %d", e.Lowest)
}

// FutureError says that a revision was asked for that does not exist yet.
type FutureError struct{ Revision, Newest uint64 }

func (e *FutureError) Error() string {
	return fmt.Sprintf("revision %d is not reached yet: the newest one is %d", e.Revision, e.Newest)
}

// InvalidError says that a call cannot be understood: a bad key, an operation with parts that do not go together.
type InvalidError struct{ Reason string }

func (e *InvalidError) Error() string { return e.Reason }

// LimitError says that something is larger than allowed. Limit is a short constant name, Max the configured limit.
type LimitError struct {
	Limit string // "state_key", "state_value", "state_total", "state_transaction"
	Max   int64
}

func (e *LimitError) Error() string {
	switch e.Limit {
	case LimitKey:
		return fmt.Sprintf("key is longer than %d bytes", e.Max)
	case LimitValue:
		return fmt.Sprintf("value is larger than %d bytes", e.Max)
	case LimitTotal:
		return fmt.Sprintf("state would grow beyond %d bytes", e.Max)
	default:
		return fmt.Sprintf("transaction is larger than the limit of %d", e.Max)
	}
}

// UnavailableError says that the log cannot be written. Reads go on. Unknown is set when a transaction may turn out to
// be committed after a restart; without it the transaction had no effect and trying again is safe.
type UnavailableError struct {
	Unknown bool
	Cause   error
}

func (e *UnavailableError) Error() string {
	if e.Unknown {
		return fmt.Sprintf("state log failed, the outcome of the write is unknown: %v", e.Cause)
	}
	return fmt.Sprintf("state log failed, write refused: %v", e.Cause)
}

func (e *UnavailableError) Unwrap() error { return e.Cause }

// Reasons why a store does not open, with the documented exit codes of hubd.
const (
	ExitLocked   = 3 // another daemon uses the folder
	ExitDamaged  = disk.ExitDamaged
	ExitUnusable = 5 // the folder cannot be used
)

// LockedError says that another process uses the state folder.
type LockedError struct{ Path string }

func (e *LockedError) Error() string {
	return fmt.Sprintf("state folder is in use by another daemon: %s is locked", e.Path)
}

// ExitCode returns ExitLocked.
func (e *LockedError) ExitCode() int { return ExitLocked }

// DamagedError says that what is on disk is not what was written, or is missing. Nothing was changed.
type DamagedError = disk.DamagedError

// FormatError says that the files were written by a program that has another format.
type FormatError = disk.FormatError

// FolderError says that the state folder cannot be made, read or written.
type FolderError struct {
	Path  string
	Cause error
}

func (e *FolderError) Error() string {
	return fmt.Sprintf("state folder %s is not usable: %v", e.Path, e.Cause)
}

func (e *FolderError) Unwrap() error { return e.Cause }

// ExitCode returns ExitUnusable.
func (e *FolderError) ExitCode() int { return ExitUnusable }

// ExitCode returns the documented exit code for an error of Open, 1 for one that has none.
func ExitCode(err error) int {
	if c, ok := errors.AsType[interface {
		error
		ExitCode() int
	}](err); ok {
		return c.ExitCode()
	}
	return 1
}

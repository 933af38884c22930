package hub

import (
	"errors"
	"fmt"
	"strings"

	"github.com/hubd-dev/hubd/internal/statesvc"
)

// Exit codes of hubd (hubd --help).
const (
	ExitOK      = 0
	ExitFailure = 1
	ExitUsage   = 2 // usage or configuration
	ExitRunning = 3 // already running
	ExitDamaged = 4 // state damaged, or of a newer format
	ExitState   = 5 // state folder not usable
)

// ConfigError says that the options cannot be used. Problems has all that was
// found, not only the first.
type ConfigError struct{ Problems []error }

func (e *ConfigError) Error() string {
	lines := make([]string, len(e.Problems))
	for i, p := range e.Problems {
		lines[i] = p.Error()
	}
	return "configuration: " + strings.Join(lines, "; ")
}

// Unwrap returns the problems.
func (e *ConfigError) Unwrap() []error { return e.Problems }

// RunningError says that another hub has what this one needs.
type RunningError struct {
	Path string // the socket that answers, or the lock that is held
	Why  string
}

func (e *RunningError) Error() string { return fmt.Sprintf("already running: %s: %s", e.Path, e.Why) }

// StateError says that the state folder cannot be used.
type StateError struct {
	Dir string
	Err error
}

func (e *StateError) Error() string { return fmt.Sprintf("state folder %s: %v", e.Dir, e.Err) }

func (e *StateError) Unwrap() error { return e.Err }

// ExitCode returns the exit code that stands for what Run returned.
func ExitCode(err error) int {
	if err == nil {
		return ExitOK
	}
	if _, ok := errors.AsType[*ConfigError](err); ok {
		return ExitUsage
	}
	if _, ok := errors.AsType[*RunningError](err); ok {
		return ExitRunning
	}
	if _, ok := errors.AsType[*StateError](err); ok {
		return ExitState
	}
	return statesvc.ExitCode(err) // ExitFailure for all that is not of the store
}

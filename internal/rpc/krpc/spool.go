package krpc

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Spool is where the files of requests wait until their calls have ended: a
// folder of its own, with a limit over all of them. The files in it have no
// name, so they are gone with the process, whatever ends it; on file systems
// that do not have such files they have one for an instant.
type Spool struct {
	dir  string
	max  int64
	used atomic.Int64
	open atomic.Int64
}

// DefaultSpool bounds all uploads together.
const DefaultSpool = 4 << 30

// maxUploads bounds the requests that have files in the spool: each of them
// takes a descriptor.
const maxUploads = 1024

// spoolName begins the names of files that have one.
const spoolName = "upload-"

// OpenSpool makes the folder, or takes one over and removes what a crash may
// have left. max bounds the bytes of all uploads; 0: DefaultSpool.
func OpenSpool(dir string, max int64) (*Spool, error) {
	fill(&max, DefaultSpool)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o700); err != nil {
		return nil, err
	}
	left, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, f := range left {
		if strings.HasPrefix(f.Name(), spoolName) && f.Type().IsRegular() {
			if err := os.Remove(filepath.Join(dir, f.Name())); err != nil {
				return nil, fmt.Errorf("cleaning the spool: %w", err)
			}
		}
	}
	return &Spool{dir: dir, max: max}, nil
}

// Used returns how many bytes the spool holds, Open how many requests have files in it.
func (s *Spool) Used() int64 { return s.used.Load() }

// Open returns how many requests have files in the spool.
func (s *Spool) Open() int { return int(s.open.Load()) }

// upload is what one request has in the spool: one file, in which the files of
// the request stand one behind the other, so that a request costs one
// descriptor. It is written by one goroutine and then read by any.
type upload struct {
	spool *Spool
	max   int64
	f     *os.File
	size  int64 // bytes written
	taken int64 // counted in spool.used

	closed bool
}

// spoolStep is how much of the spool is taken at once.
const spoolStep = 1 << 20

// Write appends to the file.
func (u *upload) Write(p []byte) (int, error) {
	if u.f == nil {
		if u.spool.open.Add(1) > maxUploads {
			u.spool.open.Add(-1)
			return 0, errSpoolFull
		}
		f, err := u.spool.create()
		if err != nil {
			u.spool.open.Add(-1)
			return 0, spoolError(err)
		}
		u.f = f
	}
	need := u.size + int64(len(p))
	if need > u.max {
		return 0, errTooLarge
	}
	for u.taken < need {
		step := min(max(need-u.taken, spoolStep), u.max-u.taken)
		if u.spool.used.Add(step) > u.spool.max {
			u.spool.used.Add(-step)
			if step == need-u.taken {
				return 0, errSpoolFull
			}
			if step = need - u.taken; u.spool.used.Add(step) > u.spool.max { // the last bit fits or not
				u.spool.used.Add(-step)
				return 0, errSpoolFull
			}
		}
		u.taken += step
	}
	n, err := u.f.Write(p)
	u.size += int64(n)
	if err != nil {
		return n, spoolError(err)
	}
	return n, nil
}

func spoolError(err error) error {
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) || errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) {
		return fmt.Errorf("%w: %w", errSpoolFull, err)
	}
	return &spoolFault{err}
}

// file returns what was written since from, as a value.
func (u *upload) file(name string, from int64) *rpc.File {
	size := u.size - from
	return &rpc.File{Name: name, Size: size, Open: func() (io.ReadCloser, error) {
		if u.f == nil {
			return io.NopCloser(eof{}), nil
		}
		return io.NopCloser(io.NewSectionReader(u.f, from, size)), nil
	}}
}

// Close removes the files. It may be called twice.
func (u *upload) Close() {
	if u.f == nil || u.closed {
		return
	}
	u.closed = true
	u.f.Close() // u.f stays: who still reads learns that it is closed
	u.spool.used.Add(-u.taken)
	u.spool.open.Add(-1)
}

// create makes a file that has no name.
func (s *Spool) create() (*os.File, error) {
	fd, err := unix.Open(s.dir, unix.O_TMPFILE|unix.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err == nil {
		return os.NewFile(uintptr(fd), s.dir), nil
	}
	if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) {
		return nil, os.NewSyscallError("open", err)
	}
	f, err := os.CreateTemp(s.dir, spoolName)
	if err != nil {
		return nil, err
	}
	if err := os.Remove(f.Name()); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

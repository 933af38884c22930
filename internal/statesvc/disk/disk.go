// Package disk is what a store asks of a file system, and the errors that say
// that it cannot use what it found there. OS is the real one. Package memdisk
// keeps files in memory and loses, on request, what a crash would.
package disk

import (
	"errors"
	"fmt"
	"io"
)

// FS is the part of a file system that a store uses. Files are made with mode
// 0600 and folders with mode 0700. Methods may be called from any goroutine.
// Errors wrap those of package syscall, so that errors.Is finds syscall.ENOSPC
// and fs.ErrNotExist.
type FS interface {
	// Create makes an empty file, or empties the one that is there, for writing.
	Create(name string) (File, error)
	// Open opens a file for reading, OpenWrite one for writing as it is.
	Open(name string) (File, error)
	OpenWrite(name string) (File, error)
	// ReadFile returns all of a file.
	ReadFile(name string) ([]byte, error)
	// ReadDir lists a folder in the order of the names.
	ReadDir(name string) ([]Entry, error)
	// Mkdir makes a folder and those that it lies in; it is no error when they are there.
	Mkdir(name string) error
	// Rename gives a file or folder another name. It replaces a file of that name.
	Rename(old, name string) error
	// Remove removes a file. RemoveAll removes a file, or a folder with all that is
	// in it; it is no error when nothing is there.
	Remove(name string) error
	RemoveAll(name string) error
	// SyncDir makes the names in a folder durable.
	SyncDir(name string) error
	// Free returns how many bytes can still be written below a folder.
	Free(name string) (int64, error)
	// Lock makes the file name if it is absent and holds it until the result is
	// closed. It fails with ErrLocked while another process, or another holder
	// in this one, has it.
	Lock(name string) (io.Closer, error)
}

// Entry is a file or folder in a folder. Size is in bytes.
type Entry struct {
	Name string
	Dir  bool
	Size int64
}

// File is an open file. Its methods are not called concurrently.
type File interface {
	io.Reader
	io.Writer
	io.WriterAt
	io.Closer
	// Sync returns when everything that was written is on disk. After an error
	// nothing is known of what was written since the Sync before, and a later one
	// that succeeds does not change that.
	Sync() error
	// Truncate gives the file that size.
	Truncate(size int64) error
	// Allocate makes the file at least that large, filled with zeros, and takes
	// the space for it. It fails with syscall.EOPNOTSUPP where it cannot be done.
	Allocate(size int64) error
}

// ErrLocked means that another process holds a lock.
var ErrLocked = errors.New("locked by another process")

// DamagedError says that what is on disk is not what was written, or is missing.
// Nothing was changed.
type DamagedError struct {
	File   string
	Offset int64 // in bytes; -1: the file as a whole
	Reason string
	Hint   string // what the operator can do; may be empty
}

func (e *DamagedError) Error() string {
	s := fmt.Sprintf("state is damaged: %s: %s", e.File, e.Reason)
	if e.Offset >= 0 {
		s = fmt.Sprintf("state is damaged: %s at offset %d: %s", e.File, e.Offset, e.Reason)
	}
	if e.Hint != "" {
		s += "; " + e.Hint
	}
	return s
}

// ExitCode returns ExitDamaged.
func (e *DamagedError) ExitCode() int { return ExitDamaged }

// FormatError says that a file has a format that this program does not read.
type FormatError struct {
	File      string
	Found     int
	Supported int
}

func (e *FormatError) Error() string {
	if e.Found < e.Supported {
		return fmt.Sprintf("state has format %d and this program reads format %d: %s was written by an older version, whose hubctl state backup can be restored here", e.Found, e.Supported, e.File)
	}
	return fmt.Sprintf("state has format %d and this program reads up to %d: %s was written by a newer version", e.Found, e.Supported, e.File)
}

// ExitCode returns ExitDamaged.
func (e *FormatError) ExitCode() int { return ExitDamaged }

// ExitDamaged is the exit code of hubd for a store that is damaged, incomplete,
// or of a format that it does not read.
const ExitDamaged = 4

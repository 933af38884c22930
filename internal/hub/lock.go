package hub

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// lock takes the lock file at path, which is made when absent and never
// removed: a file that is removed can be locked twice. Closing the file gives
// the lock back, and so does the end of the process.
func lock(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW|unix.O_CLOEXEC|unix.O_NONBLOCK, 0o600)
	if err != nil {
		return nil, err
	}
	if err := ours(f); err != nil {
		f.Close()
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			why := "locked by another process"
			if r, err := readRunning(path); err == nil {
				why = fmt.Sprintf("locked by process %d", r.PID)
			}
			return nil, &RunningError{Path: path, Why: why}
		}
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	return f, nil
}

// unlock gives the lock back and closes its file, which may be nil. Closing alone
// would not do while a child process has the descriptor that was forked and has
// yet to exec.
func unlock(f *os.File) {
	if f == nil {
		return
	}
	_ = unix.Flock(int(f.Fd()), unix.LOCK_UN)
	f.Close()
}

// ours reports an error unless f is a regular file of this user or of root.
func ours(f *os.File) error {
	st, err := f.Stat()
	if err != nil {
		return err
	}
	if !st.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	if uid := ownerOf(st); uid != os.Geteuid() && uid != 0 {
		return fmt.Errorf("belongs to user %d", uid)
	}
	return nil
}

func groupOf(st fs.FileInfo) int {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return int(s.Gid)
	}
	return -1
}

func inodeOf(st fs.FileInfo) uint64 {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return s.Ino
	}
	return 0
}

func ownerOf(st fs.FileInfo) int {
	if s, ok := st.Sys().(*syscall.Stat_t); ok {
		return int(s.Uid)
	}
	return -1
}

// openState makes the state folder usable and locks it.
func openState(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, &StateError{Dir: dir, Err: err}
	}
	st, err := os.Stat(dir)
	switch {
	case err != nil:
		return nil, &StateError{Dir: dir, Err: err}
	case !st.IsDir():
		return nil, &StateError{Dir: dir, Err: errors.New("not a folder")}
	case ownerOf(st) != os.Geteuid() && os.Geteuid() != 0:
		return nil, &StateError{Dir: dir, Err: fmt.Errorf("belongs to user %d", ownerOf(st))}
	case st.Mode().Perm()&0o022 != 0:
		return nil, &StateError{Dir: dir, Err: fmt.Errorf("others can write to it (mode %#o)", st.Mode().Perm())}
	}
	f, err := lock(filepath.Join(dir, lockFile))
	if err != nil {
		if _, running := errors.AsType[*RunningError](err); running {
			return nil, err
		}
		return nil, &StateError{Dir: dir, Err: err}
	}
	return f, nil
}

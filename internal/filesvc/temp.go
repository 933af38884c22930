package filesvc

import (
	"crypto/rand"
	"errors"
	"os"
	"path"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"
)

// tempName begins the names of files that are not complete. They begin with a
// dot, so that no pattern shows them by accident.
const tempName = ".hubd-upload-"

// tempDigits is how much of rand.Text follows it.
const tempDigits = 26

// temps are the names that uploads of this service have.
type temps struct{ names sync.Map }

func (t *temps) has(name string) bool { _, ok := t.names.Load(name); return ok }

// add makes a name up.
func (t *temps) add() string {
	name := tempName + rand.Text()
	t.names.Store(name, nil)
	return name
}

func (t *temps) remove(name string) { t.names.Delete(name) }

// temp is a file on its way to its place: it has no name where the file system
// can do that, so that nothing of it is left whatever happens, and else one in
// the folder of its place. Such a file is locked, so that another hub with the
// same folder does not take it for one that a crash has left.
type temp struct {
	s    *Service
	dir  *os.File // of its place
	path string   // of that folder
	f    *os.File
	name string // in that folder; "" for none
}

// create makes a file in the folder dir.
func (s *Service) create(dir string) (*temp, error) {
	d, err := s.root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	t := &temp{s: s, dir: d, path: dir}
	if s.nameless {
		t.f, err = s.root.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o666)
		if err == nil {
			t.lock()
			return t, nil
		}
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) { // another file system is mounted there
			d.Close()
			return nil, err
		}
	}
	name := s.temps.add()
	t.f, err = s.root.OpenFile(path.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		s.temps.remove(name)
		d.Close()
		return nil, err
	}
	t.name = name
	t.lock()
	return t, nil
}

// lock keeps the file from being taken for abandoned, where the file system
// has locks.
func (t *temp) lock() { _ = unix.Flock(int(t.f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }

// commit puts the file in its place, in one step and for good.
func (t *temp) commit(name string, c *claim, size int64) error {
	if err := t.f.Sync(); err != nil {
		return err
	}
	if err := c.settle(path.Join(t.path, name), size, func() error { return t.place(name) }); err != nil {
		return err
	}
	return t.dir.Sync()
}

// place gives the file its name.
func (t *temp) place(name string) error {
	if t.name == "" {
		as := t.s.temps.add()
		if err := link(t.f, t.dir, as); err != nil {
			t.s.temps.remove(as)
			return err
		}
		t.name = as
	}
	if err := unix.Renameat(int(t.dir.Fd()), t.name, int(t.dir.Fd()), name); err != nil {
		return err
	}
	t.s.temps.remove(t.name)
	t.name = ""
	return nil
}

// close ends the work on the file. What was not committed is gone.
func (t *temp) close() {
	if t.name != "" {
		_ = unix.Unlinkat(int(t.dir.Fd()), t.name, 0)
		t.s.temps.remove(t.name)
	}
	t.f.Close()
	t.dir.Close()
}

// link gives a name to a file that has none.
func link(f, dir *os.File, name string) error {
	return unix.Linkat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(int(f.Fd())), int(dir.Fd()), name, unix.AT_SYMLINK_FOLLOW)
}

// probe reports whether files can be made without a name, and named later.
func (s *Service) probe() bool {
	s.nameless = true
	t, err := s.create(".")
	if err != nil {
		return false
	}
	defer t.close()
	if t.name != "" {
		return false
	}
	name := s.temps.add()
	if err := link(t.f, t.dir, name); err != nil {
		s.temps.remove(name)
		return false
	}
	t.name = name // close removes it
	return true
}

// keepMode gives the file the permissions that the one in its place has. It is
// an error if what is in its place is no file.
func (t *temp) keepMode(name string) error {
	st, err := t.s.root.Stat(path.Join(t.path, name))
	if err == nil {
		err = mustBeFile(st)
	}
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	return t.f.Chmod(st.Mode().Perm())
}

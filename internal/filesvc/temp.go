package filesvc

import (
	"crypto/rand"
	"errors"
	"os"
	"path"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// tempName begins the names of files that are not complete. They begin with a
// dot, so that no pattern shows them by accident.
const tempName = ".hubd-upload-"

// temp is a file on its way to its place: it has no name where the file system
// can do that, so that nothing of it is left whatever happens, and else one in
// the folder of its place.
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
			return t, nil
		}
		if !errors.Is(err, unix.EOPNOTSUPP) && !errors.Is(err, unix.EISDIR) { // another file system is mounted there
			d.Close()
			return nil, err
		}
	}
	name := tempName + rand.Text()
	t.f, err = s.root.OpenFile(path.Join(dir, name), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		d.Close()
		return nil, err
	}
	t.name = name
	return t, nil
}

// commit puts the file in its place, in one step and for good.
func (t *temp) commit(name string) error {
	if err := t.f.Sync(); err != nil {
		return err
	}
	if t.name == "" {
		as := tempName + rand.Text()
		if err := link(t.f, t.dir, as); err != nil {
			return err
		}
		t.name = as
	}
	if err := unix.Renameat(int(t.dir.Fd()), t.name, int(t.dir.Fd()), name); err != nil {
		return err
	}
	t.name = ""
	return t.dir.Sync()
}

// close ends the work on the file. What was not committed is gone.
func (t *temp) close() {
	if t.name != "" {
		_ = unix.Unlinkat(int(t.dir.Fd()), t.name, 0)
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
	name := tempName + rand.Text()
	if err := link(t.f, t.dir, name); err != nil {
		return false
	}
	t.name = name // close removes it
	return true
}

// keepMode gives the file the permissions that the one in its place has. It is
// an error if what is in its place is no file.
func (t *temp) keepMode(name string) error {
	st, err := t.s.root.Stat(path.Join(t.path, name))
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil
	case err != nil:
		return err
	case st.IsDir():
		return syscall.EISDIR
	case !st.Mode().IsRegular():
		return syscall.EINVAL
	}
	return t.f.Chmod(st.Mode().Perm())
}

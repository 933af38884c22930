package filesvc

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func (s *Service) touch(ctx context.Context, in struct {
	Path string `rpc:"path" doc:"the file"`
}) (rpc.Value, error) {
	path, err := s.resolve(in.Path, true)
	if err != nil {
		return rpc.Value{}, err
	}
	err = s.quota.add(ctx, path, func() error {
		if err := s.regular(path); err == nil {
			now := time.Now()
			return s.root.Chtimes(path, now, now)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		f, err := s.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|opening, 0o666)
		if err != nil {
			return err
		}
		return f.Close()
	})
	if err != nil {
		return rpc.Value{}, failed(s.refused(err), in.Path)
	}
	return rpc.Null, nil
}

func (s *Service) createDir(ctx context.Context, in struct {
	Path    string  `rpc:"path" doc:"the folder"`
	Mode    *string `rpc:"mode" doc:"its permissions as octal digits; 755 if not given"`
	Recurse bool    `rpc:"recurse" default:"false" doc:"make its parents, too, and do not mind if it is there"`
}) (rpc.Value, error) {
	mode := uint64(0o755)
	if in.Mode != nil {
		var err error
		if mode, err = strconv.ParseUint(trimOctal(*in.Mode), 8, 12); err != nil {
			return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "argument \"mode\": expected octal digits such as 755")
		}
	}
	path, err := s.resolve(in.Path, true)
	if err != nil {
		return rpc.Value{}, err
	}
	perm := fs.FileMode(mode) & fs.ModePerm
	err = s.quota.add(ctx, path, func() error {
		if in.Recurse {
			return s.root.MkdirAll(path, perm)
		}
		return s.root.Mkdir(path, perm)
	})
	if err != nil {
		return rpc.Value{}, failed(s.refused(err), in.Path)
	}
	return rpc.Null, nil
}

// trimOctal takes away what Python writes before octal digits.
func trimOctal(s string) string {
	if len(s) > 2 && s[0] == '0' && (s[1] == 'o' || s[1] == 'O') {
		return s[2:]
	}
	return s
}

func (s *Service) delete(ctx context.Context, in struct {
	Path    string `rpc:"path" doc:"what to delete; of a link, the link"`
	Recurse bool   `rpc:"recurse" default:"false" doc:"with all that a folder holds"`
}) (rpc.Value, error) {
	path, err := s.resolve(in.Path, false)
	if err != nil {
		return rpc.Value{}, err
	}
	if path == "." {
		return rpc.Value{}, denied(in.Path)
	}
	err = s.quota.remove(ctx, path, func() error {
		if !in.Recurse {
			return s.root.Remove(path)
		}
		if _, err := s.root.Lstat(path); err != nil {
			return err
		}
		return s.root.RemoveAll(path)
	})
	if err != nil {
		return rpc.Value{}, failed(err, in.Path)
	}
	return rpc.Null, nil
}

func (s *Service) size(_ context.Context, in struct {
	Path string `rpc:"path" doc:"the file"`
}) (int64, error) {
	path, err := s.resolve(in.Path, true)
	if err != nil {
		return 0, err
	}
	st, err := s.root.Stat(path)
	if err != nil {
		return 0, failed(err, in.Path)
	}
	return st.Size(), nil
}

// opening are the flags with which nothing waits that turns out to be no file.
const opening = unix.O_NONBLOCK | unix.O_NOCTTY

// regular returns nil for a file, and the error for what is none. To open a
// pipe or a device can do something already.
func (s *Service) regular(path string) error {
	st, err := s.root.Stat(path)
	if err != nil {
		return err
	}
	return mustBeFile(st)
}

func mustBeFile(st fs.FileInfo) error {
	switch {
	case st.IsDir():
		return syscall.EISDIR
	case !st.Mode().IsRegular():
		return syscall.EINVAL
	}
	return nil
}

// open opens a file for reading.
func (s *Service) open(given string) (*os.File, error) {
	path, err := s.resolve(given, true)
	if err != nil {
		return nil, err
	}
	if err := s.regular(path); err != nil {
		return nil, failed(err, given)
	}
	f, err := s.root.OpenFile(path, os.O_RDONLY|opening, 0)
	if err != nil {
		return nil, failed(err, given)
	}
	if st, err := f.Stat(); err != nil || !st.Mode().IsRegular() { // it was one a moment ago
		f.Close()
		return nil, failed(syscall.EINVAL, given)
	}
	return f, nil
}

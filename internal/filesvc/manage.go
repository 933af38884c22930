package filesvc

import (
	"context"
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
		f, err := s.root.OpenFile(path, os.O_WRONLY|os.O_CREATE|unix.O_NONBLOCK, 0o666)
		if err != nil {
			return err
		}
		f.Close()
		now := time.Now()
		return s.root.Chtimes(path, now, now)
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

// open opens a regular file for reading. It does not wait for what is none.
func (s *Service) open(given string) (*os.File, int64, error) {
	path, err := s.resolve(given, true)
	if err != nil {
		return nil, 0, err
	}
	f, err := s.root.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, 0, failed(err, given)
	}
	st, err := f.Stat()
	switch {
	case err != nil:
	case st.IsDir():
		err = syscall.EISDIR
	case !st.Mode().IsRegular():
		err = syscall.EINVAL // a pipe or a device
	default:
		return f, st.Size(), nil
	}
	f.Close()
	return nil, 0, failed(err, given)
}

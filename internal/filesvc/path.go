package filesvc

import (
	"errors"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/hubd-dev/hubd/internal/rpc"
)

const (
	maxPath  = 4096 // bytes, as the kernel has it
	maxLinks = 40   // symbolic links on the way to one file
)

// resolve returns what path means, relative to the root and with all links
// followed but, unless follow is set, the last. What does not exist is taken by
// its name. An absolute path is one below the root's own; an empty one is the
// root. Whatever leads out is an error for the client.
//
// The answer is advice: the access itself goes through the root, which refuses
// what has changed meanwhile.
func (s *Service) resolve(path string, follow bool) (string, error) {
	if strings.ContainsRune(path, 0) {
		return "", rpc.Errorf(rpc.CodeInvalidParams, "a path has no null byte")
	}
	if len(path) > maxPath {
		return "", failed(syscall.ENAMETOOLONG, path)
	}
	at := slices.Clone(s.parts) // where we are, from the real root of the file system
	todo := split(path)
	if filepath.IsAbs(path) {
		at = nil
		if rel, ok := below(s.given, path); ok { // the root may itself be reached through links
			at, todo = slices.Clone(s.parts), split(rel)
		}
	}
	for links := 0; len(todo) > 0; {
		name := todo[0]
		todo = todo[1:]
		switch name {
		case "", ".":
			continue
		case "..":
			at = at[:max(len(at)-1, 0)]
			continue
		}
		at = append(at, name)
		rel, inside := s.inside(at)
		if !inside || rel == "." || !follow && len(todo) == 0 {
			continue
		}
		st, err := s.root.Lstat(rel)
		if err != nil {
			if _, isErrno := errors.AsType[syscall.Errno](err); isErrno {
				continue // it does not exist, or whoever opens it will be told
			}
			return "", denied(path)
		}
		if st.Mode()&fs.ModeSymlink == 0 {
			continue
		}
		if links++; links > maxLinks {
			return "", failed(syscall.ELOOP, path)
		}
		target, err := s.root.Readlink(rel)
		if err != nil {
			return "", failed(err, path)
		}
		at = at[:len(at)-1]
		if filepath.IsAbs(target) {
			at = nil
			if rel, ok := below(s.given, target); ok {
				at, target = slices.Clone(s.parts), rel
			}
		}
		todo = append(split(target), todo...)
		if len(todo) > maxPath {
			return "", failed(syscall.ENAMETOOLONG, path)
		}
	}
	rel, inside := s.inside(at)
	if !inside {
		return "", denied(path)
	}
	return rel, nil
}

// inside returns the path below the root of a place in the file system.
func (s *Service) inside(at []string) (rel string, ok bool) {
	if len(at) < len(s.parts) || !slices.Equal(at[:len(s.parts)], s.parts) {
		return "", false
	}
	if len(at) == len(s.parts) {
		return ".", true
	}
	return strings.Join(at[len(s.parts):], "/"), true
}

// below returns what follows folder in path, if it begins with it.
func below(folder, path string) (rel string, ok bool) {
	if path == folder {
		return ".", true
	}
	return strings.CutPrefix(path, strings.TrimSuffix(folder, "/")+"/")
}

func split(path string) []string { return strings.Split(path, "/") }

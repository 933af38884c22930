package filesvc

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// maxPaths bounds what one pattern may match: the paths are sorted in memory.
const maxPaths = 500000

func (s *Service) paths(ctx context.Context, in struct {
	Pattern      *string `rpc:"pattern" doc:"a shell pattern, or a folder; * if not given"`
	WithMetadata bool    `rpc:"with_metadata" default:"false" doc:"ignored"`
}, send func(string) error) error {
	list, err := s.match(ctx, in.Pattern)
	if err != nil {
		return err
	}
	for _, p := range list {
		if err := send(p); err != nil {
			return err
		}
	}
	return nil
}

// info is one item of file.path_info. What cannot be read is null.
type info struct {
	Path   string   `json:"path"`
	Size   *int64   `json:"size"`
	MTime  *float64 `json:"mtime"`
	IsFile *bool    `json:"isfile"`
}

func (s *Service) pathInfo(ctx context.Context, in struct {
	Pattern *string `rpc:"pattern" doc:"a shell pattern, or a folder; * if not given"`
}, send func(info) error) error {
	list, err := s.match(ctx, in.Pattern)
	if err != nil {
		return err
	}
	for _, p := range list {
		i := info{Path: p}
		if real, err := s.resolve(p, true); err == nil {
			if st, err := s.root.Stat(real); err == nil {
				size, mtime, isFile := st.Size(), float64(st.ModTime().UnixMicro())/1e6, st.Mode().IsRegular()
				i.Size, i.MTime, i.IsFile = &size, &mtime, &isFile
			}
		}
		if err := send(i); err != nil {
			return err
		}
	}
	return nil
}

// match returns the paths that a pattern matches, sorted.
func (s *Service) match(ctx context.Context, given *string) ([]string, error) {
	pattern := "*"
	if given != nil && *given != "" {
		pattern = *given
	}
	if err := s.enter(); err != nil {
		return nil, err
	}
	defer s.leave()
	rel, err := s.resolve(pattern, true)
	if err != nil {
		return nil, err
	}
	m := &matcher{s: s, ctx: ctx}
	if st, err := s.root.Stat(rel); err == nil && st.IsDir() {
		err = m.walk(rel, []string{"*"})
		slices.Sort(m.found)
		return m.found, err
	}
	err = m.walk(".", split(rel))
	slices.Sort(m.found)
	return slices.Compact(m.found), err
}

type matcher struct {
	s     *Service
	ctx   context.Context
	found []string
}

// walk matches the parts of a pattern below the folder dir. What cannot be read
// matches nothing.
func (m *matcher) walk(dir string, parts []string) error {
	if err := m.ctx.Err(); err != nil {
		return err
	}
	part, rest := parts[0], parts[1:]
	if !strings.ContainsAny(part, "*?[") {
		return m.enter(path.Join(dir, part), rest)
	}
	f, err := m.s.root.OpenFile(dir, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil
	}
	defer f.Close()
	for {
		entries, err := f.ReadDir(1024)
		for _, e := range entries {
			name := e.Name()
			if name[0] == '.' && part[0] != '.' || !fnmatch(part, name) {
				continue
			}
			if len(rest) > 0 && !e.IsDir() && e.Type()&fs.ModeSymlink == 0 {
				continue
			}
			if err := m.enter(path.Join(dir, name), rest); err != nil {
				return err
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return failed(err, dir)
		}
	}
}

// enter goes on with the rest of a pattern at p, which is a match if there is none.
func (m *matcher) enter(p string, rest []string) error {
	if len(rest) == 0 {
		if _, err := m.s.root.Lstat(p); err != nil {
			return nil
		}
		if len(m.found) == maxPaths {
			return rpc.Errorf(rpc.CodeTooLarge, "the pattern matches more than %d paths", maxPaths)
		}
		m.found = append(m.found, p)
		return nil
	}
	real, err := m.s.resolve(p, true)
	if err != nil {
		return nil // a link that leads out
	}
	if real == p {
		return m.walk(p, rest)
	}
	inner := &matcher{s: m.s, ctx: m.ctx, found: m.found}
	from := len(m.found)
	err = inner.walk(real, rest)
	for i, q := range inner.found[from:] { // shown below the link, as it was asked for
		if tail, ok := below(real, q); ok {
			q = tail
		}
		inner.found[from+i] = path.Join(p, q)
	}
	m.found = inner.found
	return err
}

// fnmatch matches one name against one part of a pattern as a shell does: a
// pattern that is none stands for itself.
func fnmatch(pattern, name string) bool {
	pattern = strings.ReplaceAll(pattern, `\`, `\\`)
	pattern = strings.ReplaceAll(pattern, "[!", "[^")
	ok, err := path.Match(pattern, name)
	if err != nil {
		return pattern == name
	}
	return ok
}

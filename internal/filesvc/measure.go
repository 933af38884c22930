package filesvc

import (
	"context"
	"os"
	"strings"

	"golang.org/x/sys/unix"
)

// measure walks through a part of the folder and adds up what the quota counts.
// It follows no link. What cannot be read is not counted, and what has several
// names is counted for each.
type measure struct {
	s     *Service
	ctx   context.Context
	clean bool // remove what a crash has left of uploads

	bytes int64
}

// root measures all that is in the folder.
func (m *measure) root() error {
	d, err := m.s.root.OpenFile(".", os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return m.folder(d)
}

// path measures what one path names; nothing if it does not exist.
func (m *measure) path(rel string) error {
	st, err := m.s.root.Lstat(rel)
	if err != nil {
		return nil // whoever wants to change it will be told
	}
	if !st.IsDir() {
		if st.Mode().IsRegular() {
			m.bytes += charge(st.Size())
		} else {
			m.bytes += block
		}
		return nil
	}
	m.bytes += block
	d, err := m.s.root.OpenFile(rel, os.O_RDONLY|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil
	}
	return m.folder(d)
}

// maxDepth bounds the folders in folders that are looked into: each takes a
// descriptor while its content is measured. No path of a client is deeper.
const maxDepth = maxPath / 2

// folder measures what is in d, and closes it.
func (m *measure) folder(d *os.File) error { return m.folders(d, 0) }

func (m *measure) folders(d *os.File, depth int) error {
	defer d.Close()
	for {
		if err := m.ctx.Err(); err != nil {
			return err
		}
		names, err := d.Readdirnames(256)
		for _, name := range names {
			if err := m.entry(d, name, depth); err != nil {
				return err
			}
		}
		if err != nil { // the end, or what cannot be read
			return nil
		}
	}
}

func (m *measure) entry(d *os.File, name string, depth int) error {
	var st unix.Stat_t
	if unix.Fstatat(int(d.Fd()), name, &st, unix.AT_SYMLINK_NOFOLLOW) != nil {
		return nil // it is gone
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFREG:
		if isTemp(name) && (m.s.temps.has(name) || m.clean && abandoned(d, name)) {
			return nil // what is being uploaded has been claimed
		}
		m.bytes += charge(st.Size)
	case unix.S_IFDIR:
		m.bytes += block
		if depth == maxDepth {
			return nil
		}
		fd, err := unix.Openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil
		}
		return m.folders(os.NewFile(uintptr(fd), name), depth+1)
	default:
		m.bytes += block
	}
	return nil
}

// isTemp reports whether name is one that an upload has until it is complete.
func isTemp(name string) bool {
	tail, ok := strings.CutPrefix(name, tempName)
	return ok && len(tail) == tempDigits && strings.Trim(tail, "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567") == ""
}

// abandoned removes a file that an upload has left, unless its hub, this or
// another one, is still there.
func abandoned(d *os.File, name string) bool {
	fd, err := unix.Openat(int(d.Fd()), name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_CLOEXEC, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB) == nil && unix.Unlinkat(int(d.Fd()), name, 0) == nil
}

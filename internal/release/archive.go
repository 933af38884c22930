package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// archive writes NAME_VERSION_OS_ARCH.tar.gz: the tree of files below one
// folder, in the order of their names, with the time of the source and root as
// their owner.
func (r *release) archive(t tree) error {
	name := r.nameOf(t)
	a := archiver{date: r.date}
	err := filepath.WalkDir(t.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(t.root, path)
		if err != nil {
			return err
		}
		inside := filepath.ToSlash(filepath.Join(name, rel))
		if d.IsDir() {
			a.folder(inside, 0o755, 0)
			return nil
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		a.file(inside, text, modeOf(rel), 0)
		return nil
	})
	if err != nil {
		return err
	}
	plain, err := a.bytes()
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.out, name+".tar.gz"), compressed(plain), 0o644)
}

// nameOf is the name of the archive of t, without .tar.gz.
func (r *release) nameOf(t tree) string {
	programs := t.programs()
	return fmt.Sprintf("%s_%s_%s_%s", programs[0], r.version, t.goos, t.arch)
}

// modeOf does not ask the file system, whose umask is its own.
func modeOf(name string) fs.FileMode {
	name = filepath.ToSlash(name)
	if strings.HasPrefix(name, "usr/bin/") || strings.HasPrefix(name, "etc/init.d/") {
		return 0o755
	}
	return 0o644
}

// checksums writes SHA256SUMS, as sha256sum -c reads it.
func (r *release) checksums() error {
	sums, err := r.sums()
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, name := range sortedKeys(sums) {
		fmt.Fprintf(&list, "%s  %s\n", sums[name], name)
	}
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), []byte(list.String()), 0o644)
}

// sums are the SHA-256 of what there is so far, by name.
func (r *release) sums() (map[string]string, error) {
	entries, err := os.ReadDir(r.out)
	if err != nil {
		return nil, err
	}
	sums := map[string]string{}
	for _, e := range entries {
		if sums[e.Name()], err = sumOf(filepath.Join(r.out, e.Name())); err != nil {
			return nil, err
		}
	}
	return sums, nil
}

func sumOf(path string) (string, error) {
	f, err := os.Open(path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return "", err
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

func sumOfBytes(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// archiver writes a tar file that depends on nothing but what is put into it.
// The first error stays.
type archiver struct {
	date  time.Time
	plain bytes.Buffer
	w     *tar.Writer
	err   error
}

func (a *archiver) put(head *tar.Header, text []byte, owner int) {
	if a.w == nil {
		a.w = tar.NewWriter(&a.plain)
	}
	head.ModTime, head.Format, head.Uid, head.Gid, head.Size = a.date, tar.FormatPAX, owner, owner, int64(len(text))
	if owner == 0 {
		head.Uname, head.Gname = "root", "root"
	}
	if a.err == nil {
		a.err = a.w.WriteHeader(head)
	}
	if a.err == nil {
		_, a.err = a.w.Write(text)
	}
}

func (a *archiver) folder(name string, mode fs.FileMode, owner int) {
	bits := int64(mode.Perm())
	if mode&fs.ModeSticky != 0 {
		bits |= 0o1000
	}
	a.put(&tar.Header{Typeflag: tar.TypeDir, Name: name + "/", Mode: bits}, nil, owner)
}

func (a *archiver) file(name string, text []byte, mode fs.FileMode, owner int) {
	a.put(&tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: int64(mode.Perm())}, text, owner)
}

func (a *archiver) bytes() ([]byte, error) {
	if a.err == nil {
		a.err = a.w.Close()
	}
	return a.plain.Bytes(), a.err
}

package main

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// archive writes hubd_VERSION_linux_ARCH.tar.gz: the tree of files below one
// folder, in the order of their names, with the time of the source and root as
// their owner.
func (r *release) archive(t tree) error {
	name := fmt.Sprintf("hubd_%s_linux_%s", r.version, t.arch)
	var plain bytes.Buffer
	w := tar.NewWriter(&plain)
	err := filepath.WalkDir(t.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(t.root, path)
		if err != nil {
			return err
		}
		head := &tar.Header{
			Name: filepath.ToSlash(filepath.Join(name, rel)), ModTime: r.date, Format: tar.FormatPAX, Uname: "root", Gname: "root",
		}
		if d.IsDir() {
			head.Typeflag, head.Mode = tar.TypeDir, 0o755
			head.Name += "/"
			return w.WriteHeader(head)
		}
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		head.Typeflag, head.Mode, head.Size = tar.TypeReg, int64(modeOf(rel)), int64(len(text))
		if err := w.WriteHeader(head); err != nil {
			return err
		}
		_, err = w.Write(text)
		return err
	})
	if err != nil {
		return err
	}
	if err := w.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.out, name+".tar.gz"), compressed(plain.Bytes()), 0o644)
}

// modeOf does not ask the file system, whose umask is its own.
func modeOf(name string) fs.FileMode {
	if strings.HasPrefix(filepath.ToSlash(name), "usr/bin/") {
		return 0o755
	}
	return 0o644
}

// checksums writes SHA256SUMS, as sha256sum -c reads it.
func (r *release) checksums() error {
	entries, err := os.ReadDir(r.out) // sorted
	if err != nil {
		return err
	}
	var list strings.Builder
	for _, e := range entries {
		sum, err := sumOf(filepath.Join(r.out, e.Name()))
		if err != nil {
			return err
		}
		fmt.Fprintf(&list, "%s  %s\n", sum, e.Name())
	}
	return os.WriteFile(filepath.Join(r.out, "SHA256SUMS"), []byte(list.String()), 0o644)
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

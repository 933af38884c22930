package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/hubd-dev/hubd/deploy"
	"github.com/hubd-dev/hubd/internal/hub"
)

// tree is the files of one package, where they are to be in the end, below root.
type tree struct{ root, arch string }

func (t tree) path(name string) string { return filepath.Join(t.root, filepath.FromSlash(name)) }

// add writes one file.
func (t tree) add(name string, text []byte, mode fs.FileMode) error {
	path := t.path(name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	return os.WriteFile(path, text, mode)
}

// fill builds the programs and puts everything in its place.
func (r *release) fill(ctx context.Context, t tree, pages string) error {
	for _, program := range []string{"hubd", "hubctl"} {
		if err := r.build(ctx, t.arch, program, t.path("usr/bin/"+program)); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{
		"systemd/hubd.service": "usr/lib/systemd/system/", "systemd/hubd.socket": "usr/lib/systemd/system/",
		"systemd/user/hubd.service": "usr/lib/systemd/user/", "systemd/user/hubd.socket": "usr/lib/systemd/user/",
		"sysusers.d/hubd.conf": "usr/lib/sysusers.d/", "tmpfiles.d/hubd.conf": "usr/lib/tmpfiles.d/",
	} {
		text, err := deploy.Systemd.ReadFile(from)
		if err != nil {
			return err
		}
		if err := t.add(to+filepath.Base(from), text, 0o644); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{
		"completions/hubctl.bash": "usr/share/bash-completion/completions/hubctl",
		"completions/hubctl.fish": "usr/share/fish/vendor_completions.d/hubctl.fish",
		"completions/_hubctl":     "usr/share/zsh/site-functions/_hubctl",
	} {
		text, err := os.ReadFile(filepath.Join(pages, from))
		if err != nil {
			return err
		}
		if err := t.add(to, text, 0o644); err != nil {
			return err
		}
	}
	manuals, err := os.ReadDir(filepath.Join(pages, "man"))
	if err != nil {
		return err
	}
	for _, m := range manuals {
		text, err := os.ReadFile(filepath.Join(pages, "man", m.Name()))
		if err != nil {
			return err
		}
		section := m.Name()[strings.LastIndexByte(m.Name(), '.')+1:]
		if err := t.add("usr/share/man/man"+section+"/"+m.Name()+".gz", compressed(text), 0o644); err != nil {
			return err
		}
	}
	for from, to := range map[string]string{
		"LICENSE": "copyright", "CHANGELOG.md": "CHANGELOG.md", "README.md": "README.md",
		"deploy/prometheus/alerts.yml": "prometheus/alerts.yml", "deploy/prometheus/prometheus.yml": "prometheus/prometheus.yml",
		"deploy/grafana/hubd.json": "grafana/hubd.json",
	} {
		text, err := os.ReadFile(from)
		if err != nil {
			return fmt.Errorf("%w (to be run in the root of the project)", err)
		}
		if err := t.add("usr/share/doc/hubd/"+to, text, 0o644); err != nil {
			return err
		}
	}
	// All keys, none of them set: the file shows what there is and changes nothing.
	var config bytes.Buffer
	if err := hub.PrintConfig(&config, hub.Options{}, true); err != nil {
		return err
	}
	if err := t.add("etc/hubd/hubd.yaml", systemPaths(config.Bytes()), 0o644); err != nil {
		return err
	}
	// Packages take the times of files, and their modes, whatever the umask was.
	return filepath.WalkDir(t.root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o755)
		if rel, _ := filepath.Rel(t.root, path); !d.IsDir() {
			mode = modeOf(rel)
		}
		return errors.Join(os.Chmod(path, mode), os.Chtimes(path, r.date, r.date))
	})
}

// build builds one program as it is released.
func (r *release) build(ctx context.Context, arch, program, to string) error {
	variable := map[string]string{"hubd": "main.release", "hubctl": "main.version"}[program]
	return run(ctx, []string{"CGO_ENABLED=0", "GOOS=linux", "GOARCH=" + arch, "GOFLAGS="}, "go", "build", "-trimpath", "-buildvcs=false",
		"-ldflags=-s -w -X "+variable+"="+r.version, "-o", to, "./cmd/"+program)
}

// compressed is text as gzip writes it without a name and a time.
func compressed(text []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level exists
	_, _ = w.Write(text)                                  // into memory
	w.Close()
	return b.Bytes()
}

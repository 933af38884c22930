package main

import (
	"bytes"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"

	"github.com/hubd-dev/hubd/deploy"
	"github.com/hubd-dev/hubd/internal/hub"
)

// tree is the files of one package, where they are to be in the end, below root.
type tree struct{ root, goos, arch string }

// programs are those that run there: the hub needs Linux, hubctl any Unix.
func (t tree) programs() []string {
	if t.goos == "linux" {
		return []string{"hubd", "hubctl"}
	}
	return []string{"hubctl"}
}

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
	for _, program := range t.programs() {
		if err := r.compile(ctx, t, program, t.path("usr/bin/"+program)); err != nil {
			return err
		}
	}
	daemon := t.goos == "linux"
	if err := t.addPages(pages, daemon); err != nil {
		return err
	}
	documents := map[string]string{"LICENSE": "copyright", "CHANGELOG.md": "CHANGELOG.md", "README.md": "README.md"}
	if daemon {
		if err := t.addDaemon(); err != nil {
			return err
		}
		maps.Copy(documents, map[string]string{
			"deploy/prometheus/alerts.yml": "prometheus/alerts.yml", "deploy/prometheus/prometheus.yml": "prometheus/prometheus.yml",
			"deploy/grafana/hubd.json": "grafana/hubd.json",
			"deploy/openrc/hubd.initd": "openrc/hubd.initd", "deploy/openrc/hubd.confd": "openrc/hubd.confd",
		})
	}
	for from, to := range documents {
		if err := t.copy(from, "usr/share/doc/hubd/"+to); err != nil {
			return fmt.Errorf("%w (to be run in the root of the project)", err)
		}
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

// addDaemon adds the units of systemd and the configuration.
func (t tree) addDaemon() error {
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
	// All keys, none of them set: the file shows what there is and changes nothing.
	var config bytes.Buffer
	if err := hub.PrintConfig(&config, hub.Options{}, true); err != nil {
		return err
	}
	return t.add("etc/hubd/hubd.yaml", systemPaths(config.Bytes()), 0o644)
}

// addPages adds completions and manual pages, those of the daemon if it is there.
func (t tree) addPages(pages string, daemon bool) error {
	for from, to := range map[string]string{
		"completions/hubctl.bash": "usr/share/bash-completion/completions/hubctl",
		"completions/hubctl.fish": "usr/share/fish/vendor_completions.d/hubctl.fish",
		"completions/_hubctl":     "usr/share/zsh/site-functions/_hubctl",
	} {
		if err := t.copy(filepath.Join(pages, from), to); err != nil {
			return err
		}
	}
	manuals, err := os.ReadDir(filepath.Join(pages, "man"))
	if err != nil {
		return err
	}
	for _, m := range manuals {
		if !daemon && strings.HasPrefix(m.Name(), "hubd.") {
			continue
		}
		text, err := os.ReadFile(filepath.Join(pages, "man", m.Name()))
		if err != nil {
			return err
		}
		section := m.Name()[strings.LastIndexByte(m.Name(), '.')+1:]
		if err := t.add("usr/share/man/man"+section+"/"+m.Name()+".gz", compressed(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// copy adds the file at from, which is outside.
func (t tree) copy(from, to string) error {
	text, err := os.ReadFile(from)
	if err != nil {
		return err
	}
	return t.add(to, text, 0o644)
}

// build builds one program as it is released: the version and the commit are
// told, so that the same source gives the same program without its git folder.
func (r *release) build(ctx context.Context, t tree, program, to string) error {
	const about = "github.com/hubd-dev/hubd/internal/build."
	set := "-s -w -X " + about + "release=" + r.version
	if r.commit != "" {
		set += " -X " + about + "revision=" + r.commit
		if r.dirty {
			set += "+dirty"
		}
	}
	return run(ctx, []string{"CGO_ENABLED=0", "GOOS=" + t.goos, "GOARCH=" + t.arch, "GOFLAGS="},
		"go", "build", "-trimpath", "-buildvcs=false", "-ldflags="+set, "-o", to, "./cmd/"+program)
}

// compressed is text as gzip writes it without a name and a time.
func compressed(text []byte) []byte {
	var b bytes.Buffer
	w, _ := gzip.NewWriterLevel(&b, gzip.BestCompression) // the level exists
	_, _ = w.Write(text)                                  // into memory
	w.Close()
	return b.Bytes()
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// nfpm makes packages without the tools of a distribution. It is no dependency
// of the project, but fetched and built at this version when it is needed. The
// later ones want modules that the Go module proxy did not serve when this was written.
const nfpm = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2"

// What a package says of itself: apk takes the first line.
const (
	summary = "Hub in which programs call each other and share state"
	details = `
hubd is a local daemon: one method table that five RPC protocols reach, so
that programs written in any language share live state, call each other's
methods and attach to each other's output with the client library they use.`
)

// pack makes a .deb, an .rpm or an .apk of t.
func (r *release) pack(ctx context.Context, t tree, format string) error {
	version, description := r.version, summary+details
	if format == "apk" {
		description = summary
		var err error
		if version, err = alpineVersion(version); err != nil {
			return err
		}
	}
	config, err := r.packageConfig(t, format)
	if err != nil {
		return err
	}
	env := []string{
		"ARCH=" + t.arch, "VERSION=" + version, "DESCRIPTION=" + description,
		"SOURCE_DATE_EPOCH=" + strconv.FormatInt(r.date.Unix(), 10),
	}
	program := filepath.Join(r.stage, "bin", "nfpm")
	if _, err := os.Stat(program); err != nil { // the first package
		if err := run(ctx, []string{"GOFLAGS=", "CGO_ENABLED=0", "GOBIN=" + filepath.Dir(program)}, "go", "install", nfpm); err != nil {
			return err
		}
	}
	return run(ctx, env, program, "package", "--config", config, "--packager", format, "--target", r.out+"/")
}

// content is one file or folder of a package, as nfpm reads it.
type content struct {
	Source string   `json:"src,omitempty"`
	Path   string   `json:"dst"`
	Type   string   `json:"type,omitempty"`
	Info   fileInfo `json:"file_info"`
}

type fileInfo struct {
	Mode  fs.FileMode `json:"mode"`
	Owner string      `json:"owner"`
	Group string      `json:"group"`
	Time  time.Time   `json:"mtime"`
}

// packageConfig writes what nfpm is told and returns where it is.
func (r *release) packageConfig(t tree, format string) (string, error) {
	contents, err := r.contents(t, format)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join("deploy", "packages", "nfpm.yaml"))
	if err != nil {
		return "", fmt.Errorf("%w (to be run in the root of the project)", err)
	}
	list, err := json.Marshal(contents) // JSON is YAML
	if err != nil {
		return "", err
	}
	scripts, err := r.scripts()
	if err != nil {
		return "", err
	}
	text = bytes.ReplaceAll(text, []byte("${SCRIPTS}"), []byte(scripts)) // nfpm does not
	path := filepath.Join(r.stage, "nfpm-"+t.arch+"-"+format+".yaml")
	return path, os.WriteFile(path, fmt.Appendf(text, "contents: %s\n", list), 0o644)
}

// scripts copies those of deploy/packages to where their times and modes are known,
// which .apk files carry.
func (r *release) scripts() (string, error) {
	to := tree{root: filepath.Join(r.stage, "scripts")}
	names, err := filepath.Glob("deploy/packages/*.sh")
	if err != nil {
		return "", err
	}
	for _, name := range names {
		copied := filepath.Base(name)
		if err := to.copy(name, copied); err != nil {
			return "", err
		}
		if err := errors.Join(os.Chmod(to.path(copied), 0o755), os.Chtimes(to.path(copied), r.date, r.date)); err != nil {
			return "", err
		}
	}
	return to.root, nil
}

// contents lists files, not trees: a package must not own folders of the system
// such as /usr/bin.
func (r *release) contents(t tree, format string) ([]content, error) {
	var list []content
	add := func(source, path, kind string) {
		mode := modeOf(strings.TrimPrefix(path, "/"))
		list = append(list, content{source, path, kind, fileInfo{mode, "root", "root", r.date}})
	}
	err := filepath.WalkDir(t.root, func(source string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(t.root, source)
		if err != nil {
			return err
		}
		path := "/" + filepath.ToSlash(rel)
		if format != "apk" || !needsSystemd(path) {
			add(source, path, kindOf(path, format))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	list = append(list, content{"", "/etc/hubd/conf.d", "dir", fileInfo{0o755, "root", "root", r.date}})
	switch format {
	case "apk":
		add("deploy/openrc/hubd.initd", "/etc/init.d/hubd", "config")
		add("deploy/openrc/hubd.confd", "/etc/conf.d/hubd", "config")
	case "deb":
		extra := tree{root: filepath.Join(r.stage, "deb")}
		changes, err := os.ReadFile("CHANGELOG.md")
		if err != nil {
			return nil, err
		}
		for path, text := range map[string][]byte{
			"/usr/share/doc/hubd/changelog.gz":        compressed(changes),
			"/usr/share/doc/hubd/changelog.Debian.gz": compressed(r.debianChangelog()),
		} {
			if err := extra.add(path, text, 0o644); err != nil {
				return nil, err
			}
			add(extra.path(path), path, "")
		}
		add("deploy/packages/hubd.lintian-overrides", "/usr/share/lintian/overrides/hubd", "")
	}
	return list, nil
}

// needsSystemd reports whether a file is of no use where systemd is not.
func needsSystemd(path string) bool {
	for _, folder := range []string{"/usr/lib/systemd/", "/usr/lib/sysusers.d/", "/usr/lib/tmpfiles.d/"} {
		if strings.HasPrefix(path, folder) {
			return true
		}
	}
	return false
}

// kindOf is what a package manager is to know about a file.
func kindOf(path, format string) string {
	switch {
	case strings.HasPrefix(path, "/etc/"):
		return "config|noreplace"
	case format != "rpm":
		return "" // the others have no such kinds
	case path == "/usr/share/doc/hubd/copyright":
		return "license"
	case strings.HasPrefix(path, "/usr/share/doc/"), strings.HasPrefix(path, "/usr/share/man/"):
		return "doc"
	}
	return ""
}

// debianChangelog is the one entry that Debian wants about the package itself.
func (r *release) debianChangelog() []byte {
	return fmt.Appendf(nil, "hubd (%s-1) unstable; urgency=medium\n\n  * Release %s, see changelog.gz.\n\n -- The hubd authors <hubd@hubd.dev>  %s\n",
		r.version, r.version, r.date.Format(time.RFC1123Z))
}

var (
	preRelease = regexp.MustCompile(`~(alpha|beta|pre|rc)\.?([0-9]+)$`)
	laterBuild = regexp.MustCompile(`\+([0-9]+)\.[0-9a-f]+$`)
	onlyCommit = regexp.MustCompile(`\+[0-9a-f]+$`)
)

// alpineVersion writes a version in the form that apk compares: 1.2.3_rc1 for
// 1.2.3~rc1, 1.2.3_p7 for seven commits after 1.2.3, 0.0.0_git0 before any release.
func alpineVersion(version string) (string, error) {
	v := preRelease.ReplaceAllString(version, "_$1$2")
	v = laterBuild.ReplaceAllString(v, "_p$1")
	v = onlyCommit.ReplaceAllString(v, "_git0")
	if strings.ContainsAny(v, "~+") {
		return "", fmt.Errorf("version %q: apk has no form for it; ~alphaN, ~betaN, ~preN and ~rcN have one (or leave apk out of -formats)", version)
	}
	return v, nil
}

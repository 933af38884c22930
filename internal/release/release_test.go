package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/hubd-dev/hubd/internal/hub"
)

// here is what programs are built for that the tests run.
var here = tree{goos: runtime.GOOS, arch: runtime.GOARCH}

// inRoot makes the root of the project the working folder, as for a release.
func inRoot(t *testing.T) string {
	t.Helper()
	root, err := filepath.Abs("../..")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(root)
	return root
}

// copySource copies what a release is built from.
func copySource(t *testing.T, root string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "elsewhere")
	for _, name := range []string{"go.mod", "go.sum", "LICENSE", "README.md", "CHANGELOG.md", "cmd", "client", "internal", "deploy"} {
		err := filepath.WalkDir(filepath.Join(root, name), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(root, path)
			if err != nil || d.IsDir() {
				return err
			}
			if d.Name() == "testdata" || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			text, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			target := filepath.Join(to, rel)
			return errors.Join(os.MkdirAll(filepath.Dir(target), 0o755), os.WriteFile(target, text, 0o644))
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return to
}

// The same source gives the same program: in another folder, and with a
// compiler that remembers nothing of the first time.
func TestReproducible(t *testing.T) {
	if testing.Short() {
		t.Skip("builds everything twice")
	}
	root := inRoot(t)
	r := &release{version: "1.2.3", source: source{commit: "0123456789abcdef0123456789abcdef01234567", dirty: true}}
	dir := t.TempDir()
	first, second := filepath.Join(dir, "first"), filepath.Join(dir, "second")
	if err := r.build(t.Context(), here, "hubctl", first); err != nil {
		t.Fatal(err)
	}
	t.Chdir(copySource(t, root))
	t.Setenv("GOCACHE", filepath.Join(dir, "cache"))
	if err := r.build(t.Context(), here, "hubctl", second); err != nil {
		t.Fatal(err)
	}
	a, err := sumOf(first)
	if err != nil {
		t.Fatal(err)
	}
	if b, err := sumOf(second); err != nil || a != b {
		t.Errorf("%s and %s, %v", a, b, err)
	}
	out, err := exec.Command(second, "--version").CombinedOutput()
	if err != nil || !strings.HasPrefix(string(out), "hubctl 1.2.3 (0123456789ab, modified) go") {
		t.Errorf("--version: %q %v", out, err)
	}
	text, err := os.ReadFile(second)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(text, []byte(root)) {
		t.Error("the program names the folder that it was built in")
	}
}

// The bill lists what the program itself says is in it, each module once and
// with its hash.
func TestBill(t *testing.T) {
	inRoot(t)
	path := filepath.Join(t.TempDir(), "hubctl")
	if err := (&release{version: "1.2.3"}).build(t.Context(), here, "hubctl", path); err != nil {
		t.Fatal(err)
	}
	b, err := billOf(path, "1.2.3", time.Unix(1e9, 0).UTC())
	if err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(info.Deps) == 0 || len(b.Components) != len(info.Deps)+1 { // and the standard library
		t.Errorf("%d components, %d modules", len(b.Components), len(info.Deps))
	}
	refs := []string{}
	for _, c := range b.Components {
		if !strings.HasPrefix(c.PURL, "pkg:golang/") || c.Version == "" {
			t.Errorf("component %+v", c)
		}
		if c.Name != "std" && (len(c.Hashes) != 1 || len(c.Hashes[0].Content) != 64) {
			t.Errorf("%s has the hashes %v", c.Name, c.Hashes)
		}
		refs = append(refs, c.Ref)
	}
	slices.Sort(refs)
	if len(slices.Compact(slices.Clone(refs))) != len(refs) {
		t.Error("two components have the same reference")
	}
	needs := slices.Clone(b.Dependencies[0].DependsOn)
	slices.Sort(needs)
	if !slices.Equal(needs, refs) || b.Dependencies[0].Ref != b.Metadata.Component.Ref {
		t.Error("the program does not depend on its components")
	}
	if !slices.ContainsFunc(b.Components, func(c component) bool { return c.Name == "github.com/spf13/cobra" }) {
		t.Error("cobra is missing")
	}
	text, err := json.Marshal(b)
	if err != nil || !bytes.Contains(text, []byte(`"bomFormat":"CycloneDX","specVersion":"1.5"`)) {
		t.Errorf("%v %.100s", err, text)
	}
}

// Archives do not depend on umask, times and folders of the building machine.
func TestArchive(t *testing.T) {
	archive := func(mode fs.FileMode, date time.Time) []byte {
		root, out := t.TempDir(), t.TempDir()
		tr := tree{root: root, goos: "linux", arch: "amd64"}
		for _, name := range []string{"usr/bin/hubd", "etc/hubd/hubd.yaml", "usr/share/man/man8/hubd.8.gz"} {
			if err := tr.add(name, []byte("text of "+name), mode); err != nil {
				t.Fatal(err)
			}
			os.Chtimes(tr.path(name), date, date)
		}
		r := &release{out: out, version: "1.2.3", source: source{date: time.Unix(1e9, 0).UTC()}}
		if err := r.archive(tr); err != nil {
			t.Fatal(err)
		}
		text, err := os.ReadFile(filepath.Join(out, "hubd_1.2.3_linux_amd64.tar.gz"))
		if err != nil {
			t.Fatal(err)
		}
		return text
	}
	first := archive(0o600, time.Now())
	if second := archive(0o755, time.Unix(1, 0)); !bytes.Equal(first, second) {
		t.Error("two archives of the same files differ")
	}
	z, err := gzip.NewReader(bytes.NewReader(first))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := tar.NewReader(z); ; {
		h, err := r.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
		want := int64(0o644)
		if h.Typeflag == tar.TypeDir || strings.HasSuffix(h.Name, "/bin/hubd") {
			want = 0o755
		}
		if h.Mode != want || !h.ModTime.Equal(time.Unix(1e9, 0)) || h.Uid != 0 {
			t.Errorf("%s: mode %o, time %v, owner %d", h.Name, h.Mode, h.ModTime, h.Uid)
		}
	}
	if !slices.Contains(names, "hubd_1.2.3_linux_amd64/usr/bin/hubd") || !slices.IsSorted(names) {
		t.Errorf("entries %q", names)
	}
}

// The pages name every key of the configuration and every command.
func TestPages(t *testing.T) {
	inRoot(t)
	dir := t.TempDir()
	if err := new(release).makePages(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		return strings.NewReplacer(`\-`, "-", `\_`, "_", `\.`, ".").Replace(string(text))
	}
	daemon, config := read("man/hubd.8"), read("man/hubd.yaml.5")
	for _, k := range hub.Keys() {
		if !strings.Contains(daemon, "--"+k.Flag()) {
			t.Errorf("hubd(8) has no --%s", k.Flag())
		}
		if !strings.Contains(config, k.Name) || !strings.Contains(config, k.Env()) {
			t.Errorf("hubd.yaml(5) has no %s", k.Name)
		}
	}
	for _, name := range []string{"hubctl.1", "hubctl-call.1", "hubctl-state-put.1", "hubctl-attach.1"} {
		if text := read("man/" + name); !strings.Contains(text, ".SH NAME") || !strings.Contains(text, ".SH DESCRIPTION") {
			t.Errorf("%s is no manual page: %.200s", name, text)
		}
	}
	for _, name := range []string{"hubctl.bash", "_hubctl", "hubctl.fish"} {
		if !strings.Contains(read("completions/"+name), "hubctl") {
			t.Errorf("%s completes nothing", name)
		}
	}
	pages, err := filepath.Glob(filepath.Join(dir, "man", "*"))
	if err != nil {
		t.Fatal(err)
	}
	if man, err := exec.LookPath("man"); err == nil {
		for _, p := range pages {
			out, err := exec.Command(man, "--warnings", "--local-file", p).CombinedOutput()
			if text := string(out); err != nil || strings.Contains(text, "warning:") || strings.Contains(text, "**") {
				t.Errorf("%s: %v\n%.600s", p, err, text)
			}
		}
	}
}

func TestVersions(t *testing.T) {
	for version, good := range map[string]bool{
		"1.2.3": true, "1.2.3~rc1": true, "1.2.3+7.abcdef": true, "0.0.0+0123456789ab": true,
		"v1.2.3": false, "1.2": false, "1.2.3-1": false, "": false, "1.2.3 ": false, "1.2.3;x": false,
	} {
		if versionForm.MatchString(version) != good {
			t.Errorf("%q: want %v", version, good)
		}
	}
	if v := describe(t.Context()); !versionForm.MatchString(v) {
		t.Errorf("git gives %q", v)
	}
}

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"crypto/sha1"
	"encoding/hex"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

var testSource = source{commit: "0123456789abcdef0123456789abcdef01234567", date: time.Unix(1e9, 0).UTC()}

// produced makes a release of all four systems and returns its files. program
// stands for all programs, so that only what is around them takes time.
func produced(t *testing.T, out, program string) map[string][]byte {
	t.Helper()
	r := &release{
		out: out, version: "1.2.3~rc1", source: testSource,
		formats: []string{"deb", "rpm", "apk", "image"},
		targets: []tree{
			{goos: "linux", arch: "amd64"}, {goos: "linux", arch: "arm64"},
			{goos: "darwin", arch: "amd64"}, {goos: "darwin", arch: "arm64"},
		},
		compile: func(_ context.Context, t tree, _, to string) error {
			text, err := os.ReadFile(program)
			if err != nil {
				return err
			}
			rel, err := filepath.Rel(t.root, to)
			if err != nil {
				return err
			}
			return t.add(rel, text, 0o755)
		},
	}
	if err := r.produce(t.Context()); err != nil {
		if strings.Contains(err.Error(), "goreleaser/nfpm") {
			t.Skipf("nfpm cannot be fetched or built: %v", err)
		}
		t.Fatal(err)
	}
	files := map[string][]byte{}
	entries, err := os.ReadDir(out)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if files[e.Name()], err = os.ReadFile(filepath.Join(out, e.Name())); err != nil {
			t.Fatal(err)
		}
	}
	return files
}

// A whole release, made twice: from folders of different names, with another
// umask and time zone, out of files of another time.
func TestRelease(t *testing.T) {
	if testing.Short() {
		t.Skip("makes two releases")
	}
	root := inRoot(t)
	program := filepath.Join(t.TempDir(), "program")
	if err := run(t.Context(), []string{"CGO_ENABLED=0"}, "go", "build", "-trimpath", "-o", program, "./tests/internal/tally"); err != nil {
		t.Fatal(err)
	}
	files := produced(t, filepath.Join(t.TempDir(), "dist"), program)

	t.Chdir(copySource(t, root))
	t.Setenv("TZ", "Pacific/Auckland")
	before := syscall.Umask(0o077)
	again := produced(t, filepath.Join(t.TempDir(), "elsewhere"), program)
	syscall.Umask(before)
	if !slices.Equal(sortedKeys(files), sortedKeys(again)) {
		t.Fatalf("%q and %q", sortedKeys(files), sortedKeys(again))
	}
	for name, text := range files {
		if !bytes.Equal(text, again[name]) {
			t.Errorf("%s differs when it is made again", name)
		}
	}
	t.Chdir(root)

	sums := map[string]string{} // as the release says
	for line := range strings.Lines(string(files["SHA256SUMS"])) {
		sum, name, _ := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		sums[name] = sum
		if sum != sumOfBytes(files[name]) {
			t.Errorf("SHA256SUMS is wrong about %s", name)
		}
	}
	if len(sums) != len(files)-1 {
		t.Errorf("SHA256SUMS has %d of %d files", len(sums), len(files)-1)
	}
	t.Run("alpine", func(t *testing.T) { checkAlpine(t, files["hubd_1.2.3_rc1-r1_x86_64.apk"]) })
	t.Run("formula", func(t *testing.T) { checkFormula(t, string(files["hubd.rb"]), sums) })
	t.Run("image", func(t *testing.T) {
		checkImage(t, files["hubd_1.2.3~rc1_linux_amd64.image.tar"], files["hubd_1.2.3~rc1_linux_amd64.rootfs.tar.gz"])
	})
	t.Run("client", func(t *testing.T) {
		for name := range untar(t, gunzip(t, files["hubctl_1.2.3~rc1_darwin_arm64.tar.gz"])) {
			if strings.Contains(name, "systemd") || strings.HasSuffix(name, "/hubd") || strings.Contains(name, "/etc/") {
				t.Errorf("the archive of hubctl alone has %s", name)
			}
		}
	})
}

// checkAlpine reads an .apk as apk does: two parts, each compressed by itself,
// the first with the hash of the second.
func checkAlpine(t *testing.T, text []byte) {
	source := bytes.NewReader(text) // a ByteReader: gzip reads no byte too many
	var parts, packed [][]byte
	for source.Len() > 0 {
		from := len(text) - source.Len()
		z, err := gzip.NewReader(source)
		if err != nil {
			t.Fatal(err)
		}
		z.Multistream(false)
		part, err := io.ReadAll(z)
		if err != nil {
			t.Fatal(err)
		}
		parts, packed = append(parts, part), append(packed, text[from:len(text)-source.Len()])
	}
	if len(parts) != 2 {
		t.Fatalf("%d parts", len(parts))
	}
	control := untar(t, append(parts[0], make([]byte, 1024)...)) // cut off before the end of a tar file
	info := map[string]string{}
	for line := range strings.Lines(string(control[".PKGINFO"].text)) {
		key, value, found := strings.Cut(strings.TrimSpace(line), " = ")
		if !found && !strings.HasPrefix(line, "#") {
			t.Errorf(".PKGINFO has the line %q", line)
		}
		info[key] = value
	}
	for key, want := range map[string]string{
		"pkgname": "hubd", "pkgver": "1.2.3_rc1-r1", "arch": "x86_64", "license": "MIT", "pkgdesc": summary, "datahash": sumOfBytes(packed[1]),
	} {
		if info[key] != want {
			t.Errorf("%s = %q, want %q", key, info[key], want)
		}
	}
	data := untar(t, parts[1])
	for name, f := range data {
		sum := sha1.Sum(f.text)
		if f.head.Typeflag == tar.TypeReg && f.head.PAXRecords["APK-TOOLS.checksum.SHA1"] != hex.EncodeToString(sum[:]) {
			t.Errorf("%s has the checksum %s", name, f.head.PAXRecords["APK-TOOLS.checksum.SHA1"])
		}
		if strings.Contains(name, "systemd") || strings.Contains(name, "sysusers") {
			t.Errorf("%s is of no use on Alpine", name)
		}
	}
	if f := data["etc/init.d/hubd"]; f.head == nil || f.head.Mode != 0o755 {
		t.Errorf("etc/init.d/hubd: %+v", f.head)
	}
	scripts := map[string][]byte{"etc/init.d/hubd": data["etc/init.d/hubd"].text, "etc/conf.d/hubd": data["etc/conf.d/hubd"].text}
	for _, name := range []string{".pre-install", ".post-upgrade", ".pre-deinstall"} {
		if f := control[name]; f.head == nil || f.head.Mode != 0o755 {
			t.Errorf("%s: %+v", name, f.head)
		}
		scripts[name] = control[name].text
	}
	for name, script := range scripts {
		sh := exec.Command("sh", "-n")
		sh.Stdin = bytes.NewReader(script)
		if out, err := sh.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", name, err, out)
		}
	}
}

// checkFormula compares each sum with that of the file that stands before it.
func checkFormula(t *testing.T, text string, sums map[string]string) {
	url, found := "", 0
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if rest, ok := strings.CutPrefix(line, `url "`); ok {
			url = strings.TrimSuffix(rest, `"`)
		}
		if rest, ok := strings.CutPrefix(line, `sha256 "`); ok {
			found++
			name, ok := strings.CutPrefix(url, downloads+"v1.2.3~rc1/")
			if sum := strings.TrimSuffix(rest, `"`); !ok || sum == "" || sum != sums[name] {
				t.Errorf("%s has the sum %s, the formula says %s", url, sums[name], sum)
			}
		}
	}
	if found != 4 {
		t.Errorf("%d sums in\n%s", found, text)
	}
	ruby, err := exec.LookPath("ruby")
	if err != nil {
		t.Log("ruby is not installed: the formula's syntax was not looked at")
		return
	}
	check := exec.Command(ruby, "-c")
	check.Stdin = strings.NewReader(text)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("ruby -c: %v\n%s", err, out)
	}
}

// checkImage follows the digests from the index to the files of the layer.
func checkImage(t *testing.T, image, rootfs []byte) {
	files := untar(t, image)
	read := func(d descriptor, into any) {
		t.Helper()
		text := files[blobPath(d)].text
		if "sha256:"+sumOfBytes(text) != d.Digest || len(text) != d.Size {
			t.Fatalf("%+v is of %d bytes, sha256:%s", d, len(text), sumOfBytes(text))
		}
		if err := json.Unmarshal(text, into); err != nil {
			t.Fatal(err)
		}
	}
	var index struct{ Manifests []descriptor }
	if err := json.Unmarshal(files["index.json"].text, &index); err != nil || len(index.Manifests) != 1 {
		t.Fatalf("index.json: %v, %+v", err, index)
	}
	if at := index.Manifests[0].Platform; at == nil || *at != (platform{Architecture: "amd64", OS: "linux"}) {
		t.Errorf("platform %+v", at)
	}
	var manifest struct {
		Config descriptor
		Layers []descriptor
	}
	read(index.Manifests[0], &manifest)
	var config imageConfig
	read(manifest.Config, &config)
	layer := files[blobPath(manifest.Layers[0])].text
	if len(manifest.Layers) != 1 || !bytes.Equal(layer, rootfs) || config.RootFS.DiffIDs[0] != "sha256:"+sumOfBytes(gunzip(t, layer)) {
		t.Errorf("layers %+v, config %+v", manifest.Layers, config.RootFS)
	}
	var docker []struct {
		Config   string
		RepoTags []string
		Layers   []string
	}
	if err := json.Unmarshal(files["manifest.json"].text, &docker); err != nil || len(docker) != 1 {
		t.Fatalf("manifest.json: %v", err)
	}
	if d := docker[0]; d.Config != blobPath(manifest.Config) || d.Layers[0] != blobPath(manifest.Layers[0]) || d.RepoTags[0] != "localhost/hubd:1.2.3-rc1" {
		t.Errorf("manifest.json says %+v", d)
	}
	run := config.Config
	if run.User != "65532:65532" || !slices.Equal(run.Entrypoint, []string{"/usr/bin/hubd"}) || len(run.Volumes) != 1 || run.StopSignal != "SIGTERM" ||
		!slices.Contains(run.Env, "STATE_DIRECTORY=/var/lib/hubd") || run.Labels["org.opencontainers.image.revision"] != testSource.commit {
		t.Errorf("config %+v", run)
	}
	inside := untar(t, gunzip(t, layer))
	for name, want := range map[string]struct {
		mode  int64
		owner int
	}{
		"usr/bin/hubd": {0o755, 0}, "var/lib/hubd/": {0o700, containerUser}, "run/hubd/": {0o755, containerUser}, "tmp/": {0o1777, 0}, "etc/passwd": {0o644, 0},
	} {
		if f := inside[name]; f.head == nil || f.head.Mode != want.mode || f.head.Uid != want.owner || f.head.Gid != want.owner {
			t.Errorf("%s: %+v", name, f.head)
		}
	}
	if _, err := readContainerfile("FROM scratch\nADD x /\nRUN true\n"); err == nil {
		t.Error("a Containerfile with an instruction that the image would not follow is taken")
	}
}

// packedFile is one entry of a tar file.
type packedFile struct {
	head *tar.Header
	text []byte
}

func untar(t *testing.T, plain []byte) map[string]packedFile {
	t.Helper()
	files := map[string]packedFile{}
	for r := tar.NewReader(bytes.NewReader(plain)); ; {
		head, err := r.Next()
		if err == io.EOF {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		text, err := io.ReadAll(r)
		if err != nil {
			t.Fatal(err)
		}
		files[head.Name] = packedFile{head, text}
	}
}

func gunzip(t *testing.T, packed []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err != nil {
		t.Fatal(err)
	}
	plain, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return plain
}

func TestAlpineVersion(t *testing.T) {
	for version, want := range map[string]string{
		"1.2.3": "1.2.3", "1.2.3~rc1": "1.2.3_rc1", "1.2.3~beta.2": "1.2.3_beta2", "1.2.3+7.0123456789ab": "1.2.3_p7",
		"0.0.0+0123456789ab": "0.0.0_git0", "1.2.3~rc": "", "1.2.3~x1": "", "1.2.3+vendor": "",
	} {
		if got, err := alpineVersion(version); (err != nil) != (want == "") || (err == nil && got != want) {
			t.Errorf("%q: %q %v, want %q", version, got, err, want)
		}
	}
}

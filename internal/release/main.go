// Command release builds what is handed out: programs, manual pages,
// completions, packages, archives, bills of materials and checksums.
//
//	go run ./internal/release [-out dist] [-version V] [-arch amd64,arm64] [-formats deb,rpm,apk,image] [-clients darwin/arm64]
//
// The same commit and version give the same bytes, in any folder: programs are
// built with -trimpath and without cgo, archives have sorted entries and the
// time of the commit. The path of one release:
//
//	main.go        what to do, in order
//	source.go      version, commit and time, from git
//	build.go       the programs and the tree of files that every package has
//	pages.go       hubd(8) and hubd.yaml(5); hubctl writes its own
//	archive.go     tar.gz and SHA256SUMS
//	sbom.go        a CycloneDX bill of the modules in a program
//	nfpm.go        .deb, .rpm and .apk
//	image.go       an image for containers
//	brew.go        a formula for Homebrew
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r := &release{}
	flag.StringVar(&r.out, "out", "dist", "folder to write to; what is there is replaced")
	flag.StringVar(&r.version, "version", "", "version, such as 1.2.3; \"\": from git")
	arch := flag.String("arch", "amd64,arm64", "processors to build for")
	formats := flag.String("formats", "deb,rpm,apk,image", "packages to make: deb, rpm and apk need the Go module proxy; \"\": none")
	clients := flag.String("clients", "darwin/amd64,darwin/arm64", "systems to build hubctl alone for; \"\": none")
	flag.Parse()
	r.formats = listOf(*formats)
	for _, a := range listOf(*arch) {
		r.targets = append(r.targets, tree{goos: "linux", arch: a})
	}
	for _, c := range listOf(*clients) {
		goos, arch, _ := strings.Cut(c, "/")
		r.targets = append(r.targets, tree{goos: goos, arch: arch})
	}
	if err := r.make(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// listOf splits text at commas; "" is an empty list.
func listOf(text string) []string {
	return strings.FieldsFunc(text, func(c rune) bool { return c == ',' })
}

// release is one run.
type release struct {
	out     string
	version string // without a v
	targets []tree // without their roots
	formats []string

	source
	compile func(ctx context.Context, t tree, program, to string) error // nil: r.build
	stage   string                                                      // where trees of files are put together
}

func (r *release) make(ctx context.Context) error {
	if err := r.check(ctx); err != nil {
		return err
	}
	return r.produce(ctx)
}

// produce writes all files of the release.
func (r *release) produce(ctx context.Context) (err error) {
	if r.compile == nil {
		r.compile = r.build
	}
	if r.out, err = filepath.Abs(r.out); err != nil {
		return err
	}
	if err := errors.Join(os.RemoveAll(r.out), os.MkdirAll(r.out, 0o755)); err != nil {
		return err
	}
	if r.stage, err = os.MkdirTemp("", "hubd-release-"); err != nil {
		return err
	}
	defer os.RemoveAll(r.stage)
	pages := filepath.Join(r.stage, "pages")
	if err := r.makePages(ctx, pages); err != nil {
		return err
	}
	for i := range r.targets {
		r.targets[i].root = filepath.Join(r.stage, r.targets[i].goos+"-"+r.targets[i].arch)
		if err := r.target(ctx, r.targets[i], pages); err != nil {
			return err
		}
	}
	return errors.Join(r.formula(), r.checksums())
}

// check reads the source and refuses what cannot be made before anything is.
func (r *release) check(ctx context.Context) (err error) {
	if r.source, err = readSource(ctx); err != nil {
		return err
	}
	if r.version == "" {
		r.version = describe(ctx)
	}
	if !versionForm.MatchString(r.version) {
		return fmt.Errorf("version %q: expected one such as 1.2.3 or 1.2.3~rc1", r.version)
	}
	for _, format := range r.formats {
		switch format {
		case "deb", "rpm", "image":
		case "apk":
			if _, err := alpineVersion(r.version); err != nil {
				return err
			}
		default:
			return fmt.Errorf("format %q: expected deb, rpm, apk or image", format)
		}
	}
	return nil
}

// target makes everything for one system and processor.
func (r *release) target(ctx context.Context, t tree, pages string) error {
	if err := r.fill(ctx, t, pages); err != nil {
		return err
	}
	if err := errors.Join(r.archive(t), r.bills(t)); err != nil || t.goos != "linux" {
		return err
	}
	for _, format := range r.formats {
		var err error
		if format == "image" {
			err = r.image(t)
		} else {
			err = r.pack(ctx, t, format)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// run runs a program, whose output is shown when it fails.
func run(ctx context.Context, env []string, name string, args ...string) error {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w\n%s", name, strings.Join(args, " "), err, out)
	}
	return nil
}

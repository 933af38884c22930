// Command release builds what is handed out: programs, manual pages,
// completions, packages, archives, bills of materials and checksums.
//
//	go run ./internal/release [-out dist] [-version V] [-arch amd64,arm64] [-formats deb,rpm]
//
// The same source and version give the same bytes, in any folder: programs are
// built with -trimpath and without cgo, archives have sorted entries and the
// time of the last commit. The path of one release:
//
//	main.go     what to do, in order
//	build.go    the programs and the tree of files that every package has
//	pages.go    hubd(8) and hubd.yaml(5); hubctl writes its own
//	archive.go  tar.gz and SHA256SUMS
//	sbom.go     a CycloneDX bill of the modules in a program
//	nfpm.go     .deb and .rpm
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
	"regexp"
	"strconv"
	"strings"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r := &release{}
	flag.StringVar(&r.out, "out", "dist", "folder to write to; what is there is replaced")
	flag.StringVar(&r.version, "version", "", "version, such as 1.2.3; \"\": from git")
	arch := flag.String("arch", "amd64,arm64", "processors to build for")
	formats := flag.String("formats", "deb,rpm", "packages to make, which needs the Go module proxy; \"\": none")
	flag.Parse()
	r.archs = strings.Split(*arch, ",")
	r.formats = strings.FieldsFunc(*formats, func(c rune) bool { return c == ',' })
	if err := r.make(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "release:", err)
		os.Exit(1)
	}
}

// release is one run.
type release struct {
	out     string
	version string // without a v
	archs   []string
	formats []string // of packages

	date  time.Time // of the source
	stage string    // where trees of files are put together
}

func (r *release) make(ctx context.Context) (err error) {
	if r.version == "" {
		r.version = describe(ctx)
	}
	if !versionForm.MatchString(r.version) {
		return fmt.Errorf("version %q: expected one such as 1.2.3 or 1.2.3~rc1", r.version)
	}
	if r.date, err = sourceDate(ctx); err != nil {
		return err
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
	for _, arch := range r.archs {
		t := tree{root: filepath.Join(r.stage, arch), arch: arch}
		if err := r.fill(ctx, t, pages); err != nil {
			return err
		}
		if err := r.archive(t); err != nil {
			return err
		}
		if err := r.bills(t); err != nil {
			return err
		}
		for _, format := range r.formats {
			if err := r.pack(ctx, t, format); err != nil {
				return err
			}
		}
	}
	return r.checksums()
}

// versionForm is what Debian and RPM both take.
var versionForm = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+(~[0-9A-Za-z.]+)?(\+[0-9A-Za-z.]+)?$`)

// described is what git describe prints for a tag such as v1.2.3, and after it.
var described = regexp.MustCompile(`^v([0-9]+\.[0-9]+\.[0-9]+)(?:-([0-9]+)-g([0-9a-f]+))?$`)

// describe makes a version of what git knows: 1.2.3 at the tag v1.2.3,
// 1.2.3+7.abcdef seven commits later, 0.0.0+abcdef without any tag.
func describe(ctx context.Context) string {
	if out, err := exec.CommandContext(ctx, "git", "describe", "--tags", "--match=v*", "--abbrev=12").Output(); err == nil {
		if m := described.FindStringSubmatch(strings.TrimSpace(string(out))); m != nil {
			if m[2] == "" {
				return m[1]
			}
			return m[1] + "+" + m[2] + "." + m[3]
		}
	}
	if out, err := exec.CommandContext(ctx, "git", "rev-parse", "--short=12", "HEAD").Output(); err == nil {
		return "0.0.0+" + strings.TrimSpace(string(out))
	}
	return "0.0.0"
}

// sourceDate is the time that files in packages have: SOURCE_DATE_EPOCH, or
// that of the last commit.
func sourceDate(ctx context.Context) (time.Time, error) {
	text := os.Getenv("SOURCE_DATE_EPOCH")
	if text == "" {
		if out, err := exec.CommandContext(ctx, "git", "log", "-1", "--format=%ct").Output(); err == nil {
			text = strings.TrimSpace(string(out))
		}
	}
	if text == "" {
		text = "0" // an unpacked archive
	}
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return time.Time{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	return time.Unix(seconds, 0).UTC(), nil
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

// Package build knows what a program was built from. The daemon, hubctl and the
// metrics ask it, so that they never disagree about their version.
package build

import (
	"fmt"
	"regexp"
	"runtime"
	"runtime/debug"
	"strings"
)

// Set by internal/release with -ldflags -X. A release is built without the
// version control of its folder, so that it can be built again from anywhere.
var (
	release  string // version without a v
	revision string // full commit id, followed by "+dirty" if files differed from it
)

// Devel is the version of a program that does not know its own.
const Devel = "devel"

// Version is that of the release, else that of the module as go install and go
// build know it, without a v: "1.2.3",
// "0.0.0-20260102030405-0123456789ab+dirty". It is Devel without either.
func Version() string {
	if release != "" {
		return release
	}
	info, _ := debug.ReadBuildInfo()
	return moduleVersion(info)
}

// released is the form of a version that somebody has given: not that of a build
// between two of them, which go names after its time and commit.
var released = regexp.MustCompile(`^[0-9]+\.[0-9]+\.[0-9]+([~+-][0-9A-Za-z.]*)?$`)

// Skewed reports whether a and b are versions of different releases. A version
// that is no release's is skewed with none: who builds it knows what it is.
func Skewed(a, b string) bool { return a != b && released.MatchString(a) && released.MatchString(b) }

func moduleVersion(info *debug.BuildInfo) string {
	if info == nil || info.Main.Version == "" || info.Main.Version == "(devel)" {
		return Devel
	}
	return strings.TrimPrefix(info.Main.Version, "v")
}

// Revision is the commit of the source, and "true" or "false" for whether files
// differed from it. Both are "unknown" if the build did not say.
func Revision() (commit, modified string) {
	if revision != "" {
		if commit, dirty := strings.CutSuffix(revision, "+dirty"); dirty {
			return commit, "true"
		}
		return revision, "false"
	}
	info, _ := debug.ReadBuildInfo()
	return vcsRevision(info)
}

func vcsRevision(info *debug.BuildInfo) (commit, modified string) {
	commit, modified = "unknown", "unknown"
	if info == nil {
		return commit, modified
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			commit = s.Value
		case "vcs.modified":
			modified = s.Value
		}
	}
	return commit, modified
}

// Line is what program prints for --version: "hubd 1.2.3 (0123456789ab) go1.26.8
// linux/amd64". The commit is there if it is known, and marked if files differed.
func Line(program string) string {
	commit, modified := Revision()
	return line(program, Version(), commit, modified)
}

func line(program, version, commit, modified string) string {
	source := ""
	if commit != "unknown" {
		source = " (" + commit[:min(12, len(commit))]
		if modified == "true" {
			source += ", modified"
		}
		source += ")"
	}
	return fmt.Sprintf("%s %s%s %s %s/%s", program, version, source, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

package main

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"time"
)

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

// source is what a release is made of.
type source struct {
	date   time.Time // that files in packages have: SOURCE_DATE_EPOCH, or that of the commit
	commit string    // full; "" outside of git
	dirty  bool      // files differ from the commit
}

func readSource(ctx context.Context) (source, error) {
	git := func(args ...string) string {
		out, err := exec.CommandContext(ctx, "git", args...).Output()
		if err != nil {
			return "" // an unpacked archive
		}
		return strings.TrimSpace(string(out))
	}
	s := source{commit: git("rev-parse", "HEAD")}
	s.dirty = s.commit != "" && git("status", "--porcelain") != ""
	text := cmp.Or(os.Getenv("SOURCE_DATE_EPOCH"), git("log", "-1", "--format=%ct"), "0")
	seconds, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return source{}, fmt.Errorf("SOURCE_DATE_EPOCH: %w", err)
	}
	s.date = time.Unix(seconds, 0).UTC()
	return s, nil
}

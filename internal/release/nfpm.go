package main

import (
	"context"
	"path/filepath"
	"strconv"
)

// nfpm makes packages without the tools of a distribution. It is no dependency
// of the project, but fetched and built at this version when it is needed. The
// later ones want modules that the Go module proxy did not serve when this was written.
const nfpm = "github.com/goreleaser/nfpm/v2/cmd/nfpm@v2.45.2"

// pack makes a .deb or an .rpm of t.
func (r *release) pack(ctx context.Context, t tree, format string) error {
	env := []string{
		"STAGE=" + t.root, "ARCH=" + t.arch, "VERSION=" + r.version,
		"SOURCE_DATE_EPOCH=" + strconv.FormatInt(r.date.Unix(), 10), "GOFLAGS=", "CGO_ENABLED=0",
	}
	return run(ctx, env, "go", "run", nfpm, "package", "--config", filepath.Join("deploy", "packages", "nfpm.yaml"),
		"--packager", format, "--target", r.out+"/")
}

package tests

import (
	"bufio"
	"bytes"
	"encoding/json"
	"flag"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite testdata/modules-*.txt from what is linked now")

const module = "github.com/hubd-dev/hubd"

// pkg is what go list tells about a package.
type pkg struct {
	ImportPath string
	Standard   bool
	Imports    []string // of the package itself, without its tests
	Deps       []string // all of them, recursively
	Module     *struct {
		Path, Version string
		Main          bool
		Replace       *struct{ Path, Version string }
	}
}

func goList(t *testing.T, args ...string) []pkg {
	t.Helper()
	cmd := exec.Command("go", append([]string{"list", "-json=ImportPath,Standard,Imports,Deps,Module"}, args...)...)
	cmd.Dir = ".."
	// The programs as released.
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v\n%s", err, stderr.String())
	}
	var list []pkg
	for dec := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		if err := dec.Decode(&p); err == io.EOF {
			return list
		} else if err != nil {
			t.Fatal(err)
		}
		list = append(list, p)
	}
}

var protocols = []string{"kollabor", "kkrpc", "capnweb", "krpc", "snekrpc"}

func isProtocol(path string) bool {
	rest, ok := strings.CutPrefix(path, module+"/internal/rpc/")
	name, _, _ := strings.Cut(rest, "/")
	return ok && slices.Contains(protocols, name)
}

// within reports whether path is folder or below it.
func within(path, folder string) bool {
	return path == folder || strings.HasPrefix(path, folder+"/")
}

// TestImportWalls keeps the rooms of docs/architecture.md apart: imports run
// one way.
func TestImportWalls(t *testing.T) {
	t.Parallel()
	std := map[string]bool{}
	own := goList(t, "./...")
	for _, p := range goList(t, "-deps", "./...") {
		if p.Standard {
			std[p.ImportPath] = true
		}
	}
	ours := func(rel ...string) func(string) bool {
		return func(path string) bool {
			return slices.ContainsFunc(rel, func(r string) bool { return within(path, module+"/"+r) })
		}
	}
	type wall struct {
		why string
		in  func(path string) bool
		no  func(from, path string) bool
		far bool // recursively
	}
	walls := []wall{
		{
			"the core imports only the standard library",
			func(p string) bool { return p == module+"/internal/rpc" },
			func(_, p string) bool { return !std[p] },
			false,
		},
		{
			"the core knows no socket, no HTTP, no log",
			func(p string) bool { return p == module+"/internal/rpc" },
			func(_, p string) bool { return p == "net" || within(p, "net/http") || within(p, "log") },
			false,
		},
		{
			"frames know only the core",
			ours("internal/rpc/frame"),
			func(from, p string) bool { return !std[p] && p != module+"/internal/rpc" && !within(p, from) },
			false,
		},
		{
			"no protocol knows another",
			isProtocol,
			func(from, p string) bool {
				return isProtocol(p) && protocolOf(p) != protocolOf(from)
			},
			true,
		},
		{
			"protocols know neither the hub nor the state service",
			isProtocol,
			func(_, p string) bool { return ours("internal/hub", "internal/statesvc", "cmd", "client")(p) },
			true,
		},
		{
			"services know neither the hub nor any protocol",
			ours("internal/statesvc", "internal/session", "internal/demo"),
			func(_, p string) bool { return ours("internal/hub", "cmd", "client")(p) || isProtocol(p) },
			true,
		},
		{
			"the hub knows no command and no client",
			ours("internal/hub"),
			func(_, p string) bool { return ours("cmd", "client")(p) },
			true,
		},
		{
			"client and hubctl link nothing of the daemon",
			ours("client", "cmd/hubctl"),
			func(_, p string) bool {
				return ours("internal/hub", "internal/statesvc", "internal/session", "cmd/hubd")(p) || isProtocol(p) ||
					within(p, "go.etcd.io") || within(p, "github.com/kardianos/service") ||
					within(p, "github.com/prometheus") || within(p, "github.com/nats-io")
			},
			true,
		},
	}
	for _, w := range walls {
		met := false
		for _, p := range own {
			if !w.in(p.ImportPath) {
				continue
			}
			met = true
			imports := p.Imports
			if w.far {
				imports = p.Deps
			}
			for _, imp := range imports {
				if w.no(p.ImportPath, imp) {
					t.Errorf("%s: %s imports %s", w.why, p.ImportPath, imp)
				}
			}
		}
		if !met {
			t.Errorf("%s: no such package: the wall guards nothing", w.why)
		}
	}
}

func protocolOf(path string) string {
	name, _, _ := strings.Cut(strings.TrimPrefix(path, module+"/internal/rpc/"), "/")
	return name
}

// TestLinkedModules compares the modules that each program links with a
// checked-in list: a new dependency is a decision, seen in review.
func TestLinkedModules(t *testing.T) {
	t.Parallel()
	for _, program := range []string{"hubd", "hubctl"} {
		linked := map[string]bool{}
		for _, p := range goList(t, "-deps", "./cmd/"+program) {
			if p.Module != nil && !p.Module.Main {
				linked[p.Module.Path] = true
			}
		}
		var got []string
		for path := range linked {
			got = append(got, path)
		}
		slices.Sort(got)
		file := filepath.Join("testdata", "modules-"+program+".txt")
		if *update {
			text := "# Modules that " + program + " links (go test ./tests -run TestLinkedModules -update).\n" + strings.Join(got, "\n") + "\n"
			if err := os.MkdirAll("testdata", 0o777); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
				t.Fatal(err)
			}
			continue
		}
		want := readList(t, file)
		for _, m := range got {
			if !slices.Contains(want, m) {
				t.Errorf("%s links %s, which is not in tests/%s", program, m, file)
			}
		}
		for _, m := range want {
			if !slices.Contains(got, m) {
				t.Errorf("%s no longer links %s: take it out of tests/%s", program, m, file)
			}
		}
	}
}

func readList(t *testing.T, file string) []string {
	t.Helper()
	f, err := os.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var list []string
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if line := strings.TrimSpace(lines.Text()); line != "" && !strings.HasPrefix(line, "#") {
			list = append(list, line)
		}
	}
	return list
}

// Package tests runs the real programs: hubd and hubctl as they are released,
// over real sockets, with clients in other languages where those are installed.
package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// binDir holds hubd and hubctl, built once for the whole package.
var binDir string

// raceBuilt says that the programs carry the race detector (make race), which
// makes them several times larger and slower.
var raceBuilt = os.Getenv("HUBD_TEST_RACE") != ""

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "hubd-bin-")
	if err != nil {
		fmt.Fprintln(os.Stderr, "tests:", err)
		return 1
	}
	defer os.RemoveAll(dir)
	binDir = dir
	if err := build(dir); err != nil {
		fmt.Fprintln(os.Stderr, "tests:", err)
		return 1
	}
	return m.Run()
}

// build makes the programs as `make build` does, or with the race detector.
func build(dir string) error {
	args := []string{"build", "-trimpath", "-o", dir + string(filepath.Separator)}
	env := append(os.Environ(), "CGO_ENABLED=0")
	if raceBuilt {
		args = append(args, "-race")
		env = append(os.Environ(), "CGO_ENABLED=1")
	}
	cmd := exec.Command("go", append(args, "./cmd/hubd", "./cmd/hubctl")...)
	cmd.Dir = ".." // the module's root
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("build hubd and hubctl: %w\n%s", err, out)
	}
	return nil
}

// Package tests runs the real programs: hubd and hubctl as they are released,
// over real sockets, with clients in other languages where those are installed.
package tests

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// binDir holds hubd and hubctl once programs has returned.
var binDir string

// raceBuilt says that the programs carry the race detector (make race), which
// makes them several times larger and slower.
var raceBuilt = os.Getenv("HUBD_TEST_RACE") != ""

func TestMain(m *testing.M) {
	if os.Getenv(programEnv) == "fullscreen" {
		os.Exit(fullScreen())
	}
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
	if err := os.Chmod(dir, 0o755); err != nil { // some tests run the programs as another user
		fmt.Fprintln(os.Stderr, "tests:", err)
		return 1
	}
	return m.Run()
}

// programs builds hubd and hubctl, once for all tests that run them.
func programs(t *testing.T) {
	t.Helper()
	if err := buildOnce(); err != nil {
		t.Fatal(err)
	}
}

// buildOnce makes the programs as `make build` does, or with the race detector.
var buildOnce = sync.OnceValue(func() error {
	args := []string{"build", "-trimpath", "-o", binDir + string(filepath.Separator)}
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
})

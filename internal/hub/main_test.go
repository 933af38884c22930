package hub

import (
	"os"
	"path/filepath"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(strangerVariable); address != "" {
		beStranger(address)
	}
	goleak.VerifyTestMain(m, goleak.Cleanup(func(code int) {
		if copied.path != "" {
			os.RemoveAll(filepath.Dir(copied.path))
		}
		os.Exit(code)
	}))
}

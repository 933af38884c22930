package main

import (
	"os"
	"strconv"
	"strings"
	"syscall"
)

// umask returns the permissions that new files of this process do not get. It
// asks the kernel where that changes nothing.
func umask() os.FileMode {
	status, err := os.ReadFile("/proc/self/status")
	if err == nil {
		for line := range strings.Lines(string(status)) {
			if value, ok := strings.CutPrefix(line, "Umask:"); ok {
				if m, err := strconv.ParseUint(strings.TrimSpace(value), 8, 16); err == nil {
					return os.FileMode(m)
				}
			}
		}
	}
	m := syscall.Umask(0o077)
	syscall.Umask(m)
	return os.FileMode(m)
}

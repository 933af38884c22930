package tests

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
)

// A detached program keeps nothing open of whoever started it: a lock that a
// script holds ends with the script.
func TestDetachedProgramInheritsNoFiles(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	programs(t)
	name := filepath.Join(t.TempDir(), "lock")
	open := func() *os.File {
		t.Helper()
		f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	var held []*os.File // descriptors 3 to 12 of hubctl
	for range 10 {
		held = append(held, open())
	}
	if err := syscall.Flock(int(held[6].Fd()), syscall.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(binDir, "hubctl"), "run", "-d", "-s", "job", "--", "sleep", "600")
	cmd.Env = append(cleanEnv(d.dir), "HUBD_SOCKET="+d.socket)
	cmd.ExtraFiles = append(append([]*os.File{}, held...), write)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	for _, f := range append(held, write) {
		f.Close()
	}
	other := open()
	defer other.Close()
	if err := syscall.Flock(int(other.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		t.Errorf("the lock is held by the detached program: %v", err)
	}
	ended := make(chan struct{})
	go func() {
		read.Read(make([]byte, 1)) // until nobody has the other end
		close(ended)
	}()
	eventually(t, "the pipe is closed", func() bool {
		select {
		case <-ended:
			return true
		default:
			return false
		}
	})
	read.Close()
	if _, talk, code := d.run("", "hubctl", "call", "session.info", "session=job"); code != 0 {
		t.Error(talk)
	}
}

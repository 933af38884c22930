package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/creack/pty"
)

// detachedEnv says that this process is the one that "run -d" leaves behind:
// it has no terminal, and tells its parent how it went through descriptor 3.
// Its value is the size of the terminal that the parent has.
const detachedEnv = "HUBCTL_DETACHED"

// detachedReport is that descriptor.
const detachedReport = 3

// runDetached starts this program anew, without terminal, and waits until the
// session is open and its program runs, or not.
func (a *app) runDetached(session string, size *pty.Winsize) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	read, write, err := os.Pipe()
	if err != nil {
		return err
	}
	defer read.Close()
	cmd := exec.Command(self, a.args...) //nolint:noctx // it outlives this process
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%dx%d", detachedEnv, size.Cols, size.Rows))
	cmd.ExtraFiles = []*os.File{write}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	closeInherited()
	err = cmd.Start()
	write.Close()
	if err != nil {
		return err
	}
	report, err := io.ReadAll(read)
	if err != nil {
		return err
	}
	if told, runs := bytes.CutSuffix(report, []byte(startedWord)); runs {
		fmt.Fprintf(a.err, "%s", told)
		fmt.Fprintf(a.err, "hubctl: session %s runs; see it with: hubctl attach %s\n", session, session)
		return cmd.Process.Release()
	}
	// What went wrong is told already, by the other process.
	fmt.Fprintf(a.err, "%s", report)
	err = cmd.Wait()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok && exit.ExitCode() > 0 {
		return exitStatus{exit.ExitCode()}
	}
	return fmt.Errorf("the detached process ended before its program ran: %s", cmd.ProcessState)
}

// closeInherited keeps files that are open beside stdin, stdout and stderr
// from the detached process and its program: locks, pipes and sockets of
// whoever started hubctl would last as long as those.
func closeInherited() {
	files, err := os.ReadDir("/dev/fd")
	if err != nil {
		for fd := 3; fd < 256; fd++ {
			syscall.CloseOnExec(fd)
		}
	}
	for _, f := range files {
		if fd, err := strconv.Atoi(f.Name()); err == nil && fd > 2 {
			syscall.CloseOnExec(fd)
		}
	}
}

// startedWord is what the report ends with when the program runs.
const startedWord = "\x00started"

// started tells the parent that all is well. Nobody listens from then on.
func (a *app) started() {
	fmt.Fprint(a.err, startedWord)
	if f, ok := fileOf(a.err); ok {
		f.Close()
	}
	a.err = io.Discard
}

// reportFile is what a detached process writes its errors to.
func reportFile() *os.File {
	syscall.CloseOnExec(detachedReport)
	return os.NewFile(detachedReport, "report")
}

package tests

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
)

// TestScripts runs scripts/*.txtar: what a user types and sees. hubd and
// hubctl are in the PATH. Beyond the commands of testscript there are
//
//	get SOCKET PATH [STATUS]      HTTP over a Unix socket: the body is stdout
//	post SOCKET PATH [STATUS]     the same with POST
//	raw SOCKET FILE               sends FILE, ends the sending side, prints all that comes back
//	term SIGNAL                   sends TERM, INT, HUP, KILL, STOP or CONT to the oldest background command
//	waitfile FILE                 waits until FILE is there
//	gone FILE                     waits until FILE is not there
//	mode FILE OCTAL               compares the permission bits
//	exitcode N PROGRAM ARG...      runs PROGRAM, whose exit code must be N
//	followed SESSION N            waits until SESSION of the hub at $SOCK has N followers
//	calls METHOD N                waits until N calls of METHOD run in the hub at $SOCK
//	connectable SOCKET            a connection to SOCKET is accepted (or, with !, is not)
func TestScripts(t *testing.T) {
	t.Parallel()
	programs(t)
	testscript.Run(t, testscript.Params{
		Dir:                 "scripts",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		WorkdirRoot:         shortDir(t), // socket paths have at most 107 bytes
		Setup: func(env *testscript.Env) error {
			env.Setenv("PATH", binDir+string(os.PathListSeparator)+env.Getenv("PATH"))
			env.Setenv("SOCK", filepath.Join(env.WorkDir, "h.sock"))
			env.Setenv("STATE", filepath.Join(env.WorkDir, "state"))
			for _, name := range []string{"HOME", "XDG_RUNTIME_DIR", "XDG_STATE_HOME", "XDG_CONFIG_HOME"} {
				env.Setenv(name, env.WorkDir)
			}
			env.Setenv("HUBD_SOCKET", filepath.Join(env.WorkDir, "h.sock"))
			env.Setenv("GORACE", "halt_on_error=1 exitcode=66")
			env.Setenv("NO_COLOR", "1")
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"get":         func(ts *testscript.TestScript, neg bool, args []string) { scriptHTTP(ts, neg, "GET", args) },
			"post":        func(ts *testscript.TestScript, neg bool, args []string) { scriptHTTP(ts, neg, "POST", args) },
			"raw":         scriptRaw,
			"term":        scriptTerm,
			"waitfile":    func(ts *testscript.TestScript, neg bool, args []string) { scriptFile(ts, neg, args, true) },
			"gone":        func(ts *testscript.TestScript, neg bool, args []string) { scriptFile(ts, neg, args, false) },
			"mode":        scriptMode,
			"exitcode":    scriptExitCode,
			"followed":    scriptFollowed,
			"calls":       scriptCalls,
			"connectable": scriptConnectable,
		},
	})
}

func needArgs(ts *testscript.TestScript, neg bool, args []string, from, to int) {
	if neg {
		ts.Fatalf("this command knows no !")
	}
	if len(args) < from || len(args) > to {
		ts.Fatalf("got %d arguments, want %d to %d", len(args), from, to)
	}
}

func scriptHTTP(ts *testscript.TestScript, neg bool, method string, args []string) {
	needArgs(ts, neg, args, 2, 3)
	want := http.StatusOK
	if len(args) == 3 {
		n, err := strconv.Atoi(args[2])
		ts.Check(err)
		want = n
	}
	transport := &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", ts.MkAbs(args[0]))
	}}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, "http://hub"+args[1], nil)
	ts.Check(err)
	resp, err := (&http.Client{Transport: transport}).Do(req)
	ts.Check(err)
	defer resp.Body.Close()
	_, err = io.Copy(ts.Stdout(), resp.Body)
	ts.Check(err)
	if resp.StatusCode != want {
		ts.Fatalf("%s %s: status %d, want %d", method, args[1], resp.StatusCode, want)
	}
}

func scriptRaw(ts *testscript.TestScript, neg bool, args []string) {
	needArgs(ts, neg, args, 2, 2)
	c, err := net.Dial("unix", ts.MkAbs(args[0]))
	ts.Check(err)
	defer c.Close()
	ts.Check(c.SetDeadline(time.Now().Add(patience)))
	_, err = io.WriteString(c, ts.ReadFile(args[1]))
	ts.Check(err)
	ts.Check(c.(*net.UnixConn).CloseWrite())
	_, err = io.Copy(ts.Stdout(), c)
	ts.Check(err)
}

func scriptTerm(ts *testscript.TestScript, neg bool, args []string) {
	needArgs(ts, neg, args, 1, 1)
	signals := map[string]syscall.Signal{"TERM": syscall.SIGTERM, "INT": syscall.SIGINT, "HUP": syscall.SIGHUP, "KILL": syscall.SIGKILL,
		"STOP": syscall.SIGSTOP, "CONT": syscall.SIGCONT}
	sig, ok := signals[args[0]]
	if !ok {
		ts.Fatalf("unknown signal %s", args[0])
	}
	running := ts.BackgroundCmds()
	if len(running) == 0 {
		ts.Fatalf("there is no background command")
	}
	ts.Check(running[0].Process.Signal(sig))
}

func scriptFile(ts *testscript.TestScript, neg bool, args []string, there bool) {
	needArgs(ts, neg, args, 1, 1)
	for deadline := time.Now().Add(patience); ; {
		_, err := os.Lstat(ts.MkAbs(args[0]))
		if (err == nil) == there {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: not within %v", args[0], patience)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

func scriptMode(ts *testscript.TestScript, neg bool, args []string) {
	needArgs(ts, neg, args, 2, 2)
	info, err := os.Lstat(ts.MkAbs(args[0]))
	ts.Check(err)
	if got := fmt.Sprintf("%04o", info.Mode().Perm()); got != args[1] {
		ts.Fatalf("%s has mode %s, want %s", args[0], got, args[1])
	}
}

func scriptConnectable(ts *testscript.TestScript, neg bool, args []string) {
	needArgs(ts, false, args, 1, 1)
	c, err := net.Dial("unix", ts.MkAbs(args[0]))
	if err == nil {
		c.Close()
	}
	if (err == nil) == neg {
		ts.Fatalf("connect to %s: %v", strings.TrimSpace(args[0]), err)
	}
}

func scriptExitCode(ts *testscript.TestScript, neg bool, args []string) {
	needArgs(ts, neg, args, 2, 100)
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("%s ended with code %d, want %d", strings.Join(args[1:], " "), got, want)
	}
}

func scriptFollowed(ts *testscript.TestScript, neg bool, args []string) {
	needArgs(ts, neg, args, 2, 2)
	waitCount(ts, args[1], func(out []byte) (int, error) {
		var info struct{ Followers []struct{} }
		err := json.Unmarshal(out, &info)
		return len(info.Followers), err
	}, "session.info", "session="+args[0])
}

func scriptCalls(ts *testscript.TestScript, neg bool, args []string) {
	needArgs(ts, neg, args, 2, 2)
	waitCount(ts, args[1], func(out []byte) (n int, err error) {
		var calls []struct{ Method string }
		err = json.Unmarshal(out, &calls)
		for _, c := range calls {
			if c.Method == args[0] {
				n++
			}
		}
		return n, err
	}, "hub.calls")
}

// waitCount calls a method until what count makes of its result is want.
func waitCount(ts *testscript.TestScript, want string, count func([]byte) (int, error), call ...string) {
	n, err := strconv.Atoi(want)
	ts.Check(err)
	args := append([]string{"--socket", ts.Getenv("SOCK"), "call", "-o", "raw"}, call...)
	for deadline := time.Now().Add(patience); ; {
		out, err := exec.Command(filepath.Join(binDir, "hubctl"), args...).Output()
		got := 0
		if err == nil {
			got, err = count(out)
		}
		if err == nil && got == n {
			return
		}
		if time.Now().After(deadline) {
			ts.Fatalf("%s: got %s (%d, %v), want %d within %v", strings.Join(call, " "), out, got, err, n, patience)
		}
		time.Sleep(10 * time.Millisecond) // between two looks
	}
}

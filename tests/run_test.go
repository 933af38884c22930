package tests

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// hubctl starts hubctl with its output in a buffer.
func (d *daemon) hubctl(args ...string) (cmd *exec.Cmd, out, talk *logBuffer) {
	d.t.Helper()
	programs(d.t)
	out, talk = new(logBuffer), new(logBuffer)
	cmd = exec.Command(filepath.Join(binDir, "hubctl"), args...)
	cmd.Env = append(cleanEnv(d.dir), "HUBD_SOCKET="+d.socket, "NO_COLOR=1")
	cmd.Stdout, cmd.Stderr = out, talk
	if err := cmd.Start(); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	return cmd, out, talk
}

// exitOf waits for the end of a program and returns its exit code.
func exitOf(t *testing.T, cmd *exec.Cmd) int {
	t.Helper()
	stuck := time.AfterFunc(patience, func() { cmd.Process.Signal(syscall.SIGQUIT) }) // prints its goroutines
	defer stuck.Stop()
	cmd.Wait()
	return cmd.ProcessState.ExitCode()
}

// The exit status of the program is that of hubctl run.
func TestRunPassesTheStatusOn(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	for _, c := range []struct {
		args      []string
		code      int
		out, talk string
	}{
		{[]string{"sh", "-c", "echo out; echo err >&2; exit 3"}, 3, "out\r\nerr\r\n", ""},
		{[]string{"true"}, 0, "", ""},
		{[]string{"sh", "-c", "kill -TERM $$"}, 128 + 15, "", ""},
		{[]string{"no-such-program"}, 127, "", "hubctl: cannot run no-such-program: there is no such program\n"},
		{[]string{"/etc/passwd"}, 126, "", "hubctl: cannot run /etc/passwd: permission denied\n"},
		{[]string{"sh", "-c", "tty >/dev/null && echo $HUBD_SESSION $TERM && stty size"}, 0, "job xterm-256color\r\n24 80\r\n", ""},
		{[]string{"printf", `a\303\251\377b`}, 0, "aé\xffb", ""},
	} {
		for _, detach := range []bool{false, true} {
			args := []string{"hubctl", "run", "--session", "job"}
			want, wantOut := c.code, c.out
			if detach {
				args, wantOut = append(args, "-d"), ""
				if c.code < 126 || c.code > 127 {
					want = 0
				}
			}
			out, talk, code := d.run("", append(append(args, "--"), c.args...)...)
			if code != want || out != wantOut || !detach && talk != c.talk || detach && want != 0 && talk != c.talk {
				t.Errorf("%v, detached %v: code %d, wrote %q and %q; want %d, %q and %q", c.args, detach, code, out, talk, want, wantOut, c.talk)
			}
			eventually(t, "the session ends with its program", func() bool {
				out, _, code := d.run("", "hubctl", "call", "session.info", "session=job", "-o", "jsonl")
				return code != 0 || strings.Contains(out, `"ended":`)
			})
		}
	}
}

func TestRunRefusesASessionOfOthers(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	d.hubctl("run", "--session", "mine", "--", "sleep", "600")
	eventually(t, "the session is open", func() bool {
		_, _, code := d.run("", "hubctl", "call", "session.info", "session=mine")
		return code == 0
	})
	for _, flags := range []string{"", "-d"} {
		_, talk, code := d.run("", strings.Fields("hubctl run "+flags+" --session mine -- true")...)
		if code != 1 || !strings.Contains(talk, "belongs to another connection") || !strings.Contains(talk, "hint: ") {
			t.Errorf("run %s: code %d, %q", flags, code, talk)
		}
	}
}

// Signals are for the program.
func TestRunForwardsSignals(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	cmd, out, talk := d.hubctl("run", "--session", "trap", "--", "sh", "-c",
		`n=0; trap 'n=$((n+1)); echo got $n' INT TERM HUP USR1; trap 'echo bye; exit 5' USR2; echo ready; while :; do sleep 0.02; done`)
	has := func(text string) {
		t.Helper()
		eventually(t, "the program says "+text, func() bool { return strings.Contains(out.String(), text) })
	}
	has("ready")
	for i, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGINT, syscall.SIGHUP, syscall.SIGUSR1, syscall.SIGTERM} {
		cmd.Process.Signal(sig)
		has(fmt.Sprintf("got %d", i+1))
	}
	cmd.Process.Signal(syscall.SIGUSR2)
	if code := exitOf(t, cmd); code != 5 || !strings.Contains(out.String(), "bye") {
		t.Errorf("code %d, wrote %q and %q", code, out, talk)
	}
}

// What a program writes while the hub is restarted, and while it is killed,
// reaches the followers: all of it, once.
func TestNothingIsLostThroughRestarts(t *testing.T) {
	t.Parallel()
	dir := shortDir(t)
	state := filepath.Join(dir, "state")
	d := startHub(t, dir, state)
	gate := filepath.Join(dir, "gate")
	step := func(n int) {
		t.Helper()
		if err := os.WriteFile(fmt.Sprint(gate, n), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// Five parts of output, some bytes of which are not UTF-8; each waits for the test.
	producer, shown, _ := d.hubctl("run", "--session", "log", "--ring", "20000", "--", "sh", "-c", fmt.Sprintf(
		`i=0; for part in 1 2 3 4 5; do while [ ! -e %s$part ]; do sleep 0.01; done
		j=0; while [ $j -lt 300 ]; do i=$((i+1)); j=$((j+1)); printf 'line %%d \303\251 \377\n' $i; done; done`, gate))
	eventually(t, "the session is open", func() bool {
		_, _, code := d.run("", "hubctl", "call", "session.info", "session=log")
		return code == 0
	})
	plain, text, _ := d.hubctl("attach", "--no-stdin", "log")
	jsonl, events, _ := d.hubctl("attach", "--no-stdin", "--json", "log")
	var want strings.Builder
	for i := range 1500 {
		fmt.Fprintf(&want, "line %d é \xff\r\n", i+1)
	}
	parts := strings.SplitAfter(want.String(), "\n")
	upTo := func(n int, out *logBuffer) {
		t.Helper()
		part := strings.Join(parts[:300*n], "")
		eventually(t, fmt.Sprintf("part %d arrives", n), func() bool { return len(out.String()) >= len(part) })
		if got := out.String(); got != part {
			t.Fatalf("after part %d: got %d bytes, want %d: %q", n, len(got), len(part), firstDifference(got, part))
		}
	}
	step(1)
	upTo(1, text)
	d.signal(syscall.SIGTERM)
	d.wait()
	step(2) // nobody is there
	upTo(2, shown)
	d = startHub(t, dir, state)
	upTo(2, text)
	step(3) // in the middle of it the hub is killed
	d.kill()
	upTo(3, shown)
	d = startHub(t, dir, state)
	upTo(3, text)
	d.kill() // it had all, and forgets all
	step(4)
	d = startHub(t, dir, state)
	upTo(4, text)
	late, all, _ := d.hubctl("attach", "--no-stdin", "log") // the producer has brought back what was
	eventually(t, "everybody is back", func() bool { return strings.Contains(events.String(), "line 1200 ") })
	upTo(4, all)
	step(5)
	for _, cmd := range []*exec.Cmd{producer, plain, jsonl, late} {
		if code := exitOf(t, cmd); code != 0 {
			t.Errorf("%v ended with code %d\n%s", cmd.Args, code, cmd.Stderr)
		}
	}
	upTo(5, text)
	upTo(5, all)
	upTo(5, shown)
	// The same by the numbers.
	last := uint64(0)
	var bytesOf bytes.Buffer
	for line := range strings.Lines(events.String()) {
		var e struct {
			Seq   uint64
			Type  string
			Chunk string
			Bytes []byte
		}
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		if e.Seq <= last || e.Type == "gap" {
			t.Errorf("event %s after number %d", line, last)
		}
		last = e.Seq
		if e.Bytes == nil {
			e.Bytes = []byte(e.Chunk)
		}
		bytesOf.Write(e.Bytes)
	}
	if got := bytesOf.String(); got != want.String() {
		t.Errorf("the events have %d bytes, want %d: %q", len(got), want.Len(), firstDifference(got, want.String()))
	}
}

// firstDifference returns a piece of got from where it differs from want.
func firstDifference(got, want string) string {
	i := 0
	for i < len(got) && i < len(want) && got[i] == want[i] {
		i++
	}
	return got[max(0, i-20):min(len(got), i+60)]
}

// A prompt is answered with one key, by who is first.
func TestPermissionPromptsOnATerminal(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	ada := onTerminal(t, d, 100, 30, "attach", "-i", "demo")
	bob := onTerminal(t, d, 100, 30, "attach", "--interactive", "demo")
	ada.sees("attached to demo")
	bob.sees("attached to demo")
	ask := func(id string) {
		t.Helper()
		event := fmt.Sprintf(`event:={"type":"permission_request","details":{"tool_id":%q,"tool_type":"terminal","command":"rm -rf %s","risk_level":"HIGH"}}`, id, id)
		if _, talk, code := d.run("", "hubctl", "call", "session.publish", "session=demo", event); code != 0 {
			t.Fatal(talk)
		}
	}
	ask("one")
	ask("two")
	ada.sees("permission asked: terminal: rm -rf one (risk HIGH)", "[y]es")
	bob.sees("rm -rf one", "[y]es")
	ada.typeKeys("?y") // the first key means nothing
	ada.sees("answered: APPROVE_ONCE", "rm -rf two")
	bob.sees("permission was decided by ada-", "APPROVE_ONCE", "rm -rf two")
	bob.typeKeys("n")
	bob.sees("answered: DENY")
	ada.sees("DENY")
	ask("three")
	ada.sees("rm -rf three")
	ada.typeKeys("\x1b") // later
	ada.sees("later;")
	ada.typeKeys("typed")
	bob.sees("> typed") // that was for the session
	ada.typeKeys(commandKey + "answer no\r")
	ada.sees("answered: DENY")
	ada.typeKeys("call permission.respond tool_id=three response=deny\r")
	ada.sees("no pending prompt for three")
	ada.typeKeys("detach\r")
	ada.left(0)
	bob.typeKeys(detachKeys)
	bob.left(0)
}

// The command line and the detach keys, as they can be configured, and a hub
// that is killed: the terminal is as it was.
func TestAttachLeavesTheTerminalAsItWas(t *testing.T) {
	t.Parallel()
	d := startHub(t, shortDir(t), filepath.Join(shortDir(t), "state"))
	keys := onTerminal(t, d, 100, 30, "attach", "-i", "hub", "--detach-keys", "ctrl-a,d", "--command-key", "ctrl-]")
	keys.sees("Ctrl-A d detaches, Ctrl-] opens a command line")
	keys.typeKeys("\x1dcall echo {\"a\": [1, 2]}\r")
	keys.sees(`"a": [`)
	keys.typeKeys("echo.x 1\r")
	keys.sees(`unknown command "echo.x"`, "to call a method: call echo.x")
	keys.typeKeys("hel\t\r")
	keys.sees("Tab completes")
	keys.typeKeys("call health.ping --stream count:=-1 interval:=0.05\r")
	keys.sees("null\nnull\nnull")
	keys.typeKeys("\x03")
	keys.sees("cancelled")
	if _, talk, code := d.run("", "hubctl", "publish", "hub", "rendered=held back"); code != 0 {
		t.Fatal(talk)
	}
	keys.typeKeys("call echo [77]\r")
	keys.sees("77")
	if strings.Contains(keys.screen.Text(), "held back") {
		t.Error("output of the session is between the lines of the command line")
	}
	keys.typeKeys("\x1d") // leaves, and is sent itself
	keys.sees("held back")
	keys.typeKeys("x\x01y\x01d")
	keys.left(0)

	reader := onTerminal(t, d, 80, 24, "attach", "hub")
	typist := onTerminal(t, d, 80, 24, "attach", "-i", "hub")
	blind := onTerminal(t, d, 80, 24, "attach", "--no-stdin", "hub")
	for _, x := range []*terminal{reader, typist, blind} {
		x.sees("attached to hub")
	}
	d.kill()
	for _, x := range []*terminal{reader, typist, blind} {
		x.sees("connection lost")
	}
	reader.typeKeys("\x03")
	reader.left(130)
	typist.typeKeys("\x03") // nobody takes it, so it means what it always means
	typist.left(130)
	blind.cmd.Process.Signal(syscall.SIGTERM)
	blind.left(130)
}

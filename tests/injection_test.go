package tests

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
)

// hostileText is what a terminal obeys: it sets the clipboard and a title, hides
// and colours text, asks what the terminal is, moves the cursor, rings, and
// turns the direction of text around.
const hostileText = "A\x1b]52;c;aGk=\aB\x1b[8mC\u009b31mD\u009d0;title\u009cE\u202eF\u2066G\x7fH\x1bcI\rJ"

// obeyed are the parts of it that must not reach a terminal.
var obeyed = []string{"\x1b]", "\x1b[8m", "\x1bc", "\u009b", "\u009d", "\u009c", "\u202e", "\u2066", "\x7f", "\a", "I\rJ"}

func checkUnobeyed(t *testing.T, what, wrote string) {
	t.Helper()
	for _, bad := range obeyed {
		if strings.Contains(wrote, bad) {
			t.Errorf("%s: %q reaches the terminal in %q", what, bad, wrote)
		}
	}
}

// What others have stored, published or called themselves is shown on a
// terminal and not obeyed by it, in every format and in errors, too. A pipe gets
// the bytes as they are.
func TestTextOfOthersDoesNotControlTheTerminal(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, "--file-root", t.TempDir())
	literal, err := json.Marshal(hostileText)
	if err != nil {
		t.Fatal(err)
	}
	call := func(args ...string) {
		t.Helper()
		if _, talk, code := d.run("", append([]string{"hubctl", "call"}, args...)...); code != 0 {
			t.Fatalf("%v: %s", args, talk)
		}
	}
	call("state.put", "key=text", "value:="+string(literal))
	call("state.put", "key=deep", fmt.Sprintf(`value:={"a":[{%s:%s}]}`, literal, literal))
	call("session.open", "name=job", "title="+hostileText, fmt.Sprintf(`meta:={"m":%s}`, literal))
	call("session.publish", "session=job", fmt.Sprintf(`event:={"type":"output","rendered":%s}`, literal))
	if _, talk, code := d.run(hostileText, "hubctl", "file", "put", "-", "bad"); code != 0 {
		t.Fatal(talk)
	}

	for _, args := range []string{
		"state get text", "state get text -o json", "state get text -o jsonl", "state get text -o yaml", "state get text -o raw",
		"state get text -o table", "state get deep", "state get deep -o yaml", "state get deep -o raw", "state get deep -o table",
		"state ls", "state ls -o json", "state ls -o yaml", "state export", "state history text", "state history text -o yaml",
		"session ls", "session ls -o json", "session ls -o yaml",
		"call session.info session=job -o yaml", "call session.info session=job -o table", "call session.list --color always",
		"session info job", "session info job -o json", "session logs job", "session logs job --tail 3", "session history job", "file get bad -", "call echo TEXT", "call echo TEXT -o raw",
	} {
		words := strings.Fields(args)
		for i, word := range words {
			if word == "TEXT" {
				words[i] = string(literal)
			}
		}
		x := onTerminal(t, d, 300, 50, words...)
		<-x.exited
		x.left(0)
		eventually(t, args+" shows the text", func() bool { return strings.Contains(x.wrote(), `\u009b31m`) })
		checkUnobeyed(t, args, x.wrote())
	}

	// Errors, hints and the names that commands are given.
	for _, args := range [][]string{
		{"call", "state.get", "key=" + hostileText}, {"state", "get", hostileText}, {hostileText}, {"attach", hostileText},
		{"call", "session.close", "session=" + hostileText}, {"methods", hostileText}, {"--socket", "/x" + hostileText, "ping"},
		{"--output", hostileText, "ping"}, {"run", "--size", hostileText, "true"},
	} {
		x := onTerminal(t, d, 300, 50, args...)
		<-x.exited
		x.sees("hubctl: ")
		checkUnobeyed(t, strings.Join(args, " "), x.wrote())
	}

	out, _, code := d.run("", "hubctl", "state", "get", "text", "-o", "raw")
	if code != 0 || out != hostileText+"\n" {
		t.Errorf("a pipe gets %q", out)
	}
	if out, _, _ = d.run("", "hubctl", "file", "get", "bad", "-"); out != hostileText {
		t.Errorf("a pipe gets %q of a file", out)
	}
}

// Anybody may publish text, so attach shows it as text. Output of a program
// on a terminal comes from the session's owner alone, and passes as it is.
func TestAttachShowsTextAndPassesOutputOfPrograms(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	literal, err := json.Marshal(hostileText)
	if err != nil {
		t.Fatal(err)
	}
	follow, watch := onTerminal(t, d, 200, 50, "attach", "demo"), onTerminal(t, d, 200, 50, "attach", "-o", "yaml", "demo")
	follow.sees("attached to demo")
	watch.sees("attached to demo")
	for _, event := range []string{
		`{"type":"output","rendered":TEXT}`, `{"type":"message","message_type":TEXT,"content":TEXT}`, `{"type":"stream_chunk","chunk":TEXT}`,
		`{"type":TEXT,"x":TEXT}`, `{"type":"permission_request","details":{"tool_id":"t","command":TEXT}}`,
		`{"type":"permission_resolved","tool_id":"t","response":TEXT,"client_id":TEXT}`, `{"type":"output","rendered":"the end"}`,
	} {
		if _, talk, code := d.run("", "hubctl", "call", "session.publish", "session=demo", "event:="+strings.ReplaceAll(event, "TEXT", string(literal))); code != 0 {
			t.Fatal(talk)
		}
	}
	for _, x := range []*terminal{follow, watch} {
		x.sees("the end")
		checkUnobeyed(t, x.name, x.wrote())
	}

	// Also through the command line.
	if _, talk, code := d.run("", "hubctl", "call", "state.put", "key=text", "value:="+string(literal)); code != 0 {
		t.Fatal(talk)
	}
	follow.typeKeys(commandKey + "state get text -o raw\rcall nope." + "\r")
	follow.sees("]52;c;aGk=", "no such method", "hubd> ")
	checkUnobeyed(t, "the command line", follow.wrote())
	follow.typeKeys("detach\r")
	follow.left(0)

	// Who does not own the session cannot make bytes for the terminal of them.
	_, _, _ = d.hubctl("run", "-s", "job", "--", "sh", "-c", "printf '\\033[1mbold\\033[0m\\n'; exec sleep 600")
	eventually(t, "the session is open", func() bool {
		_, _, code := d.run("", "hubctl", "call", "session.info", "session=job")
		return code == 0
	})
	job := onTerminal(t, d, 80, 24, "attach", "job")
	job.sees("bold")
	if !strings.Contains(job.wrote(), "\x1b[1mbold") {
		t.Errorf("output of the program is changed: %q", job.wrote())
	}
	_, talk, code := d.run("", "hubctl", "call", "session.publish", "session=job", `event:={"type":"stream_chunk","chunk":"\u001b]52;c;aGk=\u0007","tty":true}`)
	if code == 0 || !strings.Contains(talk, "owner") {
		t.Errorf("a bystander publishes bytes for terminals: code %d, %q", code, talk)
	}
	job.typeKeys(detachKeys)
	job.left(0)
}

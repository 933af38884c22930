package tests

import (
	"strings"
	"testing"
)

// Keys that are not UTF-8 are not sent as something else: whoever types them is
// told, and what follows goes to the session.
func TestTypedBytesAreNotReplaced(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	x := onTerminal(t, d, 90, 24, "attach", "-i", "demo")
	x.sees("attached to demo")
	x.typeKeys("\xff\xfe")
	x.sees("not sent: bytes that are not UTF-8")
	x.typeKeys("straße")
	env := append(cleanEnv(d.dir), "HUBD_SOCKET="+d.socket)
	eventually(t, "what was typed comes to the session", func() bool {
		return strings.Contains(typedText(t, env), "straße")
	})
	if got := typedText(t, env); got != "straße" {
		t.Errorf("the session got %q", got)
	}
	x.typeKeys("\x10\x11")
	x.left(0)
}

// typedText is all that was typed into the session demo.
func typedText(t *testing.T, env []string) string {
	t.Helper()
	var text strings.Builder
	for line := range strings.SplitSeq(hubctl(t, env, "session", "history", "demo", "-o", "json"), "\n") {
		if _, after, ok := strings.Cut(line, `"text": "`); ok {
			text.WriteString(strings.TrimRight(after, `",`))
		}
	}
	return text.String()
}

package tests

import (
	"net"
	"syscall"
	"testing"
)

func TestShutdownLetsRunningCallsFinish(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	// The method is that of another client, which answers when it is time.
	provider, w := &nativeValues{w: d.dial()}, d.dial()
	mustCall(t, provider, "hub.provide", `"box"`, `["hold"]`)
	w.send(request("run", "box.hold", `["for a while"]`))
	provider.asked()
	d.signal(syscall.SIGTERM)
	eventually(t, "the hub accepts no more", func() bool {
		c, err := net.Dial("unix", d.socket)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	w.send(request("new", "demo.sleep", `{"seconds":0}`))
	if f := w.frame(); f.id() != "new" || f.kind() != "unavailable" {
		t.Errorf("a call after the signal: got %s, want unavailable", f.line)
	}
	provider.reply("1")
	if f := w.frame(); f.id() != "run" || w.result(f) != "1" {
		t.Errorf("the running call: got %s, want its result", f.line)
	}
	if rest := w.end(); rest != "" {
		t.Errorf("then came %q, want the end", rest)
	}
	if code := d.wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

// A call that outlives the drain limit is cancelled and told why.
func TestShutdownCancelsWhatDoesNotEnd(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	w.send(request("long", "demo.sleep", `{"seconds":600}`, `"timeout":600`))
	d.waitCalls("demo.sleep", 1)
	d.signal(syscall.SIGTERM)
	if f := w.frame(); f.id() != "long" || f.kind() != "unavailable" || f.text() == "" {
		t.Errorf("got %s, want unavailable", f.line)
	}
	if code := d.wait(); code != 0 {
		t.Errorf("exit code %d, want 0", code)
	}
}

func TestSecondSignalStopsAtOnce(t *testing.T) {
	t.Parallel()
	d := startDaemon(t)
	w := d.dial()
	w.send(request("long", "demo.sleep", `{"seconds":600}`, `"timeout":600`))
	d.waitCalls("demo.sleep", 1)
	d.signal(syscall.SIGTERM)
	eventually(t, "the hub accepts no more", func() bool {
		c, err := net.Dial("unix", d.socket)
		if err == nil {
			c.Close()
		}
		return err != nil
	})
	d.signal(syscall.SIGTERM)
	if code := d.wait(); code == 0 {
		t.Error("exit code 0: the second signal changed nothing")
	}
}

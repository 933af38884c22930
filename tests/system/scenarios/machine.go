package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/deploy"
)

const (
	socket   = "/run/hubd/hub.sock"
	unitDir  = "/usr/lib/systemd/system"
	patience = time.Minute // bounds every wait; it measures nothing
)

// machine is the box, and the verdict on what happens in it.
type machine struct {
	ctx    context.Context
	failed bool
}

// figure prints what was measured.
func (m *machine) figure(format string, args ...any) { fmt.Printf("figure: "+format+"\n", args...) }

// errorf notes a failure.
func (m *machine) errorf(format string, args ...any) {
	m.failed = true
	fmt.Printf("FAIL: "+format+"\n", args...)
}

// fatalf notes a failure and ends the scenario.
func (m *machine) fatalf(format string, args ...any) {
	m.errorf(format, args...)
	os.Exit(1)
}

// must ends the scenario if something went wrong that it is not about.
func (m *machine) must(err error) {
	if err != nil {
		m.fatalf("%v", err)
	}
}

// try runs a program and returns what it printed, without the last newline.
func (m *machine) try(name string, args ...string) (string, error) {
	out, err := exec.CommandContext(m.ctx, name, args...).CombinedOutput()
	return strings.TrimSuffix(string(out), "\n"), err
}

// run runs a program that must work.
func (m *machine) run(name string, args ...string) string {
	out, err := m.try(name, args...)
	if err != nil {
		m.fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return out
}

// systemctl runs a verb that must work.
func (m *machine) systemctl(args ...string) string { return m.run("systemctl", args...) }

// property is one of systemctl show.
func (m *machine) property(unit, name string) string {
	return m.run("systemctl", "show", "--property="+name, "--value", unit)
}

// until waits for something that is about to become true.
func (m *machine) until(what string, f func() bool) {
	for deadline := time.Now().Add(patience); !f(); {
		if time.Now().After(deadline) {
			status, _ := m.try("systemctl", "status", "--no-pager", "--lines=30", "hubd.service", "hubd.socket")
			m.fatalf("did not happen: %s\n%s", what, status)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// write makes a file and the folders above it.
func (m *machine) write(path, text string) {
	m.must(os.MkdirAll(filepath.Dir(path), 0o755))
	m.must(os.WriteFile(path, []byte(text), 0o644))
}

// install puts programs, units and user where a package puts them.
func (m *machine) install() {
	for _, program := range []string{"hubd", "hubctl"} {
		m.run("install", "-m755", "/box/"+program, "/usr/bin/"+program)
	}
	for from, to := range map[string]string{
		"systemd/hubd.service": unitDir + "/hubd.service", "systemd/hubd.socket": unitDir + "/hubd.socket",
		"sysusers.d/hubd.conf": "/usr/lib/sysusers.d/hubd.conf", "tmpfiles.d/hubd.conf": "/usr/lib/tmpfiles.d/hubd.conf",
	} {
		text, err := deploy.Systemd.ReadFile(from)
		m.must(err)
		m.write(to, string(text))
	}
	m.run("systemd-sysusers")
	m.run("systemd-tmpfiles", "--create", "/usr/lib/tmpfiles.d/hubd.conf")
	m.systemctl("daemon-reload")
}

// dropIn changes hubd.service for this scenario.
func (m *machine) dropIn(text string) {
	m.write("/etc/systemd/system/hubd.service.d/scenario.conf", "[Service]\n"+text+"\n")
	m.systemctl("daemon-reload")
}

// client is a connection to the hub, which is started by it if need be.
func (m *machine) client() *client.Client {
	c, err := client.Dial(m.ctx, socket, &client.Options{Reconnect: patience})
	if err != nil {
		m.fatalf("dial: %v", err)
	}
	return c
}

// get asks the hub over HTTP on its socket.
func (m *machine) get(path string) string {
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	r, err := c.Get("http://hub" + path)
	if err != nil {
		m.fatalf("GET %s: %v", path, err)
	}
	defer r.Body.Close()
	body, err := io.ReadAll(r.Body)
	m.must(err)
	return string(body)
}

// metric is the value of a series, "" when there is none.
func (m *machine) metric(series string) string {
	for line := range strings.Lines(m.get("/metrics")) {
		if v, ok := strings.CutPrefix(line, series+" "); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}

// expect compares.
func (m *machine) expect(what, got, want string) {
	if got != want {
		m.errorf("%s is %q, want %q", what, got, want)
	}
}

package main

import (
	"os"
	"path/filepath"
	"strings"
	"time"
)

// manager installs, upgrades and removes packages.
type manager struct {
	suffix  string
	install []string
	upgrade []string
	again   []string // the version that is there
	remove  []string
	purge   []string // nil: there is no such thing
}

// package-deb and package-rpm: install, start, call, upgrade with open clients,
// remove, and purge what dpkg knows how to purge. /box/old and /box/new have
// the packages, of the versions 1.0.0 and 1.1.0.

func packageDeb(m *machine) {
	m.packages(manager{
		suffix: ".deb", install: []string{"dpkg", "--install"}, upgrade: []string{"dpkg", "--install"}, again: []string{"dpkg", "--install"},
		remove: []string{"dpkg", "--remove", "hubd"}, purge: []string{"dpkg", "--purge", "hubd"},
	})
}

func packageRPM(m *machine) {
	// The box is a Debian: its rpm knows of no other packages.
	m.packages(manager{
		suffix: ".rpm", install: []string{"rpm", "--install", "--nodeps"}, upgrade: []string{"rpm", "--upgrade", "--nodeps"}, again: []string{"rpm", "--upgrade", "--replacepkgs", "--nodeps"},
		remove: []string{"rpm", "--erase", "hubd"},
	})
}

func (m *machine) packages(by manager) {
	file := func(folder string) string {
		names, err := filepath.Glob("/box/" + folder + "/*" + by.suffix)
		if err != nil || len(names) != 1 {
			m.fatalf("packages in /box/%s: %v %v", folder, names, err)
		}
		return names[0]
	}
	do := func(command []string, more ...string) {
		out := m.run(command[0], append(command[1:], more...)...)
		for line := range strings.Lines(out) {
			saved := strings.Contains(line, "saved as") // what rpm does with a changed configuration
			if (strings.Contains(line, "warning") || strings.Contains(line, "rror")) && !saved {
				m.errorf("%v said:\n%s", command, out)
			}
		}
	}

	// Install: the socket listens, nothing runs yet.
	do(by.install, file("old"))
	m.expect("the socket after the installation", m.property("hubd.socket", "ActiveState"), "active")
	m.expect("the socket's unit file", m.property("hubd.socket", "UnitFileState"), "enabled")
	m.expect("the service after the installation", m.property("hubd.service", "ActiveState"), "inactive")
	m.checkSocket()
	if out, err := m.try("systemd-analyze", "verify", "hubd.socket", "hubd.service"); err != nil || out != "" {
		m.errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	for _, path := range []string{
		"/usr/share/man/man8/hubd.8.gz", "/usr/share/man/man1/hubctl.1.gz", "/usr/share/man/man1/hubctl-state-put.1.gz",
		"/usr/share/man/man5/hubd.yaml.5.gz", "/usr/share/bash-completion/completions/hubctl", "/usr/share/doc/hubd/prometheus/alerts.yml",
	} {
		if st, err := os.Stat(path); err != nil || st.Size() == 0 {
			m.errorf("%s: %v", path, err)
		}
	}
	m.run("bash", "-n", "/usr/share/bash-completion/completions/hubctl")
	if out := m.run("hubd", "--version"); !strings.HasPrefix(out, "hubd 1.0.0 ") {
		m.errorf("hubd --version: %s", out)
	}
	m.run("hubd", "config", "check", "--config", configFile)

	// Call, and change what an upgrade must keep.
	m.run("hubctl", "call", "echo", "1")
	c := m.client()
	for i := range 20 {
		m.put(c, i)
	}
	m.write(configFile, "log: {level: warn}\n")
	m.systemctl("reload", "hubd")

	// Upgrade, with a client that stays and others that come all the time.
	old := m.pid()
	k := knocking(3)
	k.answers(m)
	began := time.Now()
	do(by.upgrade, file("new"))
	took := time.Since(began)
	k.answers(m)
	k.end(m)
	k.unharmed(m)
	m.figure("upgraded in %v", took.Round(time.Millisecond))
	if m.pid() == old {
		m.errorf("the old hub still runs")
	}
	if out := m.run("hubctl", "status"); !strings.Contains(out, "1.1.0") {
		m.errorf("the hub that runs now is not the new one:\n%s", out)
	}
	m.holds(c, 20) // over the connection of before, made again by the client
	if text, err := os.ReadFile(configFile); err != nil || string(text) != "log: {level: warn}\n" {
		m.errorf("the configuration after the upgrade: %v\n%s", err, text)
	}

	// Once more the same: nothing is lost, the hub runs on or anew.
	do(by.again, file("new"))
	m.expect("the socket's unit file after a second installation", m.property("hubd.socket", "UnitFileState"), "enabled")
	m.holds(c, 20)

	// Remove: no process, no unit, no socket; the state stays.
	do(by.remove)
	c.Close()
	m.expect("the service after the removal", m.property("hubd.service", "LoadState"), "not-found")
	m.expect("the socket after the removal", m.property("hubd.socket", "LoadState"), "not-found")
	if failed := m.run("systemctl", "--failed", "--plain", "--no-legend"); failed != "" {
		m.errorf("failed units after the removal:\n%s", failed)
	}
	if out, err := m.try("pgrep", "-x", "hubd"); err == nil {
		m.errorf("still running: %s", out)
	}
	for _, path := range []string{"/usr/bin/hubd", "/run/hubd", "/etc/systemd/system/sockets.target.wants/hubd.socket"} {
		if _, err := os.Lstat(path); err == nil {
			m.errorf("%s is left", path)
		}
	}

	// Again: the state is still there.
	do(by.install, file("new"))
	m.holds(m.client(), 20)
	if by.purge == nil {
		return
	}
	do(by.purge)
	for _, path := range []string{"/var/lib/hubd", "/etc/hubd", "/usr/share/doc/hubd"} {
		if _, err := os.Lstat(path); err == nil {
			m.errorf("%s is left after the purge", path)
		}
	}
	// Nothing is left anywhere; /box has the packages themselves.
	if out := m.run("find", "/etc", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/var", "-name", "*hubd*", "-o", "-name", "*hubctl*"); out != "" {
		m.errorf("left after the purge:\n%s", out)
	}
	do(by.install, file("old"))
	m.run("hubctl", "call", "echo", "2")
}

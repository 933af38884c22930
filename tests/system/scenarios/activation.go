package main

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strings"
	"syscall"
)

// activation: the socket is there before the hub, the first connection starts
// it, and stopping it leaves the socket for the next one.
func activation(m *machine) {
	m.install()
	m.systemctl("enable", "--now", "hubd.socket")
	m.expect("the service before the first connection", m.property("hubd.service", "ActiveState"), "inactive")
	before := m.checkSocket()

	m.run("hubctl", "call", "echo", "1")
	m.expect("the service after it", m.property("hubd.service", "ActiveState"), "active")
	if got := m.property("hubd.service", "StatusText"); !strings.HasPrefix(got, "ready: ") || !strings.Contains(got, " answered, ") {
		m.errorf("STATUS=%q", got)
	}
	pid := m.property("hubd.service", "MainPID")
	environment, err := os.ReadFile("/proc/" + pid + "/environ")
	m.must(err)
	for _, want := range []string{"LISTEN_FDS=1", "LISTEN_FDNAMES=hub", "WATCHDOG_USEC=30000000", "STATE_DIRECTORY=/var/lib/hubd"} {
		if !strings.Contains("\x00"+string(environment), "\x00"+want+"\x00") {
			m.errorf("the hub was started without %s", want)
		}
	}

	// The journal has the fields of an entry, and not only its text.
	m.systemctl("reload", "hubd")
	bad, err := net.Dial("unix", socket)
	m.must(err)
	_, err = bad.Write([]byte("{no frame\n"))
	m.must(err)
	var entry map[string]any
	m.until("the journal has an entry with fields", func() bool {
		out := m.run("journalctl", "-u", "hubd", "-o", "json", "--no-pager", "HUBD_PROTOCOL=kollabor", "-n1")
		return json.Unmarshal([]byte(out), &entry) == nil
	})
	bad.Close()
	for name, want := range map[string]string{"PRIORITY": "6", "SYSLOG_IDENTIFIER": "hubd", "_SYSTEMD_UNIT": "hubd.service", "HUBD_PROTOCOL": "kollabor"} {
		m.expect("journal field "+name, fmt.Sprint(entry[name]), want)
	}

	m.systemctl("stop", "hubd.service")
	m.expect("the socket after stopping the service", m.property("hubd.socket", "ActiveState"), "active")
	if after := m.checkSocket(); after != before {
		m.errorf("the socket file was replaced: inode %d, then %d", before, after)
	}
	m.run("hubctl", "call", "echo", "2")
	m.expect("the service after the next connection", m.property("hubd.service", "ActiveState"), "active")
	m.systemctl("stop", "hubd.socket")
	m.until("the service stops with its socket", func() bool { return m.property("hubd.service", "ActiveState") == "inactive" })
	if _, err := os.Lstat(socket); err == nil {
		m.errorf("the socket file is left behind")
	}
	m.expect("the result", m.property("hubd.service", "Result"), "success")
}

// checkSocket looks at who may use the socket file and returns its inode.
func (m *machine) checkSocket() uint64 {
	st, err := os.Lstat(socket)
	m.must(err)
	u, err := user.Lookup("hubd")
	m.must(err)
	s := st.Sys().(*syscall.Stat_t)
	m.expect("the socket's mode", st.Mode().String(), "Srw-rw----")
	m.expect("the socket's owner", fmt.Sprintf("%d:%d", s.Uid, s.Gid), u.Uid+":"+u.Gid)
	return s.Ino
}

// hardening: what systemd thinks of the unit, what the kernel says of the
// process, and who gets in.
func hardening(m *machine) {
	m.install()
	// verify answers 0 for misspelt directives: silence is what counts.
	if out, err := m.try("systemd-analyze", "verify", unitDir+"/hubd.socket", unitDir+"/hubd.service"); err != nil || out != "" {
		m.errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	m.systemctl("start", "hubd.socket", "hubd.service")
	for _, arguments := range [][]string{
		{"--offline=true", "--threshold=15", unitDir + "/hubd.service"}, {"--threshold=15", "hubd.service"},
	} {
		out, err := m.try("systemd-analyze", append([]string{"security", "--no-pager"}, arguments...)...)
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if err != nil {
			m.errorf("systemd-analyze security %v: %v\n%s", arguments, err, out)
		}
		m.figure("%v: %s", arguments[0], strings.TrimSpace(strings.TrimPrefix(lines[len(lines)-1], "→")))
	}

	pid := m.property("hubd.service", "MainPID")
	status, err := os.ReadFile("/proc/" + pid + "/status")
	m.must(err)
	for _, want := range []string{"NoNewPrivs:\t1", "Seccomp:\t2", "CapEff:\t0000000000000000", "CapBnd:\t0000000000000000"} {
		if !strings.Contains(string(status), want+"\n") {
			m.errorf("the process has no %q", want)
		}
	}
	if strings.Contains(string(status), "\nUid:\t0\t") {
		m.errorf("the hub runs as root")
	}
	if m.metric("process_start_time_seconds") == "" {
		m.errorf("there is no process_start_time_seconds: /proc is closed too far")
	}
	for path, want := range map[string]string{"/var/lib/hubd": "drwx------", "/run/hubd": "drwxr-xr-x", "/etc/hubd": "drwxr-xr-x"} {
		st, err := os.Stat(path)
		m.must(err)
		m.expect(path, st.Mode().String(), want)
	}

	// Strangers are kept out by the file, members of the group are let in.
	m.run("useradd", "-m", "stranger")
	m.run("useradd", "-m", "-G", "hubd", "member")
	as := func(name string, command ...string) (string, error) {
		return m.try("runuser", append([]string{"-u", name, "--", "hubctl", "--socket", socket}, command...)...)
	}
	if out, err := as("stranger", "ping"); err == nil || !strings.Contains(out, "permission denied") {
		m.errorf("a stranger: %v %s", err, out)
	}
	for _, command := range [][]string{{"ping"}, {"state", "ls"}, {"session", "ls"}, {"session", "history", "hub"}} {
		if out, err := as("member", command...); err != nil {
			m.errorf("a member of the group: %v: %v %s", command, err, out)
		}
	}
	writes := [][]string{{"state", "put", "k", "1"}, {"publish", "hub", "rendered=hello"}}
	own := []string{"run", "-s", "own", "--", "true"}
	refused := func(who, scope string, commands ...[]string) {
		for _, command := range commands {
			if out, err := as(who, command...); err == nil || !strings.Contains(out, "the scope "+scope) {
				m.errorf("%s: %v: %v %s, want a refusal for lack of %s", who, command, err, out, scope)
			}
		}
	}
	refused("member", "call", writes...)
	refused("member", "provide", own)

	// As docs/operations.md has it.
	m.run("useradd", "-m", "-G", "hubd", "alice")
	m.write("/etc/hubd/conf.d/peers.yaml", "peers:\n  \"@hubd\": [read, call]\n  alice: [read, call, provide]\n")
	m.systemctl("reload", "hubd")
	for _, command := range writes {
		if out, err := as("member", command...); err != nil {
			m.errorf("a member of a group that may call: %v: %v %s", command, err, out)
		}
	}
	refused("member", "provide", own)
	refused("member", "admin", []string{"token", "ls"})
	if out, err := as("alice", own...); err != nil {
		m.errorf("a user who may provide: %v %s", err, out)
	}
	if names, _ := filepath.Glob("/var/lib/hubd/*"); len(names) == 0 {
		m.errorf("the state is not in /var/lib/hubd")
	}
}

package main

import (
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"strings"

	"github.com/hubd-dev/hubd/deploy"
)

// as runs a program as a user with a session of its own.
func (m *machine) as(u *user.User, args ...string) (string, error) {
	return m.try("runuser", append([]string{"-u", u.Username, "--", "env", "XDG_RUNTIME_DIR=/run/user/" + u.Uid, "HOME=" + u.HomeDir}, args...)...)
}

// tester makes a user whose service manager runs.
func (m *machine) tester() *user.User {
	m.run("useradd", "-m", "tester")
	m.run("loginctl", "enable-linger", "tester")
	u, err := user.Lookup("tester")
	m.must(err)
	m.until("the user's service manager runs", func() bool {
		_, err := m.as(u, "systemctl", "--user", "is-system-running")
		return err == nil
	})
	return u
}

// user-unit: the same for a user, without any privilege.
func userUnit(m *machine) {
	for _, program := range []string{"hubd", "hubctl"} {
		m.run("install", "-m755", "/box/"+program, "/usr/bin/"+program)
	}
	for _, name := range []string{"hubd.service", "hubd.socket"} {
		text, err := deploy.Systemd.ReadFile("systemd/user/" + name)
		m.must(err)
		m.write("/usr/lib/systemd/user/"+name, string(text))
	}
	u := m.tester()
	must := func(args ...string) string {
		out, err := m.as(u, args...)
		if err != nil {
			m.fatalf("%v: %v\n%s", args, err, out)
		}
		return out
	}
	if out, err := m.as(u, "systemd-analyze", "verify", "--user", "/usr/lib/systemd/user/hubd.socket", "/usr/lib/systemd/user/hubd.service"); err != nil || out != "" {
		m.errorf("systemd-analyze verify --user: %v\n%s", err, out)
	}
	must("systemctl", "--user", "daemon-reload")
	must("systemctl", "--user", "enable", "--now", "hubd.socket")
	m.expect("the service before the first connection", must("systemctl", "--user", "show", "--property=ActiveState", "--value", "hubd.service"), "inactive")
	// hubctl finds the socket by itself.
	must("hubctl", "state", "put", "user/key", "7")
	must("systemctl", "--user", "restart", "hubd.service")
	m.expect("the value after a restart", must("hubctl", "state", "get", "user/key"), "7")
	state := must("systemctl", "--user", "show", "--property=StatusText", "--value", "hubd.service")
	if !strings.HasPrefix(state, "ready: ") {
		m.errorf("STATUS=%q", state)
	}
	// systemd 252 has the folder below .config, 254 and newer below .local/state.
	found := ""
	for _, dir := range []string{".config/hubd", ".local/state/hubd"} {
		if _, err := os.Stat(filepath.Join(u.HomeDir, dir, "store")); err == nil {
			found = dir
		}
	}
	if found == "" {
		m.errorf("the state is in none of the folders that systemd makes")
	}
	m.figure("the state of the user's hub is in ~/%s", found)
	if st, err := os.Stat("/run/user/" + u.Uid + "/hubd/hub.sock"); err != nil || st.Mode().Perm() != 0o600 {
		m.errorf("the socket: %v %v", st, err)
	}
	must("systemctl", "--user", "stop", "hubd.socket", "hubd.service")
}

// service-install: "hubd service install" installs exactly the units that are
// shipped, but for the path of the binary, and "uninstall" removes them.
func serviceInstall(m *machine) {
	const binary = "/usr/local/bin/hubd"
	m.run("install", "-m755", "/box/hubd", binary)
	m.run("install", "-m755", "/box/hubctl", "/usr/local/bin/hubctl")
	compare := func(dir, folder string, names ...string) {
		for _, name := range names {
			want, err := deploy.Systemd.ReadFile(folder + "/" + name)
			m.must(err)
			got, err := os.ReadFile(filepath.Join(dir, name))
			if text := strings.ReplaceAll(string(want), "=/usr/bin/hubd", "="+binary); err != nil || string(got) != text {
				m.errorf("%s/%s differs from what is shipped: %v\n%s", dir, name, err, got)
			}
		}
	}
	fmt.Println(m.run(binary, "service", "install"))
	compare("/etc/systemd/system", "systemd", "hubd.service", "hubd.socket")
	compare("/etc/sysusers.d", "sysusers.d", "hubd.conf")
	compare("/etc/tmpfiles.d", "tmpfiles.d", "hubd.conf")
	if out, err := m.try("systemd-analyze", "verify", "hubd.socket", "hubd.service"); err != nil || out != "" {
		m.errorf("systemd-analyze verify: %v\n%s", err, out)
	}
	m.run("hubctl", "call", "echo", "1")
	for _, verb := range []string{"status", "restart", "stop", "start"} {
		fmt.Println(m.run(binary, "service", verb))
	}
	m.run("hubctl", "call", "echo", "2")
	m.expect("enabled", m.property("hubd.socket", "UnitFileState"), "enabled")
	if out, err := m.try(binary, "service", "install"); err == nil {
		m.errorf("a second install: %s", out)
	}
	fmt.Println(m.run(binary, "service", "uninstall"))
	m.expect("the service", m.property("hubd.service", "LoadState"), "not-found")
	if left, _ := m.try("sh", "-c", "find /etc -name '*hubd*' -not -path /etc/hubd"); left != "" {
		m.errorf("left in /etc:\n%s", left)
	}

	u := m.tester()
	for _, verb := range []string{"install", "status", "restart"} {
		out, err := m.as(u, binary, "service", verb)
		if err != nil {
			m.fatalf("service %s as a user: %v\n%s", verb, err, out)
		}
		fmt.Println(out)
	}
	compare(filepath.Join(u.HomeDir, ".config/systemd/user"), "systemd/user", "hubd.service", "hubd.socket")
	if out, err := m.as(u, "hubctl", "call", "echo", "3"); err != nil {
		m.errorf("call as a user: %v\n%s", err, out)
	}
	if out, err := m.as(u, binary, "service", "uninstall"); err != nil {
		m.errorf("service uninstall as a user: %v\n%s", err, out)
	}
}

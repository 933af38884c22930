package deploy

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := Systemd.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// directives are the lines of a unit that are no comments.
func directives(unit string) []string {
	var list []string
	for line := range strings.Lines(unit) {
		if line = strings.TrimSpace(line); line != "" && line[0] != '#' {
			list = append(list, line)
		}
	}
	return list
}

// What would break the hub, although it looks like more security or order.
func TestWhatUnitsMustNotHave(t *testing.T) {
	for _, name := range []string{"systemd/hubd.service", "systemd/user/hubd.service"} {
		for _, line := range directives(read(t, name)) {
			for _, bad := range []string{"PrivateUsers=", "ProcSubset=", "DynamicUser=", "RuntimeDirectory=", "IPAddressDeny=", "Type=notify-reload"} {
				if strings.HasPrefix(line, bad) {
					t.Errorf("%s has %s", name, line)
				}
			}
			if strings.Contains(line, "{{") {
				t.Errorf("%s has braces: %s", name, line)
			}
		}
	}
}

func TestUnitsFitTogether(t *testing.T) {
	for _, dir := range []string{"systemd/", "systemd/user/"} {
		service, socket := read(t, dir+"hubd.service"), read(t, dir+"hubd.socket")
		for _, want := range []string{"Type=notify\n", "ExecStart=/usr/bin/hubd\n", "Requires=hubd.socket\n", "ExecReload=/usr/bin/hubd reload\n"} {
			if !strings.Contains(service, want) {
				t.Errorf("%shubd.service lacks %q", dir, want)
			}
		}
		if !strings.Contains(socket, "/hubd/hub.sock\n") || !strings.Contains(socket, "FileDescriptorName=hub\n") {
			t.Errorf("%shubd.socket does not listen where clients look", dir)
		}
	}
}

// unpack writes the units for verification, with a binary that exists.
func unpack(t *testing.T, dir string) (service, socket string) {
	t.Helper()
	to := t.TempDir()
	for _, name := range []string{"hubd.service", "hubd.socket"} {
		text := strings.ReplaceAll(read(t, dir+name), "/usr/bin/hubd", "/bin/true")
		if err := os.WriteFile(filepath.Join(to, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return filepath.Join(to, "hubd.service"), filepath.Join(to, "hubd.socket")
}

// systemd-analyze verify answers 0 for misspelt directives: what counts is
// that it says nothing.
func TestVerify(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	service, socket := unpack(t, "systemd/")
	out, err := exec.Command("systemd-analyze", "verify", socket, service).CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("system units: %v\n%s", err, out)
	}
	service, socket = unpack(t, "systemd/user/")
	cmd := exec.Command("systemd-analyze", "verify", "--user", socket, service)
	cmd.Env = append(os.Environ(), "XDG_RUNTIME_DIR="+t.TempDir())
	out, err = cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		t.Errorf("user units: %v\n%s", err, out)
	}
}

// Exposure is at most 1.5; the threshold is ten times that.
func TestExposure(t *testing.T) {
	if _, err := exec.LookPath("systemd-analyze"); err != nil {
		t.Skip("systemd-analyze is not installed")
	}
	service, _ := unpack(t, "systemd/")
	out, err := exec.Command("systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", service).CombinedOutput()
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}

	// docs/operations.md has the figure of systemd 252.
	version, err := exec.Command("systemd-analyze", "--version").Output()
	if err != nil || !strings.HasPrefix(string(version), "systemd 252 ") {
		t.Logf("not compared with docs/operations.md: %v %.12s", err, version)
		return
	}
	_, level, _ := strings.Cut(string(out), "Overall exposure level for hubd.service: ")
	level, _, _ = strings.Cut(level, " ")
	page, err := os.ReadFile("../docs/operations.md")
	if err != nil {
		t.Fatal(err)
	}
	if level == "" || !strings.Contains(string(page), "rates the unit "+level+" (") {
		t.Errorf("docs/operations.md does not have the exposure %q", level)
	}
}

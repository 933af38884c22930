package main

import (
	"encoding/json"
	"strings"
)

// diagnosis is one line of "hubctl doctor".
type diagnosis struct{ Name, Level, Detail, Fix string }

// doctor runs "hubctl doctor" through a command that is put before it, and
// returns what it has found by name.
func (m *machine) doctor(before ...string) map[string]diagnosis {
	command := append(before, "hubctl", "doctor", "-o", "json")
	out, _ := m.try(command[0], command[1:]...) // it fails when something is broken
	if i := strings.LastIndex(out, "\n]"); i > 0 {
		out = out[:i+2] // without the words on stderr
	}
	var list []diagnosis
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		m.fatalf("doctor: %v\n%s", err, out)
	}
	found := map[string]diagnosis{}
	for _, d := range list {
		if (d.Fix == "") != (d.Level == "ok") {
			m.errorf("doctor: %+v: what is wrong, and only that, has something to do about it", d)
		}
		found[d.Name] = d
	}
	return found
}

// expectDiagnosis compares the level, and looks for a part of the text.
func (m *machine) expectDiagnosis(d diagnosis, level, text string) {
	if d.Level != level || !strings.Contains(d.Detail, text) {
		m.errorf("doctor: %+v, want level %s and %q", d, level, text)
	}
}

// doctorInBox breaks one thing after the other and does what the doctor says:
// it must be mended by that.
func doctorInBox(m *machine) {
	m.install()
	m.systemctl("enable", "--now", "hubd.socket")
	healthy := func(when string) {
		for name, d := range m.doctor() {
			if d.Level != "ok" {
				m.errorf("%s: %s: %+v", when, name, d)
			}
		}
	}
	mend := func(d diagnosis) { m.run("sh", "-c", d.Fix) }
	healthy("at first")

	m.systemctl("stop", "hubd.socket", "hubd.service")
	found := m.doctor()
	m.expectDiagnosis(found["socket"], "fail", "does not exist")
	m.expectDiagnosis(found["unit"], "fail", "hubd.service is inactive, hubd.socket is inactive")
	mend(found["unit"])
	healthy("after a stop")

	m.systemctl("stop", "hubd.socket", "hubd.service")
	m.systemctl("mask", "--runtime", "hubd.service")
	found = m.doctor()
	m.expectDiagnosis(found["unit"], "fail", "hubd.service is masked")
	mend(diagnosis{Fix: strings.Replace(found["unit"].Fix, "unmask", "unmask --runtime", 1)})
	mend(m.doctor()["unit"])
	healthy("after a mask")

	m.systemctl("disable", "hubd.socket")
	found = m.doctor()
	m.expectDiagnosis(found["unit"], "warn", "neither is enabled")
	mend(found["unit"])
	healthy("after disable")

	m.systemctl("stop", "hubd.service")
	m.write("/etc/hubd/hubd.yaml", "no_such_key: 1\n")
	_, _ = m.try("hubctl", "ping") // starts it
	// systemd tries for as long as the connection waits, then gives the socket up as
	// well, and for two seconds it starts nothing because of a connection.
	m.until("the socket has failed", func() bool { return m.property("hubd.socket", "ActiveState") == "failed" })
	found = m.doctor()
	m.expectDiagnosis(found["unit"], "fail", "hubd.service is failed")
	m.write("/etc/hubd/hubd.yaml", "log: {level: info}\n")
	_, fix, _ := strings.Cut(found["unit"].Fix, "; then ") // the first part is for people
	mend(diagnosis{Fix: fix})
	healthy("after a wrong configuration")

	m.write("/etc/hubd/hubd.yaml", "no_such_key: 1\n")
	if said, err := m.try("systemctl", "reload", "hubd.service"); err == nil {
		m.errorf("systemctl reload is content with a broken configuration: %s", said)
	}
	m.expect("the state after a refused reload", m.property("hubd.service", "ActiveState"), "active")
	m.expect("the metric of a refused reload", m.metric("hubd_config_last_reload_successful"), "0")
	if said := m.run("journalctl", "-u", "hubd", "-o", "cat", "--no-pager"); !strings.Contains(said, `/etc/hubd/hubd.yaml: [1:1] unknown key "no_such_key"`) {
		m.errorf("the journal does not say what is wrong: %s", said)
	}
	m.expectDiagnosis(m.doctor()["configuration"], "fail", "refused")
	m.write("/etc/hubd/hubd.yaml", "log: {level: info}\n")
	m.systemctl("reload", "hubd.service")
	m.expect("the metric of a reload", m.metric("hubd_config_last_reload_successful"), "1")
	healthy("after a reload")

	m.run("useradd", "stranger")
	as := []string{"runuser", "-u", "stranger", "--", "env", "USER=stranger"}
	found = m.doctor(as...)
	m.expectDiagnosis(found["socket"], "fail", "")
	fix, _, _ = strings.Cut(found["socket"].Fix, ",") // the rest is to log in again
	mend(diagnosis{Fix: strings.ReplaceAll(strings.TrimPrefix(fix, "sudo "), "$USER", "stranger")})
	found = m.doctor(as...)
	m.expectDiagnosis(found["socket"], "ok", "")
	m.expectDiagnosis(found["permission"], "warn", "admin")

	// The limit for files is low.
	m.dropIn("LimitNOFILE=256")
	m.systemctl("restart", "hubd.service")
	m.expectDiagnosis(m.doctor()["descriptors"], "warn", "of 256")
	m.dropIn("")
	m.systemctl("restart", "hubd.service")
	healthy("at last")
}

package main

import (
	"fmt"
	"os"
	"strings"
	"sync"
	"sync/atomic"
)

const configFile = "/etc/hubd/hubd.yaml"

// reloads: twenty of them under load do no harm; a bad file changes nothing
// and is told.
func reloads(m *machine) {
	m.install()
	m.write(configFile, "log:\n  level: info\n")
	m.systemctl("start", "hubd.socket", "hubd.service")
	old := m.pid()

	var calls, failures atomic.Int64
	stop := make(chan struct{})
	var wg sync.WaitGroup
	for range 4 {
		c := m.client()
		wg.Go(func() {
			for failures.Load() == 0 {
				select {
				case <-stop:
					return
				default:
				}
				for method, params := range map[string]any{
					"echo": map[string]int{"value": 1}, "ping": nil, "state.put": map[string]any{"key": "load", "value": 1},
				} {
					if err := c.Call(m.ctx, method, params, nil); err != nil {
						failures.Add(1)
						fmt.Println(method, err)
					}
				}
				calls.Add(1)
			}
		})
	}
	for i := range 20 {
		m.write(configFile, "log:\n  level: "+[]string{"warn", "info"}[i%2]+"\n")
		m.systemctl("reload", "hubd")
	}
	m.until("all reloads are done", func() bool { return m.metric(`hubd_reloads_total{result="ok"}`) != "0" })
	m.until("the hub is no longer reloading", func() bool { return m.property("hubd.service", "ActiveState") == "active" })
	reloaded := m.metric(`hubd_reloads_total{result="ok"}`)

	m.write(configFile, "log:\n  level: loud\n")
	m.try("systemctl", "reload", "hubd")
	m.until("the bad file is noticed", func() bool { return m.metric("hubd_config_last_reload_successful") == "0" })
	journal := m.run("journalctl", "-u", "hubd", "--no-pager", "-o", "cat", "-p", "err")
	if !strings.Contains(journal, "loud") {
		m.errorf("the journal does not say what is wrong with the file:\n%s", journal)
	}
	m.write(configFile, "log:\n  level: info\n")
	m.systemctl("reload", "hubd")
	m.until("the good file is taken", func() bool { return m.metric("hubd_config_last_reload_successful") == "1" })
	close(stop)
	wg.Wait()
	m.figure("%s reloads of 20 requests (those that wait are one), %d rounds of three calls meanwhile, %d failed", reloaded, calls.Load(), failures.Load())
	if failures.Load() > 0 || calls.Load() == 0 {
		m.errorf("%d of %d calls failed", failures.Load(), calls.Load())
	}
	if m.pid() != old {
		m.errorf("the hub was restarted")
	}
}

// bad-config: a file that cannot be read keeps the hub from starting. It is
// not tried for ever, and works again when the file is mended.
func badConfig(m *machine) {
	m.install()
	m.write(configFile, "log: {level: loud}\n")
	m.systemctl("start", "hubd.socket")
	if out, err := m.try("systemctl", "start", "hubd.service"); err == nil {
		m.errorf("the hub starts with a bad file: %s", out)
	}
	m.expect("the exit code", m.property("hubd.service", "ExecMainStatus"), "2")
	m.expect("restarts", m.property("hubd.service", "NRestarts"), "0")
	if journal := m.run("journalctl", "-u", "hubd", "--no-pager", "-o", "cat"); !strings.Contains(journal, "loud") {
		m.errorf("the journal does not say what is wrong:\n%s", journal)
	}
	m.must(os.Remove(configFile))
	m.systemctl("reset-failed", "hubd.service", "hubd.socket")
	m.systemctl("start", "hubd.socket")
	m.run("hubctl", "ping", "-c1")
}

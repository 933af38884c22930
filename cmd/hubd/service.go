package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"github.com/kardianos/service"

	"github.com/hubd-dev/hubd/deploy"
	"github.com/hubd-dev/hubd/internal/hub"
)

// unitName is that of the service and of its socket.
const unitName = "hubd"

// verbs are what "hubd service" can do.
var verbs = map[string]func(unit, io.Writer) error{
	"install":   unit.install,
	"uninstall": unit.uninstall,
	"start":     unit.start,
	"stop":      unit.stop,
	"restart":   unit.restart,
	"status":    unit.status,
}

// runService is "hubd service VERB": the units of the system as root, those of
// the user otherwise.
func runService(args []string, stdout, stderr io.Writer) int {
	const usage = "usage: hubd service install|uninstall|start|stop|restart|status"
	if asksForHelp(args) {
		fmt.Fprintln(stdout, usage)
		return hub.ExitOK
	}
	if len(args) != 1 || verbs[args[0]] == nil {
		fmt.Fprintln(stderr, usage)
		return hub.ExitUsage
	}
	u, err := newUnit(os.Geteuid() != 0)
	if err == nil {
		err = verbs[args[0]](u, stdout)
	}
	if err != nil {
		fmt.Fprintf(stderr, "hubd: service %s: %v\n", args[0], err)
		return hub.ExitFailure
	}
	return hub.ExitOK
}

// unit is the pair of hubd.service and hubd.socket. The library knows of the
// former only; the latter is written here.
type unit struct {
	user    bool
	dir     string // of the unit files
	binary  string
	service service.Service
	socket  string // text of hubd.socket
	script  string // text of hubd.service
}

func newUnit(user bool) (unit, error) {
	// Without a running systemd the library would fall back to init scripts.
	if platform := service.Platform(); platform != "linux-systemd" {
		if platform == "" {
			platform = "none that is known"
		}
		return unit{}, fmt.Errorf("needs a running systemd; the service manager here is %s", platform)
	}
	u := unit{user: user, dir: "/etc/systemd/system"}
	folder := "systemd"
	if user {
		config, err := os.UserConfigDir()
		if err != nil {
			return unit{}, err
		}
		u.dir, folder = filepath.Join(config, "systemd", "user"), "systemd/user"
	}
	binary, err := os.Executable()
	if err == nil {
		binary, err = filepath.EvalSymlinks(binary)
	}
	if err != nil {
		return unit{}, err
	}
	u.binary = binary
	script, err := deploy.Systemd.ReadFile(folder + "/hubd.service")
	if err != nil {
		return unit{}, err
	}
	socket, err := deploy.Systemd.ReadFile(folder + "/hubd.socket")
	if err != nil {
		return unit{}, err
	}
	u.socket = string(socket)
	if u.script, err = withBinary(string(script), binary); err != nil {
		return unit{}, err
	}
	u.service, err = service.New(nothing{}, &service.Config{
		Name:   unitName,
		Option: service.KeyValue{"SystemdScript": u.script, "UserService": user},
	})
	return u, err
}

// withBinary makes script start this binary. The library takes the text for a
// template: braces would be directives.
func withBinary(script, binary string) (string, error) {
	if strings.ContainsAny(binary, " \t\n\"'\\%${}") {
		return "", fmt.Errorf("the path %q cannot be written into a unit; move the binary", binary)
	}
	if strings.Contains(script, "{{") {
		return "", errors.New("the unit contains braces")
	}
	for _, line := range []string{"ExecStart=%s\n", "ExecReload=%s reload\n"} {
		script = strings.Replace(script, fmt.Sprintf(line, "/usr/bin/hubd"), fmt.Sprintf(line, binary), 1)
	}
	return script, nil
}

// nothing satisfies the library, which wants to be able to run the program:
// systemd starts hubd without any verb.
type nothing struct{}

func (nothing) Start(service.Service) error { return nil }
func (nothing) Stop(service.Service) error  { return nil }

func (u unit) path(suffix string) string { return filepath.Join(u.dir, unitName+suffix) }

func (u unit) install(w io.Writer) error {
	for _, suffix := range []string{".service", ".socket"} {
		if _, err := os.Stat(u.path(suffix)); err == nil {
			return fmt.Errorf("%s exists already; hubd service uninstall removes it", u.path(suffix))
		}
	}
	if !u.user {
		if err := u.systemUser(); err != nil {
			return err
		}
	}
	if err := os.MkdirAll(u.dir, 0o755); err != nil {
		return err
	}
	// A failed install must leave nothing behind, or the next one says that
	// there is one already.
	undo := func() {
		os.Remove(u.path(".service"))
		os.Remove(u.path(".socket"))
	}
	if err := os.WriteFile(u.path(".socket"), []byte(u.socket), 0o644); err != nil {
		undo()
		return err
	}
	if err := service.Control(u.service, "install"); err != nil {
		undo()
		_ = u.systemctl("daemon-reload") // err is what matters
		return err
	}
	if err := u.systemctl("enable", "--now", "hubd.socket"); err != nil {
		return err
	}
	fmt.Fprintf(w, "installed %s and %s\n", u.path(".service"), u.path(".socket"))
	fmt.Fprintln(w, "the socket listens now; the first connection, or hubd service start, starts the hub")
	return nil
}

func (u unit) uninstall(w io.Writer) error {
	_ = u.systemctl("disable", "--now", "hubd.socket") // stops the service too; it may be disabled already
	stopped := u.systemctl("stop", "hubd.service")
	err := service.Control(u.service, "uninstall")
	if e := os.Remove(u.path(".socket")); e != nil && !errors.Is(e, fs.ErrNotExist) {
		err = errors.Join(err, e)
	}
	_ = u.systemctl("daemon-reload") // the files are gone: it learns that sooner or later
	if err != nil {
		return errors.Join(err, stopped)
	}
	if !u.user {
		os.Remove("/etc/sysusers.d/hubd.conf")
		os.Remove("/etc/tmpfiles.d/hubd.conf")
	}
	fmt.Fprintln(w, "uninstalled; the state folder and the user hubd stay")
	return nil
}

func (u unit) start(io.Writer) error   { return u.control("start") }
func (u unit) restart(io.Writer) error { return u.control("restart") }

func (u unit) stop(w io.Writer) error {
	if err := u.control("stop"); err != nil {
		return err
	}
	fmt.Fprintln(w, "stopped; hubd.socket still listens, so the next connection starts the hub again")
	return nil
}

// control lets the library act, and says where to look when it fails.
func (u unit) control(verb string) error {
	if err := service.Control(u.service, verb); err != nil {
		return fmt.Errorf("%w; journalctl %s-u hubd has more", err, map[bool]string{true: "--user "}[u.user])
	}
	return nil
}

func (u unit) status(w io.Writer) error {
	s, err := u.service.Status()
	if err != nil {
		return err
	}
	word := map[service.Status]string{service.StatusRunning: "running", service.StatusStopped: "stopped"}[s]
	if word == "" {
		word = "unknown"
	}
	fmt.Fprintf(w, "hubd.service is %s\n", word)
	if u.systemctl("is-active", "--quiet", "hubd.socket") == nil {
		fmt.Fprintln(w, "hubd.socket listens")
	} else {
		fmt.Fprintln(w, "hubd.socket does not listen")
	}
	return nil
}

// systemUser makes the user that the system service runs as, and the folder
// of its session sockets.
func (u unit) systemUser() error {
	for _, step := range []struct{ folder, tool, flag string }{
		{"sysusers.d", "systemd-sysusers", ""},
		{"tmpfiles.d", "systemd-tmpfiles", "--create"},
	} {
		text, err := deploy.Systemd.ReadFile(step.folder + "/hubd.conf")
		if err != nil {
			return err
		}
		path := filepath.Join("/etc", step.folder, "hubd.conf")
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
		args := []string{path}
		if step.flag != "" {
			args = []string{step.flag, path}
		}
		if said, err := runTool(step.tool, args...); err != nil {
			return fmt.Errorf("%s: %w: %s", step.tool, err, said)
		}
	}
	return nil
}

func (u unit) systemctl(args ...string) error {
	if u.user {
		args = append([]string{"--user"}, args...)
	}
	if said, err := runTool("systemctl", args...); err != nil {
		return fmt.Errorf("systemctl %s: %w: %s", strings.Join(args, " "), err, said)
	}
	return nil
}

// runTool runs a program to its end and returns what it said.
func runTool(name string, args ...string) (said string, err error) {
	out, err := exec.Command(name, args...).CombinedOutput() //nolint:noctx // whoever interrupts hubd interrupts it, too
	return strings.TrimSpace(string(out)), err
}

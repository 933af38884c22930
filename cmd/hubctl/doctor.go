package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/address"
	"github.com/hubd-dev/hubd/internal/build"
)

// Levels of a finding, as hub.diagnose has them.
const (
	levelOK   = "ok"
	levelWarn = "warn"
	levelFail = "fail"
)

// finding is one line of the doctor.
type finding struct {
	Name   string `json:"name"`
	Level  string `json:"level"`
	Detail string `json:"detail"`
	Fix    string `json:"fix,omitempty"`
}

// clockSkew is how far the clocks of hub and hubctl may be apart: they are on
// one machine, so anything above the time of a call is strange.
const clockSkew = 5 * time.Second

func newDoctor(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "doctor",
		Short: "Find out what is wrong, and say what to do about it",
		Long: `Look at everything between this shell and a working hub: its address, socket and
permissions, versions, the systemd unit, and what the hub itself can check: store,
disk, clock, limits, configuration. What is wrong comes with what to do about it.

Exits with 0 when nothing is broken; warnings are no failure.`,
		Example: `  hubctl doctor
  hubctl doctor -o json | jq '.[] | select(.level != "ok")'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			findings := a.examine(cmd.Context())
			if f := a.formatOr(formatTable); f != formatTable {
				text, err := json.Marshal(findings)
				if err != nil {
					return err
				}
				if err := a.printer(f).list(text); err != nil {
					return err
				}
			} else if _, err := styled(a.out).Write(a.findingsText(findings)); err != nil {
				return err
			}
			for _, f := range findings {
				if f.Level == levelFail {
					return errors.New("something is broken, see above")
				}
			}
			return nil
		},
	}
}

// examine makes all checks. What depends on a check that failed is left out.
func (a *app) examine(ctx context.Context) (findings []finding) {
	add := func(f finding) bool {
		findings = append(findings, f)
		return f.Level != levelFail
	}
	addr, err := a.address()
	if err != nil {
		add(finding{"address", levelFail, err.Error(), "name the hub with --socket, HUBD_SOCKET or a context"})
		return findings
	}
	add(finding{Name: "address", Level: levelOK, Detail: addr.String()})
	if addr.Network == "unix" && !add(checkSocket(ctx, addr.Path)) {
		add(checkUnit(ctx, addr))
		return findings
	}
	c, err := a.dial(ctx)
	if err != nil {
		_, hint := explain(err)
		add(finding{"connection", levelFail, err.Error(), hint})
		add(checkUnit(ctx, addr))
		return findings
	}
	began := time.Now()
	if err := c.Call(ctx, "ping", nil, nil); err != nil {
		_, hint := explain(err)
		add(finding{"connection", levelFail, err.Error(), hint})
		return findings
	}
	add(finding{Name: "connection", Level: levelOK, Detail: fmt.Sprintf("answers in %s", time.Since(began).Round(time.Microsecond))})
	add(a.checkVersion(c))
	add(a.checkAccess(ctx, c))
	unit := checkUnit(ctx, addr)
	if unit.Level == levelFail { // the hub that answers is another one
		unit.Level = levelWarn
	}
	add(unit)
	var d struct {
		Now      time.Time
		Findings []finding
	}
	asked := time.Now()
	err = c.Call(ctx, "hub.diagnose", nil, &d)
	switch kind := client.KindOf(err); {
	case err == nil:
		add(checkSkew(d.Now, asked, time.Now()))
		findings = append(findings, d.Findings...)
	case kind == client.KindPermission || kind == client.KindUnauthenticated:
		add(finding{"permission", levelWarn, "this user may not ask the hub about itself (scope admin)",
			"run it as the user of the hub or as root, or with a token that has the scope; hubctl whoami shows who you are"})
	default:
		add(finding{"hub", levelFail, err.Error(), "look into the hub's log: journalctl -u hubd"})
	}
	return findings
}

// checkSocket looks at the file before anybody connects to it.
func checkSocket(ctx context.Context, path string) finding {
	st, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if _, err := os.Stat(filepath.Dir(path)); errors.Is(err, fs.ErrPermission) {
			return finding{"socket", levelFail, "the folder of " + path + " is closed to this user", permissionFix(path)}
		}
		if inode, ok := listensAt(path); ok {
			return orphaned(path, inode)
		}
		return finding{"socket", levelFail, path + " does not exist", startFix(path)}
	case errors.Is(err, fs.ErrPermission):
		return finding{"socket", levelFail, path + " cannot be looked at by this user", permissionFix(path)}
	case err != nil:
		return finding{"socket", levelFail, err.Error(), "name another one with --socket"}
	case st.Mode().Type() != fs.ModeSocket:
		return finding{"socket", levelFail, path + " is not a socket", "name another one with --socket, or move the file away"}
	}
	nc, err := (&net.Dialer{Timeout: 2 * time.Second}).DialContext(ctx, "unix", path)
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return finding{"socket", levelFail, "nobody listens at " + path, "the hub that made it has ended: start it again"}
	case errors.Is(err, fs.ErrPermission):
		return finding{"socket", levelFail, fmt.Sprintf("%s may not be written to by this user (mode %04o)", path, st.Mode().Perm()), permissionFix(path)}
	case err != nil:
		return finding{"socket", levelFail, err.Error(), "look into the hub's log: journalctl -u hubd"}
	}
	nc.Close()
	if st.Mode().Perm()&0o002 != 0 {
		return finding{"socket", levelWarn, fmt.Sprintf("every user of the machine may connect (mode %04o)", st.Mode().Perm()),
			"take a group instead: --listen 'unix://" + path + "?mode=0660&group=hubd'"}
	}
	return finding{Name: "socket", Level: levelOK, Detail: fmt.Sprintf("mode %04o", st.Mode().Perm())}
}

// startFix says how a hub comes to listen at path.
func startFix(path string) string {
	switch unitScope(client.Address{Network: "unix", Path: path}) {
	case "--system":
		return `start the hub: "systemctl start hubd.socket", or "hubd" for one of this user`
	case "--user":
		return `start the hub: "hubd", or "systemctl --user start hubd.socket"`
	}
	return "start the hub: hubd --listen " + client.Address{Network: "unix", Path: path}.String()
}

// listensAt reports whether a socket that was made at path still listens,
// though its file may be gone, and returns its inode.
func listensAt(path string) (inode string, ok bool) {
	text, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return "", false
	}
	// Num RefCount Protocol Flags Type St Inode Path; bit 16 of the flags: it listens
	for line := range strings.Lines(string(text)) {
		if f := strings.Fields(line); len(f) >= 8 && f[3] == "00010000" && strings.HasSuffix(strings.TrimSuffix(line, "\n"), " "+path) {
			return f[6], true
		}
	}
	return "", false
}

// orphaned is the finding of a socket whose file was removed while its hub runs.
func orphaned(path, inode string) finding {
	who, end := "a process", "end that process"
	links, _ := filepath.Glob("/proc/[0-9]*/fd/*") // of others they cannot be read
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && to == "socket:["+inode+"]" {
			if pid := strings.Split(link, "/")[2]; pid != "1" { // systemd holds those of its units
				who, end = "process "+pid, "kill "+pid
			}
		}
	}
	fix := end + ", then start the hub again"
	if of := unitScope(client.Address{Network: "unix", Path: path}); of != "" && who == "a process" {
		fix = "systemctl " + of + " restart hubd.socket hubd.service"
	}
	return finding{"socket", levelFail, "the file " + path + " was removed, but " + who + " still listens there: nobody can connect", fix}
}

// permissionFix says how this user gets to a socket that it may not use: by the
// group of what is closed to it, if that has the permission and is one for people.
func permissionFix(path string) string {
	what, need := path, fs.FileMode(0o020) // to connect is to write
	st, err := os.Stat(what)
	for errors.Is(err, fs.ErrPermission) { // what is closed is the folder above
		what, need = filepath.Dir(what), 0o010
		st, err = os.Stat(what)
	}
	if err != nil {
		return "name a hub of this user with --socket or HUBD_SOCKET"
	}
	owner, group := ownersOf(st)
	if st.Mode().Perm()&need != 0 && isShared(owner, group) {
		return "sudo usermod -aG " + group + " $USER, then log in again: members may read; for more the hub needs " +
			"peers: {\"@" + group + "\": [read, call]}"
	}
	return what + " is for " + owner + " alone: run hubctl as " + owner + ", or have " + owner +
		" let a group in with hubd --listen 'unix:///PATH?mode=0660&group=GROUP'"
}

// isShared reports whether group is one that people become members of, not
// that of root and not the one that each user has alone.
func isShared(owner, group string) bool {
	_, err := user.LookupGroup(group)
	return err == nil && group != "root" && (group != owner || group == systemGroup)
}

// systemGroup is the group of the system's hub; its user is of the same name.
const systemGroup = "hubd"

// ownersOf names the user and the group of a file, by number where they have no name.
func ownersOf(st fs.FileInfo) (owner, group string) {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok {
		return "its owner", "hubd"
	}
	owner, group = strconv.FormatUint(uint64(sys.Uid), 10), strconv.FormatUint(uint64(sys.Gid), 10)
	if u, err := user.LookupId(owner); err == nil {
		owner = u.Username
	}
	if g, err := user.LookupGroupId(group); err == nil {
		group = g.Name
	}
	return owner, group
}

// ownSocket reports whether the hub at path lets this user in, whatever its
// configuration says.
func ownSocket(path string) bool {
	st, err := os.Stat(path)
	if err != nil {
		return false
	}
	sys, ok := st.Sys().(*syscall.Stat_t)
	return os.Geteuid() == 0 || ok && int(sys.Uid) == os.Geteuid()
}

// userName is the name of this user, or its number.
func userName() string {
	if u, err := user.Current(); err == nil {
		return u.Username
	}
	return strconv.Itoa(os.Geteuid())
}

// checkAccess says who the hub takes this user for, and warns where it asks nobody.
func (a *app) checkAccess(ctx context.Context, c *client.Client) finding {
	var i identity
	if err := c.Call(ctx, "hub.whoami", nil, &i); err != nil {
		return finding{"caller", levelWarn, err.Error(), "take hubctl and hubd from one release; after an update restart the hub"}
	}
	scopes := strings.Join(i.Scopes, ",")
	switch {
	case scopes == "":
		return finding{"caller", levelWarn, i.who(), "put the token into the variable HUBD_TOKEN"}
	case i.By == "nobody" && scopes != "read":
		return finding{"caller", levelWarn, "every user who reaches " + i.Listener + " may do this: " + scopes + " (auth=none)",
			"take auth=token, or auth=uid with peers; scopes=read leaves only reading"}
	}
	return finding{Name: "caller", Level: levelOK, Detail: i.who() + ", scopes " + scopes}
}

// checkVersion compares this program with the hub.
func (a *app) checkVersion(c *client.Client) finding {
	software := oneLine(c.Server().Software)
	_, hub, _ := strings.Cut(software, "/")
	mine := build.Version()
	if !build.Skewed(mine, hub) {
		return finding{Name: "version", Level: levelOK, Detail: fmt.Sprintf("hubctl %s, %s", mine, software)}
	}
	return finding{"version", levelWarn, fmt.Sprintf("hubctl %s, %s", mine, software), "take both from one release; after an update restart the hub"}
}

// checkSkew compares the clocks. The hub looked at its own between asked and answered.
func checkSkew(hub, asked, answered time.Time) finding {
	skew := time.Duration(0)
	switch {
	case hub.IsZero():
		return finding{"clocks", levelWarn, "the hub did not tell its time", "take both from one release; after an update restart the hub"}
	case hub.Before(asked):
		skew = asked.Sub(hub)
	case hub.After(answered):
		skew = hub.Sub(answered)
	}
	if skew > clockSkew {
		return finding{"clocks", levelWarn, fmt.Sprintf("the hub's clock is %s off", skew.Round(time.Second)), "timedatectl set-ntp true, on both machines"}
	}
	return finding{Name: "clocks", Level: levelOK, Detail: "agree"}
}

// unitScope says which systemd the units of the hub at addr belong to, "" when
// no unit is meant to listen there: the socket of another place is somebody's own.
func unitScope(addr client.Address) string {
	switch {
	case addr.Network != "unix":
		return ""
	case addr.Path == address.System:
		return "--system"
	case os.Geteuid() != 0 && addr.Path == filepath.Join(address.RuntimeDir(), "hubd", "hub.sock"):
		return "--user"
	}
	return ""
}

// checkUnit asks systemd, where it runs, for the state of the units that the
// hub at addr would be of.
func checkUnit(ctx context.Context, addr client.Address) finding {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	if _, err := os.Stat("/run/systemd/system"); err != nil {
		return finding{Name: "unit", Level: levelOK, Detail: "systemd does not run here"}
	}
	of := unitScope(addr)
	if of == "" {
		return finding{Name: "unit", Level: levelOK, Detail: "no unit of systemd listens at this address"}
	}
	scope := []string{of}
	show := func(unit, property string) string {
		out, err := exec.CommandContext(ctx, "systemctl", append(scope, "show", "--value", "-p", property, unit)...).Output()
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(out))
	}
	service := show("hubd.service", "LoadState")
	for _, unit := range []string{"hubd.service", "hubd.socket"} {
		if show(unit, "LoadState") == "masked" {
			return finding{"unit", levelFail, unit + " is masked: systemd does not start it", "systemctl " + scope[0] + " unmask " + unit}
		}
	}
	if service != "loaded" {
		return finding{Name: "unit", Level: levelOK, Detail: "hubd.service is not installed"}
	}
	restarts, _ := strconv.Atoi(show("hubd.service", "NRestarts"))
	return judgeUnits(unitStates{
		scope: scope[0], service: show("hubd.service", "ActiveState"), socket: show("hubd.socket", "ActiveState"),
		enabled: show("hubd.socket", "UnitFileState"), serviceEnabled: show("hubd.service", "UnitFileState"), restarts: restarts,
	})
}

// unitStates are what systemd says of the units.
type unitStates struct {
	scope                   string // --system or --user
	service, socket         string // ActiveState
	enabled, serviceEnabled string // UnitFileState of the socket and of the service
	restarts                int    // of the service, by itself
}

// judgeUnits says what is wrong with units that are installed.
func judgeUnits(u unitStates) finding {
	detail := fmt.Sprintf("hubd.service is %s, hubd.socket is %s", u.service, u.socket)
	systemctl := "systemctl " + u.scope
	switch {
	case u.service == "failed" || u.socket == "failed":
		return finding{"unit", levelFail, detail, "journalctl " + u.scope + " -u hubd -e says why; then " +
			systemctl + " reset-failed hubd.service hubd.socket; " + systemctl + " restart hubd.socket hubd.service"}
	case u.service != "active" && u.service != "activating" && u.service != "reloading" && u.socket != "active":
		return finding{"unit", levelFail, detail, systemctl + " enable --now hubd.socket"}
	case u.restarts > 2:
		return finding{"unit", levelWarn, fmt.Sprintf("%s, restarted %d times", detail, u.restarts), "journalctl " + u.scope + " -u hubd -e says why"}
	case u.enabled == "disabled" && u.serviceEnabled != "enabled":
		return finding{"unit", levelWarn, detail + ", and neither is enabled: the hub will not be there after a reboot", systemctl + " enable hubd.socket"}
	}
	return finding{Name: "unit", Level: levelOK, Detail: detail}
}

// findingsText has one line per finding, and one for what to do.
func (a *app) findingsText(findings []finding) []byte {
	marks := map[string]string{levelOK: "ok", levelWarn: "warn", levelFail: "FAIL"}
	colours := map[string]string{levelOK: "\x1b[32m", levelWarn: "\x1b[33m", levelFail: "\x1b[31;1m"}
	width := 0
	for _, f := range findings {
		width = max(width, len(oneLine(f.Name)))
	}
	var dst []byte
	bad := 0
	for _, f := range findings {
		mark := fmt.Sprintf("%-4s", marks[f.Level])
		if a.coloured() {
			mark = colours[f.Level] + mark + "\x1b[0m"
		}
		dst = fmt.Appendf(dst, "%s  %-*s  %s\n", mark, width, oneLine(f.Name), oneLine(f.Detail))
		if f.Level != levelOK {
			bad++
			if f.Fix != "" {
				dst = fmt.Appendf(dst, "      %-*s  fix: %s\n", width, "", oneLine(f.Fix))
			}
		}
	}
	if bad == 0 {
		dst = append(dst, "nothing is wrong\n"...)
	}
	return dst
}

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cpuguy83/go-md2man/v2/md2man"

	addr "github.com/hubd-dev/hubd/internal/address"
	"github.com/hubd-dev/hubd/internal/hub"
)

// makePages writes man/ and completions/ below dir.
func (r *release) makePages(ctx context.Context, dir string) error {
	if err := run(ctx, []string{"GOFLAGS="}, "go", "run", "-trimpath", "-tags=pages", "./cmd/hubctl", dir); err != nil {
		return err
	}
	for name, text := range map[string]string{"hubd.8": daemonPage(), "hubd.yaml.5": configPage()} {
		if err := os.WriteFile(filepath.Join(dir, "man", name), md2man.Render([]byte(text)), 0o644); err != nil {
			return err
		}
	}
	return r.datePages(filepath.Join(dir, "man"))
}

// datePages gives each manual page of dir the day of the source, which the
// commands that they are built from do not know.
func (r *release) datePages(dir string) error {
	pages, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, p := range pages {
		path := filepath.Join(dir, p.Name())
		text, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		text = bytes.Replace(text, []byte(` "" "hubd"`), []byte(` "`+r.date.Format(time.DateOnly)+`" "hubd"`), 1)
		if err := os.WriteFile(path, text, 0o644); err != nil {
			return err
		}
	}
	return nil
}

var markdown = strings.NewReplacer(`\`, `\\`, "*", `\*`, "_", `\_`, "<", `\<`, "`", "\\`", "[", `\[`, "#", `\#`)

// daemonPage is hubd(8) in the Markdown that md2man reads.
func daemonPage() string {
	var flags strings.Builder
	for _, k := range hub.Keys() {
		fmt.Fprintf(&flags, "**--%s**", markdown.Replace(k.Flag()))
		if k.Arg != "" {
			fmt.Fprintf(&flags, " *%s*", markdown.Replace(k.Arg))
		}
		fmt.Fprintf(&flags, "\n: %s\n\n", markdown.Replace(k.Doc))
	}
	return strings.Replace(daemonText, "FLAGS\n", flags.String(), 1)
}

const daemonText = `% HUBD 8 "" "hubd" "hubd"
# NAME
hubd - a hub in which programs call each other and share state

# SYNOPSIS
**hubd** [*flags*]

**hubd config** **check** | **print** [*flags*]

**hubd state** **check** | **repair** [**--apply**] [*flags*]

**hubd service** **install** | **uninstall** | **start** | **stop** | **restart** | **status**

# DESCRIPTION
hubd is a local daemon in which programs of any language share state, call each
other's methods and attach to each other's output. It keeps one table of methods
and speaks five RPC protocols in front of it, on one Unix socket; which one a
connection speaks is told from its first bytes.

It stays in the foreground and writes its log to standard error: text on a
terminal, entries with fields in the journal of systemd, JSON elsewhere.

**hubd config check** says what is wrong with the configuration, and where;
**hubd config print** prints what holds. **hubd state check** says whether the
stored state is damaged, and where; **hubd state repair** says what a repair would
drop, and does it with **--apply**: what it drops stays beside the store. The hub must
be stopped for both. **hubd service** installs and steers the
units of systemd: those of the system as root, else those of the user.

# OPTIONS
**--config** *FILE*
: YAML file to read; without it, the default file if it exists

FLAGS
**--version**
: print the version and end

**-h**, **--help**
: print a short text and end

# ENVIRONMENT
Each flag is also a variable: **--log-level** is **HUBD\_LOG\_LEVEL**; lists are
separated by blanks. Flags win over variables, variables over the file.

**HUBD\_CONFIG**
: YAML file to read

**STATE\_DIRECTORY**, **CONFIGURATION\_DIRECTORY**, **CREDENTIALS\_DIRECTORY**, **LISTEN\_FDS**, **LISTEN\_FDNAMES**, **NOTIFY\_SOCKET**, **WATCHDOG\_USEC**, **JOURNAL\_STREAM**
: set by systemd

# SIGNALS
**SIGTERM**, **SIGINT**
: stop in order: nobody new comes in, running calls may end until
**limits.drain** is over, what is queued is sent. A second one stops at once.

**SIGHUP**
: read the configuration again. A file with an error changes nothing.

**SIGABRT**, **SIGQUIT**
: print what all goroutines do, and end

# EXIT STATUS
**0**
: orderly stop

**1**
: failure

**2**
: usage or configuration

**3**
: a hub is running already

**4**
: the state is damaged or of a newer format

**5**
: the state folder cannot be used

# FILES
*/run/hubd/hub.sock*, *$XDG\_RUNTIME\_DIR/hubd/hub.sock*
: the socket of the system's hub, and of a user's

*/var/lib/hubd*, *$XDG\_STATE\_HOME/hubd*
: the state

*/etc/hubd/hubd.yaml*, */etc/hubd/conf.d/\*.yaml*, *$XDG\_CONFIG\_HOME/hubd/hubd.yaml*
: the configuration, see **hubd.yaml**(5)

# EXAMPLES
Try it out on the default socket:

` + "```" + `
hubd --demo
hubctl call math.add a:=2 b:=40
` + "```" + `

A hub with a port for web pages and one for Prometheus:

` + "```" + `
hubd --listen unix:///run/hubd/hub.sock --listen 'tcp://127.0.0.1:7420' --metrics 127.0.0.1:7421
` + "```" + `

# SEE ALSO
**hubctl**(1), **hubd.yaml**(5), **systemctl**(1)
`

// configPage is hubd.yaml(5).
func configPage() string {
	var b strings.Builder
	b.WriteString(`% HUBD.YAML 5 "" "hubd" "hubd"
# NAME
hubd.yaml - configuration of hubd

# DESCRIPTION
**hubd**(8) reads */etc/hubd/hubd.yaml*, or *$XDG\_CONFIG\_HOME/hubd/hubd.yaml* when a
user starts it, and then the files of *conf.d* beside it in the order of their
names: what a later one says holds. A file is a mapping of the keys below; a dot
stands for a mapping inside a mapping. A key that is unknown or has a value that
does not fit is an error that names its line. Each key is a flag and a variable as well.

**hubd config print --defaults** prints all keys with their defaults, **hubd config
check** says whether a file is good. **SIGHUP** or **systemctl reload hubd** takes over
the keys that are marked *Live*; the others need a restart, and the log says so.

Names of files that end in **\_file** and have no slash are looked for in
*$CREDENTIALS\_DIRECTORY* first, where **LoadCredential=** of systemd puts secrets.

# KEYS
`)
	for _, k := range hub.Keys() {
		fmt.Fprintf(&b, "**%s**", markdown.Replace(k.Name))
		switch {
		case k.Bool:
			b.WriteString(" *true* | *false*")
		case k.Arg != "":
			fmt.Fprintf(&b, " *%s*", markdown.Replace(k.Arg))
		}
		fmt.Fprintf(&b, "\n: %s. Flag **--%s**, variable **%s**.", markdown.Replace(k.Doc), markdown.Replace(k.Flag()), markdown.Replace(k.Env()))
		if k.Default != "" {
			fmt.Fprintf(&b, " Default: %s.", markdown.Replace(k.Default))
		}
		if k.Live {
			b.WriteString(" *Live.*")
		}
		b.WriteString("\n\n")
	}
	b.WriteString("# EXAMPLE\n```\n")
	b.WriteString(strings.TrimSpace(`
listen:
  - unix:///run/hubd/hub.sock?mode=0660&group=hubd
  - tcp://127.0.0.1:7420
metrics: 127.0.0.1:7421
log:
  level: info
limits:
  connections: 1000
`))
	b.WriteString("\n```\n\n# SEE ALSO\n**hubd**(8), **hubctl**(1)\n")
	return b.String()
}

// systemPaths makes the defaults of the building user those of the system.
func systemPaths(config []byte) []byte {
	if socket, err := addr.Default(); err == nil {
		config = bytes.ReplaceAll(config, []byte(socket), []byte("/run/hubd/hub.sock"))
	}
	if state, err := hub.DefaultState(); err == nil {
		config = bytes.ReplaceAll(config, []byte(state), []byte("/var/lib/hubd"))
	}
	return config
}

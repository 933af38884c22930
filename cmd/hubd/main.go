// Command hubd is the hub: a local daemon in which programs of any language
// share state, call each other's methods and attach to each other's output.
//
// main turns arguments, variables, files and signals into hub.Options;
// everything else is in internal/hub.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"runtime/debug"
	"strings"
	"syscall"

	"github.com/KimMachineGun/automemlimit/memlimit"
	"github.com/coreos/go-systemd/v22/activation"
	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/pflag"
	"golang.org/x/term"

	"github.com/hubd-dev/hubd/internal/build"
	"github.com/hubd-dev/hubd/internal/hub"
	"github.com/hubd-dev/hubd/internal/nearest"
	output "github.com/hubd-dev/hubd/internal/stdout"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

// run is hubd with these arguments; it returns the exit code. What cannot be
// printed is a failure.
func run(args []string, stdout, stderr io.Writer) int {
	out := &output.Writer{W: stdout}
	code := runCommand(args, out, stderr)
	if err := out.Err(); err != nil && code == hub.ExitOK {
		fmt.Fprintf(stderr, "hubd: %v\n", err)
		code = hub.ExitFailure
	}
	return code
}

func runCommand(args []string, stdout *output.Writer, stderr io.Writer) int {
	if len(args) > 0 {
		switch args[0] {
		case "service":
			return runService(args[1:], stdout, stderr)
		case "config":
			return runConfig(args[1:], stdout, stderr)
		case "reload":
			return runReload(args[1:], stdout, stderr)
		case "state":
			return runState(args[1:], stdout, stderr)
		case "help", "version":
			args = append([]string{"--" + args[0]}, args[1:]...)
		}
	}
	command, err := parse(args)
	switch {
	case err != nil:
		fmt.Fprintf(stderr, "hubd: %v\nhint: %s\n", err, command.hint(err))
		return hub.ExitUsage
	case command.help:
		usage(stdout, command.flags)
		return hub.ExitOK
	case command.helpLimits:
		usageLimits(stdout, command.flags)
		return hub.ExitOK
	case command.version:
		fmt.Fprintln(stdout, build.Line("hubd"))
		return hub.ExitOK
	}
	o, err := command.load()
	if err != nil {
		return fail(stderr, err)
	}
	o.Load = command.load
	if command.source.File == "" && command.source.Dir == "" {
		o.Load = nil // nothing to read anew
	}
	o.Version = build.Version()
	o.Notify = func(state string) { _, _ = daemon.SdNotify(false, state) } // a manager that has left needs no news
	if o.Watchdog, err = daemon.SdWatchdogEnabled(false); err != nil {
		fmt.Fprintf(stderr, "hubd: WATCHDOG_USEC: %v; there is no watchdog\n", err)
	}
	if o.Inherited, err = inherited(); err != nil {
		return fail(stderr, err)
	}
	if o.Demo || term.IsTerminal(int(os.Stdout.Fd())) {
		o.Ready = func(i hub.Info) {
			out := &output.Writer{W: stdout.W} // a hub that runs does not fail because of its greeting
			greet(out, i, o.Demo)
			if o.Demo && o.State == "" && os.Getenv("STATE_DIRECTORY") == "" {
				fmt.Fprintf(out, "Its state is in %s and goes with the next reboot; --state DIR keeps one.\n", i.State)
			}
			if err := out.Err(); err != nil {
				fmt.Fprintf(stderr, "hubd: %v\n", err)
			}
		}
	}
	tracer, flush, err := tracing()
	if err != nil {
		return fail(stderr, err)
	}
	defer flush()
	o.Tracer = tracer
	boundMemory(&o)
	room, release := tuneHeap()
	defer release()
	o.MemoryUntouched = room
	// A crash, or the abort of the watchdog, prints all goroutines and ends by a
	// signal: the exit code 2 that Go has for it would look like a usage error,
	// after which the service manager does not start the hub again.
	debug.SetTraceback("crash")
	ctx, reload, stop := signals()
	defer stop()
	o.Reload = reload
	return fail(stderr, hub.Run(ctx, o))
}

// boundMemory finds out how much memory the process may have, from the
// configuration or the control group that it is in (MemoryMax of the unit). The
// collector works harder from 80 % of that on; the hub does the rest. Where no
// limit can be found out there is none.
func boundMemory(o *hub.Options) {
	limit := memlimit.FromCgroup
	if o.Limits.Memory > 0 {
		limit = memlimit.Limit(uint64(o.Limits.Memory))
	} else if n, err := limit(); err == nil && n < 1<<50 {
		o.MemoryMax = int64(n)
	}
	_, _ = memlimit.Set(memlimit.WithRatio(0.8), memlimit.WithProvider(limit))
}

// fail says what went wrong, if anything did, and returns the exit code.
func fail(stderr io.Writer, err error) int {
	if err == nil {
		return hub.ExitOK
	}
	if config, ok := errors.AsType[*hub.ConfigError](err); ok {
		for _, p := range config.Problems {
			fmt.Fprintf(stderr, "hubd: %v\n", p)
		}
		return hub.ExitUsage
	}
	fmt.Fprintf(stderr, "hubd: %v\n", err)
	code := hub.ExitCode(err)
	switch {
	case code == hub.ExitRunning:
		fmt.Fprintln(stderr, "hint: hubctl status asks the running hub; --listen and --state start a second one beside it")
	case errors.Is(err, os.ErrPermission):
		fmt.Fprintln(stderr, "hint: --listen unix:///PATH and --state DIR choose places that this user may write to")
	}
	return code
}

// signals returns a context that ends with the first SIGINT or SIGTERM, and a
// channel that tells each SIGHUP. The second SIGINT or SIGTERM ends the process.
func signals() (ctx context.Context, reload <-chan struct{}, stop func()) {
	ctx, cancel := context.WithCancel(context.Background())
	hup := make(chan struct{}, 1)
	caught := make(chan os.Signal, 4)
	signal.Notify(caught, syscall.SIGINT, syscall.SIGTERM, syscall.SIGHUP)
	go func() { // lives as long as the process
		stopping := false
		for s := range caught {
			switch {
			case s == syscall.SIGHUP:
				select {
				case hup <- struct{}{}:
				default: // one is waiting already
				}
			case stopping:
				fmt.Fprintln(os.Stderr, "hubd: a second signal: stopped at once, running calls are lost")
				os.Exit(hub.ExitFailure)
			default:
				stopping = true
				cancel()
			}
		}
	}()
	return ctx, hup, func() {
		signal.Stop(caught)
		close(caught)
		cancel()
	}
}

// inherited takes over the sockets that systemd opened, if there are any.
func inherited() (listeners []net.Listener, err error) {
	byName, err := activation.ListenersWithNames()
	if err != nil {
		return nil, fmt.Errorf("sockets of the service manager: %w", err)
	}
	for _, ls := range byName {
		listeners = append(listeners, ls...)
	}
	return listeners, nil
}

// command is a parsed command line.
type command struct {
	flags         *pflag.FlagSet
	source        hub.Source
	help, version bool
	helpLimits    bool
}

func parse(args []string) (*command, error) {
	c := &command{flags: pflag.NewFlagSet("hubd", pflag.ContinueOnError)}
	c.flags.SortFlags = false
	c.flags.Usage = func() {}
	c.flags.SetOutput(io.Discard)
	config := c.flags.String("config", "", "YAML `FILE` to read; without it hubd.yaml and conf.d/*.yaml in the default folder, if they exist")
	values := map[string]*value{}
	for _, k := range hub.Keys() {
		v := &value{key: k}
		values[k.Name] = v
		f := c.flags.VarPF(v, k.Flag(), "", k.Doc)
		f.Hidden = strings.HasPrefix(k.Name, "limits.") // --help-limits lists them
		if k.Bool {
			f.NoOptDefVal = "true"
		}
	}
	c.flags.BoolVar(&c.version, "version", false, "print the version and end")
	c.flags.BoolVarP(&c.help, "help", "h", false, "print this text and end")
	c.flags.BoolVar(&c.helpLimits, "help-limits", false, "list the flags for limits and end")
	if err := c.flags.Parse(args); err != nil {
		if errors.Is(err, pflag.ErrHelp) {
			c.help = true
			return c, nil
		}
		return c, err
	}
	if c.flags.NArg() > 0 {
		return c, fmt.Errorf("unexpected argument %q", c.flags.Arg(0))
	}
	given := map[string][]string{}
	for name, v := range values {
		if len(v.given) > 0 {
			given[name] = v.given
		}
	}
	c.source = hub.Source{File: *config, Env: os.LookupEnv, Flags: given}
	if c.source.File == "" {
		c.source.File = os.Getenv("HUBD_CONFIG")
	}
	if c.source.File == "" {
		c.source.File, c.source.Dir = hub.DefaultFiles()
	}
	return c, nil
}

// hint says what to do about an error of parse.
func (c *command) hint(err error) string {
	if unknown, ok := errors.AsType[*pflag.NotExistError](err); ok && unknown.GetSpecifiedShortnames() == "" {
		var names []string
		c.flags.VisitAll(func(f *pflag.Flag) { names = append(names, f.Name) })
		if near := nearest.Of(unknown.GetSpecifiedName(), names, 1); len(near) > 0 {
			return fmt.Sprintf("did you mean --%s?", near[0])
		}
	}
	return "hubd --help lists the flags"
}

// load reads the configuration. What belongs to the process is not part of it.
func (c *command) load() (hub.Options, error) { return c.source.Options() }

// value is the pflag.Value of a configuration key: it keeps what was given.
type value struct {
	key   hub.Key
	given []string
}

func (v *value) String() string { return "" }

func (v *value) Set(s string) error {
	v.given = append(v.given, s)
	return nil
}

func (v *value) Type() string { return v.key.Arg }

package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/build"
	"github.com/hubd-dev/hubd/internal/nearest"
)

// app is one run of the program.
type app struct {
	console
	onLeave
	args         []string // of the command line
	cancel       context.CancelCauseFunc
	signals      atomic.Pointer[func(os.Signal)]
	socket       string
	context      string // of --context
	format       string // of --output; "" leaves it to the command
	color        string
	progressForm string         // of --progress
	patience     time.Duration  // longest wait for the hub to answer at all; 0: that of the client
	client       *client.Client // the open connection, if any
	shared       bool           // client belongs to somebody else and is there
	files        tlsFiles
	globals      *pflag.FlagSet  // the flags of all commands
	unknown      bool            // a flag before the first word is none of hubctl's
	own          map[string]bool // services that are the hub's own: see dialOwn
}

func newRoot(a *app) *cobra.Command {
	jsonDocs := false
	root := &cobra.Command{
		Use:   "hubctl",
		Short: "Talk to a running hubd",
		Long: `hubctl calls the methods of a running hubd, follows its streams and sessions,
and shows what it does.

Beside the commands below, each service of the hub is a command, and each of its
methods one below it: "hubctl demo --help" lists those of the service demo,
"hubctl methods" all there are.

The hub is found at --socket, else at $HUBD_SOCKET, else where the selected
context says ("hubctl context"), else at the socket of this user's hub
($XDG_RUNTIME_DIR/hubd/hub.sock, or below /run/user/UID without the variable),
else at /run/hubd/hub.sock.`,
		Example: `  hubctl methods                              what can be called
  hubctl math add 2 40                        call a method
  hubctl call math.add a:=2 b:=40             the same, with arguments of any form
  hubctl demo count 3 --delay 0.5             items as they come
  hubctl attach demo                          follow a session
  hubctl run -d --session build -- make       run a program as a session
  hubctl wait --timeout 10s && hubctl status  wait for the hub, then look`,
		Version:       build.Version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			switch {
			case len(args) > 0:
				return unknownCommand(cmd, args[0])
			case jsonDocs:
				return a.printer(a.formatOr(formatJSON)).printAny(documentCommand(cmd))
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(*cobra.Command, []string) error { return a.checkFlags() },
	}
	root.SetIn(a.in)
	root.SetOut(a.out)
	root.SetErr(a.err)
	root.SetHelpFunc(printHelp(root.HelpFunc()))
	root.SetVersionTemplate(build.Line("hubctl") + "\n")
	root.SetHelpTemplate(helpTemplate)
	// The examples stand at the top already.
	usage := strings.Replace(root.UsageTemplate(), usageExamples, "", 1)
	root.SetUsageTemplate(strings.Replace(usage, usageTopic, "{{.Root.Name}} help {{.Name}}  {{.Short}}", 1))
	root.SetFlagErrorFunc(flagError)
	root.Flags().BoolVar(&jsonDocs, "json-docs", false, "print all commands with their flags as JSON")
	flags := root.PersistentFlags()
	a.globals = flags
	flags.StringVar(&a.socket, "socket", "", "the hub's `address`: a path, unix:///path, tcp://host:port or tls://host:port")
	flags.StringVar(&a.context, "context", "", "the `name` of a context to use instead of the selected one")
	a.files.add(flags)
	flags.StringVarP(&a.format, "output", "o", "", "`format` of the result: table, json, jsonl, yaml or raw")
	flags.StringVar(&a.color, "color", "auto", "`when` to use colour: auto, always or never")
	flags.StringVar(&a.progressForm, "progress", progressAuto, "`form` of progress on stderr: auto (a bar on a terminal), json or none")
	root.RegisterFlagCompletionFunc("progress",
		cobra.FixedCompletions([]string{progressAuto, progressJSON, progressNone}, cobra.ShellCompDirectiveNoFileComp))
	root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp))
	root.RegisterFlagCompletionFunc("color", cobra.FixedCompletions([]string{"auto", "always", "never"}, cobra.ShellCompDirectiveNoFileComp))
	group(root, "Methods:", newCall(a), newMethods(a), newDescribe(a), newBridge(a))
	group(root, "State and files:", newState(a), newFile(a))
	group(root, "Sessions:", newAttach(a), newRun(a), newPublish(a), newSession(a))
	group(root, "The hub:", newStatus(a), newWhoami(a), newPing(a), newWait(a), newTop(a), newMonitor(a), newLogLevel(a), newReload(a), newToken(a))
	group(root, "First aid:", newDoctor(a), newCheck(a), newBugreport(a))
	group(root, "hubctl itself:", newContext(a), newVersion())
	root.AddCommand(newExitCodes())
	root.SetHelpCommandGroupID("hubctl itself:")
	root.SetCompletionCommandGroupID("hubctl itself:")
	root.InitDefaultHelpCmd()
	addCompletion(root, a.out)
	usageArgs(root)
	root.ValidArgsFunction = a.completeTop
	for _, cmd := range root.Commands() {
		if cmd.HasSubCommands() && !isTopic(cmd) {
			cmd.ValidArgsFunction = a.completeMore
		}
	}
	return root
}

// newVersion is what people type who know it from other programs.
func newVersion() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version of hubctl",
		Long:  `Print the version of hubctl, as --version does. "hubctl status" shows that of the hub.`,
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), build.Line("hubctl"))
			return err
		},
	}
}

// group adds commands under a heading.
func group(root *cobra.Command, title string, commands ...*cobra.Command) {
	root.AddGroup(&cobra.Group{ID: title, Title: title})
	for _, cmd := range commands {
		cmd.GroupID = title
		root.AddCommand(cmd)
	}
}

// usageArgs makes every wrong number of arguments a usage error.
func usageArgs(cmd *cobra.Command) {
	if check := cmd.Args; check != nil {
		cmd.Args = func(cmd *cobra.Command, args []string) error {
			err := check(cmd, args)
			if err == nil {
				return nil
			}
			if _, ok := err.(usageError); ok {
				return err
			}
			return usageError{wrongCount(cmd, check, args, err), "usage: " + cmd.UseLine()}
		}
	}
	for _, sub := range cmd.Commands() {
		usageArgs(sub)
	}
}

// wrongCount says which argument is missing, or which one is too many.
func wrongCount(cmd *cobra.Command, check cobra.PositionalArgs, args []string, err error) string {
	for n := len(args) - 1; n >= 0; n-- {
		if check(cmd, args[:n]) == nil {
			return fmt.Sprintf("%q is one argument too many", oneLine(args[n]))
		}
	}
	if words := strings.Fields(cmd.Use)[1:]; len(args) < len(words) {
		return strings.Trim(words[len(args)], "[].") + " is missing"
	}
	return err.Error()
}

// helpTemplate shows examples first: most people look for those.
const helpTemplate = `{{with .Example}}{{. | trimTrailingWhitespaces}}

{{end}}{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}`

// printHelp prints with one write what cobra's function prints, which would add an
// error of the output without saying that it is one.
func printHelp(help func(*cobra.Command, []string)) func(*cobra.Command, []string) {
	return func(cmd *cobra.Command, args []string) {
		out := cmd.OutOrStdout()
		var text bytes.Buffer
		cmd.SetOut(&text)
		help(cmd, args)
		cmd.SetOut(out)
		_, _ = out.Write(text.Bytes()) // run looks for what the output has failed with
	}
}

// usageExamples is the part of cobra's template that shows the examples again.
const usageExamples = `{{if .HasExample}}

Examples:
{{.Example}}{{end}}`

// usageTopic is the line of a help topic in cobra's template.
const usageTopic = `{{rpad .CommandPath .CommandPathPadding}} {{.Short}}`

func unknownCommand(root *cobra.Command, name string) error {
	var names []string
	for _, cmd := range root.Commands() {
		if cmd.IsAvailableCommand() {
			names = append(names, cmd.Name())
		}
	}
	hint := `"hubctl --help" lists the commands`
	if near := nearest.Of(name, names, 1); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q?", near[0])
	} else if strings.Contains(name, ".") {
		hint = fmt.Sprintf("to call a method: hubctl call %s", name)
	}
	return usageError{fmt.Sprintf("unknown command %q", name), hint}
}

func (a *app) checkFlags() error {
	if a.format != "" && !isFormat(a.format) {
		return usageError{fmt.Sprintf("unknown output format %q", a.format), "one of " + strings.Join(formats, ", ")}
	}
	switch a.progressForm {
	case progressAuto, progressJSON, progressNone:
	default:
		return usageError{fmt.Sprintf("unknown value %q of --progress", a.progressForm), "one of auto, json, none"}
	}
	switch a.color {
	case "auto", "always", "never":
		return nil
	}
	return usageError{fmt.Sprintf("unknown value %q of --color", a.color), "one of auto, always, never"}
}

// address returns where the hub is.
func (a *app) address() (client.Address, error) {
	if a.socket == "" {
		if a.context != "" || a.getenv("HUBD_SOCKET") == "" {
			chosen, ok, err := a.chosenContext()
			if err != nil {
				return client.Address{}, err
			}
			if ok {
				addr, err := client.ParseAddress(chosen.Address)
				if err != nil {
					err = usageError{"the selected context: " + err.Error(), `"hubctl context add" changes it`}
				}
				return addr, err
			}
		}
		addr, err := client.DefaultAddress()
		if err != nil {
			return addr, usageError{err.Error(), ""}
		}
		return addr, nil
	}
	addr, err := client.ParseAddress(a.socket)
	if err != nil {
		return addr, usageError{"--socket: " + err.Error(), ""}
	}
	return addr, nil
}

func (a *app) options() (*client.Options, error) {
	config, err := a.files.config(a.getenv)
	return &client.Options{Name: "hubctl", Repeat: -1, Token: a.token(), TLS: config}, err
}

// token returns the token to show to the hub: that of HUBD_TOKEN, else, where
// the address is that of a context, the one in the context's file.
func (a *app) token() string {
	if t := a.getenv("HUBD_TOKEN"); t != "" {
		return t
	}
	if a.socket != "" || a.context == "" && a.getenv("HUBD_SOCKET") != "" {
		return ""
	}
	chosen, ok, err := a.chosenContext()
	if err != nil || !ok || chosen.TokenFile == "" {
		return ""
	}
	text, err := readText(chosen.TokenFile)
	if err != nil {
		fmt.Fprintf(a.err, "hubctl: warning: token of the context: %v\n", err)
	}
	return strings.TrimSpace(string(text))
}

// dial connects to the hub. run closes the connection.
func (a *app) dial(ctx context.Context) (*client.Client, error) {
	if a.shared {
		return a.client, nil
	}
	addr, err := a.address()
	if err != nil {
		return nil, err
	}
	opts, err := a.options()
	if err != nil {
		return nil, err
	}
	if a.patience > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, a.patience, fmt.Errorf("no answer within %v", a.patience))
		defer cancel()
	}
	c, err := client.Dial(ctx, addr.String(), opts)
	if err != nil {
		return nil, unreachable{addr, err}
	}
	a.client = c
	a.warnSkew(c.Server().Software)
	return c, nil
}

// warnSkew says once when hub and hubctl are not of one release.
func (a *app) warnSkew(software string) {
	name, hub, _ := strings.Cut(software, "/")
	if mine := build.Version(); name == "hubd" && build.Skewed(mine, hub) {
		fmt.Fprintf(a.err, "hubctl: warning: this is hubctl %s, the hub is hubd %s\n", mine, hub)
	}
}

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/duration"
	"github.com/hubd-dev/hubd/internal/nearest"
)

// Each service of the hub is a command of hubctl, and each of its methods a
// command below it: "hubctl demo count 3 --delay 0.5". They are built from what
// the hub says of its methods at the moment, those that other clients offer
// included, and only when the command line asks for one: the commands of
// hubctl itself need no hub and come first.
//
// A method without a dot in its name is a command of its own. Where hubctl has
// a command of a service's name ("state"), the methods that it does not have
// itself are added below it.

// generateLimit bounds the question to the hub that a generated command begins with.
const generateLimit = 10 * time.Second

// generate adds to root the commands that the words of a command line ask for.
// An error means that the hub could not be asked, or that there is no such
// service or method.
func (a *app) generate(ctx context.Context, root *cobra.Command, args []string) error {
	words := a.words(root, args)
	completing := len(words) > 0 && (words[0] == cobra.ShellCompRequestCmd || words[0] == cobra.ShellCompNoDescRequestCmd)
	switch {
	case completing:
		words = words[1:]
		if len(words) > 0 { // the last one is not complete
			words = words[:len(words)-1]
		}
	case len(words) > 0 && words[0] == "help":
		words = words[1:]
	}
	if len(words) == 0 {
		return nil
	}
	group := subcommand(root, words[0])
	if group != nil {
		if !group.HasSubCommands() || len(words) < 2 || subcommand(group, words[1]) != nil || isTopic(group) {
			return nil
		}
	}
	limit := generateLimit
	if completing {
		limit = completionLimit
	}
	ask, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	list, err := a.serviceMethods(ask, words[0])
	switch {
	case completing && err != nil:
		return nil // nothing is completed
	case group == nil && a.unknown && (err != nil || len(list) == 0):
		return nil // cobra says which flag it does not know: what follows was its value
	case err != nil && a.client == nil: // no hub
		if near := nearest.Of(words[0], commandNames(root), 1); group == nil && len(near) > 0 {
			return unknownCommand(root, words[0])
		}
		return err
	case err != nil:
		return err
	case len(list) == 0:
		if completing || group != nil {
			return nil
		}
		return a.noService(ask, root, words)
	}
	if group == nil && len(list) == 1 && list[0].Name == words[0] {
		root.AddCommand(a.methodCommand(list[0], words[0]))
		return nil
	}
	if group == nil {
		group = a.serviceCommand(words[0])
		root.AddCommand(group)
	}
	for _, m := range list {
		_, name, dotted := strings.Cut(m.Name, ".")
		if !dotted {
			name = m.Name
		}
		if subcommand(group, name) == nil {
			group.AddCommand(a.methodCommand(m, name))
		}
	}
	return nil
}

// isTopic reports whether a command with commands below it has nothing to do
// with a service of that name.
func isTopic(cmd *cobra.Command) bool { return cmd.Name() == "completion" || cmd.Name() == "help" }

// words are the arguments without flags; on the way the flags that matter for
// reaching the hub are taken over: all global ones, and --timeout. Cobra parses
// them only once it knows the command.
func (a *app) words(root *cobra.Command, args []string) (words []string) {
	for i := 0; i < len(args); i++ {
		arg := args[i]
		if arg == "--" {
			break
		}
		if len(arg) < 2 || arg[0] != '-' {
			words = append(words, arg)
			continue
		}
		name, value, inline := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		flag := root.PersistentFlags().Lookup(name)
		if flag == nil && !strings.HasPrefix(arg, "--") {
			if flag = root.PersistentFlags().ShorthandLookup(arg[1:2]); flag != nil && len(arg) > 2 {
				value, inline = arg[2:], true
			}
		}
		if len(words) == 0 && !isNegative(arg) && !isFlag(root, arg) {
			a.unknown = true
		}
		if flag == nil && name != "timeout" || flag != nil && flag.NoOptDefVal != "" {
			continue
		}
		if !inline && i+1 < len(args) {
			i++
			value = args[i]
		}
		if flag != nil {
			_ = flag.Value.Set(value) // cobra says what is wrong with it
		} else if d, err := duration.Parse(value); err == nil {
			a.patience = max(d, 0)
		}
	}
	return words
}

func subcommand(cmd *cobra.Command, name string) *cobra.Command {
	for _, sub := range cmd.Commands() {
		if sub.Name() == name || sub.HasAlias(name) {
			return sub
		}
	}
	return nil
}

func commandNames(cmd *cobra.Command) (names []string) {
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return names
}

// serviceMethods asks for the methods of a service.
func (a *app) serviceMethods(ctx context.Context, service string) ([]methodInfo, error) {
	c, err := a.dial(ctx)
	if err != nil {
		return nil, err
	}
	var list []methodInfo
	err = listAll(ctx, c, "hub.methods", map[string]any{"service": service}, &list)
	if e, ok := errors.AsType[*client.Error](err); ok && e.Kind == client.KindUnavailable { // it is about the service
		return nil, fmt.Errorf("%s%w", e.Message, silent{e})
	}
	if err != nil {
		return nil, err
	}
	return list, nil
}

// noService says that there is neither a command nor a service of that name.
func (a *app) noService(ctx context.Context, root *cobra.Command, words []string) error {
	name := words[0]
	known := commandNames(root)
	var list []methodInfo
	if listAll(ctx, a.client, "hub.methods", nil, &list) == nil {
		for _, s := range services(list) {
			if !slices.Contains(known, s) {
				known = append(known, s)
			}
		}
	}
	hint := `"hubctl --help" lists the commands, "hubctl methods" what the hub offers`
	if near := nearest.Of(name, known, 1); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q?", near[0])
	} else if strings.Contains(name, ".") {
		hint = fmt.Sprintf("to call a method: hubctl call %s", name)
	}
	text := fmt.Sprintf("neither hubctl nor the hub has a command %q", name)
	if len(words) > 1 && !strings.Contains(name, ".") { // a method, such as one whose provider has left
		return hintedError{fmt.Errorf("%s%w", text, silent{client.NoMethod(name + "." + words[1])}), hint}
	}
	return usageError{text, hint}
}

// serviceCommand is the command of a service, without those of its methods.
func (a *app) serviceCommand(service string) *cobra.Command {
	return &cobra.Command{
		Use:   service,
		Short: "The methods of the service " + service,
		Long: fmt.Sprintf(`The methods of the service %s, as the hub offers them now.

"hubctl %s COMMAND --help" shows the arguments of one.`, service, service),
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return a.suggest(cmd.Context(), client.NoMethod(service+"."+args[0]))
		},
	}
}

// methodCommand is the command that calls m.
func (a *app) methodCommand(m methodInfo, name string) *cobra.Command {
	g := &generated{app: a, method: m}
	cmd := &cobra.Command{
		Use:                   name + g.usage(),
		Short:                 oneLine(m.Doc),
		Long:                  g.help(),
		DisableFlagsInUseLine: true,
		Hidden:                !m.callableByWords(),
		Args: func(_ *cobra.Command, args []string) error {
			return g.checkCount(args)
		},
		RunE: func(cmd *cobra.Command, args []string) error { return g.run(cmd.Context(), cmd.Flags(), args) },
		ValidArgsFunction: func(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			return g.completeArgument(len(args), toComplete)
		},
	}
	g.addFlags(cmd)
	return cmd
}

// callableByWords reports whether words can be all its arguments: no word is a function.
func (m methodInfo) callableByWords() bool {
	return !slices.ContainsFunc(m.Params, func(p paramInfo) bool { return p.Type == "function" })
}

// completeTop completes the first word with the services of the hub; cobra adds
// hubctl's own commands.
func (a *app) completeTop(root *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	var list []methodInfo
	if len(args) > 0 || !a.ask("hub.methods", nil, &list) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	for _, s := range services(list) {
		if strings.HasPrefix(s, toComplete) && subcommand(root, s) == nil {
			found = append(found, s+"\tservice of the hub")
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// completeMore completes the first word behind one of hubctl's own groups with
// the methods of the service of that name.
func (a *app) completeMore(group *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	var list []methodInfo
	if len(args) > 0 || !a.ask("hub.methods", map[string]any{"service": group.Name()}, &list) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	for _, m := range list {
		_, name, _ := strings.Cut(m.Name, ".")
		if strings.HasPrefix(name, toComplete) && subcommand(group, name) == nil {
			found = append(found, name+"\t"+oneLine(m.Doc))
		}
	}
	return found, cobra.ShellCompDirectiveNoFileComp
}

// jsonText reports whether s is one JSON value.
func jsonText(s string) (json.RawMessage, bool) {
	if !json.Valid([]byte(s)) {
		return nil, false
	}
	return json.RawMessage(s), true
}

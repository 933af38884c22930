package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/nearest"
	"github.com/hubd-dev/hubd/internal/rpc"
)

// A context is a name for a hub and the token it wants, so that nobody types
// addresses. They are kept in contexts.json in the user's configuration folder.
type hubContext struct {
	Address   string `json:"address"`
	TokenFile string `json:"token_file,omitempty"`
}

// contexts is the file.
type contexts struct {
	Current  string                `json:"current,omitempty"`
	Previous string                `json:"previous,omitempty"`
	Contexts map[string]hubContext `json:"contexts"`
}

// contextsFile returns where the contexts are kept.
func (a *app) contextsFile() (string, error) {
	dir := a.getenv("XDG_CONFIG_HOME")
	if !filepath.IsAbs(dir) {
		home := a.getenv("HOME")
		if !filepath.IsAbs(home) {
			return "", usageError{"neither XDG_CONFIG_HOME nor HOME says where contexts are kept", ""}
		}
		dir = filepath.Join(home, ".config")
	}
	return filepath.Join(dir, "hubd", "contexts.json"), nil
}

// readContexts returns the contexts; none is no error.
func (a *app) readContexts() (contexts, error) {
	c := contexts{Contexts: map[string]hubContext{}}
	path, err := a.contextsFile()
	if err != nil {
		return c, nil // and so there are none
	}
	text, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	if err == nil {
		err = json.Unmarshal(rpc.SkipBOM(text), &c)
	}
	if err != nil {
		return c, usageError{fmt.Sprintf("contexts: %s: %v", path, err), "mend the file or remove it"}
	}
	if c.Contexts == nil {
		c.Contexts = map[string]hubContext{}
	}
	return c, nil
}

func (a *app) writeContexts(c contexts) error {
	path, err := a.contextsFile()
	if err != nil {
		return err
	}
	text, err := json.MarshalIndent(c, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	temp, err := os.CreateTemp(filepath.Dir(path), ".contexts-*")
	if err != nil {
		return err
	}
	defer os.Remove(temp.Name()) // nothing is there any more after the rename
	_, err = temp.Write(append(text, '\n'))
	err = errors.Join(err, temp.Close())
	if err != nil {
		return err
	}
	return os.Rename(temp.Name(), path)
}

// chosenContext returns the context that holds: that of --context or
// HUBD_CONTEXT, else the one that was selected. None is no error.
func (a *app) chosenContext() (hubContext, bool, error) {
	name := a.context
	if name == "" {
		name = a.getenv("HUBD_CONTEXT")
	}
	c, err := a.readContexts()
	if err != nil {
		return hubContext{}, false, err
	}
	asked := name != ""
	if !asked {
		name = c.Current
	}
	chosen, ok := c.Contexts[name]
	if !ok && asked {
		return hubContext{}, false, c.unknown(name)
	}
	return chosen, ok, nil
}

func (c contexts) unknown(name string) error {
	hint := `"hubctl context add" makes one`
	if near := nearest.Of(name, c.names(), 1); len(near) > 0 {
		hint = fmt.Sprintf("did you mean %q?", near[0])
	} else if len(c.Contexts) > 0 {
		hint = "there are " + strings.Join(c.names(), ", ")
	}
	return usageError{fmt.Sprintf("no context %q", oneLine(name)), hint}
}

func (c contexts) names() []string {
	names := make([]string, 0, len(c.Contexts))
	for name := range c.Contexts {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func newContext(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "context",
		Short: "Name hubs and choose between them",
		Long: `A context is a name for the address of a hub, and for the file with the token it
wants. The selected one holds for all commands, unless --socket, HUBD_SOCKET,
--context or HUBD_CONTEXT say otherwise.`,
		Example: `  hubctl context add laptop unix:///run/user/1000/hubd/hub.sock
  hubctl context add build tcp://127.0.0.1:7420 --token-file ~/.config/hubd/build.token
  hubctl context select build
  hubctl context select -                  back to the one before
  hubctl context ls`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usageError{fmt.Sprintf("unknown command %q of \"hubctl context\"", args[0]), `"hubctl context --help" lists the commands`}
		},
	}
	cmd.AddCommand(newContextList(a), newContextSelect(a), newContextAdd(a), newContextRemove(a))
	return cmd
}

func newContextList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "ls",
		Short: "List the contexts",
		Args:  cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			c, err := a.readContexts()
			if err != nil {
				return err
			}
			if f := a.formatOr(formatTable); f != formatTable {
				return a.printer(f).printAny(c)
			}
			rows := make([][]string, 0, len(c.Contexts))
			for _, name := range c.names() {
				mark := ""
				if name == c.Current {
					mark = "*"
				}
				rows = append(rows, []string{mark, name, c.Contexts[name].Address, c.Contexts[name].TokenFile})
			}
			_, err = styled(a.out).Write(appendGrid(nil, []string{"", "NAME", "ADDRESS", "TOKEN FILE"}, rows, a.coloured(), a.width()))
			return err
		},
	}
}

func newContextSelect(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "select NAME | -",
		Short:             "Choose the context that holds from now on",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeContext,
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := a.readContexts()
			if err != nil {
				return err
			}
			name := args[0]
			if name == "-" {
				if name = c.Previous; name == "" {
					return usageError{"no context was selected before", ""}
				}
			}
			if _, ok := c.Contexts[name]; !ok {
				return c.unknown(name)
			}
			if name != c.Current {
				c.Previous, c.Current = c.Current, name
			}
			if err := a.writeContexts(c); err != nil {
				return err
			}
			fmt.Fprintf(a.err, "hubctl: context %s: %s\n", name, c.Contexts[name].Address)
			if a.getenv("HUBD_SOCKET") != "" {
				fmt.Fprintln(a.err, "hubctl: warning: HUBD_SOCKET is set and wins")
			}
			return nil
		},
	}
}

func newContextAdd(a *app) *cobra.Command {
	tokenFile := ""
	cmd := &cobra.Command{
		Use:   "add NAME ADDRESS",
		Short: "Add a context, or change one",
		Args:  cobra.ExactArgs(2),
		RunE: func(_ *cobra.Command, args []string) error {
			if !isName(args[0]) {
				return usageError{fmt.Sprintf("%q is no name for a context", oneLine(args[0])), "letters, digits, dots, dashes and underscores"}
			}
			address, err := client.ParseAddress(args[1])
			if err != nil {
				return usageError{err.Error(), ""}
			}
			if tokenFile != "" {
				if tokenFile, err = filepath.Abs(tokenFile); err != nil {
					return err
				}
			}
			c, err := a.readContexts()
			if err != nil {
				return err
			}
			c.Contexts[args[0]] = hubContext{address.String(), tokenFile}
			if c.Current == "" {
				c.Current = args[0]
			}
			return a.writeContexts(c)
		},
	}
	cmd.Flags().StringVar(&tokenFile, "token-file", "", "`FILE` that holds the token for this hub")
	return cmd
}

func newContextRemove(a *app) *cobra.Command {
	return &cobra.Command{
		Use:               "rm NAME",
		Short:             "Remove a context",
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeContext,
		RunE: func(_ *cobra.Command, args []string) error {
			c, err := a.readContexts()
			if err != nil {
				return err
			}
			if _, ok := c.Contexts[args[0]]; !ok {
				return c.unknown(args[0])
			}
			delete(c.Contexts, args[0])
			if c.Current == args[0] {
				c.Current = ""
			}
			if c.Previous == args[0] {
				c.Previous = ""
			}
			return a.writeContexts(c)
		},
	}
}

func (a *app) completeContext(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	c, err := a.readContexts()
	if len(args) > 0 || err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return startingWith(c.names(), toComplete), cobra.ShellCompDirectiveNoFileComp
}

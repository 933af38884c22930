package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// commandDoc is a command for programs that read help: --json-docs.
type commandDoc struct {
	Name     string       `json:"name"` // the whole of it: "hubctl state get"
	Usage    string       `json:"usage"`
	Short    string       `json:"short"`
	Long     string       `json:"long,omitempty"`
	Example  string       `json:"example,omitempty"`
	Flags    []flagDoc    `json:"flags"` // its own; those of the root hold everywhere
	Commands []commandDoc `json:"commands"`
}

type flagDoc struct {
	Name      string `json:"name"`
	Shorthand string `json:"shorthand,omitempty"`
	Type      string `json:"type"`
	Default   string `json:"default"`
	Doc       string `json:"doc"`
}

// documentCommand describes cmd and what is below it, but for what is hidden.
func documentCommand(cmd *cobra.Command) commandDoc {
	d := commandDoc{
		Name: cmd.CommandPath(), Usage: cmd.UseLine(), Short: cmd.Short, Long: cmd.Long, Example: cmd.Example,
		Flags: []flagDoc{}, Commands: []commandDoc{},
	}
	add := func(f *pflag.Flag) {
		if !f.Hidden {
			_, usage := pflag.UnquoteUsage(f)
			d.Flags = append(d.Flags, flagDoc{f.Name, f.Shorthand, f.Value.Type(), f.DefValue, usage})
		}
	}
	cmd.LocalFlags().VisitAll(add)
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() || sub.IsAdditionalHelpTopicCommand() {
			d.Commands = append(d.Commands, documentCommand(sub))
		}
	}
	return d
}

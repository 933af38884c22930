package main

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/nearest"
)

// suggestLimit bounds the second question to the hub that a wrong name costs.
const suggestLimit = 5 * time.Second

// suggest turns the error of a method that does not exist into one that names
// those that it may have been meant to be.
func (a *app) suggest(ctx context.Context, err error) error {
	e, ok := errors.AsType[*client.Error](err)
	if !ok || !e.NoMethod() || a.client == nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, suggestLimit)
	defer cancel()
	var list []methodInfo
	if listAll(ctx, a.client, "hub.methods", nil, &list) != nil {
		return err
	}
	near := nearest.Of(e.Method, names(list), 3)
	if len(near) == 0 {
		return err
	}
	return hintedError{
		fmt.Errorf("no such method %q%w", e.Method, silent{e}),
		fmt.Sprintf("did you mean %s?", strings.Join(near, ", ")),
	}
}

// silent is an error that adds nothing to the text of the one that wraps it.
type silent struct{ err error }

func (silent) Error() string   { return "" }
func (s silent) Unwrap() error { return s.err }

func names(list []methodInfo) []string {
	out := make([]string, len(list))
	for i, m := range list {
		out[i] = m.Name
	}
	return out
}

// completionLimit keeps the shell from hanging on a hub that does.
const completionLimit = 500 * time.Millisecond

// ask makes a call for the shell's completion; failures complete nothing.
func (a *app) ask(method string, params map[string]any, result any) bool {
	ctx, cancel := context.WithTimeout(context.Background(), completionLimit)
	defer cancel()
	c, err := a.dial(ctx)
	if err != nil {
		return false
	}
	return listAll(ctx, c, method, params, result) == nil
}

// completeMethod completes the first argument with the methods of the hub and
// the others with the names of that method's arguments.
func (a *app) completeMethod(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if len(args) == 0 {
		var list []methodInfo
		if !a.ask("hub.methods", nil, &list) {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		var out []string
		for _, m := range list {
			if strings.HasPrefix(m.Name, toComplete) {
				out = append(out, m.Name+"\t"+oneLine(m.Doc))
			}
		}
		return out, cobra.ShellCompDirectiveNoFileComp
	}
	if strings.HasPrefix(toComplete, "@") || strings.Contains(toComplete, "=") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	var m methodInfo
	if !a.ask("hub.describe", map[string]any{"name": args[0]}, &m) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var out []string
	for _, p := range m.Params {
		sign := ":="
		if p.Type == "string" {
			sign = "="
		}
		if strings.HasPrefix(p.Name, toComplete) && !given(args[1:], p.Name) {
			out = append(out, p.Name+sign+"\t"+oneLine(p.Doc))
		}
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveNoSpace
}

func given(args []string, name string) bool {
	for _, arg := range args {
		if strings.HasPrefix(arg, name+"=") || strings.HasPrefix(arg, name+":=") {
			return true
		}
	}
	return false
}

// completeService completes the names of services, completeSession those of sessions.
func (a *app) completeService(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	var list []methodInfo
	if len(args) > 0 || !a.ask("hub.methods", nil, &list) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return startingWith(services(list), toComplete), cobra.ShellCompDirectiveNoFileComp
}

func (a *app) completeSession(_ *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	var list []struct {
		Session string `json:"session"`
	}
	if len(args) > 0 || !a.ask("session.list", nil, &list) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var found []string
	for _, s := range list {
		found = append(found, s.Session)
	}
	return startingWith(found, toComplete), cobra.ShellCompDirectiveNoFileComp
}

func startingWith(list []string, prefix string) (out []string) {
	for _, s := range list {
		if strings.HasPrefix(s, prefix) {
			out = append(out, s)
		}
	}
	return out
}

package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
)

// bytesItem is how much of a file goes into one item of a stream of bytes.
const bytesItem = 64 << 10

// generated is the command of one method.
type generated struct {
	app     *app
	method  methodInfo
	options []*optionValue
	timeout time.Duration
	lines   bool
}

// positional are the parameters that are words: those without a default, in
// order, the caller's stream last, and before it one that takes all further words.
func (g *generated) positional() (words []paramInfo, rest, stream *paramInfo) {
	for i, p := range g.method.Params {
		switch {
		case p.Stream:
			stream = &g.method.Params[i]
		case p.Rest:
			rest = &g.method.Params[i]
		case p.Required:
			words = append(words, p)
		}
	}
	return words, rest, stream
}

func (g *generated) usage() string {
	var b strings.Builder
	words, rest, stream := g.positional()
	for _, p := range words {
		b.WriteString(" " + word(p.Name))
	}
	if rest != nil {
		b.WriteString(" [" + word(rest.Name) + "]...")
	}
	if stream != nil {
		b.WriteString(" [FILE | -]")
	}
	return b.String() + " [flags]"
}

// word is the placeholder of a parameter.
func word(name string) string { return strings.ToUpper(oneLine(name)) }

func (g *generated) help() string {
	var b strings.Builder
	m := g.method
	b.WriteString(oneLine(m.Doc))
	words, rest, stream := g.positional()
	if rest != nil {
		words = append(words, *rest)
	}
	if len(words) > 0 || stream != nil {
		b.WriteString("\n\nArguments:\n")
		var rows [][]string
		for _, p := range words {
			kind, _ := paramKind(p)
			rows = append(rows, []string{"  " + word(p.Name), oneLine(kind), oneLine(p.Doc)})
		}
		if stream != nil {
			rows = append(rows, []string{"  FILE", "stream", strings.TrimSuffix(oneLine(stream.Name+": "+stream.Doc), ": ")})
		}
		b.WriteString(strings.TrimRight(string(appendGrid(nil, nil, rows, false, 0)), "\n"))
		if stream != nil {
			b.WriteString("\n\n" + streamText(*stream))
		}
	}
	if m.StreamOut {
		b.WriteString("\n\nThe result is a stream: its items are printed as they come.")
	}
	if m.Provider != "" {
		b.WriteString("\n\nOffered by " + oneLine(m.Provider) + ".")
	}
	return b.String()
}

// streamText says what FILE holds.
func streamText(p paramInfo) string {
	const from = "FILE is read to its end, - is stdin, and so is no FILE unless stdin is a terminal.\n"
	switch kind, _ := paramKind(p); kind {
	case "bytes":
		return from + "It is sent as it is."
	case "string":
		return from + "Each line is an item."
	case "any":
		return from + "Each JSON value is an item; with --lines each line is one, as a string."
	default:
		return from + "Each JSON value is an item."
	}
}

// addFlags gives cmd a flag for each parameter with a default.
func (g *generated) addFlags(cmd *cobra.Command) {
	flags := cmd.Flags()
	taken := func(name string) bool {
		return name == "help" || name == "timeout" || name == "lines" || flags.Lookup(name) != nil || g.app.globals.Lookup(name) != nil
	}
	for _, p := range g.method.Params {
		if p.Stream || p.Rest || p.Required {
			continue
		}
		name := strings.ReplaceAll(p.Name, "_", "-")
		if taken(name) {
			name = "arg-" + name
		}
		o := &optionValue{param: p}
		if len(p.Default) > 0 && string(p.Default) != "null" {
			o.text = strings.Trim(string(p.Default), `"`)
		}
		g.options = append(g.options, o)
		f := flags.VarPF(o, name, "", oneLine(p.Doc))
		if kind, _ := paramKind(p); kind == "boolean" {
			f.NoOptDefVal = "true"
			if no := "no-" + name; !taken(no) {
				n := flags.VarPF(noValue{o}, no, "", "")
				n.NoOptDefVal = "true"
				n.Hidden = true
			}
		}
	}
	if _, _, stream := g.positional(); stream != nil {
		if kind, _ := paramKind(*stream); kind == "any" {
			flags.BoolVar(&g.lines, "lines", false, "each line of FILE is an item, as a string")
		}
	}
	spanFlag(flags, &g.timeout, "timeout", "", 0, "give up after that time, such as 500ms or 2m (the hub's default is 30s)")
}

func (g *generated) checkCount(args []string) error {
	words, rest, stream := g.positional()
	most := len(words)
	if stream != nil {
		most++
	}
	hint := fmt.Sprintf("usage: hubctl %s%s", strings.ReplaceAll(g.method.Name, ".", " "), g.usage())
	switch {
	case len(args) < len(words):
		return usageError{fmt.Sprintf("%s is missing", word(words[len(args)].Name)), hint}
	case len(args) > most && rest == nil:
		return usageError{fmt.Sprintf("%q is one argument too many", oneLine(args[most])), hint}
	}
	return nil
}

func (g *generated) completeArgument(n int, toComplete string) ([]string, cobra.ShellCompDirective) {
	words, _, stream := g.positional()
	switch {
	case n >= len(words) && stream != nil:
		return nil, cobra.ShellCompDirectiveDefault // a file
	case n < len(words):
		if kind, _ := paramKind(words[n]); kind == "bytes" || kind == "object" {
			return nil, cobra.ShellCompDirectiveDefault
		}
		switch {
		case words[n].Name == "session":
			return g.app.completeSession(nil, nil, toComplete)
		case words[n].Name == "key" && g.method.Service == "state":
			return g.app.completeKey(nil, nil, toComplete)
		}
	}
	return nil, cobra.ShellCompDirectiveNoFileComp
}

// params are the arguments as one JSON object, or an array where the method
// takes any number of them.
func (g *generated) params(args []string) (json.RawMessage, string, error) {
	words, rest, stream := g.positional()
	named, list := []byte{'{'}, []byte{'['}
	add := func(p paramInfo, v json.RawMessage) {
		if len(named) > 1 {
			named = append(named, ',')
		}
		named = append(rpc.AppendString(named, p.Name, false), ':')
		named = append(named, v...)
	}
	for i, p := range words {
		v, err := argumentValue(p, args[i])
		if err != nil {
			return nil, "", err
		}
		add(p, v)
		list = append(append(list, v...), ',')
	}
	args = args[len(words):]
	if rest != nil {
		elem := *rest
		elem.Type = strings.TrimPrefix(elem.Type, "[]")
		if len(args)+len(words) == 0 {
			return nil, "", nil
		}
		for _, arg := range args {
			v, err := argumentValue(elem, arg)
			if err != nil {
				return nil, "", err
			}
			list = append(append(list, v...), ',')
		}
		return json.RawMessage(append(bytes.TrimSuffix(list, []byte{','}), ']')), "", nil
	}
	given := 0
	for _, o := range g.options {
		if o.value != nil {
			add(o.param, o.value)
			given++
		}
	}
	if len(words) == 1 && stream == nil && given == 0 { // echo tells the two spellings apart
		return json.RawMessage(append(bytes.TrimSuffix(list, []byte{','}), ']')), "", nil
	}
	file := ""
	if stream != nil {
		switch {
		case len(args) > 0:
			file = args[0]
		case !g.app.inTTY:
			file = "-"
		case stream.Required:
			return nil, "", usageError{"FILE is missing", "give the name of a file, or - for stdin"}
		}
	}
	return append(named, '}'), file, nil
}

// run calls the method.
func (g *generated) run(ctx context.Context, _ *pflag.FlagSet, args []string) error {
	if g.timeout < 0 {
		return usageError{"--timeout must not be negative", ""}
	}
	params, file, err := g.params(args)
	if err != nil {
		return err
	}
	cl := g.app.client // generate has asked on it
	if cl == nil {
		if cl, err = g.app.dial(ctx); err != nil {
			return err
		}
	}
	var opts []client.CallOption
	if g.timeout > 0 {
		opts = append(opts, client.WithTimeout(g.timeout))
	}
	if !g.method.StreamOut && file == "" {
		result, err := cl.CallRaw(ctx, g.method.Name, params, opts...)
		if err != nil {
			return g.app.suggest(ctx, err)
		}
		return g.print(g.app.printer(g.app.formatOr(formatJSON)), result)
	}
	return g.app.suggest(ctx, g.stream(ctx, cl, params, file, opts))
}

// stream calls a method with a stream of arguments or results.
func (g *generated) stream(ctx context.Context, cl *client.Client, params json.RawMessage, file string, opts []client.CallOption) error {
	s, err := cl.Open(ctx, g.method.Name, params, opts...)
	if err != nil {
		return err
	}
	defer s.Close()
	sent := make(chan error, 1)
	if file != "" {
		go func() { // ends with the stream, or with the program while it reads stdin
			err := g.send(s, file)
			sent <- err // before the loop below sees the end of the stream
			if err != nil {
				s.Close()
			}
		}()
	}
	own := formatJSON
	if g.method.StreamOut {
		own = formatJSONL
	}
	out := g.app.printer(g.app.formatOr(own))
	for item, err := range s.Items() {
		if err != nil {
			select {
			case cause := <-sent: // a file that cannot be read ends the call
				if cause != nil {
					err = cause
				}
			default:
			}
			return err
		}
		if err := g.print(out, item); err != nil {
			return err
		}
	}
	var result json.RawMessage
	if err := s.Result(&result); err != nil {
		return err
	}
	if !g.method.StreamOut || string(result) != "null" {
		return g.print(out, result)
	}
	return nil
}

// print writes a result. Bytes go to a file or pipe as they are, unless a
// format was asked for.
func (g *generated) print(out *printer, text json.RawMessage) error {
	if kind, _ := strings.CutSuffix(g.method.Result, "?"); kind == "bytes" && g.app.format == "" && !g.app.outTTY {
		var encoded string
		if json.Unmarshal(text, &encoded) == nil {
			if b, err := base64.StdEncoding.DecodeString(encoded); err == nil {
				_, err := g.app.out.Write(b)
				return err
			}
		}
	}
	return out.print(text)
}

// send sends the items of the method's stream. An error says that not all were sent.
func (g *generated) send(s *client.Stream, file string) error {
	in, name := g.app.in, "stdin"
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return usageError{err.Error(), ""}
		}
		defer f.Close()
		in, name = f, file
	}
	for v, err := range g.items(in, name) {
		if err != nil {
			return err
		}
		if err := s.Send(v); err != nil {
			if errors.Is(err, io.EOF) {
				return nil // the call is over and knows why
			}
			return err
		}
	}
	return s.CloseSend()
}

func (g *generated) items(in io.Reader, name string) iter.Seq2[json.RawMessage, error] {
	_, _, stream := g.positional()
	switch kind, _ := paramKind(*stream); {
	case kind == "bytes":
		return pieces(in, name)
	case kind == "string" || g.lines:
		return lineValues(in, name)
	default:
		return jsonValues(in, name)
	}
}

// pieces yields what r holds as base64 strings.
func pieces(r io.Reader, name string) iter.Seq2[json.RawMessage, error] {
	return func(yield func(json.RawMessage, error) bool) {
		buf := make([]byte, bytesItem)
		for {
			n, err := io.ReadFull(r, buf)
			if n > 0 && !yield(bytesValue(buf[:n]), nil) {
				return
			}
			if err == io.EOF || err == io.ErrUnexpectedEOF {
				return
			}
			if err != nil {
				yield(nil, usageError{name + ": " + err.Error(), ""})
				return
			}
		}
	}
}

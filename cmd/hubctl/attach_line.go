package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/term"

	"github.com/hubd-dev/hubd/client"
)

// commandLine is the command line inside an attachment: commands of hubctl, on
// the connection that carries the session's events.
type commandLine struct {
	t      *attaching
	client *client.Client
	cancel context.CancelCauseFunc
	out    io.Writer // the terminal, in raw mode

	editor  *term.Terminal // of the line that is open
	text    io.Writer      // the same, for text of others
	history term.History   // of all lines; nil before the first
}

const linePrompt = "hubd> "

const lineHelp = `commands:
  call METHOD [ARGUMENT]...   call a method; also with --stream
  methods [SERVICE]           what can be called; describe METHOD tells more
  state get KEY               and the other words of "state"
  publish JSON | key=text     publish an event on this session
  who                         who follows this session
  answer [TOOL] WORD          answer a permission prompt: yes, no, always, ...
  status, ping                the hub
  detach                      leave the session running and end hubctl
  help                        this
An empty line or Ctrl-D goes back to the session. Tab completes, Ctrl-C ends a
command.
`

// run has the screen until the line is left. It reports whether the key that
// opens the command line is to be sent to the session.
func (l *commandLine) run(ctx context.Context, in *lineInput) (literal bool) {
	full := l.t.screen.hold()
	defer func() {
		l.t.screen.release()
		if full {
			l.t.askRedraw(ctx)
		}
	}()
	stop := context.AfterFunc(ctx, in.close)
	defer stop()
	// A new editor each time: one that was left in the middle of a line, or with
	// Ctrl-D, goes on there.
	l.editor = term.NewTerminal(struct {
		io.Reader
		io.Writer
	}{in, l.out}, linePrompt)
	l.editor.AutoCompleteCallback = l.complete
	l.text = &visible{w: l.editor}
	if l.history != nil {
		l.editor.History = l.history
	}
	l.history = l.editor.History
	if out, ok := fileOf(l.t.app.out); ok {
		if cols, rows, err := term.GetSize(int(out.Fd())); err == nil && cols > 0 {
			_ = l.editor.SetSize(cols, rows) // it draws anew: what a terminal that is gone does not take is of no use
		}
	}
	fmt.Fprint(l.out, "\r\n")
	for {
		line, err := l.editor.ReadLine()
		if err == term.ErrPasteIndicator {
			err = nil
		}
		words, problem := splitWords(line)
		switch {
		case err != nil || problem == nil && len(words) == 0:
			in.mu.Lock()
			literal = in.literal
			in.mu.Unlock()
			if err != nil {
				fmt.Fprint(l.out, "\r\n")
			}
			return literal
		case problem != nil:
			fmt.Fprintf(l.text, "hubctl: %s\n", problem)
			continue
		}
		command, cancel := context.WithCancel(ctx)
		in.running(cancel)
		err = l.execute(command, words)
		in.running(nil)
		cancel()
		if errors.Is(err, errLeft) || ctx.Err() != nil {
			return false
		}
	}
}

// execute runs one command.
func (l *commandLine) execute(ctx context.Context, words []string) error {
	switch words[0] {
	case "help", "?":
		fmt.Fprint(l.text, lineHelp)
		return nil
	case "detach", "quit", "exit":
		l.cancel(errDetached)
		return errLeft
	case "who":
		return l.report(ctx, l.who(ctx))
	case "answer":
		return l.report(ctx, l.answer(ctx, words[1:]))
	case "publish":
		words = append([]string{"publish", l.t.session}, words[1:]...)
	}
	sub := l.app()
	root := l.root(sub)
	if cmd, _, err := root.Find(words); err == nil && cmd == root {
		hint := `"help" lists the commands`
		if strings.Contains(words[0], ".") {
			hint = "to call a method: call " + words[0]
		}
		return l.report(ctx, usageError{fmt.Sprintf("unknown command %q", words[0]), hint})
	}
	takeNumbers(root, words)
	err := root.ExecuteContext(ctx)
	if ctx.Err() != nil {
		fmt.Fprintln(l.text, "hubctl: cancelled")
		return nil
	}
	sub.report(ctx, err)
	return nil
}

func (l *commandLine) report(ctx context.Context, err error) error {
	if err != nil && ctx.Err() == nil {
		l.app().report(ctx, err)
	}
	return nil
}

// app is what the commands run in: the screen, no stdin, this connection.
func (l *commandLine) app() *app {
	con := l.t.app.console
	con.in, con.inTTY = strings.NewReader(""), false
	con.out, con.err = l.text, l.text
	return &app{console: con, socket: l.t.app.socket, color: l.t.app.color, client: l.client, shared: true}
}

// root has those commands of hubctl that make sense here.
func (l *commandLine) root(sub *app) *cobra.Command {
	root := newRoot(sub)
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "call", "methods", "describe", "state", "publish", "ping", "status", cobra.ShellCompNoDescRequestCmd:
		default:
			root.RemoveCommand(cmd)
		}
	}
	return root
}

// who prints the followers of the session.
func (l *commandLine) who(ctx context.Context) error {
	var info struct {
		Seq       uint64 `json:"seq"`
		Followers []struct {
			ClientID string  `json:"client_id"`
			Mode     string  `json:"mode"`
			Protocol string  `json:"protocol"`
			Since    float64 `json:"since"`
			Lag      uint64  `json:"lag"`
			Dropped  uint64  `json:"dropped"`
		} `json:"followers"`
		Owner *struct {
			Protocol string `json:"protocol"`
			Peer     struct {
				PID int `json:"pid"`
			} `json:"peer"`
		} `json:"owner"`
	}
	if err := l.client.Call(ctx, "session.info", map[string]string{"session": l.t.session}, &info); err != nil {
		return err
	}
	if info.Owner == nil {
		fmt.Fprintf(l.text, "session %s, without an owner, %d events\n", oneLine(l.t.session), info.Seq)
	} else {
		fmt.Fprintf(l.text, "session %s, owned by process %d (%s), %d events\n", oneLine(l.t.session), info.Owner.Peer.PID, oneLine(info.Owner.Protocol), info.Seq)
	}
	for _, f := range info.Followers {
		here := ""
		if f.ClientID == l.t.name {
			here = "  (here)"
		}
		since := time.Since(time.UnixMicro(int64(f.Since * 1e6))).Round(time.Second)
		behind := ""
		if f.Lag > 0 {
			behind = fmt.Sprintf(", %d events behind", f.Lag)
		}
		if f.Dropped > 0 {
			behind += fmt.Sprintf(", %d lost", f.Dropped)
		}
		fmt.Fprintf(l.text, "  %-20s %-11s %-9s for %v%s%s\n", oneLine(f.ClientID), oneLine(f.Mode), oneLine(f.Protocol), since, behind, here)
	}
	return nil
}

// answer answers the oldest open prompt, or the one that is named.
func (l *commandLine) answer(ctx context.Context, words []string) error {
	hint := `such as "answer yes" or "answer deny"`
	if len(words) == 0 || len(words) > 2 {
		return usageError{"which answer?", hint}
	}
	word := strings.ToLower(words[len(words)-1])
	answer := ""
	for _, k := range promptKeys {
		if word == string(k.key) || word == k.phrase || strings.ToUpper(word) == k.answer || "approve_"+word == strings.ToLower(k.answer) {
			answer = k.answer
		}
	}
	if answer == "" {
		return usageError{fmt.Sprintf("%q is no answer", word), hint}
	}
	id, ok := l.t.prompts.first()
	if len(words) == 2 {
		id, ok = words[0], true
	}
	if !ok {
		return errors.New("no permission prompt is open")
	}
	l.t.prompts.knows(id, true) // before the event comes
	if err := l.t.prompts.respond(ctx, id, answer); err != nil {
		l.t.prompts.knows(id, false)
		return err
	}
	fmt.Fprintf(l.text, "answered: %s\n", answer)
	return nil
}

// ownWords are the commands that hubctl does not have elsewhere.
var ownWords = []string{"answer", "detach", "help", "who"}

// complete completes with Tab: what the commands of hubctl complete with.
func (l *commandLine) complete(line string, pos int, key rune) (newLine string, newPos int, ok bool) {
	if key != '\t' || pos != len(line) {
		return "", 0, false
	}
	words, err := splitWords(line)
	if err != nil {
		return "", 0, false
	}
	last := ""
	if len(words) > 0 && !strings.HasSuffix(line, " ") {
		last, words = words[len(words)-1], words[:len(words)-1]
	}
	var out strings.Builder
	sub := l.app()
	sub.out, sub.err = &out, io.Discard
	root := l.root(sub)
	args := append(append([]string{cobra.ShellCompNoDescRequestCmd}, words...), last)
	root.SetArgs(args)
	root.SetOut(newCandidates(&out, args))
	_ = root.Execute() // without an answer there is nothing to complete
	var found []string
	for c := range strings.SplitSeq(out.String(), "\n") {
		if strings.HasPrefix(c, last) && c != "" && c == oneLine(c) && !strings.HasPrefix(c, ":") && c != "publish" {
			found = append(found, c)
		}
	}
	if len(words) == 0 {
		found = append(found, startingWith(ownWords, last)...)
	}
	common := commonPrefix(found)
	switch {
	case len(found) == 1:
		if !strings.HasSuffix(common, "=") && !strings.HasSuffix(common, ".") {
			common += " "
		}
	case len(common) <= len(last):
		if len(found) > 1 && len(found) <= 60 {
			// The editor goes on where it thinks that the cursor is.
			fmt.Fprintf(l.out, "\r\n%s\r\n%s%s", oneLine(strings.Join(found, "  ")), linePrompt, line)
		}
		return line, pos, true
	}
	newLine = line[:len(line)-len(last)] + common
	return newLine, len(newLine), true
}

func commonPrefix(list []string) string {
	if len(list) == 0 {
		return ""
	}
	prefix := list[0]
	for _, s := range list[1:] {
		for !strings.HasPrefix(s, prefix) {
			prefix = prefix[:len(prefix)-1]
		}
	}
	return prefix
}

// splitWords splits a line as a shell does: at blanks, but not within quotes.
// Beyond that JSON needs no quotes around it, at the beginning of a word and
// after := in one.
func splitWords(line string) (words []string, err error) {
	var word strings.Builder
	inWord := false
	var quote byte
	for i := 0; i < len(line); i++ {
		c := line[i]
		if quote == 0 && (!inWord && (c == '{' || c == '[') || inWord && c != ' ' && strings.HasSuffix(word.String(), ":=")) {
			if text := jsonAt(line[i:]); text != "" {
				word.WriteString(text)
				inWord = true
				i += len(text) - 1
				continue
			}
		}
		switch {
		case c == '\\' && quote != '\'':
			if i++; i == len(line) {
				return nil, errors.New("nothing follows the backslash")
			}
			word.WriteByte(line[i])
			inWord = true
		case quote != 0 && c == quote:
			quote = 0
		case quote != 0:
			word.WriteByte(c)
		case c == '\'' || c == '"':
			quote, inWord = c, true
		case c == ' ' || c == '\t':
			if inWord {
				words = append(words, word.String())
				word.Reset()
				inWord = false
			}
		default:
			word.WriteByte(c)
			inWord = true
		}
	}
	if quote != 0 {
		return nil, errors.New("a quote is not closed")
	}
	if inWord {
		words = append(words, word.String())
	}
	return words, nil
}

// jsonAt returns the JSON value that s begins with and that ends with s or
// before a blank; "" if there is none.
func jsonAt(s string) string {
	dec := json.NewDecoder(strings.NewReader(s))
	var value json.RawMessage
	if dec.Decode(&value) != nil {
		return ""
	}
	end := int(dec.InputOffset())
	if end < len(s) && s[end] != ' ' && s[end] != '\t' {
		return ""
	}
	return s[:end]
}

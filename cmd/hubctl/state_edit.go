package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
)

func newStateEdit(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "edit KEY",
		Short: "Change a value in an editor",
		Long: `Open the value of a key as JSON in $VISUAL, or $EDITOR, or vi, and store what is
left there, if it changed. A key that does not exist begins as null. The time that
a key has left stays as it is.

If the key was changed meanwhile nothing is stored: the command says where the
edited text is and ends with exit code 1. The same goes for text that is not JSON.`,
		Example: `  hubctl state edit site/settings
  EDITOR="code --wait" hubctl state edit site/settings`,
		Args:              cobra.ExactArgs(1),
		ValidArgsFunction: a.completeKey,
		RunE:              func(cmd *cobra.Command, args []string) error { return a.editState(cmd.Context(), args[0]) },
	}
}

func (a *app) editState(ctx context.Context, key string) error {
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	it := stateItem{Key: key, Value: json.RawMessage("null")}
	err = c.Call(ctx, "state.get", map[string]any{"key": key}, &it)
	if e, ok := errors.AsType[*client.Error](err); ok && e.Kind == client.KindNotFound && !e.NoMethod() {
		err = nil // it is made
	}
	if err != nil {
		return stateError(err)
	}
	before := append(appendIndented(nil, it.Value, plain), '\n')
	file, err := writeDraft(before)
	if err != nil {
		return err
	}
	after, err := a.runEditor(ctx, file)
	if err != nil {
		os.RemoveAll(filepath.Dir(file))
		return err
	}
	if bytes.Equal(before, after) {
		os.RemoveAll(filepath.Dir(file))
		a.talk("nothing was changed")
		return nil
	}
	result, err := storeEdited(ctx, c, it, after)
	if err != nil {
		return keptDraft(err, file)
	}
	os.RemoveAll(filepath.Dir(file))
	return a.printer(a.formatOr(formatJSONL)).print(result)
}

// writeDraft makes a file that only this user can read, in a folder of its own.
func writeDraft(text []byte) (string, error) {
	dir, err := os.MkdirTemp("", "hubctl-edit-")
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "value.json") // the name tells editors what it is
	if err := os.WriteFile(file, text, 0o600); err != nil {
		os.RemoveAll(dir)
		return "", err
	}
	return file, nil
}

// runEditor lets the user change the file and returns what is in it then.
func (a *app) runEditor(ctx context.Context, file string) ([]byte, error) {
	editor := a.getenv("VISUAL")
	if editor == "" {
		editor = a.getenv("EDITOR")
	}
	if editor == "" {
		editor = "vi"
	}
	// The variable may hold arguments, so a shell takes it apart.
	cmd := exec.CommandContext(ctx, "sh", "-c", editor+` "$1"`, editor, file)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = a.in, styled(a.out), styled(a.err)
	if out, ok := fileOf(a.out); ok {
		cmd.Stdout = out // the editor has it itself
	}
	if a.outTTY || a.errTTY {
		// An editor belongs on the terminal even when stdout goes elsewhere.
		if !a.outTTY {
			cmd.Stdout = styled(a.err)
		}
	}
	if err := cmd.Run(); err != nil {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		return nil, hintedError{fmt.Errorf("the editor %q failed, nothing was changed: %w", editor, err), "VISUAL and EDITOR name another one"}
	}
	return readText(file)
}

// storeEdited stores the text over the item that it was made of.
func storeEdited(ctx context.Context, c *client.Client, it stateItem, text []byte) (json.RawMessage, error) {
	v, err := rpc.Parse(text)
	if err != nil || !json.Valid(text) {
		if err == nil {
			err = errors.New("it has numbers that JSON does not know")
		}
		return nil, fmt.Errorf("the text is not JSON, nothing was changed: %w", err)
	}
	raw, _ := v.Raw()
	if it.Revision == 0 {
		return c.CallRaw(ctx, "state.put", map[string]any{"key": it.Key, "value": json.RawMessage(raw), "if_revision": 0})
	}
	// A patch of the whole leaves the time that the key has left alone.
	replace := []map[string]any{{"op": "replace", "path": "", "value": json.RawMessage(raw)}}
	return c.CallRaw(ctx, "state.patch", map[string]any{"key": it.Key, "ops": replace, "if_revision": it.Revision})
}

// keptDraft is err with the place where the text is.
func keptDraft(err error, file string) error {
	text := messageOf(err)
	if now, ok := currentRevision(err); ok {
		text = fmt.Sprintf("the key was changed meanwhile and is at revision %d now; nothing was stored", now)
		if now == 0 {
			text = "the key was deleted meanwhile; nothing was stored"
		}
	}
	return hintedError{fmt.Errorf("%s%w", text, silent{err}), "your text is in " + file}
}

package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/rpc"
)

func newStateBackup(a *app) *cobra.Command {
	var force bool
	cmd := &cobra.Command{
		Use:   "backup FILE | -",
		Short: "Write all of the state to a file",
		Long: `Write everything as it was at one moment: values, revisions, times. The hub goes
on meanwhile. The file has one line of JSON per key, a first and a last one; it
gets its name when it is complete and on disk. It can be read by its owner alone.`,
		Example: `  hubctl state backup hub.backup
  hubctl state backup - | gzip > hub.backup.gz`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.backup(cmd.Context(), args[0], force)
		},
	}
	cmd.Flags().BoolVarP(&force, "force", "f", false, "replace a file that exists")
	return cmd
}

// backupMark is what the first and the last line of a backup tell.
type backupMark struct {
	Type     string
	Revision uint64
	Keys     int64
}

func (a *app) backup(ctx context.Context, name string, force bool) error {
	if name == "-" {
		c, err := a.dial(ctx)
		if err != nil {
			return err
		}
		w := bufio.NewWriterSize(a.out, 64<<10)
		if _, err := a.writeBackup(ctx, c, name, w); err != nil {
			return err
		}
		return w.Flush()
	}
	if _, err := os.Lstat(name); err == nil && !force {
		return usageError{name + " exists", "--force replaces it"}
	}
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	f, err := os.CreateTemp(filepath.Dir(name), ".hubctl-backup-*")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already when all went well
	defer f.Close()
	w := bufio.NewWriterSize(f, 256<<10)
	mark, err := a.writeBackup(ctx, c, name, w)
	if err != nil {
		return err
	}
	if err := errors.Join(w.Flush(), f.Sync(), f.Close()); err != nil {
		return err
	}
	if force {
		err = os.Rename(f.Name(), name)
	} else {
		err = os.Link(f.Name(), name) // replaces nothing
	}
	if err != nil {
		return err
	}
	if dir, err := os.Open(filepath.Dir(name)); err == nil {
		err = dir.Sync()
		dir.Close()
		if err != nil {
			return err
		}
	}
	a.talk("%d keys at revision %d are in %s", mark.Keys, mark.Revision, name)
	return nil
}

// writeBackup writes the lines as they come, to what has that name, and returns the last one.
func (a *app) writeBackup(ctx context.Context, c *client.Client, name string, w io.Writer) (mark backupMark, err error) {
	var bar *progress
	first := true
	for item, err := range c.Stream(ctx, "state.snapshot", nil) {
		if err != nil {
			return mark, stateError(err)
		}
		if bar == nil {
			if err := decodeState(item, &mark); err != nil {
				return mark, err
			}
			bar = a.progress("backup", mark.Keys, false)
			defer bar.end()
		}
		mark.Type = ""
		if len(item) < 256 { // the last one is short
			if err := decodeState(item, &mark); err != nil {
				return mark, err
			}
		}
		if _, err := w.Write(append(item, '\n')); err != nil {
			return mark, err
		}
		isKey := !first && mark.Type != "end"
		first = false
		if isKey && (name != "-" || !a.outTTY) { // the lines show it there
			bar.add(1)
		}
	}
	if mark.Type != "end" {
		return mark, errors.New("the hub's backup is not complete")
	}
	return mark, nil
}

func newStateRestore(a *app) *cobra.Command {
	var overwrite, yes bool
	cmd := &cobra.Command{
		Use:   "restore FILE | -",
		Short: "Make the state what a backup says",
		Long: `Make the state what a file of "hubctl state backup" says, as a whole or not at
all. It is refused where there is a state already. --overwrite replaces that: it
asks first on a terminal and needs --yes elsewhere. All watches end then, and all
keys get a new revision.`,
		Example: `  hubctl state restore hub.backup
  gunzip < hub.backup.gz | hubctl state restore - --overwrite --yes`,
		Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.restore(cmd.Context(), args[0], overwrite, yes)
		},
	}
	cmd.Flags().BoolVar(&overwrite, "overwrite", false, "replace the state that is there")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (a *app) restore(ctx context.Context, name string, overwrite, yes bool) error {
	ask := overwrite && !yes
	if ask && (!a.inTTY || name == "-") {
		return usageError{"--overwrite replaces everything: it needs --yes where nobody can be asked", ""}
	}
	in, size, err := a.openInput(name)
	if err != nil {
		return err
	}
	defer in.Close()
	c, err := a.dial(ctx)
	if err != nil {
		return err
	}
	if ask {
		if err := a.confirm(ctx, "replace the whole state of the hub?"); err != nil {
			return err
		}
	}
	result, err := a.sendBackup(ctx, c, in, size, overwrite)
	if err != nil {
		if client.KindOf(err) == client.KindConflict {
			return hintedError{fmt.Errorf("%s%w", messageOf(err), silent{err}), "--overwrite replaces what is there"}
		}
		return stateError(err)
	}
	return a.printer(a.formatOr(formatJSONL)).print(result)
}

// openInput opens a file, or stdin for -. The size is -1 when it is not known.
func (a *app) openInput(name string) (io.ReadCloser, int64, error) {
	if name == "-" {
		return io.NopCloser(a.in), -1, nil
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, 0, usageError{err.Error(), ""}
	}
	size := int64(-1)
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() {
		size = info.Size()
	}
	return f, size, nil
}

func (a *app) sendBackup(ctx context.Context, c *client.Client, in io.Reader, size int64, overwrite bool) (json.RawMessage, error) {
	params := map[string]any{}
	if overwrite {
		params["overwrite"] = true
	}
	s, err := c.Open(ctx, "state.restore", params)
	if err != nil {
		return nil, err
	}
	defer s.Close()
	bar := a.progress("restore", size, true)
	defer bar.end()
	lines := bufio.NewReaderSize(in, 256<<10)
	for n := 1; ; n++ {
		line, err := readLine(lines)
		if err != nil && err != io.EOF {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		if text := trimSpace(line); text != "" {
			if _, bad := rpc.Parse([]byte(text)); bad != nil {
				return nil, fmt.Errorf("line %d is not JSON, nothing was restored: %w", n, bad)
			}
			if failed := s.Send(json.RawMessage(text)); failed == io.EOF {
				break // the hub says why
			} else if failed != nil {
				return nil, failed
			}
		}
		bar.add(int64(len(line)))
		if err == io.EOF {
			break
		}
	}
	var result json.RawMessage
	return result, s.Result(&result)
}

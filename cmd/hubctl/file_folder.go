package main

import (
	"bufio"
	"context"
	"errors"
	"path"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
)

func newFileMkdir(a *app) *cobra.Command {
	var alone bool
	cmd := &cobra.Command{
		Use:   "mkdir PATH...",
		Short: "Make folders in the hub",
		Long: `Make folders, with those that they are in. A folder that is there already is no
error. With --no-parents the folder above must be there, and this one not.`,
		Example:           `  hubctl file mkdir reports/2026`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dialOwn(cmd.Context(), "file")
			if err != nil {
				return err
			}
			for _, path := range args {
				if err := c.Call(cmd.Context(), "file.create_dir", map[string]any{"path": path, "recurse": !alone}, nil); err != nil {
					return fileError(err)
				}
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&alone, "no-parents", false, "make no folder above")
	return cmd
}

func newFileCat(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "cat PATH...",
		Short: "Print files of the hub",
		Long:  `Print what files of the hub hold, one after the other.`,
		Example: `  hubctl file cat reports/notes.txt
  hubctl file cat logs/a.log logs/b.log | grep error`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dialOwn(cmd.Context(), "file")
			if err != nil {
				return err
			}
			w := bufio.NewWriterSize(a.out, 64<<10)
			for _, path := range args {
				if _, err := a.download(cmd.Context(), c, path, 0, w, false); err != nil {
					return errors.Join(err, w.Flush())
				}
			}
			return w.Flush()
		},
	}
}

// makeParents makes the folders that a file of the hub is to be in. Who may not
// do that may still write to those that are there.
func makeParents(ctx context.Context, c *client.Client, file string) error {
	dir := path.Dir(file)
	if dir == "." || dir == "/" {
		return nil
	}
	err := c.Call(ctx, "file.create_dir", map[string]any{"path": dir, "recurse": true}, nil)
	if e, ok := errors.AsType[*client.Error](err); ok && (e.Kind == client.KindPermission || e.NoMethod()) {
		return nil
	}
	return err
}

// pythonError is how the methods of files begin their errors, for clients in
// Python: the class of the exception and the number of the system's error.
var pythonError = regexp.MustCompile(`\b[A-Z][A-Za-z]*Error: (\[Errno [0-9]+\] )?`)

// fileText is the text of an error of file.* in words, and what can be done.
func fileText(e *client.Error, text string) (words, hint string) {
	found := pythonError.FindStringSubmatch(text)
	if found == nil {
		return text, ""
	}
	switch strings.TrimSpace(found[1]) {
	case "[Errno 2]":
		hint = `"hubctl file ls" lists the files`
		if e.Method == "file.upload" || e.Method == "file.create_dir" {
			hint = "the folder is not there: without --no-parents it is made"
		}
	case "[Errno 20]":
		hint = "a part of the path is a file, not a folder"
	case "[Errno 21]":
		hint = "it is a folder"
	case "[Errno 39]":
		hint = "--recurse deletes a folder with all that it holds"
	}
	return pythonError.ReplaceAllString(text, ""), hint
}

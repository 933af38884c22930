package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"
)

// putPiece is the size of the items of an upload.
const putPiece = 32 << 10

func newFilePut(a *app) *cobra.Command {
	var alone bool
	cmd := &cobra.Command{
		Use:   "put LOCAL | - [PATH]",
		Short: "Copy a file to the hub",
		Long: `Copy a file to the hub, under its own name if no other is given. The file is
there when the copy is complete; until then what was there stays, and what is
interrupted leaves nothing of it behind. Folders that PATH names are made, unless
--no-parents is given.`,
		Example: `  hubctl file put report.pdf
  hubctl file put report.pdf reports/march.pdf
  tar cz . | hubctl file put - backup/today.tgz`,
		Args: cobra.RangeArgs(1, 2),
		RunE: func(cmd *cobra.Command, args []string) error {
			remote := filepath.Base(args[0])
			switch {
			case len(args) == 2:
				remote = args[1]
				if strings.HasSuffix(remote, "/") && args[0] != "-" {
					remote = path.Join(remote, filepath.Base(args[0]))
				}
			case args[0] == "-":
				return usageError{"name the file to write in the hub", "usage: " + cmd.UseLine()}
			}
			return a.putFile(cmd.Context(), args[0], remote, !alone)
		},
	}
	cmd.Flags().BoolVar(&alone, "no-parents", false, "make no folders")
	return cmd
}

func (a *app) putFile(ctx context.Context, local, remote string, parents bool) error {
	if st, err := os.Stat(local); local != "-" && err == nil && st.IsDir() {
		return usageError{local + " is a folder", "one file holds it all: tar c " + local + " | hubctl file put - NAME.tar"}
	}
	in, size, err := a.openInput(local)
	if err != nil {
		return err
	}
	defer in.Close()
	c, err := a.dialOwn(ctx, "file")
	if err != nil {
		return err
	}
	if parents {
		if err := makeParents(ctx, c, remote); err != nil {
			return fileError(err)
		}
	}
	params := map[string]any{"dst_path": remote}
	if size >= 0 {
		params["size"] = size // a file that changes meanwhile is not taken for whole
	}
	buf := make([]byte, putPiece)
	n, end := in.Read(buf) // at first: the deadline of the call does not run while a pipe has nothing yet
	s, err := c.Open(ctx, "file.upload", params)
	if err != nil {
		return err
	}
	defer s.Close()
	bar := a.progress(path.Base(remote), size, true)
	defer bar.end()
	var item json.RawMessage
	var sent int64
	for ; ; n, end = in.Read(buf) {
		if n > 0 {
			item = appendBytes(item, buf[:n])
			if failed := s.Send(item); failed == io.EOF {
				break // the hub says why
			} else if failed != nil {
				return failed
			}
			sent += int64(n)
			bar.add(int64(n))
		}
		if end == io.EOF {
			break
		}
		if end != nil {
			return fmt.Errorf("%s: %w", local, end)
		}
	}
	var stored string
	if err := s.Result(&stored); err != nil {
		return fileError(err)
	}
	bar.end()
	a.talk("%d bytes are in %s", sent, stored)
	return nil
}

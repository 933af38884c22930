package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
)

// fileGet is one download.
type fileGet struct {
	remote string
	local  string // "-" for stdout
	force  bool
	resume bool
}

func newFileGet(a *app) *cobra.Command {
	var g fileGet
	cmd := &cobra.Command{
		Use:   "get PATH [LOCAL | -]",
		Short: "Copy a file of the hub here",
		Long: `Copy a file of the hub here, under its own name if no other is given. The copy
gets its name when it is complete and on disk; a file that exists is replaced with
--force only. With --continue what an interrupted copy has brought is kept in
LOCAL.part, and the next one goes on from there; it is compared in the end.`,
		Example: `  hubctl file get reports/march.pdf
  hubctl file get reports/march.pdf /tmp/
  hubctl file get --continue images/disk.img
  hubctl file get backup/today.tgz - | tar xz`,
		Args: cobra.RangeArgs(1, 2),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, toComplete string) ([]string, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveDefault
			}
			return a.completeFile(cmd, args, toComplete)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			g.remote, g.local = args[0], path.Base(args[0])
			if len(args) == 2 {
				g.local = args[1]
			}
			return a.getFile(cmd.Context(), g)
		},
	}
	cmd.Flags().BoolVarP(&g.force, "force", "f", false, "replace a file that exists")
	cmd.Flags().BoolVarP(&g.resume, "continue", "c", false, "go on where an earlier attempt ended")
	return cmd
}

func (a *app) getFile(ctx context.Context, g fileGet) error {
	if g.local == "-" {
		if g.resume {
			return usageError{"--continue needs a file to go on with", ""}
		}
		c, err := a.dialOwn(ctx, "file")
		if err != nil {
			return err
		}
		w := bufio.NewWriterSize(a.out, 64<<10)
		if _, err := a.download(ctx, c, g.remote, 0, w, !a.outTTY); err != nil {
			return errors.Join(err, w.Flush())
		}
		return w.Flush()
	}
	if st, err := os.Stat(g.local); err == nil && st.IsDir() || strings.HasSuffix(g.local, "/") {
		g.local = filepath.Join(g.local, path.Base(g.remote))
	}
	if g.local == "." || g.local == "/" || g.local == ".." {
		return usageError{"name the file to write", ""}
	}
	if _, err := os.Lstat(g.local); err == nil && !g.force {
		return usageError{g.local + " exists", "--force replaces it"}
	}
	c, err := a.dialOwn(ctx, "file")
	if err != nil {
		return err
	}
	part, err := openPart(g)
	if err != nil {
		return err
	}
	defer part.close()
	n, err := a.download(ctx, c, g.remote, part.have, part, true)
	if err == nil && part.have > 0 {
		err = a.compare(ctx, c, g.remote, part)
	}
	if err != nil {
		part.keep = g.resume && part.have+n > 0 && !errors.Is(err, errDiffers)
		return err
	}
	if err := part.commit(g); err != nil {
		return err
	}
	a.talk("%d bytes are in %s", part.have+n, g.local)
	return nil
}

// download writes the content of a file, from an offset on, and returns how
// much it was.
func (a *app) download(ctx context.Context, c *client.Client, remote string, offset int64, w io.Writer, bar bool) (n int64, err error) {
	total := int64(-1)
	if bar && a.showsProgress() {
		if c.Call(ctx, "file.size", map[string]any{"path": remote}, &total) != nil {
			total = -1 // the download says why
		}
	}
	p := a.progress(path.Base(remote), total, true)
	defer p.end()
	p.done = offset
	params := map[string]any{"src_path": remote}
	if offset > 0 {
		params["offset"] = offset
	}
	var buf []byte
	for item, err := range c.Stream(ctx, "file.download", params) {
		if err != nil {
			return n, fileError(err)
		}
		if buf, err = decodeBytes(item, buf); err != nil {
			return n, err
		}
		k, err := w.Write(buf)
		n += int64(k)
		if err != nil {
			return n, err
		}
		if bar {
			p.add(int64(k))
		}
	}
	return n, nil
}

// partFile is a copy that is not complete.
type partFile struct {
	*os.File
	have int64 // what an earlier attempt brought
	keep bool
	done bool
}

// openPart opens the file that becomes the copy.
func openPart(g fileGet) (*partFile, error) {
	if !g.resume {
		f, err := os.CreateTemp(filepath.Dir(g.local), ".hubctl-get-*")
		if e, ok := errors.AsType[*fs.PathError](err); ok {
			return nil, fmt.Errorf("%s: %w", g.local, e.Err) // the name of the temporary file tells nobody anything
		}
		if err != nil {
			return nil, err
		}
		return &partFile{File: f}, nil
	}
	f, err := os.OpenFile(g.local+".part", os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	have, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		f.Close()
		return nil, err
	}
	return &partFile{File: f, have: have}, nil
}

var errDiffers = errors.New("the file in the hub is not the one that the copy was begun from")

// compare compares a copy that was made in several attempts with its original.
func (a *app) compare(ctx context.Context, c *client.Client, remote string, f *partFile) error {
	var want string
	if err := c.Call(ctx, "file.sha256", map[string]any{"path": remote}, &want); err != nil {
		return fileError(err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	sum := sha256.New()
	if _, err := io.Copy(sum, f); err != nil {
		return err
	}
	if hex.EncodeToString(sum.Sum(nil)) != want {
		return fmt.Errorf("%s: %w; it was discarded", remote, errDiffers)
	}
	return nil
}

// commit gives the copy its name.
func (f *partFile) commit(g fileGet) error {
	mode := os.FileMode(0o666) &^ umask()
	if st, err := os.Stat(g.local); err == nil && g.force {
		mode = st.Mode().Perm()
	}
	if err := errors.Join(f.Chmod(mode), f.Sync()); err != nil {
		return err
	}
	var err error
	if g.force {
		err = os.Rename(f.Name(), g.local)
		f.done = err == nil
	} else {
		err = os.Link(f.Name(), g.local) // replaces nothing
	}
	if err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(g.local))
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// close ends the work on the copy. What is not to be kept is removed.
func (f *partFile) close() {
	f.File.Close()
	if !f.keep && !f.done {
		os.Remove(f.Name())
	}
}

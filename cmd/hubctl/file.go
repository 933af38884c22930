package main

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
)

func newFile(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "file",
		Short: "Read and write files of the hub",
		Long: `A hub that was started with --file-root offers the files below that folder.
Paths are relative to it. Beside the commands below, each method of the service
file is one: "hubctl file size PATH".`,
		Example: `  hubctl file ls
  hubctl file put report.pdf reports/march.pdf
  hubctl file get reports/march.pdf
  tar cz . | hubctl file put - backup/today.tgz
  hubctl file get backup/today.tgz - | tar xz`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usageError{fmt.Sprintf("unknown command %q of \"hubctl file\"", args[0]), `"hubctl file --help" lists the commands`}
		},
	}
	cmd.AddCommand(newFileGet(a), newFileCat(a), newFilePut(a), newFileMkdir(a), newFileList(a), newFileRemove(a))
	return cmd
}

// fileError adds to an error of the file service what can be done about it.
func fileError(err error) error {
	if e, ok := asNoMethod(err); ok {
		return hintedError{e, "the hub offers no files: start it with --file-root DIR"}
	}
	return err
}

// asNoMethod tells that the hub has no file service.
func asNoMethod(err error) (*client.Error, bool) {
	e, ok := err.(*client.Error)
	return e, ok && e.NoMethod() && strings.HasPrefix(e.Method, "file.")
}

// fileInfo is an item of file.path_info.
type fileInfo struct {
	Path   string   `json:"path"`
	Size   *int64   `json:"size"`
	MTime  *float64 `json:"mtime"`
	IsFile *bool    `json:"isfile"`
}

func newFileList(a *app) *cobra.Command {
	var long bool
	cmd := &cobra.Command{
		Use:     "ls [PATTERN]",
		Aliases: []string{"list"},
		Short:   "List files of the hub",
		Long: `List the files that match a shell pattern, or those in a folder; without one all
on the first level. Names that begin with a dot match only patterns that do.`,
		Example: `  hubctl file ls
  hubctl file ls -l 'reports/*.pdf'
  hubctl file ls -o jsonl logs`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			params := map[string]any{}
			if len(args) == 1 {
				params["pattern"] = args[0]
			}
			return a.listFiles(cmd.Context(), params, long)
		},
	}
	cmd.Flags().BoolVarP(&long, "long", "l", false, "with sizes and times")
	return cmd
}

func (a *app) listFiles(ctx context.Context, params map[string]any, long bool) error {
	c, err := a.dialOwn(ctx, "file")
	if err != nil {
		return err
	}
	format := a.formatOr("")
	method := "file.paths"
	if long || format != "" && format != formatRaw {
		method = "file.path_info"
	}
	var rows [][]string
	var all []json.RawMessage
	for item, err := range c.Stream(ctx, method, params) {
		if err != nil {
			return fileError(err)
		}
		switch {
		case method == "file.paths":
			if format == "" && a.outTTY { // a name may hold what a terminal obeys
				var path string
				if err := json.Unmarshal(item, &path); err != nil {
					return err
				}
				if _, err := fmt.Fprintln(a.out, oneLine(path)); err != nil {
					return err
				}
			} else if err := a.printer(formatRaw).print(item); err != nil {
				return err
			}
		case format == "" || format == formatTable:
			var f fileInfo
			if err := json.Unmarshal(item, &f); err != nil {
				return err
			}
			rows = append(rows, f.row())
		default:
			all = append(all, item)
		}
	}
	switch {
	case rows != nil:
		_, err := styled(a.out).Write(appendGrid(nil, []string{"SIZE", "CHANGED", "PATH"}, rows, a.coloured(), a.width()))
		return err
	case format == formatJSON || format == formatYAML:
		list, err := json.Marshal(all)
		if all == nil {
			list = []byte("[]")
		}
		if err != nil {
			return err
		}
		return a.printer(format).print(list)
	}
	p := a.printer(format)
	for _, item := range all {
		if err := p.print(item); err != nil {
			return err
		}
	}
	return nil
}

// row is the line of a listing. A folder has no size worth telling.
func (f fileInfo) row() []string {
	size, changed, path := "?", "?", oneLine(f.Path)
	if f.Size != nil {
		size = fmt.Sprint(*f.Size)
	}
	if f.MTime != nil {
		changed = time.UnixMicro(int64(*f.MTime * 1e6)).Local().Format("2006-01-02 15:04:05")
	}
	if f.IsFile != nil && !*f.IsFile {
		size, path = "-", path+"/"
	}
	return []string{size, changed, path}
}

func newFileRemove(a *app) *cobra.Command {
	var recurse, yes bool
	cmd := &cobra.Command{
		Use:     "rm PATH...",
		Aliases: []string{"remove"},
		Short:   "Delete files of the hub",
		Long: `Delete files, links and empty folders; with --recurse folders with all that they
hold. It asks first on a terminal and needs --yes elsewhere.`,
		Example: `  hubctl file rm reports/march.pdf
  hubctl file rm -r --yes old`,
		Args:              cobra.MinimumNArgs(1),
		ValidArgsFunction: a.completeFile,
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.removeFiles(cmd.Context(), args, recurse, yes)
		},
	}
	cmd.Flags().BoolVarP(&recurse, "recurse", "r", false, "with all that folders hold")
	cmd.Flags().BoolVarP(&yes, "yes", "y", false, "do not ask")
	return cmd
}

func (a *app) removeFiles(ctx context.Context, paths []string, recurse, yes bool) error {
	if !yes {
		if !a.inTTY {
			return usageError{"deleting files needs --yes where nobody can be asked", ""}
		}
		question := "delete " + paths[0]
		if n := len(paths); n > 1 {
			question += fmt.Sprintf(" and %d more", n-1)
		}
		if recurse {
			question += ", with all that is in it"
		}
		if err := a.confirm(ctx, question+"?"); err != nil {
			return err
		}
	}
	c, err := a.dialOwn(ctx, "file")
	if err != nil {
		return err
	}
	var failed []error // what cannot be deleted does not keep the others
	for _, path := range paths {
		err := c.Call(ctx, "file.delete", map[string]any{"path": path, "recurse": recurse}, nil)
		if e, ok := errors.AsType[*client.Error](err); err != nil && (!ok || e.Kind != client.KindHandler) {
			return fileError(err)
		}
		if err != nil {
			failed = append(failed, err)
		}
	}
	if len(failed) > 1 {
		for _, err := range failed[:len(failed)-1] {
			text, _ := explain(err)
			a.talk("%s", text)
		}
	}
	if len(failed) > 0 {
		return failed[len(failed)-1]
	}
	return nil
}

// completedFiles is how many paths a shell is offered.
const completedFiles = 200

// completeFile completes a path of the hub.
func (a *app) completeFile(_ *cobra.Command, _ []string, toComplete string) ([]string, cobra.ShellCompDirective) {
	if strings.ContainsAny(toComplete, "*?[\\") {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(context.Background(), completionLimit)
	defer cancel()
	var list []fileInfo
	if _, err := a.dialOwn(ctx, "file"); err != nil || !a.ask("file.path_info", map[string]any{"pattern": toComplete + "*"}, &list) {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	directive := cobra.ShellCompDirectiveNoFileComp
	var paths []string
	for _, f := range list {
		if f.Path != oneLine(f.Path) || len(paths) == completedFiles {
			continue
		}
		if f.IsFile != nil && !*f.IsFile {
			f.Path += "/"
			directive |= cobra.ShellCompDirectiveNoSpace
		}
		paths = append(paths, f.Path)
	}
	return paths, directive
}

// decodeBytes returns the bytes that an item of a stream carries.
func decodeBytes(item json.RawMessage, buf []byte) ([]byte, error) {
	if len(item) < 2 || item[0] != '"' {
		return nil, fmt.Errorf("the hub sent what are no bytes")
	}
	text := item[1 : len(item)-1]
	if n := base64.StdEncoding.DecodedLen(len(text)); cap(buf) < n {
		buf = make([]byte, n)
	}
	n, err := base64.StdEncoding.Decode(buf[:cap(buf)], text)
	if err != nil {
		return nil, fmt.Errorf("the hub sent what are no bytes: %w", err)
	}
	return buf[:n], nil
}

// appendBytes writes bytes as the item of a stream.
func appendBytes(item, data []byte) json.RawMessage {
	item = append(item[:0], '"')
	return append(base64.StdEncoding.AppendEncode(item, data), '"')
}

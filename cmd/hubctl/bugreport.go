package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/hubd-dev/hubd/client"
	"github.com/hubd-dev/hubd/internal/build"
)

func newBugreport(a *app) *cobra.Command {
	file := ""
	cmd := &cobra.Command{
		Use:   "bugreport",
		Short: "Gather what a report about a misbehaving hub needs",
		Long: `Write a .tar.gz with the hub's goroutines, metrics, configuration, a scheduler trace
of two seconds, its peers and running calls, and the result of "hubctl doctor".

There are no tokens, keys or values in it, but names: of methods, sessions, users,
files of the configuration. Look before you pass it on.`,
		Example: `  hubctl bugreport
  hubctl bugreport -f report.tar.gz`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if file == "" {
				file = "hubd-report-" + time.Now().Format("20060102-150405") + ".tar.gz"
			}
			return a.bugreport(cmd.Context(), file)
		},
	}
	cmd.Flags().StringVarP(&file, "file", "f", "", "`FILE` to write, which must not exist yet; - is stdout")
	return cmd
}

func (a *app) bugreport(ctx context.Context, file string) (err error) {
	out := a.out
	if file != "-" {
		f, err := os.OpenFile(file, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if err != nil {
			return usageError{err.Error(), ""}
		}
		defer func() { err = errors.Join(err, f.Close()) }()
		out = f
	}
	z := gzip.NewWriter(out)
	t := tar.NewWriter(z)
	if err := a.gather(ctx, t); err != nil {
		return err
	}
	if err := errors.Join(t.Close(), z.Close()); err != nil {
		return err
	}
	if file != "-" {
		fmt.Fprintf(a.err, "hubctl: wrote %s; look before you pass it on\n", file)
	}
	return nil
}

// gather writes one file per question. What cannot be answered says why: a
// report about a broken hub is worth most where parts are missing.
func (a *app) gather(ctx context.Context, t *tar.Writer) error {
	put := func(name string, content []byte) error {
		err := t.WriteHeader(&tar.Header{Name: "hubd-report/" + name, Mode: 0o600, Size: int64(len(content)), ModTime: time.Now().Truncate(time.Second)})
		if err != nil {
			return err
		}
		_, err = io.Copy(t, bytes.NewReader(content))
		return err
	}
	about := fmt.Sprintf("%s\nmade %s\n", build.Line("hubctl"), time.Now().UTC().Format(time.RFC3339))
	if err := put("about.txt", []byte(about)); err != nil {
		return err
	}
	plain := &app{console: a.console, socket: a.socket, context: a.context, files: a.files, color: "never"}
	findings := plain.examine(ctx)
	c := plain.client
	if err := put("doctor.txt", plain.findingsText(findings)); err != nil || c == nil {
		return err
	}
	defer c.Close()
	for _, method := range []string{"hub.info", "hub.stats", "hub.top", "hub.peers", "hub.calls", "session.list", "state.info", "state.stats"} {
		var result json.RawMessage
		name := method + ".json"
		if err := listAll(ctx, c, method, nil, &result); err != nil {
			name, result = method+".error.txt", json.RawMessage(err.Error())
		}
		if err := put(name, append(result, '\n')); err != nil {
			return err
		}
	}
	for part, name := range map[string]string{
		"goroutines": "goroutines.txt", "metrics": "metrics.txt", "config": "config.yaml", "heap": "heap.pprof", "trace": "trace.out",
	} {
		content, err := debugPart(ctx, c, part)
		if err != nil {
			name, content = name+".error.txt", []byte(err.Error()+"\n")
		}
		if err := put(name, content); err != nil {
			return err
		}
	}
	return nil
}

func debugPart(ctx context.Context, c *client.Client, part string) ([]byte, error) {
	var r struct{ Encoding, Data string }
	if err := c.Call(ctx, "hub.debug", map[string]string{"part": part}, &r); err != nil {
		return nil, err
	}
	return decodeDebug(r.Encoding, r.Data)
}

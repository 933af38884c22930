// Command tally runs go test and counts what happened.
//
//	go run ./tests/internal/tally [go test flags] [packages]
//
// It prints one line per package while the tests run, then every failure with
// its output, every skip with its reason, and at the very end a line
//
//	N passed, N failed
//
// A test with subtests is not counted beside them, unless it failed by itself.
// A package that does not build, times out or panics outside a test counts as
// one failure. The exit code is 0 only if nothing failed and something passed.
package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
)

func main() {
	os.Exit(run(os.Args[1:], os.Stdout, os.Stderr))
}

func run(args []string, stdout, stderr io.Writer) int {
	cmd := exec.Command("go", append([]string{"test", "-json"}, args...)...)
	cmd.Stderr = stderr
	events, err := cmd.StdoutPipe()
	if err != nil {
		fmt.Fprintln(stderr, "tally:", err)
		return 1
	}
	if err := cmd.Start(); err != nil {
		fmt.Fprintln(stderr, "tally:", err)
		return 1
	}
	c := newCount(stdout)
	readErr := c.read(events)
	waitErr := cmd.Wait()
	if readErr != nil {
		fmt.Fprintln(stderr, "tally: read the events of go test:", readErr)
	}
	if exit, ok := errors.AsType[*exec.ExitError](waitErr); waitErr != nil && (!ok || c.failed() == 0) {
		// go test failed in a way that no event told.
		fmt.Fprintln(stderr, "tally: go test:", waitErr)
		if ok {
			fmt.Fprintf(stderr, "tally: exit code %d\n", exit.ExitCode())
		}
		c.extra++
	}
	c.report()
	if readErr != nil || c.failed() > 0 || c.passed() == 0 {
		return 1
	}
	return 0
}

// event is one line of go test -json (see go doc test2json).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build-output and build-fail
	Test        string
	Output      string
	Elapsed     float64
	FailedBuild string
}

// name identifies a test, or with an empty test a package.
type name struct{ pkg, test string }

type result struct {
	action string
	parent bool // has subtests
	output []string
}

type count struct {
	out     io.Writer
	results map[name]*result
	order   []name
	builds  map[string][]string // compiler output by import path
	extra   int                 // failures that belong to no package
}

func newCount(out io.Writer) *count {
	return &count{out: out, results: map[name]*result{}, builds: map[string][]string{}}
}

// read takes the events in until the end. Lines that are no events (a test
// binary that writes to the real standard output) are passed on.
func (c *count) read(r io.Reader) error {
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			var e event
			if json.Unmarshal(line, &e) == nil && e.Action != "" {
				c.add(e)
			} else {
				c.out.Write(line)
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (c *count) add(e event) {
	switch e.Action {
	case "build-output":
		c.builds[e.ImportPath] = append(c.builds[e.ImportPath], e.Output)
		return
	case "build-fail":
		return // the package that could not be tested says so itself
	}
	n := name{e.Package, e.Test}
	r := c.results[n]
	if r == nil {
		r = new(result)
		c.results[n] = r
		c.order = append(c.order, n)
		for up := parent(e.Test); up != ""; up = parent(up) {
			if p := c.results[name{e.Package, up}]; p != nil {
				p.parent = true
			}
		}
	}
	switch e.Action {
	case "output":
		r.output = append(r.output, e.Output)
	case "pass", "fail", "skip":
		r.action = e.Action
		if e.Test == "" {
			if e.FailedBuild != "" {
				r.output = append(r.output, c.builds[e.FailedBuild]...)
			}
			c.packageDone(e)
		} else if e.Action == "pass" {
			r.output = nil // nobody asks for it, and there can be much of it
		}
	}
}

// parent returns the test that test is a subtest of, "" for a top-level one.
func parent(test string) string {
	i := strings.LastIndexByte(test, '/')
	if i < 0 {
		return ""
	}
	return test[:i]
}

func (c *count) packageDone(e event) {
	var passed, failed, skipped int
	for n := range c.results {
		if n.pkg == e.Package && n.test != "" {
			switch c.verdict(n) {
			case "pass":
				passed++
			case "fail":
				failed++
			case "skip":
				skipped++
			}
		}
	}
	switch {
	case e.Action == "skip":
		fmt.Fprintf(c.out, "none  %s (no tests)\n", e.Package)
	default:
		fmt.Fprintf(c.out, "%-5s %s %.1fs (%d passed, %d failed, %d skipped)\n", e.Action, e.Package, e.Elapsed, passed, failed, skipped)
	}
}

// verdict returns how a test or package counts, "" for not at all.
func (c *count) verdict(n name) string {
	r := c.results[n]
	if n.test == "" {
		if r.action == "fail" && !c.failedBelow(n) {
			return "fail" // build failure, TestMain, panic, time out
		}
		return ""
	}
	action := r.action
	if action == "" {
		action = "fail" // it began and never ended
	}
	if !r.parent {
		return action
	}
	if action == "fail" && !c.failedBelow(n) {
		return "fail"
	}
	return ""
}

func (c *count) failedBelow(n name) bool {
	for m, r := range c.results {
		if m.pkg == n.pkg && m.test != "" && m != n && r.action != "pass" && r.action != "skip" &&
			(n.test == "" || strings.HasPrefix(m.test, n.test+"/")) {
			return true
		}
	}
	return false
}

func (c *count) with(verdict string) []name {
	var list []name
	for _, n := range c.order {
		if c.verdict(n) == verdict {
			list = append(list, n)
		}
	}
	return list
}

func (c *count) passed() int { return len(c.with("pass")) }
func (c *count) failed() int { return len(c.with("fail")) + c.extra }

// report prints failures, skips and the totals.
func (c *count) report() {
	for _, n := range c.with("fail") {
		fmt.Fprintf(c.out, "\nFAIL %s\n", n)
		for _, line := range c.results[n].output {
			io.WriteString(c.out, "    "+line)
		}
	}
	skips := c.with("skip")
	if len(skips) > 0 {
		fmt.Fprintf(c.out, "\n%d skipped:\n", len(skips))
	}
	for _, n := range skips {
		fmt.Fprintf(c.out, "    %s: %s\n", n, reason(c.results[n].output))
	}
	fmt.Fprintf(c.out, "\n%d passed, %d failed\n", c.passed(), c.failed())
}

func (n name) String() string {
	if n.test == "" {
		return n.pkg
	}
	return n.pkg + " " + n.test
}

// reason returns what a skipped test said, without the framing of go test.
func reason(output []string) string {
	said := slices.DeleteFunc(slices.Clone(output), func(s string) bool {
		s = strings.TrimSpace(s)
		return s == "" || strings.HasPrefix(s, "=== ") || strings.HasPrefix(s, "--- ")
	})
	for i, s := range said {
		said[i] = strings.TrimSpace(s)
	}
	if len(said) == 0 {
		return "no reason given"
	}
	return strings.Join(said, " ")
}

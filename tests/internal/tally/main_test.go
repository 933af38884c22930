package main

import (
	"strings"
	"testing"
)

func TestCount(t *testing.T) {
	tests := []struct {
		name           string
		events         string
		passed, failed int
		says           []string
	}{
		{
			name: "leaves count, parents do not",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/one"}
{"Action":"run","Package":"p","Test":"TestA/two"}
{"Action":"pass","Package":"p","Test":"TestA/one"}
{"Action":"output","Package":"p","Test":"TestA/two","Output":"    a_test.go:3: got 1, want 2\n"}
{"Action":"fail","Package":"p","Test":"TestA/two"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p","Elapsed":1}
`,
			passed: 1, failed: 1,
			says: []string{"FAIL p TestA/two", "got 1, want 2", "fail  p 1.0s (1 passed, 1 failed, 0 skipped)"},
		},
		{
			name: "a parent that failed by itself counts",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"run","Package":"p","Test":"TestA/one"}
{"Action":"pass","Package":"p","Test":"TestA/one"}
{"Action":"fail","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}
`,
			passed: 1, failed: 1,
			says: []string{"FAIL p TestA\n"},
		},
		{
			name: "a package that does not build counts once, with the compiler's words",
			events: `{"ImportPath":"p [p.test]","Action":"build-output","Output":"p/a.go:1: undefined: x\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"start","Package":"p"}
{"Action":"fail","Package":"p","FailedBuild":"p [p.test]"}
`,
			failed: 1,
			says:   []string{"FAIL p\n", "undefined: x"},
		},
		{
			name: "a test that never ended failed",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"fail","Package":"p"}
`,
			failed: 1,
			says:   []string{"FAIL p TestA"},
		},
		{
			name: "skips are told with their reason",
			events: `{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"=== RUN   TestA\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"    a_test.go:7: python3 is not installed\n"}
{"Action":"output","Package":"p","Test":"TestA","Output":"--- SKIP: TestA (0.00s)\n"}
{"Action":"skip","Package":"p","Test":"TestA"}
{"Action":"pass","Package":"p"}
`,
			says: []string{"1 skipped:", "p TestA: a_test.go:7: python3 is not installed\n"},
		},
		{
			name:   "what is no event is passed on",
			events: "hello from somewhere\n",
			says:   []string{"hello from somewhere\n"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			c := newCount(&out)
			if err := c.read(strings.NewReader(tt.events)); err != nil {
				t.Fatal(err)
			}
			c.report()
			if c.passed() != tt.passed || c.failed() != tt.failed {
				t.Errorf("got %d passed, %d failed, want %d, %d", c.passed(), c.failed(), tt.passed, tt.failed)
			}
			for _, s := range tt.says {
				if !strings.Contains(out.String(), s) {
					t.Errorf("output lacks %q:\n%s", s, out.String())
				}
			}
		})
	}
}

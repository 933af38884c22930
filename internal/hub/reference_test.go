package hub

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// docsPage compares a page of the documentation with what the hub has, or writes it.
func docsPage(t *testing.T, name, text string) {
	t.Helper()
	path := "../../docs/" + name
	if *update {
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(string(got), text); diff != "" {
		t.Errorf("docs/%s is not what the hub has (-page +hub); go test ./internal/hub -run '%s' -update writes it:\n%s", name, t.Name(), diff)
	}
}

// docs/methods.md is what a hub with everything switched on has.
func TestMethodsPage(t *testing.T) {
	h := startHub(t, Options{Demo: true, FileRoot: t.TempDir()})
	var list []methodInfo
	d := json.NewDecoder(bytes.NewReader(h.result("hub.methods", `{}`)))
	d.UseNumber() // a default of 0 is not one of 0.0
	if err := d.Decode(&list); err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	b.WriteString("# Methods\n\nEvery method of hubd, as `hubctl describe NAME` shows them. `demo.*` and `math.*` are there with\n" +
		"`--demo`, `file.*` with `--file-root`. Clients add methods of their own: [providers.md](providers.md).\n\n" +
		"Arguments are given by name, or by position in this order; what has a default, or a `?` behind its\n" +
		"name, may be left out. How each protocol spells a call, and what values it carries, say the pages of\n" +
		"the protocols and [data-model.md](data-model.md). A type with `?` may be null, `[]` is an array.\n\n" +
		"This page is generated: `go test ./internal/hub -run TestMethodsPage -update`.\n")
	service := ""
	for _, m := range list {
		if m.Service != service {
			service = m.Service
			fmt.Fprintf(&b, "\n## %s\n", service)
		}
		fmt.Fprintf(&b, "\n### %s\n\n", signatureOf(m))
		if m.Doc != "" {
			fmt.Fprintf(&b, "%s\n\n", m.Doc)
		}
		fmt.Fprintf(&b, "Scope `%s`.", m.Scope)
		switch {
		case m.StreamOut:
			fmt.Fprintf(&b, " A stream of `%s`.", m.Result)
		case m.Result != "" && m.Result != "any":
			fmt.Fprintf(&b, " Returns `%s`.", m.Result)
		}
		b.WriteString("\n")
		if len(m.Params) > 0 {
			b.WriteString("\n| argument | type | |\n|---|---|---|\n")
		}
		for _, p := range m.Params {
			kind := p.Type
			if p.Stream {
				kind = "stream of " + kind
			}
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", p.Name, kind, strings.ReplaceAll(p.Doc, "|", `\|`))
		}
	}
	docsPage(t, "methods.md", b.String())
}

func signatureOf(m methodInfo) string {
	var params []string
	for _, p := range m.Params {
		switch {
		case p.Rest:
			params = append(params, p.Name+"...")
		case p.Required:
			params = append(params, p.Name)
		case p.Default == nil:
			params = append(params, p.Name+"?")
		default:
			v, _ := rpc.Encode(p.Default)
			text, _ := v.AppendJSON(nil, rpc.Form{})
			params = append(params, p.Name+"="+string(text))
		}
	}
	return m.Name + "(" + strings.Join(params, ", ") + ")"
}

// docs/configuration.md is the table of keys.
func TestConfigurationPage(t *testing.T) {
	var b strings.Builder
	b.WriteString("# Configuration\n\nEvery key is a flag, a variable and a place in a YAML file: `log.level` is `--log-level`,\n" +
		"`HUBD_LOG_LEVEL` and `log: {level: ...}`. Flags win over variables, variables over files, files over\n" +
		"defaults. Lists in a variable are separated by blanks; sizes may end in KiB, MiB or GiB; durations\n" +
		"look like `500ms`, `10s`, `2m`, `90d`.\n\n" +
		"Without `--config` (or `HUBD_CONFIG`), `hubd.yaml` and then `conf.d/*.yaml`, in the order of their names, are read from\n" +
		"`$CONFIGURATION_DIRECTORY`, else from `/etc/hubd` (root) or `$XDG_CONFIG_HOME/hubd`. Unknown keys are errors.\n" +
		"`hubd config check` says what is wrong, with line and caret; `hubd config print` what holds, and\n" +
		"`hubd config print --defaults` is a file to begin with.\n\n" +
		"`hubd reload`, `hubctl reload`, SIGHUP and `POST /-/reload` read the configuration again. All of it is checked first; what is wrong\n" +
		"leaves the old one in place. Keys marked *live* change then, the others need a restart, and the log says so.\n\n" +
		"This page is generated: `go test ./internal/hub -run TestConfigurationPage -update`.\n\n" +
		"| key | value | default | |\n|---|---|---|---|\n")
	base := Options{LogLevel: "info", Limits: Limits{}.withDefaults()}
	for _, k := range inGroups(configKeys) {
		arg := k.Arg
		if k.Bool {
			arg = "true, false"
		}
		def := k.get(&base)
		switch {
		case k.name == "listen":
			def = "the user's own socket"
		case k.name == "state":
			def = "the user's own folder"
		case def != "":
			def = "`" + def + "`"
		}
		doc := strings.ReplaceAll(k.Doc, "|", `\|`)
		if k.live {
			doc += "; *live*"
		}
		fmt.Fprintf(&b, "| `%s` | %s | %s | %s |\n", k.name, strings.ReplaceAll(arg, "|", `\|`), def, doc)
	}
	docsPage(t, "configuration.md", b.String())
}

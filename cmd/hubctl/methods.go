package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/rivo/uniseg"
	"github.com/spf13/cobra"
)

// paramInfo and methodInfo are what hub.methods and hub.describe tell.
type paramInfo struct {
	Name     string          `json:"name"`
	Doc      string          `json:"doc"`
	Type     string          `json:"type"`
	Required bool            `json:"required"`
	Default  json.RawMessage `json:"default"`
	Stream   bool            `json:"stream"`
	Rest     bool            `json:"rest"`
	Unlisted bool            `json:"unlisted"`
}

type methodInfo struct {
	Name      string          `json:"name"`
	Service   string          `json:"service"`
	Doc       string          `json:"doc"`
	Params    []paramInfo     `json:"params"`
	Result    string          `json:"result"`
	StreamIn  bool            `json:"stream_in"`
	StreamOut bool            `json:"stream_out"`
	Scope     string          `json:"scope"`
	Provider  string          `json:"provider"`
	Legacy    bool            `json:"legacy"`
	Names     json.RawMessage `json:"names"`
	Deadline  *float64        `json:"deadline"`
	Slow      *float64        `json:"slow"`
}

func newMethods(a *app) *cobra.Command {
	everything := false
	cmd := &cobra.Command{
		Use:   "methods [SERVICE]",
		Short: "List the methods that can be called",
		Long: `List the methods that can be called. Those that are there for clients of another
program only, such as state.get_hub_work_text, are listed with --all.`,
		Example: `  hubctl methods
  hubctl methods demo
  hubctl methods -o json | jq -r '.[].name'`,
		Args:              cobra.MaximumNArgs(1),
		ValidArgsFunction: a.completeService,
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			params := map[string]any{}
			if len(args) == 1 {
				params["service"] = args[0]
			}
			text, err := callAll(cmd.Context(), c, "hub.methods", params)
			if err != nil {
				return err
			}
			var list []methodInfo
			if err := json.Unmarshal(text, &list); err != nil {
				return fmt.Errorf("the hub's list of methods is of another form: %w", err)
			}
			if !everything {
				if list, text, err = withoutLegacy(list, text); err != nil {
					return err
				}
			}
			if len(args) == 1 && len(list) == 0 {
				var all []methodInfo
				if err := listAll(cmd.Context(), c, "hub.methods", nil, &all); err != nil {
					return err
				}
				return hintedError{
					fmt.Errorf("no such service %q", args[0]),
					"there are " + strings.Join(services(all), ", "),
				}
			}
			if f := a.formatOr(formatTable); f != formatTable {
				return a.printer(f).list(text)
			}
			_, err = styled(a.out).Write(methodsTable(list, a.width(), a.coloured()))
			return err
		},
	}
	cmd.Flags().BoolVarP(&everything, "all", "a", false, "list also what is there for clients of another program only")
	return cmd
}

// withoutLegacy takes the methods out of a list and its text that are there for
// clients of another program.
func withoutLegacy(list []methodInfo, text json.RawMessage) ([]methodInfo, json.RawMessage, error) {
	var rows []json.RawMessage
	if err := json.Unmarshal(text, &rows); err != nil {
		return nil, nil, err
	}
	kept := make([]methodInfo, 0, len(list))
	keptRows := make([]json.RawMessage, 0, len(rows))
	for i, m := range list {
		if !m.Legacy {
			kept, keptRows = append(kept, m), append(keptRows, rows[i])
		}
	}
	text, err := json.Marshal(keptRows)
	return kept, text, err
}

// methodsTable has one line per method. On a terminal of that width (0: none)
// the texts are cut to fit.
func methodsTable(list []methodInfo, width int, color bool) []byte {
	rows := make([][]string, len(list))
	first := 0
	for i, m := range list {
		rows[i] = []string{oneLine(m.signature()), oneLine(m.Doc)}
		first = max(first, uniseg.StringWidth(rows[i][0]))
	}
	if width > 0 {
		first = min(first, width*3/5)
		for i := range rows {
			rows[i][0] = clip(rows[i][0], first)
		}
	}
	return appendGrid(nil, []string{"METHOD", "WHAT IT DOES"}, rows, color, width)
}

func services(list []methodInfo) []string {
	var out []string
	for _, m := range list {
		if !slices.Contains(out, m.Service) {
			out = append(out, m.Service)
		}
	}
	return out
}

// signature is the method as in a manual: demo.count(n, delay=0) -> stream of integer.
// What is in brackets has a default that is not worth telling.
func (m methodInfo) signature() string {
	var b strings.Builder
	b.WriteString(m.Name)
	b.WriteByte('(')
	for i, p := range m.Params {
		if i > 0 {
			b.WriteString(", ")
		}
		switch {
		case p.Rest:
			b.WriteString(p.Name + "...")
		case p.Required:
			b.WriteString(p.Name)
		case len(p.Default) == 0 || string(p.Default) == "null":
			b.WriteString(p.Name + "?")
		default:
			b.WriteString(p.Name + "=" + string(p.Default))
		}
	}
	b.WriteByte(')')
	switch {
	case m.StreamOut:
		b.WriteString(" -> stream")
	case m.Result != "" && m.Result != "any":
		b.WriteString(" -> " + m.Result)
	}
	return b.String()
}

package hub

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
)

// The alerts and the dashboard that are shipped ask for what the registry has:
// a metric or a label that was renamed would make them silent, not wrong.

// expression is one PromQL expression and where it stands.
type expression struct{ place, text string }

// alertExpressions are those of deploy/prometheus/alerts.yml.
func alertExpressions(t *testing.T) (list []expression) {
	text, err := os.ReadFile("../../deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(text, &file); err != nil {
		t.Fatal(err)
	}
	for _, g := range file.Groups {
		for _, r := range g.Rules {
			list = append(list, expression{"alert " + r.Alert, r.Expr})
		}
	}
	return list
}

// panelExpressions are those of deploy/grafana/hubd.json, of its variables and
// annotations as well.
func panelExpressions(t *testing.T) (list []expression) {
	text, err := os.ReadFile("../../deploy/grafana/hubd.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			ID      int
			Title   string
			Type    string
			Targets []struct{ Expr string }
		}
		Templating struct {
			List []struct {
				Name, Type, Definition string
			}
		}
		Annotations struct {
			List []struct{ Name, Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	seen := map[int]bool{}
	for _, p := range board.Panels {
		if seen[p.ID] {
			t.Errorf("two panels have the id %d", p.ID)
		}
		seen[p.ID] = true
		if len(p.Targets) == 0 && p.Type != "row" {
			t.Errorf("panel %q shows nothing", p.Title)
		}
		for _, target := range p.Targets {
			list = append(list, expression{"panel " + p.Title, target.Expr})
		}
	}
	for _, v := range board.Templating.List {
		if query, ok := strings.CutPrefix(v.Definition, "label_values("); ok {
			selector, _, _ := strings.Cut(strings.TrimSuffix(query, ")"), ", "+v.Name)
			list = append(list, expression{"variable " + v.Name, selector})
		}
	}
	for _, a := range board.Annotations.List {
		list = append(list, expression{"annotation " + a.Name, a.Expr})
	}
	return list
}

func TestAlertsAndDashboardNameMetricsThatExist(t *testing.T) {
	known := knownMetrics(t)
	used := map[string]bool{}
	for _, list := range [][]expression{alertExpressions(t), panelExpressions(t)} {
		if len(list) < 10 {
			t.Fatalf("only %d expressions were found", len(list))
		}
		for _, e := range list {
			names := 0
			var labels []string // that grouping may use
			parsed := parseQuery(e.text)
			for _, s := range parsed.selectors {
				names++
				has, ok := known[s.metric]
				if !ok {
					t.Errorf("%s: there is no metric %s", e.place, s.metric)
					continue
				}
				used[s.metric] = true
				has = append(slices.Clone(has), "job", "instance")
				labels = append(labels, has...)
				for _, l := range s.labels {
					if !slices.Contains(has, l) {
						t.Errorf("%s: %s has no label %s, only %v", e.place, s.metric, l, has)
					}
				}
			}
			for _, l := range parsed.grouping {
				if !slices.Contains(labels, l) {
					t.Errorf("%s: groups by %s, which none of its metrics has", e.place, l)
				}
			}
			if names == 0 {
				t.Errorf("%s: no metric in %q", e.place, e.text)
			}
		}
	}
	t.Logf("%d names of metrics are used", len(used))
}

// knownMetrics are the names that queries can use, with their labels.
func knownMetrics(t *testing.T) map[string][]string {
	m := demoHub(t).metrics
	known := map[string][]string{"up": nil}
	add := func(name, kind string, labels []string) {
		if kind == "histogram" {
			known[name+"_bucket"] = append(slices.Clone(labels), "le")
			known[name+"_sum"], known[name+"_count"] = labels, labels
			return
		}
		known[name] = labels
	}
	for _, i := range m.catalog {
		add(i.Name, i.Type, i.Labels)
	}
	families, err := m.registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range families {
		if !strings.HasPrefix(f.GetName(), "hubd_") {
			add(f.GetName(), strings.ToLower(f.GetType().String()), nil)
		}
	}
	return known
}

// query is what parseQuery finds in an expression.
type query struct {
	selectors []selector
	grouping  []string // labels after by, without, on, ignoring
}

type selector struct {
	metric string
	labels []string // that it matches
}

// parseQuery finds the names in a PromQL expression. It is no parser: promtool
// says whether an expression is one (tests/prometheus_test.go).
func parseQuery(text string) (q query) {
	words := queryWords(text)
	for i := 0; i < len(words); i++ {
		w := words[i]
		next := ""
		if i+1 < len(words) {
			next = words[i+1]
		}
		switch {
		case w == "by" || w == "without" || w == "on" || w == "ignoring" || w == "group_left" || w == "group_right":
			if next == "(" {
				for i += 2; i < len(words) && words[i] != ")"; i++ {
					if words[i] != "," {
						q.grouping = append(q.grouping, words[i])
					}
				}
			}
		case w == "[":
			for i < len(words) && words[i] != "]" {
				i++
			}
		case w == "and" || w == "or" || w == "unless" || w == "bool" || w == "offset" || !isName(w) || next == "(":
		case i > 0 && words[i-1] == "$":
		case isAggregation(w) && next == "by":
		default:
			s := selector{metric: w}
			if next == "{" {
				expectLabel := true
				for i += 2; i < len(words) && words[i] != "}"; i++ {
					switch {
					case words[i] == ",":
						expectLabel = true
					case expectLabel && isName(words[i]):
						s.labels = append(s.labels, words[i])
						expectLabel = false
					}
				}
			}
			q.selectors = append(q.selectors, s)
		}
	}
	return q
}

func isAggregation(w string) bool {
	return slices.Contains([]string{"sum", "min", "max", "avg", "count", "topk", "bottomk", "quantile", "group"}, w)
}

func isName(w string) bool {
	c := w[0]
	return c == '_' || c == ':' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

// queryWords splits an expression into names, numbers and single signs.
// Strings are left out.
func queryWords(text string) (words []string) {
	for i := 0; i < len(text); {
		c := text[i]
		switch {
		case c == '"' || c == '\'':
			for i++; i < len(text) && text[i] != c; i++ {
				if text[i] == '\\' {
					i++
				}
			}
			i++
		case strings.IndexByte(" \n\t", c) >= 0:
			i++
		case isWordByte(c):
			start := i
			for i < len(text) && isWordByte(text[i]) {
				i++
			}
			words = append(words, text[start:i])
		default:
			words = append(words, string(c))
			i++
		}
	}
	return words
}

func isWordByte(c byte) bool {
	return c == '_' || c == ':' || c == '.' || c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z'
}

func TestParseQuery(t *testing.T) {
	tests := []struct{ text, metrics, labels, grouping string }{
		{`up`, "up", "", ""},
		{`sum by (a, b) (rate(m_total{x="1, y", z=~"$z"}[$__rate_interval])) / 2 > 0.5`, "m_total", "x z", "a b"},
		{`histogram_quantile(0.99, sum by (le) (rate(h_bucket[5m])))`, "h_bucket", "", "le"},
		{`a - on (i) group_left b{j!="\"k\""} offset 5m`, "a b", "j", "i"},
		{`topk(10, x) and sum(y) without (q) or z`, "x y z", "", "q"},
	}
	for _, test := range tests {
		q := parseQuery(test.text)
		var metrics, labels []string
		for _, s := range q.selectors {
			metrics = append(metrics, s.metric)
			labels = append(labels, s.labels...)
		}
		if got := strings.Join(metrics, " "); got != test.metrics {
			t.Errorf("%s: metrics %q, want %q", test.text, got, test.metrics)
		}
		if got := strings.Join(labels, " "); got != test.labels {
			t.Errorf("%s: labels %q, want %q", test.text, got, test.labels)
		}
		if got := strings.Join(q.grouping, " "); got != test.grouping {
			t.Errorf("%s: grouping %q, want %q", test.text, got, test.grouping)
		}
	}
}

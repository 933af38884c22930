package tests

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"
)

// A real Prometheus against a real hubd. tests/prepare.sh unpacks the package
// of Debian where apt-get works.

// needPrometheus returns prometheus or promtool, or skips the test.
func needPrometheus(t *testing.T, name string) string {
	t.Helper()
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	cache := os.Getenv("HUBD_TEST_CACHE")
	if cache == "" {
		if dir, err := os.UserCacheDir(); err == nil {
			cache = filepath.Join(dir, "hubd-tests")
		}
	}
	path := filepath.Join(cache, "prometheus", "usr", "bin", name)
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is neither installed nor in %s (tests/prepare.sh unpacks it)", name, cache)
	}
	return path
}

// promtool runs one check of promtool on files of deploy/prometheus.
func promtool(t *testing.T, stdin string, args ...string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, needPrometheus(t, "promtool"), args...)
	cmd.Dir = filepath.Join("..", "deploy", "prometheus")
	cmd.Stdin = strings.NewReader(stdin)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %s: %v\n%s", strings.Join(args, " "), err, out)
	}
}

// Every alert fires where it should and nowhere else.
func TestAlertRules(t *testing.T) {
	t.Parallel()
	promtool(t, "", "check", "rules", "alerts.yml")
	promtool(t, "", "check", "config", "prometheus.yml")
	promtool(t, "", "test", "rules", "alerts_test.yml")

	rules, err := os.ReadFile("../deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	tested, err := os.ReadFile("../deploy/prometheus/alerts_test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`(?m)- alert: (\w+)$`).FindAllSubmatch(rules, -1) {
		cases := bytes.Split(tested, []byte("  - name: "))
		fires, silent := 0, 0
		for _, c := range cases {
			if !bytes.Contains(c, append([]byte("alertname: "), append(m[1], '\n')...)) {
				continue
			}
			if bytes.Contains(c, []byte("exp_alerts:")) {
				fires++
			} else {
				silent++
			}
		}
		if fires == 0 || silent == 0 {
			t.Errorf("%s fires in %d tests and stays silent in %d, want both", m[1], fires, silent)
		}
	}
}

// What a scrape gets is what Prometheus asks of exporters.
func TestMetricsLint(t *testing.T) {
	t.Parallel()
	needPrometheus(t, "promtool")
	d := startDaemon(t)
	_, body, err := d.tryGet("/metrics")
	if err != nil {
		t.Fatal(err)
	}
	promtool(t, body, "check", "metrics")
}

// prometheus is a running server.
type prometheus struct {
	t    *testing.T
	base string
}

// startPrometheus runs a server with this configuration in dir.
func startPrometheus(t *testing.T, dir, config string, flags ...string) *prometheus {
	t.Helper()
	binary := needPrometheus(t, "prometheus")
	file := filepath.Join(dir, "prometheus.yml")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for attempt := 0; ; attempt++ {
		// Prometheus does not say which port it got: one is chosen that was free a moment ago.
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		address := ln.Addr().String()
		ln.Close()
		cmd := exec.Command(binary, append(flags, "--config.file="+file, "--storage.tsdb.path="+filepath.Join(dir, "tsdb"),
			"--web.listen-address="+address, "--log.level=warn")...)
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		log := new(logBuffer)
		cmd.Stdout, cmd.Stderr = log, log
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		ended := make(chan struct{})
		go func() {
			cmd.Wait()
			close(ended)
		}()
		p := &prometheus{t, "http://" + address}
		if p.ready(ended) {
			t.Cleanup(func() {
				cmd.Process.Signal(syscall.SIGTERM)
				select {
				case <-ended:
				case <-time.After(patience):
					cmd.Process.Kill()
				}
				if t.Failed() {
					t.Logf("prometheus said:\n%s", log)
				}
			})
			return p
		}
		cmd.Process.Kill()
		<-ended
		if attempt == 2 {
			t.Fatalf("prometheus did not start:\n%s", log)
		}
	}
}

func (p *prometheus) ready(ended <-chan struct{}) bool {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if r, err := http.Get(p.base + "/-/ready"); err == nil {
			r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return true
			}
		}
		select {
		case <-ended:
			return false
		case <-time.After(20 * time.Millisecond): // between two attempts
		}
	}
	return false
}

// sample is one line of the answer to a query.
type sample struct {
	Metric map[string]string
	Value  [2]any
}

func (s sample) text() string { return fmt.Sprint(s.Value[1]) }

// query asks for the value of an expression now.
func (p *prometheus) query(expression string) []sample {
	p.t.Helper()
	r, err := http.Get(p.base + "/api/v1/query?query=" + url.QueryEscape(expression))
	if err != nil {
		p.t.Fatal(err)
	}
	defer r.Body.Close()
	var answer struct {
		Status, Error string
		Data          struct{ Result []sample }
	}
	if err := json.NewDecoder(r.Body).Decode(&answer); err != nil || answer.Status != "success" {
		p.t.Fatalf("query %s: %v %s", expression, err, answer.Error)
	}
	return answer.Data.Result
}

// waitFor asks until somebody answers: scrapes come when they come.
func (p *prometheus) waitFor(expression string) sample {
	p.t.Helper()
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); {
		if got := p.query(expression); len(got) > 0 {
			return got[0]
		}
		time.Sleep(100 * time.Millisecond) // between two questions
	}
	p.t.Fatalf("no answer to %s", expression)
	return sample{}
}

// metricsAddress is where /metrics alone is served, as the log has it.
func (d *daemon) metricsAddress() string {
	d.t.Helper()
	m := regexp.MustCompile(`"metrics":"([^"]+)"`).FindStringSubmatch(d.stderr.String())
	if m == nil {
		d.t.Fatalf("the log does not name the address of the metrics:\n%s", d.stderr)
	}
	return m[1]
}

// scrapeToken makes a token as the example configuration wants it, and returns its file.
func (d *daemon) scrapeToken() string {
	d.t.Helper()
	token, talk, code := d.run("", "hubctl", "token", "create", "prometheus", "--scopes", "read")
	if code != 0 {
		d.t.Fatalf("hubctl token create: %d %s", code, talk)
	}
	file := filepath.Join(d.dir, "token")
	if err := os.WriteFile(file, []byte(strings.TrimSpace(token)+"\n"), 0o600); err != nil {
		d.t.Fatal(err)
	}
	return file
}

// Prometheus finds what the hub did: over the address for metrics alone, open
// and with TLS and a token, and through a listener with a token from a file.
func TestPrometheusScrapes(t *testing.T) {
	t.Parallel()
	needPrometheus(t, "prometheus")
	d := startDaemon(t, "--metrics", "127.0.0.1:0", "--listen", "tcp://127.0.0.1:0?auth=token")

	cert, key := selfSigned(t)
	exposed := startDaemon(t, "--metrics", "tls://127.0.0.1:0", "--tls-cert-file", cert, "--tls-key-file", key)
	tokenFile, exposedToken := d.scrapeToken(), exposed.scrapeToken()
	rules, err := filepath.Abs("../deploy/prometheus/alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf(`
global: {scrape_interval: 1s, evaluation_interval: 1s}
rule_files: [%q]
scrape_configs:
  - job_name: hubd
    static_configs: [{targets: [%q]}]
  - job_name: token
    authorization: {credentials_file: %q}
    static_configs: [{targets: [%q]}]
  - job_name: stranger
    static_configs: [{targets: [%[4]q]}]
  - job_name: exposed
    scheme: https
    tls_config: {ca_file: %[5]q}
    authorization: {credentials_file: %[6]q}
    static_configs: [{targets: [%[7]q]}]
  - job_name: exposed-stranger
    scheme: https
    tls_config: {ca_file: %[5]q}
    static_configs: [{targets: [%[7]q]}]
`, rules, d.metricsAddress(), tokenFile, d.tcpAddress(), cert, exposedToken, exposed.metricsAddress())
	p := startPrometheus(t, d.dir, config)
	// A server that takes native histograms takes no classic ones of the same name.
	native := startPrometheus(t, t.TempDir(), config, "--enable-feature=native-histograms")

	// What happens after the first scrape is an increase.
	p.waitFor(`up{job="hubd"} == 1`)
	w := d.dial()
	for range 7 {
		w.result(w.call("a", "math.add", "[1,2]"))
	}
	w.result(w.call("q", "demo.sleep", "[0]")) // its series begin, at zero slow calls
	p.waitFor(`hubd_slow_handlers_total{job="hubd",method="demo.sleep"} == 0`)
	w.result(w.call("s", "demo.sleep", "[1.3]")) // slow: longer than a second
	w.call("f", "state.get", `{"key":"missing"}`)
	w.result(w.call("p", "state.put", `{"key":"k","value":1}`))

	for _, test := range []struct{ expression, want string }{
		{`hubd_calls_total{job="hubd",protocol="kollabor",method="math.add",code="ok"} == 7`, "7"},
		{`hubd_calls_total{job="token",protocol="kollabor",method="math.add",code="ok"} == 7`, "7"},
		{`hubd_calls_total{job="hubd",method="state.get",code="not_found"}`, "1"},
		{`hubd_slow_handlers_total{job="hubd",method="demo.sleep"} == 1`, "1"},
		{`hubd_state_revision{job="hubd"} > 0`, "1"},
		{`hubd_state_ready{job="hubd"}`, "1"},
		{`up{job="stranger"}`, "0"}, // needs a token
		{`up{job="exposed"} == 1`, "1"},
		{`hubd_build_info{job="exposed"}`, "1"},
		{`up{job="exposed-stranger"}`, "0"},
	} {
		if got := p.waitFor(test.expression); got.text() != test.want {
			t.Errorf("%s is %s, want %s", test.expression, got.text(), test.want)
		}
	}
	// The same observations, without buckets of ours.
	for _, test := range []struct{ expression, want string }{
		{`histogram_count(hubd_call_duration_seconds{job="hubd",protocol="kollabor",method="math.add"}) == 7`, "7"},
		{`histogram_quantile(0.9, hubd_call_duration_seconds{job="hubd",protocol="kollabor",method="demo.sleep"}) > bool 1`, "1"},
	} {
		if got := native.waitFor(test.expression); got.text() != test.want {
			t.Errorf("%s is %s, want %s", test.expression, got.text(), test.want)
		}
	}
	t.Logf("series of one hub: %s", p.waitFor(`count({job="hubd",__name__=~"hubd_.*"})`).text())

	// Rates need two scrapes that saw the calls, or one before and one after them.
	p.waitFor(`count_over_time(hubd_calls_total{job="hubd",method="state.get",code="not_found"}[1m]) >= 2`)
	dashboardAnswers(t, p)

	// The rules are loaded, and see a hub that goes away.
	var rulesAnswer struct {
		Data struct {
			Groups []struct {
				Rules []struct{ Name, Health, LastError string }
			}
		}
	}
	r, err := http.Get(p.base + "/api/v1/rules")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Body.Close()
	if err := json.NewDecoder(r.Body).Decode(&rulesAnswer); err != nil || len(rulesAnswer.Data.Groups) != 1 {
		t.Fatalf("rules: %v, %d groups", err, len(rulesAnswer.Data.Groups))
	}
	for _, rule := range rulesAnswer.Data.Groups[0].Rules {
		if rule.Health == "err" {
			t.Errorf("rule %s: %s", rule.Name, rule.LastError)
		}
	}
	if firing := p.query(`ALERTS{job="hubd"}`); len(firing) > 0 {
		t.Errorf("alerts about a hub that works: %v", firing)
	}
	w.Close()
	d.stop()
	p.waitFor(`up{job="hubd"} == 0`)
	p.waitFor(`ALERTS{alertname="HubdDown",job="hubd"}`)
}

// dashboardAnswers asks every question of the Grafana dashboard.
func dashboardAnswers(t *testing.T, p *prometheus) {
	t.Helper()
	text, err := os.ReadFile("../deploy/grafana/hubd.json")
	if err != nil {
		t.Fatal(err)
	}
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(text, &board); err != nil {
		t.Fatal(err)
	}
	asked, answered := 0, 0
	for _, panel := range board.Panels {
		some := len(panel.Targets) == 0
		for _, target := range panel.Targets {
			q := strings.NewReplacer("$__rate_interval", "1m", "$job", "hubd", "$instance", ".+").Replace(target.Expr)
			asked++
			if len(p.query(q)) > 0 {
				answered++
				some = true
			}
		}
		// Nothing was turned away or unreadable here, and a filter "> 0" hides what is zero.
		if !some && panel.Title != "Frames that could not be read" && panel.Title != "Turned away" {
			t.Errorf("panel %q shows nothing", panel.Title)
		}
	}
	t.Logf("%d of %d questions of the dashboard have answers", answered, asked)
}

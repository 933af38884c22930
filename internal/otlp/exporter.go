// Package otlp sends spans to an OpenTelemetry collector, as JSON over HTTP
// (OTLP specification 1, section "OTLP/HTTP"). The exporter of the OpenTelemetry
// project does the same with Protocol Buffers, and links gRPC for it.
package otlp

import (
	"bytes"
	"compress/gzip"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	sdk "go.opentelemetry.io/otel/sdk/trace"
)

// Exporter is a sdk.SpanExporter. It may be used from any goroutine.
type Exporter struct {
	url     string
	headers map[string]string
	gzip    bool
	timeout time.Duration
	client  *http.Client
}

var _ sdk.SpanExporter = (*Exporter)(nil)

// How a request is repeated that the collector could not take.
const (
	firstPause = 100 * time.Millisecond
	longPause  = 5 * time.Second
	maxAnswer  = 64 << 10 // bytes of an answer that are read
)

// Enabled reports whether the environment says where a collector is.
func Enabled() bool {
	return os.Getenv("OTEL_EXPORTER_OTLP_ENDPOINT") != "" || os.Getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") != ""
}

// New returns an exporter as the standard variables describe it, those with
// TRACES in their name first: OTEL_EXPORTER_OTLP_[TRACES_]ENDPOINT, HEADERS,
// TIMEOUT (milliseconds, default 10,000), COMPRESSION (gzip or none), CERTIFICATE,
// CLIENT_CERTIFICATE and CLIENT_KEY (PEM files). Nothing is sent yet.
func New() (*Exporter, error) {
	e := &Exporter{timeout: 10 * time.Second}
	var problems []error
	problem := func(name string, err error) {
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
		}
	}
	var err error
	name, text := variable("ENDPOINT")
	e.url, err = endpoint(text, strings.Contains(name, "_TRACES_"))
	problem(name, err)
	name, text = variable("HEADERS")
	e.headers, err = headers(text)
	problem(name, err)
	if name, text = variable("TIMEOUT"); text != "" {
		ms, err := strconv.ParseUint(text, 10, 31)
		if err != nil {
			err = errors.New("must be a number of milliseconds")
		}
		problem(name, err)
		e.timeout = time.Duration(ms) * time.Millisecond
	}
	switch name, text = variable("COMPRESSION"); text {
	case "gzip":
		e.gzip = true
	case "", "none":
	default:
		problem(name, errors.New("must be gzip or none"))
	}
	transport := http.DefaultTransport.(*http.Transport).Clone()
	transport.TLSClientConfig, err = tlsConfig()
	problem("OTEL_EXPORTER_OTLP_*CERTIFICATE", err)
	e.client = &http.Client{Transport: transport}
	if len(problems) > 0 {
		return nil, errors.Join(problems...)
	}
	return e, nil
}

// variable returns the value that holds for traces, and the name of its variable.
func variable(what string) (name, value string) {
	name = "OTEL_EXPORTER_OTLP_TRACES_" + what
	if value = os.Getenv(name); value != "" {
		return name, value
	}
	name = "OTEL_EXPORTER_OTLP_" + what
	return name, os.Getenv(name)
}

// endpoint returns the address to post to. The one for traces is used as it is, to the other the path is added.
func endpoint(text string, whole bool) (string, error) {
	u, err := url.Parse(text)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return "", errors.New("must be an http or https address")
	}
	if !whole {
		u = u.JoinPath("v1", "traces")
	} else if u.Path == "" {
		u.Path = "/"
	}
	return u.String(), nil
}

// headers reads "name=value,name=value"; values are percent-encoded.
func headers(text string) (map[string]string, error) {
	h := map[string]string{}
	for pair := range strings.SplitSeq(text, ",") {
		if strings.TrimSpace(pair) == "" {
			continue
		}
		name, value, ok := strings.Cut(pair, "=")
		value, err := url.PathUnescape(strings.TrimSpace(value))
		name = strings.TrimSpace(name)
		if !ok || err != nil || name == "" || strings.ContainsAny(value, "\r\n") {
			return nil, errors.New("must be name=value pairs with commas between them") // says nothing of the secrets in them
		}
		h[name] = value
	}
	return h, nil
}

func tlsConfig() (*tls.Config, error) {
	c := &tls.Config{MinVersion: tls.VersionTLS12}
	if _, file := variable("CERTIFICATE"); file != "" {
		pem, err := os.ReadFile(file)
		if err != nil {
			return nil, err
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s has no certificate", file)
		}
	}
	_, cert := variable("CLIENT_CERTIFICATE")
	_, key := variable("CLIENT_KEY")
	if cert == "" && key == "" {
		return c, nil
	}
	pair, err := tls.LoadX509KeyPair(cert, key)
	c.Certificates = []tls.Certificate{pair}
	return c, err
}

// ExportSpans implements sdk.SpanExporter. It returns within the timeout of the
// exporter; until then it repeats what the collector was not ready for.
func (e *Exporter) ExportSpans(ctx context.Context, spans []sdk.ReadOnlySpan) error {
	if len(spans) == 0 {
		return nil
	}
	body := encode(spans)
	if e.gzip {
		var z bytes.Buffer
		w := gzip.NewWriter(&z)
		_, _ = w.Write(body) // a buffer takes everything
		_ = w.Close()
		body = z.Bytes()
	}
	ctx, cancel := context.WithTimeout(ctx, e.timeout)
	defer cancel()
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		again, err := e.post(ctx, body)
		if err == nil || again < 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(err, context.Cause(ctx))
		case <-time.After(max(pause, again)):
		}
	}
}

// post sends a body once. again is how long the collector wants to be left
// alone before the body is sent again, 0 where it does not say; negative: it is not sent again.
func (e *Exporter) post(ctx context.Context, body []byte) (again time.Duration, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, e.url, bytes.NewReader(body))
	if err != nil {
		return -1, err
	}
	for name, value := range e.headers {
		req.Header.Set(name, value)
	}
	req.Header.Set("Content-Type", "application/json")
	if e.gzip {
		req.Header.Set("Content-Encoding", "gzip")
	}
	resp, err := e.client.Do(req)
	if err != nil {
		return 0, fmt.Errorf("send spans: %w", err)
	}
	defer resp.Body.Close()
	_, _ = io.CopyN(io.Discard, resp.Body, maxAnswer) // so that the connection can be used again
	if resp.StatusCode/100 == 2 {
		return -1, nil
	}
	err = fmt.Errorf("send spans: the collector answered %s", resp.Status)
	switch resp.StatusCode {
	case http.StatusTooManyRequests, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		seconds, _ := strconv.Atoi(resp.Header.Get("Retry-After"))
		return time.Duration(max(0, seconds)) * time.Second, err
	}
	return -1, err
}

// Shutdown implements sdk.SpanExporter.
func (e *Exporter) Shutdown(context.Context) error {
	e.client.CloseIdleConnections()
	return nil
}

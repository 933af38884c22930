// Package browser drives a headless Chromium for tests, over the DevTools
// protocol: enough to open a page, run expressions in it and look at it.
package browser

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/coder/websocket"
)

// patience bounds every wait; it is no measure of speed.
const patience = 60 * time.Second

// Find returns the path of a Chromium, or skips the test.
func Find(t testing.TB) string {
	t.Helper()
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			return path
		}
	}
	t.Skip("chromium is not installed (Debian: apt-get install chromium)")
	return ""
}

// Browser is a running Chromium with an empty profile.
type Browser struct {
	t  testing.TB
	ws *websocket.Conn

	mu      sync.Mutex
	next    int
	waiting map[int]chan reply
	gone    error
}

type reply struct {
	Result json.RawMessage `json:"result"`
	Error  *struct {
		Message string `json:"message"`
	} `json:"error"`
}

// Start runs a Chromium until the test ends. Its profile is a folder of its
// own, and it talks to nobody but the pages it is told to open.
func Start(t testing.TB, flags ...string) *Browser {
	t.Helper()
	path := Find(t)
	profile, err := os.MkdirTemp("", "chromium")
	if err != nil {
		t.Fatal(err)
	}
	args := append([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--no-proxy-server", "--hide-scrollbars",
		"--user-data-dir=" + profile, "--remote-debugging-port=0", "--window-size=900,900",
	}, flags...)
	cmd := exec.Command(path, append(args, "about:blank")...)
	cmd.Env = append(os.Environ(), "HOME="+profile, "TMPDIR="+profile, "XDG_CONFIG_HOME="+profile, "XDG_CACHE_HOME="+profile)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // the browser is many processes
	said, w := io.Pipe()
	cmd.Stderr = w
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	exited := make(chan struct{})
	go func() {
		cmd.Wait()
		w.Close()
		close(exited)
	}()
	t.Cleanup(func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		<-exited
		os.RemoveAll(profile)
	})
	address := make(chan string, 1)
	go func() {
		var log strings.Builder
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if at, ok := strings.CutPrefix(lines.Text(), "DevTools listening on "); ok {
				address <- at
				continue
			}
			if log.Len() < 10000 {
				log.WriteString(lines.Text() + "\n")
			}
		}
		select {
		case address <- "!" + log.String(): // it has ended without listening
		default:
		}
	}()
	b := &Browser{t: t, waiting: map[int]chan reply{}}
	select {
	case at := <-address:
		if said, bad := strings.CutPrefix(at, "!"); bad {
			t.Fatalf("chromium has ended:\n%s", said)
		}
		ctx, stop := context.WithTimeout(t.Context(), patience)
		defer stop()
		if b.ws, _, err = websocket.Dial(ctx, at, nil); err != nil {
			t.Fatal(err)
		}
	case <-time.After(patience):
		t.Fatal("chromium does not say where it listens")
	}
	b.ws.SetReadLimit(64 << 20)
	t.Cleanup(func() { b.ws.CloseNow() })
	go b.read()
	return b
}

// read hands answers to those that wait; it ends with the connection.
func (b *Browser) read() {
	for {
		_, data, err := b.ws.Read(context.Background())
		b.mu.Lock()
		if err != nil {
			b.gone = err
			for id, ch := range b.waiting {
				close(ch)
				delete(b.waiting, id)
			}
			b.mu.Unlock()
			return
		}
		var m struct {
			ID int `json:"id"`
			reply
		}
		if json.Unmarshal(data, &m) == nil && b.waiting[m.ID] != nil {
			b.waiting[m.ID] <- m.reply
			delete(b.waiting, m.ID)
		}
		b.mu.Unlock()
	}
}

// do runs a command of the protocol.
func (b *Browser) do(session, method string, params any, result any) error {
	b.mu.Lock()
	if b.gone != nil {
		b.mu.Unlock()
		return fmt.Errorf("chromium is gone: %w", b.gone)
	}
	b.next++
	id := b.next
	ch := make(chan reply, 1)
	b.waiting[id] = ch
	b.mu.Unlock()
	ctx, stop := context.WithTimeout(b.t.Context(), patience)
	defer stop()
	msg, err := json.Marshal(map[string]any{"id": id, "sessionId": session, "method": method, "params": params})
	if session == "" {
		msg, err = json.Marshal(map[string]any{"id": id, "method": method, "params": params})
	}
	if err == nil {
		err = b.ws.Write(ctx, websocket.MessageText, msg)
	}
	if err != nil {
		return err
	}
	select {
	case r, ok := <-ch:
		switch {
		case !ok:
			return errors.New("chromium is gone")
		case r.Error != nil:
			return errors.New(method + ": " + r.Error.Message)
		case result == nil:
			return nil
		}
		return json.Unmarshal(r.Result, result)
	case <-ctx.Done():
		return fmt.Errorf("%s: no answer within %v", method, patience)
	}
}

// Page is a tab.
type Page struct {
	b       *Browser
	session string
}

// Open opens an address in a new tab.
func (b *Browser) Open(address string) *Page {
	b.t.Helper()
	var target struct{ TargetID string }
	var attached struct{ SessionID string }
	err := b.do("", "Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	if err == nil {
		err = b.do("", "Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	}
	if err != nil {
		b.t.Fatal(err)
	}
	p := &Page{b, attached.SessionID}
	var navigated struct{ ErrorText string }
	if err := b.do(p.session, "Page.navigate", map[string]any{"url": address}, &navigated); err != nil {
		b.t.Fatal(err)
	}
	if navigated.ErrorText != "" {
		b.t.Fatalf("open %s: %s", address, navigated.ErrorText)
	}
	return p
}

// Eval runs an expression in the page, waits for the promise that it may
// return, and stores what comes in result, which may be nil.
func (p *Page) Eval(expression string, result any) error {
	var answer struct {
		Result           struct{ Value json.RawMessage }
		ExceptionDetails *struct {
			Text      string
			Exception struct{ Description string }
		}
	}
	err := p.b.do(p.session, "Runtime.evaluate", map[string]any{
		"expression": expression, "awaitPromise": true, "returnByValue": true,
	}, &answer)
	if err != nil {
		return err
	}
	if e := answer.ExceptionDetails; e != nil {
		return fmt.Errorf("%s %s", e.Text, e.Exception.Description)
	}
	if result == nil || len(answer.Result.Value) == 0 {
		return nil
	}
	return json.Unmarshal(answer.Result.Value, result)
}

// Text returns the text of the first element that matches a selector, "" when
// there is none.
func (p *Page) Text(selector string) string {
	p.b.t.Helper()
	quoted, _ := json.Marshal(selector)
	var text string
	if err := p.Eval("document.querySelector("+string(quoted)+")?.textContent ?? ''", &text); err != nil {
		p.b.t.Fatal(err)
	}
	return text
}

// WaitText waits until an element has the wanted text.
func (p *Page) WaitText(selector, want string) {
	p.b.t.Helper()
	p.WaitFor(selector+" says "+want, func() bool { return p.Text(selector) == want })
}

// WaitFor waits until ok.
func (p *Page) WaitFor(what string, ok func() bool) {
	p.b.t.Helper()
	for deadline := time.Now().Add(patience); !ok(); {
		if time.Now().After(deadline) {
			var body string
			_ = p.Eval("document.documentElement.outerHTML", &body)
			p.b.t.Fatalf("not within %v: %s\nthe page:\n%.4000s", patience, what, body)
		}
		time.Sleep(20 * time.Millisecond) // between two looks
	}
}

// Screenshot returns the page as PNG.
func (p *Page) Screenshot() ([]byte, error) {
	var shot struct{ Data string }
	if err := p.b.do(p.session, "Page.captureScreenshot", map[string]any{"format": "png"}, &shot); err != nil {
		return nil, err
	}
	return base64.StdEncoding.DecodeString(shot.Data)
}

package tests

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hubd-dev/hubd/tests/internal/browser"
)

// TestInteropCapnwebBrowser opens a page that comes from the hub, in a real
// browser, with the bundle of the npm package: it calls the hub, and shows what
// others do to the state while it is open.
func TestInteropCapnwebBrowser(t *testing.T) {
	t.Parallel()
	browser.Find(t)
	client := needNode(t, "capnweb")
	root := t.TempDir()
	for from, to := range map[string]string{
		"page.html": "index.html", filepath.Join("node_modules", "capnweb", "dist", "index.js"): "capnweb.js",
	} {
		data, err := os.ReadFile(filepath.Join(client, from))
		if err == nil {
			err = os.WriteFile(filepath.Join(root, to), data, 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none", "--web-root", root)
	b := browser.Start(t)
	page := b.Open("http://" + d.tcpAddress() + "/web/")
	page.WaitFor("the page is done", func() bool {
		status := page.Text("#status")
		if strings.HasPrefix(status, "failed") {
			t.Fatal(status)
		}
		return status == "watching"
	})
	for id, want := range map[string]string{
		"#sum": "42", "#pipelined": `["Ada Lovelace","u_1",[10,11,12]]`, "#counter": "[7,8]", "#callback": "[0,1,2,3]",
		"#stream": "[0,1,2,3,4]", "#batch": "3", "#watch": "nothing yet",
	} {
		if got := page.Text(id); got != want {
			t.Errorf("%s shows %q, want %q", id, got, want)
		}
	}
	w := d.dial() // somebody else, in another protocol
	defer w.Close()
	w.result(w.call("1", "state.put", `{"key":"browser/live","value":{"n":1}}`))
	page.WaitText("#watch", `[{"n":1}]`)
	w.result(w.call("2", "state.put", `{"key":"browser/live","value":"grüße"}`))
	page.WaitText("#watch", `[{"n":1},"grüße"]`)
	screenshot(t, page, "capnweb")

	// Disposal ends the watch.
	if err := page.Eval("watch[Symbol.dispose]()", nil); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the watch ends", func() bool {
		n, _ := d.metric("hubd_capnweb_entries", `table="imports"`)
		return n == 0
	})
}

// TestInteropLandingPage opens the hub itself.
func TestInteropLandingPage(t *testing.T) {
	t.Parallel()
	browser.Find(t)
	d := startDaemon(t, "--listen", "tcp://127.0.0.1:0?auth=none")
	page := browser.Start(t).Open("http://" + d.tcpAddress() + "/")
	page.WaitFor("the hub answers the page", func() bool { return strings.HasPrefix(page.Text("#status"), "version ") })
	page.WaitFor("methods are listed", func() bool { return strings.Contains(page.Text("#methods"), "state.watch") })
	screenshot(t, page, "landing")
}

// TestInteropLandingPageWithoutToken opens it at addresses that ask for a token, or
// ask it of pages.
func TestInteropLandingPageWithoutToken(t *testing.T) {
	t.Parallel()
	browser.Find(t)
	for _, query := range []string{"", "?auth=uid"} {
		t.Run("tcp"+query, func(t *testing.T) {
			d := startDaemon(t, "--listen", "tcp://127.0.0.1:0"+query)
			page := browser.Start(t).Open("http://" + d.tcpAddress() + "/")
			page.WaitFor("the page says what is missing", func() bool { return strings.Contains(page.Text("#status"), "hubctl token create") })
			if query == "" {
				screenshot(t, page, "landing-token")
			}
		})
	}
}

// screenshot keeps a picture of the page where HUBD_SCREENSHOTS names a folder.
func screenshot(t *testing.T, page *browser.Page, name string) {
	t.Helper()
	dir := os.Getenv("HUBD_SCREENSHOTS")
	if dir == "" {
		return
	}
	png, err := page.Screenshot()
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, name+".png"), png, 0o644)
	}
	if err != nil {
		t.Error(err)
	}
}

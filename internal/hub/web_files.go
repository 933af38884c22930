package hub

import (
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// webPath is where the files of Options.WebRoot are served.
const webPath = "/web/"

// webFiles serves the files of a folder: a page that comes from the hub itself
// is of its origin, and may call it without being listed. Nobody is asked who
// they are, since a browser cannot say so when it opens a page; what a page may
// call is decided where it calls.
//
// Links do not lead out of the folder, names that begin with a dot are not
// there, folders are not listed, and nothing but regular files is opened.
type webFiles string

func (dir webFiles) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path+"/" == webPath {
		toFolder(w, r)
		return
	}
	name := strings.TrimPrefix(r.URL.Path, webPath)
	if name == "" || strings.HasSuffix(name, "/") {
		name += "index.html"
	}
	if name != path.Clean(name) || strings.HasPrefix(name, "/") || strings.HasPrefix(name, ".") || strings.Contains(name, "/.") {
		http.NotFound(w, r)
		return
	}
	root, err := os.OpenRoot(string(dir)) // anew: the folder may be replaced as a whole
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer root.Close()
	f, err := root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		http.NotFound(w, r)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	switch {
	case err == nil && st.IsDir():
		toFolder(w, r)
		return
	case err != nil || !st.Mode().IsRegular():
		http.NotFound(w, r)
		return
	}
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.Header().Set("Cache-Control", "no-cache") // ask whether it has changed
	http.ServeContent(w, r, name, st.ModTime(), f)
}

// toFolder sends a browser to the same path with a slash at its end, against
// which what the page there refers to is resolved.
func toFolder(w http.ResponseWriter, r *http.Request) {
	to := url.URL{Path: path.Base(r.URL.Path) + "/", RawQuery: r.URL.RawQuery} // relative: nothing of the request but its own last part
	w.Header().Set("Location", to.String())
	w.WriteHeader(http.StatusMovedPermanently)
}

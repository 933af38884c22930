package hub

import (
	"github.com/hubd-dev/hubd/internal/filesvc"
)

// openFiles adds the methods file.* if a folder is configured for them. Without
// one there are none.
func (h *hub) openFiles() error {
	if h.opts.FileRoot == "" {
		return nil
	}
	s, err := filesvc.Open(filesvc.Options{
		Root: h.opts.FileRoot, MaxUpload: int64(h.opts.Limits.Upload), Quota: int64(h.opts.FileQuota), OnLimit: h.metrics.rejected,
	})
	if err != nil {
		return &ConfigError{[]error{err}}
	}
	h.files = s
	h.table.Describe("file", filesvc.ServiceDoc)
	return h.table.Add(s.Methods()...)
}

// closeFiles ends the access to the folder.
func (h *hub) closeFiles() {
	if h.files != nil {
		h.files.Close()
	}
}

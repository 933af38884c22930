package filesvc

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Options says how a Service works.
type Options struct {
	// Root is the folder, an absolute path. It must exist.
	Root string
	// MaxUpload bounds the bytes of one uploaded file; 0: DefaultMaxUpload.
	MaxUpload int64
	// Quota bounds the bytes of all that is in the folder; 0: nothing does.
	Quota int64
	// OnLimit hears of refusals because of a limit; nil if nobody does.
	OnLimit func(limit string)
}

// Names of limits, for OnLimit.
const (
	LimitUpload = "upload"
	LimitQuota  = "file_quota"
)

// DefaultMaxUpload bounds one uploaded file.
const DefaultMaxUpload = 2 << 30

// piece is the size of the items of a download.
const piece = 32 << 10

// Service serves one folder. Its methods may be called by many goroutines.
type Service struct {
	root      *os.Root
	given     string   // path of the root, as configured
	parts     []string // its real path
	maxUpload int64
	quota     *quota // nil for none
	onLimit   func(limit string)
	busy      atomic.Int64 // calls that hold files open
	nameless  bool         // files can be made without a name and get one later
	temps     temps
	tidying   sync.WaitGroup
	stop      context.CancelFunc // of tidying
}

// Open opens the folder.
func Open(o Options) (*Service, error) {
	if o.MaxUpload == 0 {
		o.MaxUpload = DefaultMaxUpload
	}
	if !filepath.IsAbs(o.Root) {
		return nil, fmt.Errorf("file root %q: the path is not absolute", o.Root)
	}
	real, err := filepath.EvalSymlinks(o.Root)
	if err != nil {
		return nil, fmt.Errorf("file root: %w", err)
	}
	root, err := os.OpenRoot(real)
	if err != nil {
		return nil, fmt.Errorf("file root: %w", err)
	}
	s := &Service{root: root, given: filepath.Clean(o.Root), maxUpload: o.MaxUpload, onLimit: o.OnLimit}
	for name := range strings.SplitSeq(real, "/") {
		if name != "" {
			s.parts = append(s.parts, name)
		}
	}
	if s.onLimit == nil {
		s.onLimit = func(string) {}
	}
	if o.Quota > 0 {
		s.quota = &quota{s: s, max: o.Quota}
	}
	s.nameless = s.probe()
	ctx, stop := context.WithCancel(context.Background())
	s.stop = stop
	if s.quota != nil || !s.nameless {
		s.tidying.Go(func() { s.tidy(ctx) })
	}
	return s, nil
}

// tidy removes what a crash has left of uploads, and measures the folder.
func (s *Service) tidy(ctx context.Context) {
	if s.quota != nil {
		_ = s.quota.refresh(ctx, 0) // it fails where the next one does, too
		return
	}
	m := measure{s: s, ctx: ctx, clean: true}
	_ = m.root()
}

// maxBusy bounds the calls that hold files open, which takes descriptors.
const maxBusy = 1024

// enter admits a call that opens files; leave ends it.
func (s *Service) enter() error {
	if s.busy.Add(1) > maxBusy {
		s.busy.Add(-1)
		return rpc.Errorf(rpc.CodeOverloaded, "too many files are being read or written")
	}
	return nil
}

func (s *Service) leave() { s.busy.Add(-1) }

// Close ends the access to the folder. Calls that still run fail.
func (s *Service) Close() error {
	s.stop()
	s.tidying.Wait()
	return s.root.Close()
}

// ServiceDoc describes the service.
const ServiceDoc = "Read and write files below one folder of the hub."

// null is the result of methods that have none.
var null = rpc.Type{Kind: rpc.KindNull}

// Methods returns the rows of the service.
func (s *Service) Methods() []*rpc.Method {
	upload := rpc.Handle("file.upload", s.upload, rpc.NeverSlow(),
		rpc.Doc("Write a stream of bytes to a file and return its path. The file is there as a whole when the call has ended, or as it was before."))
	upload.Params[0].Type = rpc.Type{Kind: rpc.KindBytes}
	return []*rpc.Method{
		rpc.HandleStream("file.paths", s.paths, rpc.Needs(rpc.ScopeRead), rpc.NeverSlow(),
			rpc.Doc("Stream the paths that match a pattern, sorted, or those in a folder.")),
		rpc.HandleStream("file.path_info", s.pathInfo, rpc.Needs(rpc.ScopeRead), rpc.NeverSlow(),
			rpc.Doc("Stream path, size, time of change, and whether it is a file, of the paths that match a pattern.")),
		rpc.HandleStream("file.download", s.download, rpc.Needs(rpc.ScopeRead), rpc.NeverSlow(),
			rpc.Doc("Stream the content of a file.")),
		rpc.Handle("file.size", s.size, rpc.Needs(rpc.ScopeRead),
			rpc.Doc("Return the size of a file in bytes.")),
		rpc.Handle("file.sha256", s.sha256, rpc.Needs(rpc.ScopeRead), rpc.NeverSlow(), rpc.Within(rpc.MaxDeadline),
			rpc.Doc("Return the SHA-256 of a file, in hexadecimal digits.")),
		upload,
		rpc.Handle("file.touch", s.touch, rpc.Returns(null),
			rpc.Doc("Make an empty file, or set the times of one that is there to now.")),
		rpc.Handle("file.create_dir", s.createDir, rpc.Returns(null),
			rpc.Doc("Make a folder.")),
		rpc.Handle("file.delete", s.delete, rpc.Returns(null),
			rpc.Doc("Delete a file, a link, or a folder.")),
	}
}

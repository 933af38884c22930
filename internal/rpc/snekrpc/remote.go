package snekrpc

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
	"unicode"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Limits of what is taken over from a remote's description.
const (
	maxCommands   = 1000
	maxParams     = 64
	describeLimit = 10 * time.Second
)

// Waits between attempts to reach a remote that is down: the first, and the
// longest. Calls fail at once meanwhile.
const (
	firstWait = 100 * time.Millisecond
	longWait  = 5 * time.Second
)

// The description of a service, as _meta.service tells it.
type (
	serviceSpec struct {
		Name     string        `json:"name"`
		Doc      *string       `json:"doc"`
		Commands []commandSpec `json:"commands"`
	}
	commandSpec struct {
		Name        string      `json:"name"`
		Doc         *string     `json:"doc"`
		Parameters  []paramSpec `json:"parameters"`
		Returns     *string     `json:"return_annotation"`
		IsGenerator bool        `json:"is_generator"`
	}
	paramSpec struct {
		Name       string    `json:"name"`
		Doc        *string   `json:"doc"`
		Kind       int       `json:"kind"`
		Annotation *string   `json:"annotation"`
		Default    rpc.Value `json:"default"`
		HasDefault bool      `json:"has_default"`
	}
)

// RemoteConfig says what a Remote offers. All fields but the functions are required.
type RemoteConfig struct {
	Alias   string // the name of the service here
	Service string // its name at the remote
	Client  *Client
	Table   *rpc.Table
	// Changed is told when the remote has become known (err is nil) or could
	// not be reached. It must not block. May be nil.
	Changed func(alias string, methods int, err error)
	// Removed is called for each row that was taken out of the table. May be nil.
	Removed func(*rpc.Method)
}

// Remote is a service of a far server as a service of the method table. The far
// side is asked at first use what the service has; from then on its commands
// are rows of the table, until it cannot be reached any more.
type Remote struct {
	cfg RemoteConfig

	mu     sync.Mutex
	rows   []*rpc.Method
	byName map[string]*far // by their full names here; nil while unknown
	asking chan struct{}   // closed at the end of the present attempt; nil when there is none
	after  time.Time       // no attempt before that
	wait   time.Duration
	failed error // of the last attempt
	ctx    context.Context
	stop   context.CancelFunc
	wg     sync.WaitGroup
}

// far is one command of the remote.
type far struct {
	name   string
	params []paramSpec
	row    *rpc.Method
}

// Mount adds the service to the table. Nothing is connected yet.
func Mount(cfg RemoteConfig) (*Remote, error) {
	r := &Remote{cfg: cfg}
	r.ctx, r.stop = context.WithCancel(context.Background())
	if err := cfg.Table.Mount(cfg.Alias, r.find); err != nil {
		return nil, err
	}
	r.describe(nil)
	return r, nil
}

// Close ends attempts to reach the remote and closes the connections.
func (r *Remote) Close() {
	r.stop()
	r.cfg.Client.Close()
	r.wg.Wait()
}

// Alias returns the name of the service here.
func (r *Remote) Alias() string { return r.cfg.Alias }

func (r *Remote) describe(doc *string) {
	text := "Service " + r.cfg.Service + " of another server."
	if doc != nil && *doc != "" {
		text = textOrNothing(doc)
	}
	r.cfg.Table.Describe(r.cfg.Alias, text)
}

// find stands in for the commands while they are not known. It is what the
// table asks for names that it does not have.
func (r *Remote) find(name string) *rpc.Method {
	r.mu.Lock()
	known := r.byName != nil
	r.mu.Unlock()
	if known {
		return nil
	}
	return rpc.NewMethod(&rpc.Method{
		Name: name, Scope: rpc.ScopeCall, AnyParams: true, Provider: r.provider(), Result: rpc.Type{Kind: rpc.KindAny},
	}, func(c *rpc.Call) (rpc.Value, error) {
		if _, err := c.Hop(); err != nil {
			return rpc.Value{}, err
		}
		if err := r.Learn(c); err != nil {
			return rpc.Value{}, err
		}
		r.mu.Lock()
		f := r.byName[name]
		r.mu.Unlock()
		if f == nil {
			return rpc.Value{}, rpc.NoMethod(name)
		}
		return r.call(c, f)
	})
}

func (r *Remote) provider() string { return "remote " + r.cfg.Alias }

// Learn asks the remote for its commands, unless they are known, and waits
// for the answer under ctx.
func (r *Remote) Learn(ctx context.Context) error {
	r.mu.Lock()
	if r.byName != nil {
		r.mu.Unlock()
		return nil
	}
	if r.asking == nil {
		if r.failed != nil && time.Now().Before(r.after) {
			defer r.mu.Unlock()
			return r.failed
		}
		r.asking = make(chan struct{})
		r.wg.Go(r.ask) // ends within describeLimit
	}
	asking := r.asking
	r.mu.Unlock()
	select {
	case <-asking:
	case <-ctx.Done():
		return ctx.Err()
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.byName == nil {
		return r.failed
	}
	return nil
}

// Check is Learn for those who tell others what there is: a remote that was
// known is looked for again when no connection to it is left.
func (r *Remote) Check(ctx context.Context) error {
	r.mu.Lock()
	known := r.byName != nil
	r.mu.Unlock()
	if known && !r.cfg.Client.alive() {
		r.forget(nil)
	}
	return r.Learn(ctx)
}

// ask makes one attempt.
func (r *Remote) ask() {
	ctx, cancel := context.WithTimeout(r.ctx, describeLimit)
	spec, err := r.spec(ctx)
	cancel()
	var rows []*rpc.Method
	byName := map[string]*far{}
	if err == nil {
		r.mu.Lock()
		old := r.rows
		r.mu.Unlock()
		rows = r.cfg.Table.Fitting(old, r.build(spec, byName))
		maps.DeleteFunc(byName, func(_ string, f *far) bool { return !slices.Contains(rows, f.row) })
		if err = r.cfg.Table.Replace(old, rows); err == nil {
			r.describe(spec.Doc)
		}
	}
	r.mu.Lock()
	if err == nil {
		r.rows, r.byName = rows, byName
		r.failed, r.wait = nil, 0
	} else {
		r.failLocked(err)
	}
	close(r.asking)
	r.asking = nil
	r.mu.Unlock()
	if r.cfg.Changed != nil && r.ctx.Err() == nil {
		r.cfg.Changed(r.cfg.Alias, len(rows), err)
	}
}

// failLocked notes why the remote is not known, and when to try again.
func (r *Remote) failLocked(err error) {
	e, ok := errors.AsType[*rpc.Error](err)
	if !ok || e.Code != rpc.CodeUnavailable && e.Code != rpc.CodeOverloaded {
		e = errUnreachable(err)
		if ok && e.Code == rpc.CodeHandler {
			e = &rpc.Error{Code: rpc.CodeUnavailable, Message: "the server does not offer the service", Ran: rpc.RanNo}
		}
	}
	r.failed = r.named(e)
	r.wait = min(max(2*r.wait, firstWait), longWait)
	r.after = time.Now().Add(r.wait)
}

// named returns e with what has failed: which remote, where, and why.
func (r *Remote) named(e *rpc.Error) *rpc.Error {
	named := *e
	named.Message = fmt.Sprintf("remote %s at %s: %s", r.cfg.Alias, r.cfg.Client.cfg.URL, e.Message)
	if why := reason(e); why != "" {
		named.Message += ": " + why
	}
	return &named
}

// reason says in a few words what the system said, "" when it said nothing.
func reason(err error) string {
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		return errno.Error()
	}
	if lookup, ok := errors.AsType[*net.DNSError](err); ok {
		return "no machine of that name is known: " + rpc.CleanText(lookup.Name, 256)
	}
	if slow, ok := errors.AsType[net.Error](err); ok && slow.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return "no answer in time"
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return "it closed the connection"
	}
	return ""
}

// Down says why the commands of the remote are not known, nil when they are.
func (r *Remote) Down() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case r.byName != nil:
		return nil
	case r.failed != nil:
		return r.failed
	}
	return r.named(&rpc.Error{Code: rpc.CodeUnavailable, Message: "it has not told its methods yet", Ran: rpc.RanNo})
}

// forget takes the commands out of the table. err, unless nil, counts as an
// attempt that has failed.
func (r *Remote) forget(err error) {
	r.mu.Lock()
	rows := r.rows
	was := r.byName != nil
	r.rows, r.byName = nil, nil
	if err != nil && was {
		r.failLocked(err)
	}
	r.mu.Unlock()
	if !was {
		return
	}
	r.cfg.Table.Remove(rows...)
	if r.cfg.Removed != nil {
		for _, m := range rows {
			r.cfg.Removed(m)
		}
	}
	if err != nil && r.cfg.Changed != nil && r.ctx.Err() == nil {
		r.cfg.Changed(r.cfg.Alias, 0, err)
	}
}

// spec asks for the description.
func (r *Remote) spec(ctx context.Context) (*serviceSpec, error) {
	v, err := r.cfg.Client.Call(ctx, Request{Service: metaService, Command: "service", Args: []rpc.Value{rpc.String(r.cfg.Service)}})
	if err != nil {
		return nil, err
	}
	spec := new(serviceSpec)
	if err := v.Unmarshal(spec); err != nil {
		return nil, &rpc.Error{Code: rpc.CodeUnavailable, Message: "the server's description cannot be read", Ran: rpc.RanNo}
	}
	return spec, nil
}

// build makes rows of a description. What has no name that the table could
// hold is left out.
func (r *Remote) build(spec *serviceSpec, byName map[string]*far) (rows []*rpc.Method) {
	for _, cs := range spec.Commands {
		name := r.cfg.Alias + "." + cs.Name
		if len(rows) >= maxCommands || len(cs.Parameters) > maxParams || byName[name] != nil ||
			!rpc.ValidName(cs.Name) || strings.Contains(cs.Name, ".") {
			continue
		}
		f := &far{name: cs.Name, params: cs.Parameters}
		m := &rpc.Method{
			Name: name, Scope: rpc.ScopeCall, StreamOut: cs.IsGenerator, Provider: r.provider(),
			Doc: textOrNothing(cs.Doc), Result: rpc.Type{Kind: rpc.KindAny},
		}
		if m.StreamOut {
			m.Slow = -1 // it takes as long as it takes
		}
		if cs.Returns != nil {
			m.Result, _ = parseAnnotation(*cs.Returns)
		}
		for i := range f.params {
			p := &f.params[i]
			p.Default = p.Default.Own()
			if text, err := p.Default.JSON(); err != nil || len(text) > maxDoc {
				p.Default = rpc.Null // that there is one is enough
			}
			if p.Kind == varPositional || p.Kind == varKeyword {
				m.AnyParams = true
				if p.Kind == varPositional && !slices.ContainsFunc(f.params[i+1:], func(p paramSpec) bool { return p.Kind != varKeyword }) && rpc.ValidName(p.Name) {
					m.Params = append(m.Params, rpc.Param{Name: p.Name, Doc: textOrNothing(p.Doc), Type: rpc.Type{Kind: rpc.KindArray}, Rest: true})
				}
				continue
			}
			row := rpc.Param{Name: p.Name, Doc: textOrNothing(p.Doc), Type: rpc.Type{Kind: rpc.KindAny}, Required: !p.HasDefault}
			if p.Annotation != nil {
				row.Type, row.Stream = parseAnnotation(*p.Annotation)
			} else {
				m.AnyParams = true // a stream, for all we know
			}
			if row.Stream {
				m.Slow = -1
			}
			if p.HasDefault && !p.Default.IsNull() {
				row.Default = p.Default
			}
			m.Params = append(m.Params, row)
		}
		m.Origin = f
		f.row = rpc.NewMethod(m, func(c *rpc.Call) (rpc.Value, error) { return r.call(c, f) })
		byName[name] = f
		rows = append(rows, f.row)
	}
	return rows
}

// maxDoc is how many bytes of a documentation text are taken over.
const maxDoc = 4 << 10

// textOrNothing makes a remote's documentation fit for this one.
func textOrNothing(s *string) string {
	if s == nil {
		return ""
	}
	text := strings.Map(func(r rune) rune {
		if unicode.IsControl(r) && r != '\n' && r != '\t' {
			return -1
		}
		return r
	}, strings.ToValidUTF8(*s, "\uFFFD"))
	if len(text) > maxDoc {
		text = strings.ToValidUTF8(text[:maxDoc], "")
	}
	return text
}

// call forwards a call to the remote. The wire has no place for the count of
// hops: it ends here.
func (r *Remote) call(c *rpc.Call, f *far) (rpc.Value, error) {
	if _, err := c.Hop(); err != nil {
		return rpc.Value{}, err
	}
	req := Request{Service: r.cfg.Service, Command: f.name, reads: c.Reads}
	if err := f.arguments(c, &req); err != nil {
		return rpc.Value{}, err
	}
	isBytes := f.row.Result.Kind == rpc.KindBytes
	req.Open = func() func(rpc.Value) error {
		w := rpc.OpenWriter(nil, c)
		return func(v rpc.Value) error { return w.Send(bytesOf(v, isBytes)) }
	}
	v, err := r.cfg.Client.Call(c, req)
	if e, ok := errors.AsType[*rpc.Error](err); ok && e.Code == rpc.CodeUnavailable && !c.Settled() {
		r.forget(e)
		err = r.named(e)
	}
	return bytesOf(v, isBytes), err
}

// bytesOf turns what JSON made of bytes back, where the remote has said that
// bytes are what it returns.
func bytesOf(v rpc.Value, isBytes bool) rpc.Value {
	if isBytes && v.Kind() == '"' {
		if data, err := v.AsBytes(); err == nil {
			return rpc.TreeValue(rpc.Bytes{Data: data})
		}
	}
	return v
}

// arguments turns those of c into those of a command: by name, as clients with
// metadata send them, but for parameters that take no names.
func (f *far) arguments(c *rpc.Call, req *Request) *rpc.Error {
	var given uint64 // bit i: parameter i has a value
	rest := func(kind int) bool {
		for _, p := range f.params {
			if p.Kind == kind {
				return true
			}
		}
		return false
	}
	set := func(i int, v rpc.Value) {
		p := &f.params[i]
		if v.IsUndefined() {
			return
		}
		given |= 1 << i
		if p.Kind == positionalOnly {
			req.Args = append(req.Args, v)
		} else {
			req.Named = append(req.Named, rpc.Named{Name: p.Name, Value: v})
		}
	}
	n := 0
	for v := range c.Args.List() {
		for n < len(f.params) && c.Input != nil && f.isStream(n) { // it came beside the arguments
			n++
		}
		switch {
		case n < len(f.params) && f.params[n].Kind != varPositional && f.params[n].Kind != varKeyword:
			set(n, v)
			n++
		case rest(varPositional):
			req.Args = append(req.Args, v)
		case c.Protocol == rpc.Kkrpc || c.Protocol == rpc.Capnweb: // their callers may pass more
		default:
			return rpc.Errorf(rpc.CodeInvalidParams, "%s takes at most %d arguments", f.row.Name, len(f.row.Params))
		}
	}
	if rest(varPositional) && len(req.Args) > 0 { // Python takes what goes before them by position, too
		list := make([]rpc.Value, 0, len(req.Named)+len(req.Args))
		for _, named := range req.Named {
			list = append(list, named.Value)
		}
		req.Args, req.Named = append(list, req.Args...), nil
	}
	for name, v := range c.Args.ByName() {
		i := f.index(name)
		switch {
		case i >= 0 && given&(1<<i) != 0:
			return rpc.Errorf(rpc.CodeInvalidParams, "%s got multiple values for argument %q", f.row.Name, f.params[i].Name)
		case i >= 0:
			set(i, v)
		case rest(varKeyword):
			req.Named = append(req.Named, rpc.Named{Name: name, Value: v})
		default:
			return rpc.Errorf(rpc.CodeInvalidParams, "%s has no parameter %q", f.row.Name, rpc.CleanText(name, 64))
		}
	}
	for i := range f.params {
		p := &f.params[i]
		switch {
		case given&(1<<i) != 0 || p.Kind == varPositional || p.Kind == varKeyword:
		case c.Input != nil && f.isStream(i):
			set(i, rpc.TreeValue(c.Input))
		case !p.HasDefault:
			return rpc.Errorf(rpc.CodeInvalidParams, "%s is missing argument %q", f.row.Name, p.Name)
		}
	}
	return nil
}

func (f *far) isStream(i int) bool {
	p := &f.params[i]
	if p.Annotation == nil {
		return false
	}
	_, stream := parseAnnotation(*p.Annotation)
	return stream
}

func (f *far) index(name string) int {
	for i := range f.params {
		if p := &f.params[i]; p.Kind != varPositional && p.Kind != varKeyword && (p.Name == name || p.Name == name+"_" || p.Name+"_" == name) {
			return i
		}
	}
	return -1
}

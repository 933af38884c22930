package hub

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// Providers: a client whose protocol lets the hub call it offers methods of its
// own, which everybody else then calls as if the hub had them. They are rows of
// the table like any other, with the same limits, deadlines and metrics, and go
// with the connection that brought them.

// What hubd_provider_changes_total tells apart.
const (
	providerCame = "came"
	providerLeft = "left"
)

const (
	maxProvided       = 256 // methods of one hub.provide
	maxProvidedParams = 32
	maxProvidedAll    = 4096 // methods that providers have in the table
	maxProvidedUID    = 1024 // of one user
	maxProvidedDoc    = 2000 // bytes of each text

	maxProvidedDefault = 4 << 10  // bytes of the default of a parameter, as JSON
	maxProvidedMethod  = 64 << 10 // bytes of the description of a method
	maxProvidedBytes   = 1 << 20  // of all descriptions of a hub.provide
)

// providers are the services that clients offer.
type providers struct {
	mu       sync.Mutex
	services map[string]*provided
	methods  int
	users    map[string]int // methods by the owner of the account
}

// count notes that p has so many methods more.
func (p *providers) count(of *provided, methods int) {
	p.methods += methods
	if p.users[of.account.owner] += methods; p.users[of.account.owner] == 0 {
		delete(p.users, of.account.owner)
	}
}

// provided is one service of one connection.
type provided struct {
	name    string
	link    *rpc.Link
	peer    *rpc.Peer // who was permitted to provide it
	methods []*rpc.Method
	api     *rpc.Ref // held as long as it is offered; nil when it is the client's own API
	account *account
	kept    *rpc.Kept // what the hub keeps of it, charged to its provider
}

// provideIn are the arguments of hub.provide.
type provideIn struct {
	Service string      `rpc:"service" doc:"name of the service, which nobody else may have"`
	Methods []rpc.Value `rpc:"methods" doc:"names, or objects {name, doc, params: [{name, type, doc, required, default, stream}], result, stream_out, scope}"`
	Doc     string      `rpc:"doc" default:"\"\"" doc:"what the service is for"`
	Prefix  *string     `rpc:"prefix" doc:"where the methods are in the provider's own API; without it at the name of the service, empty for the API itself"`
	API     *rpc.Ref    `rpc:"api,optional" doc:"an object that has the methods, instead of the provider's own API"`
}

type provideOut struct {
	Service string `json:"service"`
	Methods int    `json:"methods"`
}

// provide adds the methods of the calling client to the table.
func (h *hub) provide(ctx context.Context, in provideIn) (provideOut, error) {
	c := rpc.From(ctx)
	target, prefix, err := h.providerTarget(c, in)
	if err != nil {
		return provideOut{}, err
	}
	if !rpc.ValidName(in.Service) || strings.Contains(in.Service, ".") {
		return provideOut{}, rpc.Errorf(rpc.CodeInvalidParams, "service %q: expected a letter, then letters, digits and underscores", rpc.CleanText(in.Service, 64))
	}
	if len(in.Methods) == 0 || len(in.Methods) > maxProvided {
		return provideOut{}, rpc.Errorf(rpc.CodeInvalidParams, "expected 1 to %d methods", maxProvided)
	}
	if len(in.Doc) > maxProvidedDoc {
		return provideOut{}, rpc.Errorf(rpc.CodeInvalidParams, "a text is longer than %d bytes", maxProvidedDoc)
	}
	at, ok := connOfCall(c)
	if !ok {
		return provideOut{}, rpc.Errorf(rpc.CodeUnavailable, "only a connection can provide methods")
	}
	p := &provided{name: in.Service, link: c.Link(), peer: c.Peer, api: in.API, account: at.account.Load(), kept: c.Keep()}
	by := fmt.Sprintf("conn %d, %s", at.id, at.peerName())
	weight := len(in.Service) + len(in.Doc)
	for i, described := range in.Methods {
		m, free, err := describedMethod(in.Service, described)
		if err != nil {
			return provideOut{}, rpc.Errorf(rpc.CodeInvalidParams, "method %d: %v", i+1, err)
		}
		weight += describedWeight(m)
		m.Provider = by
		command := strings.TrimPrefix(m.Name, in.Service+".")
		path := append(append([]rpc.PathPart(nil), prefix...), rpc.PathPart{Name: command})
		native := c.Protocol == rpc.Kollabor && in.API == nil
		p.methods = append(p.methods, rpc.NewTarget(m, rpc.TargetFunc(func(b *rpc.Batch, call *rpc.Call) {
			args := call.Args
			if !free && len(m.Params) > 0 {
				list, err := rpc.Positional(m, &call.Args)
				if err != nil {
					call.Finish(b, rpc.Value{}, err)
					return
				}
				args = rpc.ListArgs(list...)
				switch {
				case native && m.Params[len(m.Params)-1].Rest:
					args = rpc.ListArgs(rpc.FillHoles(m, list)...)
				case native:
					args = rpc.ByNames(m, list)
				}
			}
			rpc.Forward(b, call, target, path, args)
		})))
	}
	if weight > maxProvidedBytes {
		return provideOut{}, rpc.Errorf(rpc.CodeInvalidParams, "the descriptions of the methods take %d bytes; %d are allowed", weight, maxProvidedBytes)
	}
	charge := int64(weight + len(p.methods)*providedOverhead)
	if !p.kept.Set(charge) {
		return provideOut{}, p.kept.Over(charge)
	}
	if err := h.offer(p, in.Doc); err != nil {
		p.kept.Free()
		return provideOut{}, err
	}
	if in.API != nil {
		in.API.Retain()
	}
	h.awaited.back(p.name)
	h.noteProvided()
	h.log.Info("service provided", zap.String("service", p.name), zap.Int("methods", len(p.methods)), zap.String("provider", by))
	h.metrics.providerChanges.WithLabelValues(providerCame).Inc()
	p.link.OnClose(func() { h.withdraw(p) })
	return provideOut{p.name, len(p.methods)}, nil
}

// providerTarget is what answers the calls, and where it has the methods.
func (h *hub) providerTarget(c *rpc.Call, in provideIn) (rpc.Target, []rpc.PathPart, error) {
	prefix := in.Service
	target := c.Client
	if in.API != nil {
		if in.API.Owner == nil {
			return nil, nil, rpc.Errorf(rpc.CodeInvalidParams, "api: an object of the hub cannot be offered")
		}
		target, prefix = in.API.Target, ""
	}
	if target == nil {
		return nil, nil, rpc.Errorf(rpc.CodeUnavailable, "a client of %s cannot be called, so it cannot provide methods", c.Protocol)
	}
	if in.Prefix != nil {
		prefix = *in.Prefix
	}
	if prefix == "" {
		return target, nil, nil
	}
	path, err := rpc.ParsePath(prefix)
	if err != nil {
		return nil, nil, rpc.Errorf(rpc.CodeInvalidParams, "prefix: %v", err)
	}
	return target, path, nil
}

// offer makes the rows visible, all or none. A service belongs to one provider:
// two of them in one name would answer each other's callers.
func (h *hub) offer(p *provided, doc string) error {
	h.provided.mu.Lock()
	defer h.provided.mu.Unlock()
	switch old := h.provided.services[p.name]; {
	case old != nil:
		return rpc.Errorf(rpc.CodeConflict, "service %s is provided by %s", p.name, old.methods[0].Provider)
	case h.table.Service(p.name) != nil: // reserved names are the table's matter
		return rpc.Errorf(rpc.CodeConflict, "service %s belongs to the hub", p.name)
	case h.provided.methods+len(p.methods) > maxProvidedAll:
		return rpc.Errorf(rpc.CodeOverloaded, "providers offer %d methods already", h.provided.methods)
	case h.provided.users[p.account.owner]+len(p.methods) > maxProvidedUID:
		return rpc.Errorf(rpc.CodeOverloaded, "this user offers %d methods already", h.provided.users[p.account.owner])
	}
	if err := h.table.Add(p.methods...); err != nil {
		return err
	}
	if doc != "" {
		h.table.Describe(p.name, rpc.CleanText(doc, maxProvidedDoc))
	}
	if h.provided.services == nil {
		h.provided.services, h.provided.users = map[string]*provided{}, map[string]int{}
	}
	h.provided.services[p.name] = p
	h.provided.count(p, len(p.methods))
	return nil
}

// withdraw takes the rows away again; it does nothing the second time.
func (h *hub) withdraw(p *provided) bool {
	h.provided.mu.Lock()
	if h.provided.services[p.name] != p {
		h.provided.mu.Unlock()
		return false
	}
	delete(h.provided.services, p.name)
	h.provided.count(p, -len(p.methods))
	h.table.Remove(p.methods...)
	h.table.Describe(p.name, "")
	h.provided.mu.Unlock()
	for _, m := range p.methods {
		h.metrics.removed(m)
	}
	h.noteProvided()
	p.kept.Free()
	if p.api != nil {
		p.api.Release()
	}
	h.log.Info("service withdrawn", zap.String("service", p.name), zap.String("provider", p.methods[0].Provider))
	h.metrics.providerChanges.WithLabelValues(providerLeft).Inc()
	return true
}

// errProviderExpelled ends the calls that a provider was answering when it lost
// its permission.
var errProviderExpelled = rpc.Errorf(rpc.CodeUnavailable, "the provider has lost its permission")

// expelProviders withdraws the services of those whose permission is gone: what
// others would tell them is no longer theirs to hear.
func (h *hub) expelProviders() {
	var gone []*provided
	h.provided.mu.Lock()
	for _, p := range h.provided.services {
		if p.peer != nil && !p.peer.Grant.Holds() {
			gone = append(gone, p)
		}
	}
	h.provided.mu.Unlock()
	for _, p := range gone {
		if !h.withdraw(p) {
			continue
		}
		h.eachCall(func(_ *conn, call *rpc.Call) {
			if slices.Contains(p.methods, call.Method) {
				call.Cancel(errProviderExpelled)
			}
		})
	}
}

// unprovide takes a service of the calling connection away.
func (h *hub) unprovide(ctx context.Context, in struct {
	Service string `rpc:"service" doc:"name of a service that this connection provides"`
}) (provideOut, error) {
	h.provided.mu.Lock()
	p := h.provided.services[in.Service]
	h.provided.mu.Unlock()
	if p == nil || p.link != rpc.From(ctx).Link() {
		return provideOut{}, rpc.Errorf(rpc.CodeNotFound, "this connection provides no service %q", rpc.CleanText(in.Service, 64))
	}
	h.withdraw(p)
	return provideOut{p.name, len(p.methods)}, nil
}

// describedMethod makes a row of what a provider says: a name, or an object. A
// method whose parameters are not described is free: it takes what comes.
func describedMethod(service string, v rpc.Value) (m *rpc.Method, free bool, err error) {
	var d struct {
		Name      string      `json:"name"`
		Doc       string      `json:"doc"`
		Params    []paramInfo `json:"params"`
		Result    string      `json:"result"`
		StreamOut bool        `json:"stream_out"`
		Scope     string      `json:"scope"`
		Deadline  *float64    `json:"deadline"`
	}
	if name, err := v.AsString(); err == nil {
		d.Name = name
	} else if err := decodeValue(v, &d); err != nil {
		return nil, false, err
	}
	m = &rpc.Method{Name: service + "." + d.Name, Doc: rpc.CleanText(d.Doc, maxProvidedDoc), StreamOut: d.StreamOut, Scope: rpc.ScopeCall}
	if !rpc.ValidName(d.Name) || strings.Contains(d.Name, ".") {
		return nil, false, fmt.Errorf("name %q is not valid", rpc.CleanText(d.Name, 64))
	}
	switch d.Scope {
	case "", "call":
	case "read":
		m.Scope = rpc.ScopeRead
	default:
		return nil, false, fmt.Errorf("scope %q: expected read or call", rpc.CleanText(d.Scope, 64))
	}
	if len(d.Params) > maxProvidedParams {
		return nil, false, fmt.Errorf("more than %d parameters", maxProvidedParams)
	}
	if m.Result, err = parseType(d.Result); err != nil {
		return nil, false, err
	}
	if m.Deadline, err = deadlineOf(d.Deadline); err != nil {
		return nil, false, err
	}
	seen := map[string]bool{}
	for i, p := range d.Params {
		if !rpc.ValidName(p.Name) || strings.Contains(p.Name, ".") || seen[p.Name] {
			return nil, false, fmt.Errorf("parameter %d: name %q is not valid, or there twice", i+1, rpc.CleanText(p.Name, 64))
		}
		seen[p.Name] = true
		q := rpc.Param{
			Name: p.Name, Doc: rpc.CleanText(p.Doc, maxProvidedDoc), Required: p.Required && !p.Stream, Stream: p.Stream,
			Rest: p.Rest && i == len(d.Params)-1,
		}
		if q.Type, err = parseType(p.Type); err != nil {
			return nil, false, fmt.Errorf("parameter %s: %w", p.Name, err)
		}
		if p.Default != nil {
			if q.Default, err = rpc.Encode(p.Default); err != nil {
				return nil, false, fmt.Errorf("parameter %s: %w", p.Name, err)
			}
			if text, err := q.Default.JSON(); err != nil || len(text) > maxProvidedDefault {
				return nil, false, fmt.Errorf("parameter %s: a default has at most %d bytes", p.Name, maxProvidedDefault)
			}
			q.Required = false
		}
		m.Params = append(m.Params, q)
	}
	if n := describedWeight(m); n > maxProvidedMethod {
		return nil, false, fmt.Errorf("its description takes %d bytes; %d are allowed", n, maxProvidedMethod)
	}
	if d.Params == nil {
		m.Params = []rpc.Param{{Name: "args", Type: rpc.Type{Kind: rpc.KindAny}, Rest: true}}
	}
	m.AnyParams = d.Params == nil
	return m, m.AnyParams, nil
}

// provideMethods are the rows of this file.
func (h *hub) provideMethods() []*rpc.Method {
	offer := rpc.Handle("hub.provide", h.provide, rpc.Needs(rpc.ScopeProvide), rpc.In(rpc.Serial),
		rpc.Doc("Offer methods of the calling client to everybody, until it withdraws them or leaves. The hub calls them over this connection."))
	offer.Refs = false // the object is one way of two, and clients of every protocol may look at it
	return []*rpc.Method{
		offer,
		rpc.Handle("hub.unprovide", h.unprovide, rpc.Needs(rpc.ScopeProvide), rpc.In(rpc.Serial),
			rpc.Doc("Withdraw a service that this connection has provided.")),
	}
}

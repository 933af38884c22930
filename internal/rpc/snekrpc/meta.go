package snekrpc

import (
	"context"
	"slices"
	"strconv"
	"sync"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// metaService is the service that describes the others. It is not in the table.
const metaService = "_meta"

// metadata tells clients what there is: _meta and its commands, made of the
// method table.
type metadata struct {
	s       *Server
	methods map[string]*rpc.Method
	own     []byte // description of _meta itself

	mu      sync.Mutex
	version uint64         // of the table that the rest was made of
	visible []*rpc.Service // in order
}

const metaDoc = "What this server offers: names, descriptions and how to call them."

func newMetadata(s *Server) *metadata {
	d := &metadata{s: s, methods: map[string]*rpc.Method{}}
	spec := rpc.Type{Kind: rpc.KindObject}
	str := rpc.Type{Kind: rpc.KindString}
	specs, names := rpc.Type{Kind: rpc.KindArray, Elem: &spec}, rpc.Type{Kind: rpc.KindArray, Elem: &str}
	rows := []*rpc.Method{
		{Name: "_meta.service", Doc: "Describe one service.", Result: spec,
			Params: []rpc.Param{{Name: "name", Type: str, Required: true, Doc: "name of the service"}}},
		{Name: "_meta.service_names", Doc: "List the names of the services.", Result: names},
		{Name: "_meta.services", Doc: "Describe all services.", Result: specs},
		{Name: "_meta.status", Doc: "Say how this connection speaks, and the version of the server.", Result: spec},
	}
	funcs := []rpc.Func{d.service, d.serviceNames, d.services, d.status}
	for i, m := range rows {
		m.Scope, m.Slow = rpc.ScopeRead, -1
		m.Run = rpc.Inline
		if s.cfg.Prepare != nil && (i == 0 || i == 2) { // they may wait for what they describe
			m.Run = rpc.Concurrent
		}
		rpc.NewMethod(m, funcs[i])
		_, command := rpc.ServiceOf(m.Name)
		d.methods[command] = m
	}
	d.own = appendService(nil, metaService, metaDoc, rows)
	return d
}

// status says how the caller's connection speaks.
func (d *metadata) status(c *rpc.Call) (rpc.Value, error) {
	version := rpc.Null
	if d.s.cfg.Version != "" {
		version = rpc.String(d.s.cfg.Version)
	}
	transport := ""
	if k, ok := c.Reply.(*call); ok {
		transport = k.conn.conn.Transport
	}
	m := new(rpc.Map)
	m.Set("codec", d.s.codec.name())
	m.Set("transport", transport)
	m.Set("version", version)
	return rpc.TreeValue(m), nil
}

func (d *metadata) serviceNames(*rpc.Call) (rpc.Value, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refreshLocked()
	list := make([]any, len(d.visible))
	for i, svc := range d.visible {
		list[i] = svc.Name
	}
	return rpc.TreeValue(list), nil
}

func (d *metadata) services(c *rpc.Call) (rpc.Value, error) {
	d.prepare(c, "")
	d.mu.Lock()
	d.refreshLocked()
	visible := d.visible
	d.mu.Unlock()
	// Those of the hub first: what clients offer cannot push them out.
	texts := make([][]byte, len(visible))
	size := 0
	for _, provided := range []bool{false, true} {
		for i, svc := range visible {
			if provided == (len(svc.Methods) > 0 && svc.Methods[0].Provider != "") && size < maxServices {
				texts[i] = describeService(svc)
				size += len(texts[i])
			}
		}
	}
	text := []byte{'['}
	for _, t := range texts {
		if t == nil {
			continue
		}
		if len(text) > 1 {
			text = append(text, ',')
		}
		text = append(text, t...)
	}
	return rpc.Parse(append(text, ']'))
}

func (d *metadata) service(c *rpc.Call) (rpc.Value, error) {
	v, _ := c.Args.Get(0, "name")
	name, err := v.AsString()
	if err != nil {
		return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "argument \"name\": %v", err)
	}
	if name == metaService {
		return rpc.Parse(d.own)
	}
	d.prepare(c, name)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refreshLocked()
	for _, svc := range d.visible {
		if svc.Name == name {
			return rpc.Parse(describeService(svc))
		}
	}
	return rpc.Value{}, rpc.Errorf(rpc.CodeNotFound, "'%s'", rpc.CleanText(name, 64))
}

// maxServices is how long the descriptions of all services may be together:
// whoever wants those beyond it asks for them one by one.
const maxServices = 4 << 20

// describeService returns the description of a service as JSON.
func describeService(svc *rpc.Service) []byte {
	return appendService(nil, svc.Name, svc.Doc, carriedOf(svc))
}

// carriedOf returns the methods of a service that clients can call.
func carriedOf(svc *rpc.Service) (rows []*rpc.Method) {
	for _, m := range svc.Methods {
		if carried(m) {
			rows = append(rows, m)
		}
	}
	return rows
}

func (d *metadata) prepare(ctx context.Context, service string) {
	if d.s.cfg.Prepare != nil {
		d.s.cfg.Prepare(ctx, service)
	}
}

// refreshLocked looks for the services anew when the table has changed.
func (d *metadata) refreshLocked() {
	t := d.s.cfg.Table
	version := t.Version()
	if d.visible != nil && d.version == version {
		return
	}
	d.version, d.visible = version, nil
	for _, svc := range t.Services() {
		published, ok := pythonName(svc.Name)
		if !ok || published != svc.Name {
			continue
		}
		if svc.Mounted() || slices.ContainsFunc(svc.Methods, carried) {
			d.visible = append(d.visible, svc)
		}
	}
}

// carried reports whether snekrpc clients can call m: nothing that it needs is
// a reference or a file.
func carried(m *rpc.Method) bool {
	refs := m.Refs
	for i := range m.Params {
		p := &m.Params[i]
		if p.Type.Kind == rpc.KindFunction || p.Type.Kind == rpc.KindFile {
			if p.Required || p.Rest {
				return false
			}
			refs = false // it can be left out
		}
	}
	return !refs && m.Result.Kind != rpc.KindFunction && m.Result.Kind != rpc.KindFile
}

// returnAnnotations has the spellings of upstream's own services where they are
// not what annotation makes of the type.
var returnAnnotations = map[string]string{
	"_meta.service":  "ServiceSpec",
	"_meta.services": "list[ServiceSpec]",
	"demo.upper":     "Iterable[Any]",
	"file.path_info": "Iterable[dict[str, Any]]",
	"file.paths":     "Iterable[str]",
}

// appendService appends the description of a service.
func appendService(dst []byte, name, doc string, rows []*rpc.Method) []byte {
	dst = appendName(append(dst, '{'), "name")
	dst = rpc.AppendString(dst, name, false)
	dst = appendDoc(dst, doc)
	dst = append(appendName(append(dst, ','), "commands"), '[')
	first := true
	for _, m := range rows {
		_, command := rpc.ServiceOf(m.Name)
		published, ok := pythonName(command)
		if !ok {
			continue
		}
		if !first {
			dst = append(dst, ',')
		}
		first = false
		dst = appendCommandSpec(dst, published, m)
	}
	return append(dst, "]}"...)
}

func appendName(dst []byte, name string) []byte {
	return append(rpc.AppendString(dst, name, false), ':')
}

// appendDoc appends a member for documentation that may be missing.
func appendDoc(dst []byte, doc string) []byte {
	dst = appendName(append(dst, ','), "doc")
	if doc == "" {
		return append(dst, "null"...)
	}
	return rpc.AppendString(dst, doc, false)
}

func appendCommandSpec(dst []byte, name string, m *rpc.Method) []byte {
	dst = appendName(append(dst, '{'), "name")
	dst = rpc.AppendString(dst, name, false)
	dst = appendDoc(dst, m.Doc)
	dst = append(appendName(append(dst, ','), "parameters"), '[')
	if f, ok := m.Origin.(*far); ok { // as the remote tells it
		for i := range f.params {
			if i > 0 {
				dst = append(dst, ',')
			}
			dst = f.params[i].append(dst)
		}
		return appendReturns(dst, m)
	}
	first := true
	for _, required := range []bool{true, false} { // Python wants those without default first
		for i := range m.Params {
			p := &m.Params[i]
			published, ok := pythonName(p.Name)
			if (p.Required && !p.Rest) != required || p.Unlisted || !ok || p.Type.Kind == rpc.KindFunction || p.Type.Kind == rpc.KindFile {
				continue
			}
			if !first {
				dst = append(dst, ',')
			}
			first = false
			dst = appendParam(dst, published, p)
		}
	}
	if m.AnyParams { // names as well, whatever they are
		if !first {
			dst = append(dst, ',')
		}
		any := rpc.Type{Kind: rpc.KindAny}
		dst = appendParamKind(dst, "kwargs", varKeyword, &rpc.Param{Type: any}, any)
	}
	return appendReturns(dst, m)
}

// appendReturns ends the description of a command with what it returns.
func appendReturns(dst []byte, m *rpc.Method) []byte {
	dst = appendName(append(dst, "],"...), "return_annotation")
	returns := returnAnnotations[m.Name]
	if returns == "" {
		returns = annotation(m.Result)
		if m.StreamOut {
			returns = "Iterator[" + returns + "]"
		}
	}
	dst = rpc.AppendString(dst, returns, false)
	dst = appendName(append(dst, ','), "is_generator")
	return append(appendBool(dst, m.StreamOut), '}')
}

// Kinds of parameters, as Python numbers them.
const (
	positionalOnly      = 0
	positionalOrKeyword = 1
	varPositional       = 2 // *args
	varKeyword          = 4
)

// append appends the parameter of a remote's command.
func (p *paramSpec) append(dst []byte) []byte {
	dst = appendName(append(dst, '{'), "name")
	dst = rpc.AppendString(dst, rpc.CleanText(p.Name, 256), false)
	dst = appendDoc(dst, textOrNothing(p.Doc))
	dst = strconv.AppendInt(appendName(append(dst, ','), "kind"), int64(p.Kind), 10)
	dst = appendName(append(dst, ','), "annotation")
	if p.Annotation == nil {
		dst = append(dst, "null"...)
	} else {
		dst = rpc.AppendString(dst, rpc.CleanText(*p.Annotation, 256), false)
	}
	dst = appendName(append(dst, ','), "default")
	def, err := p.Default.AppendJSON(nil, rpc.Form{})
	if p.Default.IsUndefined() || err != nil {
		def = []byte("null")
	}
	dst = append(dst, def...)
	dst = appendBool(appendName(append(dst, ','), "has_default"), p.HasDefault)
	return append(appendBool(appendName(append(dst, ','), "hide"), false), '}')
}

func appendParam(dst []byte, name string, p *rpc.Param) []byte {
	kind, t := positionalOrKeyword, p.Type
	if p.Rest {
		kind = varPositional
		if t.Kind == rpc.KindArray { // Python says what one of them is
			t = rpc.Type{Kind: rpc.KindAny}
			if p.Type.Elem != nil {
				t = *p.Type.Elem
			}
		}
	}
	return appendParamKind(dst, name, kind, p, t)
}

// appendParamKind appends p, which takes values of the type t, as a parameter of that kind.
func appendParamKind(dst []byte, name string, kind int, p *rpc.Param, t rpc.Type) []byte {
	variable := kind == varPositional || kind == varKeyword // Python refuses a default of *args
	dst = appendName(append(dst, '{'), "name")
	dst = rpc.AppendString(dst, name, false)
	dst = appendDoc(dst, p.Doc)
	dst = append(appendName(append(dst, ','), "kind"), byte('0'+kind))
	if !p.Required && !p.Stream && !variable && p.Default.IsUndefined() && t.Kind != rpc.KindAny {
		t.Nullable = true
	}
	text := annotation(t)
	if p.Stream {
		text = "Iterable[" + text + "]"
	}
	dst = rpc.AppendString(appendName(append(dst, ','), "annotation"), text, false)
	dst = appendName(append(dst, ','), "default")
	def, err := p.Default.AppendJSON(nil, rpc.Form{})
	if p.Default.IsUndefined() || err != nil {
		def = []byte("null")
	}
	dst = append(dst, def...)
	dst = appendBool(appendName(append(dst, ','), "has_default"), !p.Required && !variable)
	dst = appendBool(appendName(append(dst, ','), "hide"), false)
	return append(dst, '}')
}

func appendBool(dst []byte, b bool) []byte {
	if b {
		return append(dst, "true"...)
	}
	return append(dst, "false"...)
}

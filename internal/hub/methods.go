package hub

import (
	"context"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
	"github.com/hubd-dev/hubd/internal/rpc/krpc"
)

// The methods that are always there.

func (h *hub) builtins() []*rpc.Method {
	h.table.Describe("echo", "Return what was sent.")
	h.table.Describe("ping", "Ask whether the hub answers.")
	h.table.Describe("hub", "What the hub is, offers and does at the moment.")
	h.table.Describe("health", "Liveness of the connection.")
	return []*rpc.Method{
		rpc.NewMethod(&rpc.Method{
			Name:   "echo",
			Doc:    "Return the argument unchanged.",
			Params: []rpc.Param{{Name: "value", Type: rpc.Type{Kind: rpc.KindAny}, Required: true}},
			Result: rpc.Type{Kind: rpc.KindAny}, Run: rpc.Inline, Scope: rpc.ScopeRead,
		}, echo),

		rpc.Handle("ping", h.ping, rpc.In(rpc.Inline), rpc.Needs(rpc.ScopeRead), rpc.Lenient(),
			rpc.Doc("Say that the hub is up, its process id, its uptime in seconds, and the session of this socket.")),
		rpc.Handle("hub.info", h.info, rpc.In(rpc.Inline), rpc.Needs(rpc.ScopeRead),
			rpc.Doc("Describe the running hub.")),
		rpc.Handle("hub.methods", h.listMethods, rpc.Needs(rpc.ScopeRead),
			rpc.Doc("List the methods that can be called, sorted by name.")),
		rpc.Handle("hub.describe", h.describeMethod, rpc.Needs(rpc.ScopeRead),
			rpc.Doc("Describe one method, with its spelling in each protocol and its time limits.")),
		rpc.Handle("hub.peers", h.listPeers, rpc.Needs(rpc.ScopeRead),
			rpc.Doc("List the connections.")),
		rpc.Handle("hub.calls", h.listCalls, rpc.Needs(rpc.ScopeRead),
			rpc.Doc("List the running calls, oldest first; ages and deadlines in seconds.")),
		rpc.Handle("hub.cancel", h.cancelCall, rpc.Needs(rpc.ScopeAdmin),
			rpc.Doc("Cancel a running call by the number that hub.calls shows.")),
		rpc.Handle("hub.stats", h.stats, rpc.Needs(rpc.ScopeRead),
			rpc.Doc("Return counters of the hub.")),

		rpc.HandleStream("health.ping", healthPing, rpc.Needs(rpc.ScopeRead), rpc.NeverSlow(),
			rpc.Returns(rpc.Type{Kind: rpc.KindNull}),
			rpc.Doc("Stream nulls, one less than count: the first at once, the others an interval of seconds apart. A count of 0 or less never ends.")),
	}
}

// echo returns its one argument as it came. On the native wire that is the
// params member itself, whose only element stands for an array of one.
func echo(c *rpc.Call) (rpc.Value, error) {
	whole, ok := c.Args.Whole()
	switch c.Protocol {
	case rpc.Kollabor:
		if !ok || whole.IsNull() {
			return rpc.RawString("{}"), nil
		}
		if whole.Kind() == '[' {
			if n, only := single(whole); n == 1 {
				return only, nil
			}
		}
		return whole, nil
	case rpc.Kkrpc, rpc.Capnweb:
		return c.Args.First(), nil
	}
	n := 0
	var value rpc.Value
	for v := range c.Args.List() {
		value = v
		n++
	}
	for name, v := range c.Args.ByName() {
		if name != "value" && name != "msg" {
			return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "echo has no parameter %q", rpc.CleanText(name, 64))
		}
		value = v
		n++
	}
	if n != 1 {
		return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "echo takes 1 argument, got %d", n)
	}
	return value, nil
}

// single counts the elements of an array up to 2 and returns the first.
func single(array rpc.Value) (n int, first rpc.Value) {
	for v := range array.Elements() {
		if n++; n > 1 {
			break
		}
		first = v
	}
	return n, first
}

type pingResult struct {
	Status    string  `json:"status"`
	DaemonPID int     `json:"daemon_pid"`
	Uptime    float64 `json:"uptime"`
	Identity  string  `json:"identity"`
}

func (h *hub) ping(ctx context.Context, _ struct{}) (pingResult, error) {
	return pingResult{"ok", os.Getpid(), h.uptime(), h.identity(rpc.From(ctx))}, nil
}

func (h *hub) uptime() float64 { return round(time.Since(h.started)) }

// round turns a duration into seconds with microseconds.
func round(d time.Duration) float64 { return float64(d.Microseconds()) / 1e6 }

type infoResult struct {
	Name      string   `json:"name"`
	Version   string   `json:"version"`
	PID       int      `json:"pid"`
	Uptime    float64  `json:"uptime"`
	Identity  string   `json:"identity"`
	Demo      bool     `json:"demo"`
	Protocols []string `json:"protocols"`
	Listeners []string `json:"listeners"`
	Started   string   `json:"started"`
}

func (h *hub) info(ctx context.Context, _ struct{}) (infoResult, error) {
	return infoResult{
		Name: "hubd", Version: h.version, PID: os.Getpid(), Uptime: h.uptime(), Identity: h.identity(rpc.From(ctx)),
		Demo: h.opts.Demo, Protocols: h.protocolNames(), Listeners: h.listenerNames(),
		Started: h.started.UTC().Format(time.RFC3339Nano),
	}, nil
}

type paramInfo struct {
	Name     string `json:"name"`
	Doc      string `json:"doc"`
	Type     string `json:"type"`
	Required bool   `json:"required"`
	Default  any    `json:"default,omitempty"`
	Stream   bool   `json:"stream,omitempty"`
	Rest     bool   `json:"rest,omitempty"`
	Unlisted bool   `json:"unlisted,omitempty"`
}

type methodInfo struct {
	Name      string      `json:"name"`
	Service   string      `json:"service"`
	Doc       string      `json:"doc"`
	Params    []paramInfo `json:"params"`
	Result    string      `json:"result"`
	Legacy    bool        `json:"legacy,omitempty"` // for clients of another program
	StreamIn  bool        `json:"stream_in"`
	StreamOut bool        `json:"stream_out"`
	Scope     string      `json:"scope"`
	Provider  string      `json:"provider"`
}

func describe(m *rpc.Method) methodInfo {
	service, _ := rpc.ServiceOf(m.Name)
	d := methodInfo{
		Name: m.Name, Service: service, Doc: m.Doc, Params: []paramInfo{}, Result: m.Result.String(),
		StreamIn: m.StreamIn(), StreamOut: m.StreamOut, Scope: m.Scope.String(), Provider: m.Provider, Legacy: m.Legacy,
	}
	for _, p := range m.Params {
		info := paramInfo{
			Name: p.Name, Doc: p.Doc, Type: p.Type.String(), Required: p.Required,
			Stream: p.Stream, Rest: p.Rest, Unlisted: p.Unlisted,
		}
		if !p.Default.IsUndefined() {
			info.Default = p.Default.Expand()
		}
		d.Params = append(d.Params, info)
	}
	return d
}

func (h *hub) listMethods(ctx context.Context, in struct {
	Service *string `rpc:"service" doc:"only the methods of this service"`
	After   string  `rpc:"after" default:"\"\"" doc:"only methods with greater names: the last of the page before"`
	Limit   int     `rpc:"limit" default:"1000" doc:"at most so many methods, up to 10000; a page may be shorter, but is empty only at the end"`
}) ([]methodInfo, error) {
	if err := checkRows(in.Limit); err != nil {
		return nil, err
	}
	if in.Service == nil {
		h.learnRemotes(ctx, "")
	} else {
		h.learnRemotes(ctx, *in.Service)
	}
	list := []methodInfo{}
	size := 0
	for _, m := range h.table.Methods() {
		service, _ := rpc.ServiceOf(m.Name)
		if m.Name <= in.After || in.Service != nil && *in.Service != service {
			continue
		}
		if len(list) == in.Limit || size > pageBytes {
			break
		}
		size += describedWeight(m) + 256*(1+len(m.Params)) // with the names of the members
		list = append(list, describe(m))
	}
	if len(list) == 0 && in.Service != nil && in.After == "" {
		return list, h.missingService(*in.Service)
	}
	return list, nil
}

type methodDetail struct {
	methodInfo
	Names    map[string]any `json:"names"`
	Deadline *float64       `json:"deadline"` // seconds; null for none
	Slow     *float64       `json:"slow"`
}

func (h *hub) describeMethod(ctx context.Context, in struct {
	Name string `rpc:"name" doc:"dotted name of a method"`
}) (methodDetail, error) {
	name, _ := rpc.ServiceOf(in.Name)
	h.learnRemotes(ctx, name)
	m := h.table.Row(in.Name)
	if m == nil {
		return methodDetail{}, rpc.Errorf(rpc.CodeNotFound, "no such method %q", rpc.CleanText(in.Name, 64))
	}
	service, command := rpc.ServiceOf(m.Name)
	return methodDetail{
		methodInfo: describe(m),
		Names: map[string]any{
			string(rpc.Kollabor): m.Name,
			string(rpc.Kkrpc):    m.Name,
			string(rpc.Capnweb):  strings.Split(m.Name, "."),
			string(rpc.Krpc):     krpc.Name(m.Name),
			string(rpc.Snekrpc):  map[string]string{"service": service, "command": command},
		},
		Deadline: limit(m.Deadline, h.gate.Deadline, rpc.DefaultDeadline),
		Slow:     limit(m.Slow, h.gate.Slow, rpc.DefaultSlow),
	}, nil
}

// limit returns the first of the durations that is set, in seconds; nil when that is "never".
func limit(durations ...time.Duration) *float64 {
	for _, d := range durations {
		if d < 0 {
			return nil
		}
		if d > 0 {
			return new(d.Seconds())
		}
	}
	return nil
}

type peerInfo struct {
	Conn     uint64  `json:"conn"`
	Protocol string  `json:"protocol"`
	Listener string  `json:"listener"`
	Peer     string  `json:"peer"`
	Name     string  `json:"name"`
	Identity string  `json:"identity"`
	Since    float64 `json:"since"`
	InFlight int     `json:"in_flight"`
	Outbox   int     `json:"outbox"`
}

func (h *hub) listPeers(_ context.Context, in struct {
	After uint64 `rpc:"after" default:"0" doc:"only connections with greater numbers: the last of the page before"`
	Limit int    `rpc:"limit" default:"1000" doc:"at most so many, up to 10000"`
}) ([]peerInfo, error) {
	if err := checkRows(in.Limit); err != nil {
		return nil, err
	}
	list := []peerInfo{}
	now := time.Now()
	for _, c := range h.connections() {
		if c.id <= in.After {
			continue
		}
		info := peerInfo{
			Conn: c.id, Protocol: string(c.protocolName()), Listener: c.listener.String(), Peer: c.peerName(),
			Name: said(c.program.Load()), Identity: said(c.identity.Load()), Since: round(now.Sub(c.since)),
		}
		if l := c.linkOf(); l != nil {
			info.InFlight = l.N()
			if l.Out != nil {
				info.Outbox = l.Out.Len()
			}
		}
		list = append(list, info)
	}
	sort.Slice(list, func(i, j int) bool { return list[i].Conn < list[j].Conn })
	return cut(list, in.Limit), nil
}

// said returns *s, "" for nil.
func said(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

type callInfo struct {
	Call     uint64   `json:"call"`
	Method   string   `json:"method"`
	Peer     string   `json:"peer"`
	Protocol string   `json:"protocol"`
	Age      float64  `json:"age"`
	Deadline *float64 `json:"deadline"` // seconds left; null for none
	Slow     bool     `json:"slow"`
}

func (h *hub) listCalls(ctx context.Context, in struct {
	After uint64 `rpc:"after" default:"0" doc:"only calls with greater numbers: the last of the page before"`
	Limit int    `rpc:"limit" default:"1000" doc:"at most so many, up to 10000"`
}) ([]callInfo, error) {
	if err := checkRows(in.Limit); err != nil {
		return nil, err
	}
	list := []callInfo{}
	now := time.Now()
	h.eachCall(func(c *conn, call *rpc.Call) {
		if call.ID() <= in.After || in.After > 0 && call == rpc.From(ctx) { // each page is asked for by a new call
			return
		}
		info := callInfo{
			Call: call.ID(), Peer: c.peerName(), Protocol: string(call.Protocol),
			Age: round(now.Sub(call.Began())), Slow: call.Slow(),
		}
		if call.Method != nil {
			info.Method = call.Method.Name
		}
		if d, ok := call.Deadline(); ok {
			info.Deadline = new(round(d.Sub(now)))
		}
		list = append(list, info)
	})
	sort.Slice(list, func(i, j int) bool { return list[i].Call < list[j].Call }) // they are numbered as they begin
	return cut(list, in.Limit), nil
}

// eachCall visits every registered call of every connection.
func (h *hub) eachCall(visit func(*conn, *rpc.Call)) {
	for _, c := range h.connections() {
		if l := c.linkOf(); l != nil {
			for _, call := range l.Calls() {
				visit(c, call)
			}
		}
	}
}

type cancelResult struct {
	Cancelled bool `json:"cancelled"`
}

func (h *hub) cancelCall(ctx context.Context, in struct {
	Call uint64 `rpc:"call" doc:"number of the call"`
}) (cancelResult, error) {
	var found *rpc.Call
	h.eachCall(func(_ *conn, call *rpc.Call) {
		if call.ID() == in.Call && call != rpc.From(ctx) { // not itself
			found = call
		}
	})
	if found == nil || found.Settled() {
		return cancelResult{}, nil
	}
	found.Cancel(rpc.ErrByAdmin)
	return cancelResult{true}, nil
}

// healthPing yields count-1 nulls, as the service of the same name upstream
// does (snekrpc.md section 7), and never ends when count is 0 or less.
func healthPing(ctx context.Context, in struct {
	Count    int64   `rpc:"count" default:"1"`
	Interval float64 `rpc:"interval" default:"1.0"`
}, send func(rpc.Value) error) error {
	if in.Count <= 0 && rpc.From(ctx).Unary {
		return rpc.Errorf(rpc.CodeInvalidParams, "health.ping with this count streams without end: ask for its result as a stream")
	}
	if !(in.Interval >= 0 && in.Interval <= rpc.MaxDeadline.Seconds()) {
		return rpc.Errorf(rpc.CodeInvalidParams, "argument \"interval\": expected 0 to 3600")
	}
	t := time.NewTimer(0)
	defer t.Stop()
	for i := int64(1); in.Count <= 0 || i < in.Count; i++ {
		if i > 1 {
			t.Reset(time.Duration(in.Interval * float64(time.Second)))
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		if err := send(rpc.Null); err != nil {
			return err
		}
	}
	return nil
}

type statsResult struct {
	Uptime      float64        `json:"uptime"`
	Connections int            `json:"connections"`
	InFlight    int            `json:"in_flight"`
	Methods     int            `json:"methods"`
	Sessions    int            `json:"sessions"`
	OutboxBytes int            `json:"outbox_bytes"`
	ByProtocol  map[string]int `json:"by_protocol"`
}

func (h *hub) stats(context.Context, struct{}) (statsResult, error) {
	s := statsResult{
		Uptime: h.uptime(), InFlight: h.gate.InFlight(), Methods: len(h.table.Methods()),
		Sessions: h.sessionCount(), ByProtocol: map[string]int{},
	}
	for _, p := range rpc.Protocols() {
		s.ByProtocol[string(p)] = 0
	}
	for _, c := range h.connections() {
		s.Connections++
		if p := c.protocolName(); p != "" {
			s.ByProtocol[string(p)]++
		}
		if l := c.linkOf(); l != nil && l.Out != nil {
			s.OutboxBytes += l.Out.Len()
		}
	}
	return s, nil
}

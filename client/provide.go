package client

import (
	"context"
	"encoding/json"
	"strings"
	"time"
)

// Service is what Provide offers.
type Service struct {
	Name    string // letters, digits and underscores; nobody else may have it
	Doc     string
	Methods []Method
}

// Method is one method of a Service.
type Method struct {
	Name   string // without that of the service
	Doc    string
	Params []Param // nil: any arguments, as they come
	Result string  // its type, such as "string" or "[]integer"; "" is any
	Scope  string  // "read" for a method that only looks, else ""
	// Call answers. With Params described, params is an object of them, however
	// the caller wrote them, with the defaults in it; else it is what came.
	Call func(ctx context.Context, params json.RawMessage) (any, error)
}

// Param describes a parameter of a Method.
type Param struct {
	Name     string `json:"name"`
	Type     string `json:"type,omitempty"` // "" is any
	Doc      string `json:"doc,omitempty"`
	Required bool   `json:"required,omitempty"`
	Default  any    `json:"default,omitempty"`
}

const (
	offerLimit = 10 * time.Second // of one attempt to offer
	// lostLimit is how long the hub may take to notice that the connection that
	// offered a service before is lost: until then its name is taken.
	lostLimit = time.Minute
)

// Provide offers the methods of s to everybody who may call the hub, in every
// protocol, until ctx ends, and then withdraws them; it returns the cause of
// ctx. When the connection breaks they are offered again as soon as there is a
// new one. An error of the hub that another attempt will not mend (the name
// belongs to somebody else for longer than a lost connection lives, a missing
// scope, a method that is described wrongly) is returned at once.
//
// Calls run at the same time, each in a goroutine of its own. They come on the
// connection of c, so c must not be closed before.
func (c *Client) Provide(ctx context.Context, s Service) error {
	methods := make(Methods, len(s.Methods))
	for _, m := range s.Methods {
		methods[s.Name+"."+m.Name] = m.Call
	}
	c.mu.Lock()
	if c.services == nil {
		c.services = make(map[string]Methods)
	}
	if c.services[s.Name] != nil {
		c.mu.Unlock()
		return &Error{Kind: KindConflict, Message: "this client provides " + s.Name + " already", Retry: RetrySafe}
	}
	c.services[s.Name] = methods
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		delete(c.services, s.Name)
		c.mu.Unlock()
	}()
	for again := false; ; again = true {
		cn, err := c.offer(ctx, s, again)
		if err != nil {
			return err
		}
		select {
		case <-cn.over: // offered again, on the next connection
		case <-ctx.Done():
			withdraw, cancel := context.WithTimeout(context.WithoutCancel(ctx), offerLimit)
			defer cancel()
			_ = c.Call(withdraw, "hub.unprovide", map[string]string{"service": s.Name}, nil) // if that fails, it is gone with the connection
			return context.Cause(ctx)
		}
	}
}

// offer makes attempts until the hub has taken s, and returns on which
// connection.
func (c *Client) offer(ctx context.Context, s Service, again bool) (cn *conn, err error) {
	v, err := encode("hub.provide", s.params())
	if err != nil {
		return nil, err
	}
	conflicts, began := 0, time.Now()
	err = try(ctx, 0, func() (bool, error) {
		once, cancel := context.WithTimeout(ctx, offerLimit)
		defer cancel()
		var err error
		if cn, err = c.live(once); err == nil {
			if _, e := cn.call(once, "hub.provide", v, (&callOptions{}).request(once)); e != nil {
				err = e
			}
		}
		switch kind := KindOf(err); {
		case err == nil:
			return false, nil
		case ctx.Err() != nil:
			return false, ended(ctx, "hub.provide", RetrySafe)
		case kind == KindConflict: // the connection before may still be dying
			conflicts++
			return conflicts <= 3 || again && time.Since(began) < lostLimit, named(err, "hub.provide")
		default:
			return resumable(err), named(err, "hub.provide")
		}
	})
	if err != nil && ctx.Err() != nil {
		return nil, ended(ctx, "hub.provide", RetrySafe)
	}
	return cn, err
}

// params are the arguments of hub.provide.
func (s Service) params() map[string]any {
	list := make([]any, len(s.Methods))
	for i, m := range s.Methods {
		d := map[string]any{"name": m.Name}
		if m.Doc != "" {
			d["doc"] = m.Doc
		}
		if m.Params != nil {
			d["params"] = m.Params
		}
		if m.Result != "" {
			d["result"] = m.Result
		}
		if m.Scope != "" {
			d["scope"] = m.Scope
		}
		list[i] = d
	}
	return map[string]any{"service": s.Name, "doc": s.Doc, "methods": list}
}

// handle answers a call of the hub: first what Provide offers, then the Handler.
func (c *Client) handle(ctx context.Context, method string, params json.RawMessage) (any, error) {
	service, _, _ := strings.Cut(method, ".")
	c.mu.Lock()
	f := c.services[service][method]
	c.mu.Unlock()
	switch {
	case f != nil:
		return f(ctx, params)
	case c.opts.Handler != nil:
		return c.opts.Handler(ctx, method, params)
	}
	return nil, NoMethod(method)
}

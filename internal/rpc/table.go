package rpc

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// Table is the method table. Reads are lock-free and see a consistent state;
// changes copy.
type Table struct {
	mu    sync.Mutex // serialises changes
	state atomic.Pointer[tableState]

	reserved      map[string]bool // services of Reserve; guarded by mu
	reservedNames map[string]bool // and flat names

	missing atomic.Pointer[func(name string) *Method] // see Missing

	// Added, when set before the first Add, is called for each new row before
	// anybody can see it: the hub hangs its metric handles there.
	Added func(*Method)
}

type tableState struct {
	methods  map[string]*Method
	sorted   []*Method
	services map[string]*Service
	names    []string // of services, in registration order
	mounts   int      // how many services are mounted
	version  uint64
}

// Service is the methods that share a first name part.
type Service struct {
	Name    string
	Doc     string
	Methods []*Method // sorted by name

	lazy func(name string) *Method // see Mount
}

// Mounted reports whether the service was made by Mount.
func (s *Service) Mounted() bool { return s.lazy != nil }

// NewTable returns an empty table.
func NewTable() *Table {
	t := new(Table)
	t.state.Store(&tableState{methods: map[string]*Method{}, services: map[string]*Service{}})
	return t
}

const maxName = 256 // bytes

// ValidName reports whether name is fit for the table: one or more parts of
// letters, digits and underscores that begin with a letter, joined by dots.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > maxName {
		return false
	}
	for part := range strings.SplitSeq(name, ".") {
		if part == "" {
			return false
		}
		for i := 0; i < len(part); i++ {
			c := part[i]
			letter := c|0x20 >= 'a' && c|0x20 <= 'z'
			if !letter && (i == 0 || c != '_' && (c < '0' || c > '9')) {
				return false
			}
		}
	}
	return true
}

// ServiceOf returns the first part of a dotted name, and the rest; a name
// without a dot is its own service and command.
func ServiceOf(name string) (service, command string) {
	if s, c, ok := strings.Cut(name, "."); ok {
		return s, c
	}
	return name, name
}

// Add registers rows, all or none: a name that is taken or not valid is an error.
func (t *Table) Add(methods ...*Method) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state.Load().clone()
	if err := t.add(s, methods); err != nil {
		return err
	}
	t.publish(s)
	return nil
}

// Reserve keeps the names of methods that the hub has with another
// configuration, in the table or not: no client may offer one of them, nor
// another method of their services. Who calls one must not reach somebody else.
func (t *Table) Reserve(methods ...*Method) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.reserved == nil {
		t.reserved, t.reservedNames = map[string]bool{}, map[string]bool{}
	}
	for _, m := range methods {
		service, _ := ServiceOf(m.Name)
		t.reserved[service], t.reservedNames[FlatName(m.Name)] = true, true
	}
}

// FlatName is the name of a method in protocols where it is one identifier.
// No two rows have the same.
func FlatName(name string) string { return strings.ReplaceAll(name, ".", "_") }

// flatNames returns the rows by their flat names.
func (s *tableState) flatNames() map[string]*Method {
	flat := make(map[string]*Method, len(s.methods))
	for name, m := range s.methods {
		flat[FlatName(name)] = m
	}
	return flat
}

// clash says what stands in the way of a row, nil if nothing does: another one
// that some protocol spells alike, so that one would get the calls of the other.
func (t *Table) clash(s *tableState, flat map[string]*Method, m *Method) *Error {
	spelled := FlatName(m.Name)
	conflict := func(what string) *Error {
		return &Error{Code: CodeConflict, Ran: RanNo, Message: "method " + m.Name + ": " + what}
	}
	if other := flat[spelled]; other != nil {
		if other.Name == m.Name {
			return conflict("it exists already")
		}
		return conflict(fmt.Sprintf("krpc spells it %s, as it does %s", spelled, other.Name))
	}
	service, _ := ServiceOf(m.Name)
	if svc := s.services[service]; m.Provider == "" || svc != nil && svc.lazy != nil {
		return nil
	}
	switch {
	case t.reserved[service]:
		return conflict("the service " + service + " belongs to the hub")
	case t.reservedNames[spelled]:
		return conflict("krpc spells it " + spelled + ", as it does a method of the hub")
	case s.mounts > 0:
		for name, svc := range s.services {
			if svc.lazy != nil && strings.HasPrefix(spelled, name+"_") {
				return conflict(fmt.Sprintf("krpc spells it %s, as it might a method of %s", spelled, name))
			}
		}
	}
	return nil
}

// Fitting returns those of new that Replace could put in the place of old.
func (t *Table) Fitting(old, new []*Method) []*Method {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state.Load().clone()
	s.remove(old)
	flat := s.flatNames()
	return slices.DeleteFunc(slices.Clone(new), func(m *Method) bool {
		clash := t.clash(s, flat, m) != nil
		if !clash {
			flat[FlatName(m.Name)] = m
		}
		return clash
	})
}

func (t *Table) add(s *tableState, methods []*Method) error {
	flat := s.flatNames()
	for _, m := range methods { // all or none: nothing is told before all are found good
		if !ValidName(m.Name) {
			return fmt.Errorf("method name %q is not valid", CleanText(m.Name, 64))
		}
		if e := t.clash(s, flat, m); e != nil {
			return e
		}
		if m.target == nil {
			return fmt.Errorf("method %s has no target", m.Name)
		}
		s.methods[m.Name], flat[FlatName(m.Name)] = m, m
	}
	for _, m := range methods {
		if m.Scope == 0 {
			m.Scope = ScopeCall
		}
		if t.Added != nil {
			t.Added(m)
		}
	}
	return nil
}

// MustAdd is Add for the hub's own methods.
func (t *Table) MustAdd(methods ...*Method) {
	if err := t.Add(methods...); err != nil {
		panic("rpc: " + err.Error())
	}
}

// Remove takes rows away if they are still the ones given.
func (t *Table) Remove(methods ...*Method) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state.Load().clone()
	s.remove(methods)
	t.publish(s)
}

func (s *tableState) remove(methods []*Method) {
	for _, m := range methods {
		if s.methods[m.Name] == m {
			delete(s.methods, m.Name)
		}
	}
}

// Describe sets the documentation of a service. It holds for methods added later, too.
func (t *Table) Describe(service, doc string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state.Load().clone()
	if s.services[service] == nil {
		s.names = append(s.names, service)
	}
	c := Service{Name: service}
	if old := s.services[service]; old != nil {
		c = *old
	}
	c.Doc = doc
	s.services[service] = &c
	t.publish(s)
}

// Mount adds a service whose methods are elsewhere and may not be known yet. It
// is listed also while it has none, and Lookup asks find for each of its names
// that is not in the table. What find returns must have the name that was asked
// for; nil is no method.
func (t *Table) Mount(service string, find func(name string) *Method) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state.Load().clone()
	if old := s.services[service]; old != nil && (len(old.Methods) > 0 || old.lazy != nil) {
		return &Error{Code: CodeConflict, Message: "service " + service + " exists already", Ran: RanNo}
	}
	if !ValidName(service) || strings.Contains(service, ".") {
		return fmt.Errorf("service name %q is not valid", CleanText(service, 64))
	}
	c := Service{Name: service}
	if old := s.services[service]; old != nil {
		c = *old
	} else {
		s.names = append(s.names, service)
	}
	c.lazy = find
	s.services[service] = &c
	s.mounts++
	t.publish(s)
	return nil
}

// Replace takes the rows in old away and puts those in new in their place, in
// one step and by the rules of Remove and Add.
func (t *Table) Replace(old, new []*Method) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state.Load().clone()
	s.remove(old)
	if err := t.add(s, new); err != nil {
		return err
	}
	t.publish(s)
	return nil
}

func (s *tableState) clone() *tableState {
	return &tableState{
		methods: maps.Clone(s.methods), services: maps.Clone(s.services),
		names: slices.Clone(s.names), mounts: s.mounts, version: s.version + 1,
	}
}

// publish computes what follows from methods and makes the state visible.
func (t *Table) publish(s *tableState) {
	s.sorted = slices.SortedFunc(maps.Values(s.methods), func(a, b *Method) int { return strings.Compare(a.Name, b.Name) })
	byService := map[string][]*Method{}
	for _, m := range s.sorted {
		name, _ := ServiceOf(m.Name)
		if s.services[name] == nil {
			s.services[name] = &Service{Name: name}
			s.names = append(s.names, name)
		}
		byService[name] = append(byService[name], m)
	}
	for name, svc := range s.services {
		if byService[name] == nil && svc.Doc == "" && svc.lazy == nil { // names that providers made up do not pile up
			delete(s.services, name)
			continue
		}
		c := *svc
		c.Methods = byService[name]
		s.services[name] = &c
	}
	s.names = slices.DeleteFunc(s.names, func(n string) bool { return s.services[n] == nil })
	t.state.Store(s)
}

// Lookup returns the row with that name, nil if there is none. For a name of a
// mounted service it may be one that is not in the table.
func (t *Table) Lookup(name string) *Method {
	s := t.state.Load()
	if m := s.methods[name]; m != nil {
		return m
	}
	return t.find(s, name)
}

// Missing sets what Lookup asks for a name that is neither in the table nor of
// a mounted service: for methods that come later.
func (t *Table) Missing(find func(name string) *Method) { t.missing.Store(&find) }

// Row is Lookup for those who tell what there is: without the stand-ins of
// mounted services.
func (t *Table) Row(name string) *Method { return t.state.Load().methods[name] }

// LookupBytes is Lookup without a conversion.
func (t *Table) LookupBytes(name []byte) *Method {
	s := t.state.Load()
	if m := s.methods[string(name)]; m != nil {
		return m
	}
	return t.find(s, string(name))
}

// find asks the mounted service that a name belongs to, or Missing's function.
func (t *Table) find(s *tableState, name string) *Method {
	if s.mounts > 0 {
		if m := s.mounted(name); m != nil {
			return m
		}
	}
	if missing := t.missing.Load(); missing != nil {
		return (*missing)(name)
	}
	return nil
}

// mounted asks the mounted service that a name belongs to.
func (s *tableState) mounted(name string) *Method {
	service, command, ok := strings.Cut(name, ".")
	if svc := s.services[service]; ok && svc != nil && svc.lazy != nil && ValidName(command) {
		return svc.lazy(name)
	}
	return nil
}

// Methods returns all rows sorted by name. The slice is shared: do not change it.
func (t *Table) Methods() []*Method { return t.state.Load().sorted }

// Services returns the services that have methods or are mounted, in the order in which they first appeared.
func (t *Table) Services() []*Service {
	s := t.state.Load()
	var list []*Service
	for _, n := range s.names {
		if svc := s.services[n]; len(svc.Methods) > 0 || svc.lazy != nil {
			list = append(list, svc)
		}
	}
	return list
}

// Service returns one service, nil if it has no methods and is not mounted.
func (t *Table) Service(name string) *Service {
	if s := t.state.Load().services[name]; s != nil && (len(s.Methods) > 0 || s.lazy != nil) {
		return s
	}
	return nil
}

// Version grows with each change: what was derived from the table is stale when it differs.
func (t *Table) Version() uint64 { return t.state.Load().version }

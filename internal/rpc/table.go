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

	// Added, when set before the first Add, is called for each new row before
	// anybody can see it: the hub hangs its metric handles there.
	Added func(*Method)
}

type tableState struct {
	methods  map[string]*Method
	sorted   []*Method
	services map[string]*Service
	names    []string // of services, in registration order
	version  uint64
}

// Service is the methods that share a first name part.
type Service struct {
	Name    string
	Doc     string
	Methods []*Method // sorted by name
}

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
	for _, m := range methods { // all or none: nothing is told before all are found good
		if !ValidName(m.Name) {
			return fmt.Errorf("method name %q is not valid", CleanText(m.Name, 64))
		}
		if s.methods[m.Name] != nil {
			return &Error{Code: CodeConflict, Message: fmt.Sprintf("method %s exists already", m.Name), Ran: RanNo}
		}
		if m.target == nil {
			return fmt.Errorf("method %s has no target", m.Name)
		}
		s.methods[m.Name] = m
	}
	for _, m := range methods {
		if m.Scope == 0 {
			m.Scope = ScopeCall
		}
		if t.Added != nil {
			t.Added(m)
		}
	}
	t.publish(s)
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
	for _, m := range methods {
		if s.methods[m.Name] == m {
			delete(s.methods, m.Name)
		}
	}
	t.publish(s)
}

// Describe sets the documentation of a service. It holds for methods added later, too.
func (t *Table) Describe(service, doc string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	s := t.state.Load().clone()
	if s.services[service] == nil {
		s.names = append(s.names, service)
	}
	s.services[service] = &Service{Name: service, Doc: doc}
	t.publish(s)
}

func (s *tableState) clone() *tableState {
	return &tableState{
		methods: maps.Clone(s.methods), services: maps.Clone(s.services),
		names: slices.Clone(s.names), version: s.version + 1,
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
		if byService[name] == nil && svc.Doc == "" { // names that providers made up do not pile up
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

// Lookup returns the row with that name, nil if there is none.
func (t *Table) Lookup(name string) *Method { return t.state.Load().methods[name] }

// LookupBytes is Lookup without a conversion.
func (t *Table) LookupBytes(name []byte) *Method { return t.state.Load().methods[string(name)] }

// Methods returns all rows sorted by name. The slice is shared: do not change it.
func (t *Table) Methods() []*Method { return t.state.Load().sorted }

// Services returns the services that have methods, in the order in which they first appeared.
func (t *Table) Services() []*Service {
	s := t.state.Load()
	var list []*Service
	for _, n := range s.names {
		if svc := s.services[n]; len(svc.Methods) > 0 {
			list = append(list, svc)
		}
	}
	return list
}

// Service returns one service, nil if it has no methods.
func (t *Table) Service(name string) *Service {
	if s := t.state.Load().services[name]; s != nil && len(s.Methods) > 0 {
		return s
	}
	return nil
}

// Version grows with each change: what was derived from the table is stale when it differs.
func (t *Table) Version() uint64 { return t.state.Load().version }

// ByPath returns the row that the path names, and how many parts it took. The
// longest name wins.
func (t *Table) ByPath(path []string) (m *Method, used int) {
	s := t.state.Load()
	for n := min(len(path), maxName/2); n > 0; n-- { // each part takes two bytes of a name
		if m := s.methods[strings.Join(path[:n], ".")]; m != nil {
			return m, n
		}
	}
	return nil, 0
}

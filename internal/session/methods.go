package session

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// ok is what methods without a result of their own answer.
var ok = rpc.RawString(`{"ok":true}`)

// unread is what session.send answers when the session has no producer: the
// text is published, and nobody takes it.
var unread = rpc.RawString(`{"ok":true,"delivered":false}`)

// ServiceDoc documents the service for rpc.Table.Describe.
const ServiceDoc = "Named event streams with replay, followers and an input line to their owner."

// Methods returns the rows of the service "session" and permission.respond,
// for the table of a hub.
func (r *Registry) Methods() []*rpc.Method {
	object := rpc.Returns(rpc.Type{Kind: rpc.KindObject})
	return []*rpc.Method{
		rpc.Handle("session.open", r.open, object, rpc.Needs(rpc.ScopeProvide), rpc.Doc(
			"Open a session, or take one over whose owner is gone. The calling connection becomes its owner; the session outlives it for some minutes.")),
		rpc.Handle("session.close", r.closeSession, object, rpc.Needs(rpc.ScopeProvide), rpc.Doc(
			"End a session: its followers get what is left and then the end of their stream. For its owner's user, for anybody once the owner is gone, and for administrators.")),
		r.publishMethod(),
		rpc.Handle("session.list", r.list, rpc.Needs(rpc.ScopeRead), rpc.Doc("List the sessions, sorted by name."),
			rpc.Returns(rpc.Type{Kind: rpc.KindArray, Elem: &rpc.Type{Kind: rpc.KindObject}})),
		rpc.Handle("session.info", r.info, object, rpc.Needs(rpc.ScopeRead), rpc.Doc(
			"Describe a session: owner, followers with their lag, last event, uptime.")),
		rpc.Handle("session.history", r.history, object, rpc.Needs(rpc.ScopeRead), rpc.Doc(
			"Return retained events in order, and the number to go on after when there are more.")),
		rpc.Handle("session.wait", r.wait, object, rpc.Needs(rpc.ScopeRead), rpc.Within(-1), rpc.NeverSlow(), rpc.Doc(
			"Wait until a session has ended, and return the status of its program: code and signal, null when nobody has said it.")),
		rpc.Handle("session.kill", r.kill, object, rpc.In(rpc.Inline), rpc.Doc(
			"Send the program of a session a signal, through its producer. For the owner's user, for anybody once the owner is gone, and for administrators.")),
		rpc.Handle("session.remove", r.removeEnded, object, rpc.Doc(
			"Forget a session that has ended. For its owner's user, and for administrators.")),
		rpc.HandleStream("session.follow", r.follow, object, rpc.Needs(rpc.ScopeRead), rpc.Endless(), rpc.Within(-1), rpc.NeverSlow(), rpc.Doc(
			"Stream the events of a session: a replay, then what is published, with a gap event where a slow follower lost some. Ends when the session closes.")),
		rpc.Handle("session.send", r.send, object, rpc.In(rpc.Inline), rpc.Doc(
			"Type text into a session: it is published as an event of type input and handed to the owner. Without an owner the answer has delivered: false.")),
		rpc.Handle("session.resize", r.resize, object, rpc.In(rpc.Inline), rpc.Doc(
			"Tell the owner of a session the size of the window.")),
		rpc.HandleStream("session.input", r.input, object, rpc.Needs(rpc.ScopeProvide), rpc.Endless(), rpc.Within(-1), rpc.NeverSlow(), rpc.Doc(
			"Stream what is meant for the owner of a session: input, window sizes, answers to permission prompts, messages.")),
		rpc.Handle("permission.respond", r.respond, object, rpc.In(rpc.Inline), rpc.Doc(
			"Answer a pending permission prompt. The first answer wins.")),
	}
}

type named struct {
	Session string `rpc:"session" doc:"name of the session"`
}

type openParams struct {
	Name  string    `rpc:"name" doc:"1 to 32 letters, digits, dots, underscores or hyphens"`
	Title string    `rpc:"title,optional" doc:"shown to people"`
	Meta  rpc.Value `rpc:"meta,optional" doc:"any JSON, shown by session.info"`
	Ring  *int      `rpc:"ring" doc:"how many events are replayed; 200 for a new session"`
	Seq   *uint64   `rpc:"seq,unlisted" doc:"number of the last event that the producer knows of: a session without events goes on from there"`
	Epoch *string   `rpc:"epoch,unlisted" doc:"the life of the session that seq counts in"`

	Producer *string `rpc:"producer,unlisted" doc:"a secret name of the producer, which numbers its events"`
	Taken    *uint64 `rpc:"taken,unlisted" doc:"the producer's number of the event after which it goes on"`
}

func (r *Registry) open(ctx context.Context, in openParams) (rpc.Value, error) {
	opts := OpenOptions{Title: in.Title, Meta: in.Meta, Ring: in.Ring}
	if in.Meta.IsNull() {
		opts.Meta = rpc.Value{}
	}
	if in.Seq != nil {
		opts.Seq = *in.Seq
	}
	if in.Epoch != nil {
		opts.Epoch = *in.Epoch
	}
	if in.Producer != nil {
		opts.Producer = *in.Producer
	}
	if in.Taken != nil {
		opts.Taken = *in.Taken
	}
	if c := rpc.From(ctx); c != nil {
		opts.Owner, opts.Peer, opts.Protocol, opts.User = c.Link(), c.Peer, c.Protocol, c.Quota()
	}
	s, err := r.Open(in.Name, opts)
	if err != nil {
		return rpc.Value{}, err
	}
	life := s.Life()
	if opts.Producer == "" {
		return rpc.RawString(fmt.Sprintf(`{"session":%q,"seq":%d}`, s.Name(), life.Seq)), nil
	}
	m := &rpc.Map{}
	m.Set("session", s.Name())
	m.Set("seq", life.Seq)
	m.Set("epoch", life.Epoch)
	m.Set("taken", life.Taken)
	return rpc.TreeValue(m), nil
}

func (r *Registry) closeSession(ctx context.Context, in named) (rpc.Value, error) {
	s, err := r.Find(in.Session)
	if err != nil {
		return rpc.Value{}, err
	}
	if err := s.closableBy(rpc.From(ctx)); err != nil {
		return rpc.Value{}, err
	}
	r.Close(s)
	return ok, nil
}

// closableBy says why a caller may not close the session.
func (s *Session) closableBy(c *rpc.Call) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.permanent:
		return errOfHub(s.name)
	case s.owner == nil && !s.closed, c == nil, s.owner != nil && s.owner.link == c.Link(),
		c.Peer != nil && c.Peer.Scopes&rpc.ScopeAdmin != 0, s.last == nil || sameUser(s.last.Peer, c.Peer):
		return nil
	}
	return rpc.Errorf(rpc.CodePermissionDenied, "session %s belongs to another connection", s.name)
}

// sameUser reports whether two peers are known to be one user.
func sameUser(a, b *rpc.Peer) bool {
	if a == nil || b == nil {
		return false
	}
	if a.UID >= 0 || b.UID >= 0 {
		return a.UID == b.UID
	}
	return a.Name != "" && a.Name == b.Name
}

func (r *Registry) wait(ctx context.Context, in named) (rpc.Value, error) {
	s, err := r.FindAny(in.Session)
	if err != nil {
		return rpc.Value{}, err
	}
	exit, err := s.Wait(ctx)
	switch {
	case err != nil:
		return rpc.Value{}, err
	case exit == nil:
		return rpc.RawString(`{"code":null,"signal":null}`), nil
	}
	return rpc.TreeValue(exit.tree()), nil
}

type killParams struct {
	Session string `rpc:"session" doc:"name of the session"`
	Signal  string `rpc:"signal" default:"\"TERM\"" doc:"name of the signal, such as TERM, INT or KILL"`
}

func (r *Registry) kill(ctx context.Context, in killParams) (rpc.Value, error) {
	s, err := r.Find(in.Session)
	if err != nil {
		return rpc.Value{}, err
	}
	if err := s.closableBy(rpc.From(ctx)); err != nil {
		return rpc.Value{}, err
	}
	if err := s.Kill(in.Signal, clientOf(ctx)); err != nil {
		return rpc.Value{}, err
	}
	return ok, nil
}

func (r *Registry) removeEnded(ctx context.Context, in named) (rpc.Value, error) {
	s, err := r.FindAny(in.Session)
	if err != nil {
		return rpc.Value{}, err
	}
	if err := s.closableBy(rpc.From(ctx)); err != nil {
		return rpc.Value{}, err
	}
	if err := r.Remove(s); err != nil {
		return rpc.Value{}, err
	}
	return ok, nil
}

// publishParams are those of session.publish. Who sends a stream of events
// gives no event: each item of the stream is one.
type publishParams struct {
	Session string      `rpc:"session" doc:"name of the session"`
	Event   rpc.Value   `rpc:"event,optional" doc:"an object with a string type; ts is added when absent, seq is set by the session"`
	Events  *rpc.Reader `rpc:"events,optional,unlisted" doc:"a stream of events, in the place of one"`
	N       *uint64     `rpc:"n,unlisted" doc:"the producer's own number of the event: one that was taken before is left out"`
	Seq     *uint64     `rpc:"seq,unlisted" doc:"with n: the number that the session gave the event before the hub lost its memory"`
}

// publishMethod has two ways: one event is published on the reader, so that the
// events of a connection keep their order, a stream by a goroutine.
func (r *Registry) publishMethod() *rpc.Method {
	opts := []rpc.Option{
		rpc.Returns(rpc.Type{Kind: rpc.KindObject}), rpc.Within(-1), rpc.NeverSlow(),
		rpc.Doc("Publish an event to all followers of a session, or each event of a stream. The session needs no owner."),
	}
	one := rpc.Handle("session.publish", r.publish, append(opts, rpc.In(rpc.Inline))...)
	many := rpc.Handle("session.publish", r.publish, opts...)
	m := &rpc.Method{
		Name: one.Name, Doc: one.Doc, Params: one.Params, Result: one.Result,
		Deadline: one.Deadline, Slow: one.Slow, Scope: rpc.ScopeCall,
	}
	return rpc.NewTarget(m, rpc.TargetFunc(func(b *rpc.Batch, c *rpc.Call) {
		if c.Input != nil {
			many.Start(b, c)
			return
		}
		if v, given := c.Args.Get(2, "events"); given && !v.IsUndefined() && !v.IsNull() {
			many.Start(b, c)
			return
		}
		one.Start(b, c)
	}))
}

func (r *Registry) publish(ctx context.Context, in publishParams) (rpc.Value, error) {
	s, err := r.Find(in.Session)
	if err != nil {
		return rpc.Value{}, err
	}
	if in.Events == nil || !in.Event.IsUndefined() {
		if in.Event.IsUndefined() {
			return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "session.publish is missing argument %q", "event")
		}
		if in.N != nil {
			return s.publishNumbered(ctx, in)
		}
		if _, err := s.PublishBy(in.Event, rpc.From(ctx)); err != nil {
			return rpc.Value{}, err
		}
	}
	if in.Events != nil && in.Event.IsUndefined() {
		for event, err := range in.Events.All(ctx) {
			if err != nil {
				return rpc.Value{}, err
			}
			if _, err := s.PublishBy(event, rpc.From(ctx)); err != nil {
				return rpc.Value{}, err
			}
		}
	}
	return ok, nil
}

func (s *Session) publishNumbered(ctx context.Context, in publishParams) (rpc.Value, error) {
	by := Numbered{N: *in.N}
	if in.Seq != nil {
		by.Seq = *in.Seq
	}
	if c := rpc.From(ctx); c != nil {
		by.Link, by.Call = c.Link(), c
	}
	seq, err := s.PublishNumbered(in.Event, by)
	switch {
	case err != nil:
		return rpc.Value{}, err
	case seq == 0:
		return ok, nil
	}
	return rpc.RawString(`{"ok":true,"seq":` + strconv.FormatUint(seq, 10) + `}`), nil
}

type listParams struct {
	After string `rpc:"after" default:"\"\"" doc:"only sessions with greater names: the last of the page before"`
	Limit int    `rpc:"limit" default:"1000" doc:"at most so many; a page may be shorter, but is empty only at the end"`
}

// listBytes is about how long a page of session.list is.
const listBytes = 1 << 20

func (r *Registry) list(_ context.Context, in listParams) (rpc.Value, error) {
	if in.Limit < 1 {
		return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "argument \"limit\": expected 1 or more")
	}
	list := []any{}
	size := 0
	for _, s := range r.ListAll() {
		if s.Name() <= in.After {
			continue
		}
		if len(list) == in.Limit || size > listBytes {
			break
		}
		info := s.Info().Value()
		size += info.Weight()
		list = append(list, info.Tree())
	}
	return rpc.TreeValue(list), nil
}

func (r *Registry) info(_ context.Context, in named) (rpc.Value, error) {
	s, err := r.FindAny(in.Session)
	if err != nil {
		return rpc.Value{}, err
	}
	return s.Info().Value(), nil
}

type historyParams struct {
	Session string `rpc:"session" doc:"name of the session"`
	After   uint64 `rpc:"after_seq" default:"0" doc:"events with greater numbers are returned"`
	Limit   int    `rpc:"limit" default:"200" doc:"how many at most"`
}

func (r *Registry) history(_ context.Context, in historyParams) (rpc.Value, error) {
	s, err := r.FindAny(in.Session)
	if err != nil {
		return rpc.Value{}, err
	}
	if in.Limit < 1 {
		return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "limit is at least 1")
	}
	events, next := s.History(in.After, in.Limit)
	list := make([]rpc.Value, len(events))
	for i, e := range events {
		list[i] = e.Value()
	}
	array := rpc.Array(list)
	raw, _ := array.Raw()
	text := append(make([]byte, 0, len(raw)+48), `{"events":`...)
	text = append(text, raw...)
	if next > 0 {
		text = append(text, `,"next":`...)
		text = strconv.AppendUint(text, next, 10)
	}
	t := array.Traits()
	t.Depth++
	return rpc.RawValue(append(text, '}'), t), nil
}

type followParams struct {
	Session  string  `rpc:"session" doc:"name of the session"`
	Since    *uint64 `rpc:"since_seq" doc:"number of the last event seen; without it all retained events are replayed"`
	Mode     string  `rpc:"mode" default:"\"readonly\"" doc:"readonly or interactive"`
	ClientID string  `rpc:"client_id,optional,unlisted" doc:"what the follower calls itself"`
	Epoch    string  `rpc:"epoch,optional,unlisted" doc:"the life of the session that since_seq counts in, as session.info told it"`
}

func (r *Registry) follow(ctx context.Context, in followParams, send func(rpc.Value) error) error {
	s, err := r.FindAny(in.Session)
	if err != nil {
		return err
	}
	opts := FollowOptions{ClientID: in.ClientID, Mode: in.Mode, SinceSeq: in.Since, Epoch: in.Epoch}
	if in.Mode != ReadOnly && in.Mode != Interactive {
		return rpc.Errorf(rpc.CodeInvalidParams, "mode is readonly or interactive")
	}
	if c := rpc.From(ctx); c != nil {
		if in.Mode == Interactive && !c.Peer.Permits(rpc.ScopeCall, "session.send") {
			return rpc.Errorf(rpc.CodePermissionDenied, "not allowed to follow a session interactively")
		}
		opts.Peer, opts.Protocol, opts.Link = c.Peer, c.Protocol, c.Link()
	}
	if opts.ClientID == "" {
		opts.ClientID = clientOf(ctx)
	}
	f, err := s.Follow(opts)
	if err != nil {
		return err
	}
	defer f.Close()
	for {
		e, err := f.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := send(e.Value()); err != nil {
			return err
		}
	}
}

type sendParams struct {
	Session  string    `rpc:"session" doc:"name of the session"`
	Text     rpc.Value `rpc:"text" doc:"what is typed: a string"`
	ClientID string    `rpc:"client_id,optional,unlisted" doc:"what the caller calls itself"`
}

func (r *Registry) send(ctx context.Context, in sendParams) (rpc.Value, error) {
	s, err := r.Find(in.Session)
	if err != nil {
		return rpc.Value{}, err
	}
	if in.ClientID == "" {
		in.ClientID = s.clientOf(ctx)
	}
	var by *rpc.Link
	if c := rpc.From(ctx); c != nil {
		by = c.Link()
	}
	delivered, err := s.Type(by, in.ClientID, in.Text)
	switch {
	case err != nil:
		return rpc.Value{}, err
	case !delivered:
		return unread, nil
	}
	return ok, nil
}

// clientOf is what a caller is called in this session: as it calls itself as a follower, if it is one.
func (s *Session) clientOf(ctx context.Context) string {
	if c := rpc.From(ctx); c != nil {
		if id := s.clientOn(c.Link()); id != "" {
			return id
		}
	}
	return clientOf(ctx)
}

// clientOf is what a caller that gives no name is called.
func clientOf(ctx context.Context) string {
	c := rpc.From(ctx)
	switch {
	case c == nil || c.Peer == nil:
		return "hub"
	case c.Peer.PID > 0:
		return string(c.Protocol) + "-" + strconv.Itoa(c.Peer.PID)
	case c.Peer.Name != "":
		return c.Peer.Name
	}
	return string(c.Protocol)
}

type resizeParams struct {
	Session string `rpc:"session" doc:"name of the session"`
	Cols    int    `rpc:"cols" doc:"columns"`
	Rows    int    `rpc:"rows" doc:"rows"`
}

func (r *Registry) resize(ctx context.Context, in resizeParams) (rpc.Value, error) {
	s, err := r.Find(in.Session)
	if err != nil {
		return rpc.Value{}, err
	}
	var link *rpc.Link
	if c := rpc.From(ctx); c != nil {
		link = c.Link()
	}
	if err := s.Resize(link, in.Cols, in.Rows); err != nil {
		return rpc.Value{}, err
	}
	return ok, nil
}

func (r *Registry) input(ctx context.Context, in named, send func(rpc.Value) error) error {
	s, err := r.Find(in.Session)
	if err != nil {
		return err
	}
	var link *rpc.Link
	if c := rpc.From(ctx); c != nil {
		link = c.Link()
		if s.permanent && (c.Peer == nil || c.Peer.Scopes&rpc.ScopeAdmin == 0) {
			return errOfHub(s.name)
		}
	}
	items, err := s.Inputs(link)
	if err != nil {
		return err
	}
	defer items.Close()
	for {
		v, err := items.Next(ctx)
		switch {
		case errors.Is(err, io.EOF):
			return nil
		case err != nil:
			return err
		}
		if err := send(v); err != nil {
			return err
		}
	}
}

type respondParams struct {
	ToolID   string  `rpc:"tool_id" doc:"id of the prompt"`
	Response string  `rpc:"response" doc:"APPROVE_ONCE, APPROVE_SESSION, APPROVE_PROJECT, APPROVE_ALWAYS, APPROVE_TOOL_ALWAYS, DENY or CANCEL; anything else is DENY"`
	Session  *string `rpc:"session,unlisted" doc:"name of the session, where several have a prompt of that id"`
}

func (r *Registry) respond(ctx context.Context, in respondParams) (rpc.Value, error) {
	var session string
	if in.Session != nil {
		session = *in.Session
	}
	var link *rpc.Link
	if c := rpc.From(ctx); c != nil {
		link = c.Link()
	}
	problem, err := r.Respond(session, in.ToolID, in.Response, clientOf(ctx), link)
	if err != nil {
		return rpc.Value{}, err
	}
	if problem == "" {
		return ok, nil
	}
	m := &rpc.Map{}
	m.Set("ok", false)
	m.Set("error", rpc.CleanText(problem, rpc.MaxErrorMessage))
	return rpc.TreeValue(m), nil
}

package kollaborstate

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// The answers. kollabor's decoders refuse unknown members, so these structs are the contract: no member is added, and
// none is called error but in a failure. Lists are never null.
type (
	systemInfo struct {
		Cwd           string  `json:"cwd"`
		Branch        string  `json:"git_branch"`
		Tmux          int     `json:"tmux_sessions_count"`
		PID           int     `json:"daemon_pid"`
		Uptime        seconds `json:"daemon_uptime_seconds"`
		Python        string  `json:"python_version"`
		Platform      string  `json:"platform_name"`
		Arch          string  `json:"platform_arch"`
		TotalCommands int     `json:"total_commands"`
		Enabled       int     `json:"enabled_commands"`
		Categories    int     `json:"command_categories"`
		Plugins       int     `json:"plugin_count"`
	}
	hubState struct {
		Identity    string       `json:"my_identity"`
		AgentID     string       `json:"my_agent_id"`
		Coordinator bool         `json:"my_is_coordinator"`
		Peers       int          `json:"peer_count"`
		Roster      []rosterItem `json:"roster"`
	}
	rosterItem struct {
		Identity    string `json:"identity"`
		State       string `json:"state"`
		Task        string `json:"current_task"`
		Coordinator bool   `json:"is_coordinator"`
	}
	processingState struct {
		Processing bool   `json:"is_processing"`
		Queue      int    `json:"queue_size"`
		QueueMax   int    `json:"queue_max"`
		Dropped    int    `json:"dropped_messages"`
		Pending    int    `json:"pending_tools_count"`
		Background int    `json:"bg_tasks_count"`
		Breaker    string `json:"circuit_breaker_state"`
	}
	sessionContext struct {
		Name       string         `json:"name"`
		History    []any          `json:"conversation_history"`
		Profile    string         `json:"active_profile_name"`
		Agent      string         `json:"active_agent_name"`
		Prompt     string         `json:"system_prompt"`
		Created    seconds        `json:"created_at"`
		LastActive seconds        `json:"last_active_at"`
		Archived   bool           `json:"archived"`
		Metadata   map[string]any `json:"metadata"`
	}
	contextList struct {
		Active   string           `json:"active"`
		Contexts []sessionContext `json:"contexts"`
	}
	// textResult is a success with text or a failure with error: the client raises what is there.
	textResult struct {
		Text  *string `json:"text,omitempty"`
		Error string  `json:"error,omitempty"`
	}
	cancelResult struct {
		Cancelled bool   `json:"cancelled"`
		Reason    string `json:"reason,omitempty"`
	}
)

// seconds is a float of Python: it always has a point.
type seconds float64

// MarshalJSON writes the number with a point.
func (s seconds) MarshalJSON() ([]byte, error) {
	return rpc.AppendFloat(nil, float64(s), rpc.Form{}), nil
}

type service struct{ hub Hub }

// Methods returns the rows for the method table.
func Methods(hub Hub) []*rpc.Method {
	s := &service{hub}
	// They do the work of methods of the hub: patterns of tokens must cover those as well.
	read := func(doc string, also ...string) []rpc.Option {
		return []rpc.Option{rpc.Lenient(), rpc.Legacy(), rpc.Needs(rpc.ScopeRead), rpc.Doc(doc), rpc.Also(also...)}
	}
	write := func(doc string, also ...string) []rpc.Option {
		return []rpc.Option{rpc.Lenient(), rpc.Legacy(), rpc.Doc(doc), rpc.Also(also...)}
	}
	return []*rpc.Method{
		rpc.Handle("state.get_system_info", s.systemInfo, read("Describe the daemon's process and machine, as kollabor clients expect it.", "hub.info")...),
		rpc.Handle("state.get_hub_state", s.hubState, read("Say who this socket speaks for and who else is there.", "hub.peers")...),
		rpc.Handle("state.get_processing_state", s.processingState, read("Say how busy the hub is.", "hub.stats")...),
		rpc.Handle("state.get_hub_status_text", s.statusText, read("Describe the hub in a line of text.", "hub.info", "hub.peers")...),
		rpc.Handle("state.get_hub_whoami_text", s.whoamiText, read("Say in text who this socket speaks for.")...),
		rpc.Handle("state.get_hub_work_text", s.workText, read("Say in text what runs.", "hub.stats")...),
		rpc.Handle("state.list_contexts", s.contexts, read("List the sessions in the form of kollabor's contexts.", "session.list")...),
		rpc.Handle("state.get_active_context", s.activeContext, read("Describe the session of this socket in the form of a context.", "session.info")...),
		rpc.Handle("state.hub_send_msg", s.send, write("Pass a message to a session or client by its identity.", "session.send")...),
		rpc.Handle("state.hub_broadcast", s.broadcast, write("Pass a message to everybody else.", "session.send")...),
		rpc.Handle("state.cancel_current_request", s.cancelCurrent, write("Cancel the other calls of this connection.")...),
	}
}

func (s *service) systemInfo(context.Context, struct{}) (systemInfo, error) {
	y := s.hub.System()
	return systemInfo{
		Cwd: y.Cwd, Branch: y.Branch, PID: y.PID, Uptime: seconds(y.Uptime.Seconds()), Platform: y.Platform, Arch: y.Arch,
		TotalCommands: y.Methods, Enabled: y.Methods, Categories: y.Services,
	}, nil
}

func (s *service) hubState(ctx context.Context, _ struct{}) (hubState, error) {
	c := rpc.From(ctx)
	me := s.hub.Self(c)
	peers := s.hub.Roster(c)
	st := hubState{Identity: me.Identity, AgentID: me.AgentID, Coordinator: true, Peers: len(peers), Roster: make([]rosterItem, len(peers))}
	for i, p := range peers {
		st.Roster[i] = rosterItem(p)
	}
	return st, nil
}

func (s *service) processingState(context.Context, struct{}) (processingState, error) {
	w := s.hub.Work()
	return processingState{
		Processing: w.InFlight > 0, Queue: w.Queue, QueueMax: w.QueueMax, Dropped: w.Dropped, Pending: w.InFlight,
		Background: w.Background, Breaker: "closed",
	}, nil
}

func text(format string, args ...any) (textResult, error) {
	t := fmt.Sprintf(format, args...)
	return textResult{Text: &t}, nil
}

func (s *service) statusText(ctx context.Context, _ struct{}) (textResult, error) {
	c := rpc.From(ctx)
	peers := s.hub.Roster(c)
	names := make([]string, len(peers))
	for i, p := range peers {
		names[i] = p.Identity
	}
	up := s.hub.System().Uptime.Round(time.Second)
	if len(names) == 0 {
		return text("%s: up %v, nobody else here", s.hub.Self(c).Identity, up)
	}
	return text("%s: up %v, with %s", s.hub.Self(c).Identity, up, strings.Join(names, ", "))
}

func (s *service) whoamiText(ctx context.Context, _ struct{}) (textResult, error) {
	me := s.hub.Self(rpc.From(ctx))
	if me.AgentID == "" {
		return text("%s", me.Identity)
	}
	return text("%s (%s)", me.Identity, me.AgentID)
}

func (s *service) workText(context.Context, struct{}) (textResult, error) {
	w := s.hub.Work()
	if w.InFlight == 0 && w.Queue == 0 {
		return text("no work")
	}
	return text("%d calls running, %d writes waiting", w.InFlight, w.Queue)
}

func (s *service) contexts(ctx context.Context, _ struct {
	Archived bool `rpc:"include_archived" default:"false" doc:"nothing is ever archived here"`
}) (contextList, error) {
	active, sessions := s.hub.Sessions(rpc.From(ctx))
	list := contextList{Active: active, Contexts: make([]sessionContext, len(sessions))}
	for i, one := range sessions {
		list.Contexts[i] = contextOf(one)
	}
	return list, nil
}

func (s *service) activeContext(ctx context.Context, _ struct{}) (sessionContext, error) {
	active, sessions := s.hub.Sessions(rpc.From(ctx))
	for _, one := range sessions {
		if one.Name == active {
			return contextOf(one), nil
		}
	}
	return sessionContext{}, rpc.Errorf(rpc.CodeNotFound, "no session %q", active)
}

func contextOf(s Session) sessionContext {
	if s.LastActive.IsZero() {
		s.LastActive = s.Created
	}
	meta := map[string]any{}
	if s.Title != "" {
		meta["title"] = s.Title
	}
	return sessionContext{
		Name: s.Name, History: []any{}, Created: unix(s.Created), LastActive: unix(s.LastActive), Metadata: meta,
	}
}

func unix(t time.Time) seconds { return seconds(float64(t.UnixMilli()) / 1000) }

func (s *service) send(ctx context.Context, in struct {
	Target  string `rpc:"target" default:"\"\"" doc:"an identity"`
	Content string `rpc:"content" default:"\"\"" doc:"the message"`
}) (textResult, error) {
	switch {
	case in.Target == "":
		return textResult{Error: "target is required"}, nil
	case in.Content == "":
		return textResult{Error: "content is required"}, nil
	}
	n, err := s.hub.Send(ctx, rpc.From(ctx), in.Target, in.Content, false)
	switch {
	case err != nil:
		return refused(err)
	case n == 0:
		return textResult{Error: "nobody is called " + rpc.CleanText(in.Target, 64)}, nil
	}
	return text("sent to %s", in.Target)
}

func (s *service) broadcast(ctx context.Context, in struct {
	Content string `rpc:"content" default:"\"\"" doc:"the message"`
	Force   bool   `rpc:"force" default:"false" doc:"also to those that would rather not be disturbed"`
}) (textResult, error) {
	if in.Content == "" {
		return textResult{Error: "content is required"}, nil
	}
	n, err := s.hub.Send(ctx, rpc.From(ctx), "", in.Content, in.Force)
	if err != nil {
		return refused(err)
	}
	return text("sent to %d agent(s)", n)
}

// refused turns what the hub would not do into a successful reply that holds the reason, as kollabor does it.
func refused(err error) (textResult, error) {
	if e, ok := errors.AsType[*rpc.Error](err); ok {
		return textResult{Error: e.Text()}, nil
	}
	return textResult{Error: rpc.CleanText(err.Error(), rpc.MaxErrorMessage)}, nil
}

func (s *service) cancelCurrent(ctx context.Context, _ struct{}) (cancelResult, error) {
	if s.hub.CancelCurrent(rpc.From(ctx)) {
		return cancelResult{Cancelled: true}, nil
	}
	return cancelResult{Reason: "nothing is running"}, nil
}

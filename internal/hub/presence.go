package hub

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"go.uber.org/zap"

	"github.com/hubd-dev/hubd/internal/session"
)

// heartbeat is how often presence files are written anew: clients of the
// native protocol doubt one that is older than 15 s.
const heartbeat = 5 * time.Second

// maxPresence is the size up to which a presence file is looked at, in bytes.
const maxPresence = 64 << 10

// presence is one presence file, by which clients of the native protocol find
// the socket of a session. All members are always there.
type presence struct {
	AgentID        string   `json:"agent_id"`
	Identity       string   `json:"identity"`
	PID            int      `json:"pid"`
	Project        string   `json:"project"`
	SocketPath     string   `json:"socket_path"`
	AgentName      string   `json:"agent_name"`
	ProfileName    string   `json:"profile_name"`
	StartedAt      float64  `json:"started_at"`
	LastHeartbeat  float64  `json:"last_heartbeat"`
	State          string   `json:"state"`
	IsCoordinator  bool     `json:"is_coordinator"`
	CurrentTask    string   `json:"current_task"`
	Capabilities   []string `json:"capabilities"`
	OrgName        string   `json:"org_name"`
	OrgRole        string   `json:"org_role"`
	OrgLevel       string   `json:"org_level"`
	TeamName       string   `json:"team_name"`
	ReportsTo      string   `json:"reports_to"`
	ParentAgentID  string   `json:"parent_agent_id"`
	LaunchStrategy string   `json:"launch_strategy"`
	SessionLog     string   `json:"session_log"`
	WaitingSince   *float64 `json:"waiting_since"`
	CooldownUntil  *float64 `json:"cooldown_until"`
	WaitingReason  *string  `json:"waiting_reason"`
}

// presenceStates are the states that readers of presence files know.
var presenceStates = []string{
	"booting", "ready", "working", "thinking", "blocked", "dreaming", "suspended", "dying", "dead", "idle", "connecting",
	"registered", "disconnecting",
}

// agentOf returns the agent id of a session: the hub's own for the default
// session, one that follows from it for the others.
func (h *hub) agentOf(name string) string {
	if name == h.defaultSession() {
		return h.agentID
	}
	sum := sha256.Sum256([]byte(h.agentID + "/" + name))
	return hex.EncodeToString(sum[:6])
}

// keepPresence writes the presence files until the hub closes, when it removes
// them. Sessions without a socket have none.
func (h *hub) keepPresence() error {
	dir := h.opts.PresenceDir
	if dir == "" {
		return nil
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("presence dir: %w", err)
	}
	h.clearPresences()
	h.presenceMu.Lock()
	h.presenceOn = true
	h.presenceMu.Unlock()
	h.writePresences()
	h.background.Go(func() {
		t := time.NewTicker(heartbeat)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				h.writePresences()
			case <-h.ctx.Done():
				return
			}
		}
	})
	return nil
}

// clearPresences removes the files that a hub has left which was killed. They
// name sockets that are this hub's now, which answer: so clients of the native protocol
// would show every session once more for each of them.
func (h *hub) clearPresences() {
	entries, err := os.ReadDir(h.opts.PresenceDir)
	if err != nil || h.sessionDir == "" {
		return
	}
	for _, e := range entries {
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() || info.Size() > maxPresence || filepath.Ext(e.Name()) != ".json" {
			continue
		}
		path := filepath.Join(h.opts.PresenceDir, e.Name())
		text, err := os.ReadFile(path)
		var p presence
		if err == nil && json.Unmarshal(text, &p) == nil && filepath.Dir(p.SocketPath) == h.sessionDir {
			os.Remove(path)
		}
	}
}

func (h *hub) writePresences() {
	for _, s := range h.sessions.List() {
		h.writePresence(s)
	}
}

// writePresence writes the file of one session, whole or not at all.
func (h *hub) writePresence(s *session.Session) {
	h.presenceMu.Lock()
	defer h.presenceMu.Unlock()
	socket := h.socketOf(s.Name())
	if !h.presenceOn || socket == "" || s.Closed() {
		return
	}
	st := s.Status()
	if !slices.Contains(presenceStates, st.State) {
		st.State = "ready"
	}
	cwd, _ := os.Getwd()
	text, err := json.MarshalIndent(presence{
		AgentID: h.agentOf(s.Name()), Identity: s.Name(), PID: os.Getpid(), Project: cwd, SocketPath: socket, AgentName: s.Name(),
		StartedAt: seconds(s.Opened()), LastHeartbeat: seconds(time.Now()), State: st.State, CurrentTask: st.CurrentTask,
		Capabilities: []string{}, LaunchStrategy: "api",
	}, "", "  ")
	if err == nil {
		err = replace(h.presencePath(s.Name()), text)
	}
	if err != nil {
		h.log.Warn("presence file cannot be written", zap.String("session", s.Name()), zap.Error(err))
	}
}

// removePresence takes the file of a closed session away.
func (h *hub) removePresence(s *session.Session) {
	h.presenceMu.Lock()
	defer h.presenceMu.Unlock()
	if h.presenceOn {
		os.Remove(h.presencePath(s.Name()))
	}
}

func (h *hub) presencePath(name string) string {
	return filepath.Join(h.opts.PresenceDir, h.agentOf(name)+".json")
}

// socketOf returns the path of a session's own socket, "" when it has none.
func (h *hub) socketOf(name string) string {
	for _, l := range h.listening() {
		if l.session == name {
			return l.addr.path
		}
	}
	return ""
}

// replace puts a file in the place of another in one step.
func replace(path string, text []byte) (err error) {
	tmp := path[:len(path)-len(filepath.Ext(path))] + ".tmp"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(tmp, path)
	}
	if err != nil {
		os.Remove(tmp)
	}
	return err
}

// seconds is a time as the native protocol has it.
func seconds(t time.Time) float64 { return float64(t.UnixMicro()) / 1e6 }

package session

// Observer is the hub's view of sessions: metrics and logs. Its methods are
// called without locks, from any goroutine, and must not block.
type Observer interface {
	// Opened and Closed come once each per session.
	Opened(s *Session)
	Closed(s *Session)
	// Published comes for each event, with the length of its JSON text.
	Published(s *Session, bytes int)
	// Followed and Left come once each per follower.
	Followed(s *Session, f *Follower)
	Left(s *Session, f *Follower)
	// Dropped comes when a slow follower has lost n events.
	Dropped(s *Session, f *Follower, n uint64)
	// Evicted comes when a session has lost n of the events that it kept,
	// because all sessions together kept too much.
	Evicted(s *Session, n int)
	// Input comes for each input of a follower that was taken.
	Input(s *Session)
	// Prompt comes when a permission prompt ends: PromptAnswered,
	// PromptExpired or PromptWithdrawn.
	Prompt(s *Session, outcome string)
	// Message comes for each message; duplicate ones are dropped.
	Message(s *Session, duplicate bool)
}

// How permission prompts end.
const (
	PromptAnswered  = "answered"
	PromptExpired   = "expired"
	PromptWithdrawn = "withdrawn" // by its producer, by a newer prompt of the same id, or with the session
)

// nobody is the Observer of a registry that was given none.
type nobody struct{}

func (nobody) Opened(*Session)                     {}
func (nobody) Closed(*Session)                     {}
func (nobody) Published(*Session, int)             {}
func (nobody) Followed(*Session, *Follower)        {}
func (nobody) Left(*Session, *Follower)            {}
func (nobody) Dropped(*Session, *Follower, uint64) {}
func (nobody) Evicted(*Session, int)               {}
func (nobody) Input(*Session)                      {}
func (nobody) Prompt(*Session, string)             {}
func (nobody) Message(*Session, bool)              {}

package main

import (
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func newSession(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "session",
		Short: "List, read and end sessions, and call their methods",
		Long: `A session is a stream of events with a name, which "hubctl attach" follows and
"hubctl run" makes of a program. Beside the commands below, each method of the
service session is one: "hubctl session info NAME".`,
		Example: `  hubctl session ls
  hubctl session info build
  hubctl session logs build --tail 20 --follow
  hubctl session wait build
  hubctl session kill build
  hubctl session rm build`,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) == 0 {
				return cmd.Help()
			}
			return usageError{fmt.Sprintf("unknown command %q of \"hubctl session\"", args[0]), `"hubctl session --help" lists the commands`}
		},
	}
	cmd.AddCommand(newSessionList(a), newSessionLogs(a), newSessionSend(a), newSessionWait(a), newSessionKill(a), newSessionRemove(a))
	return cmd
}

// sessionInfo is a row of session.list.
type sessionInfo struct {
	Session, Title string
	Owner          *struct {
		Protocol string
		Peer     struct{ PID int }
	}
	Followers []struct{}
	Seq       uint64
	Last      *struct{ TS float64 } `json:"last_event"`
	Uptime    float64
	Ended     float64
	Exit      *programExit
}

func newSessionList(a *app) *cobra.Command {
	return &cobra.Command{
		Use:     "ls",
		Aliases: []string{"list"},
		Short:   "List the sessions",
		Long: `List the sessions: who produces them, how many follow, how many events there were
and how long ago the last one was. Those that have ended stay for a while.`,
		Example: `  hubctl session ls
  hubctl session ls -o json | jq -r '.[].session'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			text, err := callAll(cmd.Context(), c, "session.list", nil)
			if err != nil {
				return err
			}
			if f := a.formatOr(formatTable); f != formatTable {
				return a.printer(f).list(text)
			}
			var list []sessionInfo
			if err := json.Unmarshal(text, &list); err != nil {
				return fmt.Errorf("the hub's list of sessions is of another form: %w", err)
			}
			_, err = styled(a.out).Write(sessionsTable(list, time.Now(), a.coloured(), a.width()))
			return err
		},
	}
}

func sessionsTable(list []sessionInfo, now time.Time, color bool, width int) []byte {
	rows := make([][]string, len(list))
	for i, s := range list {
		owner, last := "none", "never"
		if s.Owner != nil {
			owner = s.Owner.Protocol
			if s.Owner.Peer.PID > 0 {
				owner = fmt.Sprintf("%s pid %d", owner, s.Owner.Peer.PID)
			}
		}
		if s.Ended > 0 {
			owner = s.Exit.String()
		}
		if s.Last != nil {
			last = age(max(0, float64(now.UnixMicro())/1e6-s.Last.TS)) + " ago"
		}
		rows[i] = []string{oneLine(s.Session), oneLine(owner), fmt.Sprint(len(s.Followers)), fmt.Sprint(s.Seq), last, age(s.Uptime),
			oneLine(strings.TrimSpace(s.Title))}
	}
	return appendGrid(nil, []string{"SESSION", "PRODUCER", "FOLLOWERS", "EVENTS", "LAST EVENT", "OPEN FOR", "TITLE"}, rows, color, width)
}

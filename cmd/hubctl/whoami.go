package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
)

func newWhoami(a *app) *cobra.Command {
	return &cobra.Command{
		Use:   "whoami",
		Short: "Show who the hub takes you for, and what you may do",
		Long: `Show who the hub takes the caller for, the scopes that this gives, and where they
come from: the place to look at when the hub does not allow something.`,
		Example: `  hubctl whoami
  hubctl whoami -o json | jq -r '.scopes[]'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := a.dial(cmd.Context())
			if err != nil {
				return err
			}
			result, err := c.CallRaw(cmd.Context(), "hub.whoami", nil)
			if err != nil {
				return err
			}
			if f := a.formatOr(formatTable); f != formatTable {
				return a.printer(f).print(result)
			}
			text, err := a.whoamiText(result)
			if err != nil {
				return err
			}
			_, err = a.out.Write(text)
			return err
		},
	}
}

// identity is the result of hub.whoami.
type identity struct {
	Peer, By, Name, User       string
	UID, PID                   *int
	Scopes, Methods            []string
	Source, Listener, Protocol string
	Expires                    *string
}

// who says in a few words who that is.
func (i identity) who() string {
	process := ""
	if i.UID != nil {
		process = fmt.Sprintf("user %d", *i.UID)
		if i.User != "" {
			process = "user " + i.User
		}
		if i.PID != nil {
			process += fmt.Sprintf(", process %d", *i.PID)
		}
	}
	switch {
	case i.By == "token" && process != "":
		return "the holder of the token " + i.Name + " (" + process + ")"
	case i.By == "token":
		return "the holder of the token " + i.Name
	case i.By == "certificate":
		return "the owner of the certificate " + i.Name
	case process != "":
		return process
	case len(i.Scopes) == 0:
		return "nobody: no token was presented"
	}
	return "nobody in particular: the listener asks nobody"
}

func (a *app) whoamiText(result json.RawMessage) ([]byte, error) {
	var i identity
	if err := json.Unmarshal(result, &i); err != nil {
		return nil, fmt.Errorf("the hub's answer is of another form: %w", err)
	}
	scopes, methods := strings.Join(i.Scopes, ", "), "all"
	if scopes == "" {
		scopes, methods = "none", "those that are open to everybody"
	}
	if len(i.Methods) > 0 {
		methods = strings.Join(i.Methods, ", ")
	}
	rows := [][]string{{"  scopes", oneLine(scopes)}, {"  methods", oneLine(methods)}}
	if i.Source != "" {
		rows = append(rows, []string{"  given by", oneLine(i.Source)})
	}
	if i.Expires != nil {
		rows = append(rows, []string{"  until", oneLine(*i.Expires)})
	}
	rows = append(rows, []string{"  listener", oneLine(i.Listener)})
	return appendGrid([]byte(oneLine(i.who())+"\n"), nil, rows, false, 0), nil
}

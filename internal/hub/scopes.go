package hub

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// parseScopes reads a list of NAME=SCOPES, scopes separated by commas.
func parseScopes(list []string, name func(string) error) (map[string]rpc.Scope, error) {
	m := map[string]rpc.Scope{}
	for _, entry := range list {
		i := strings.LastIndexByte(entry, '=')
		if i <= 0 {
			return nil, fmt.Errorf("%q: expected NAME=SCOPES", entry)
		}
		scopes, ok := rpc.ParseScope(entry[i+1:])
		if !ok {
			return nil, fmt.Errorf("%q: expected some of the scopes read,call,provide,admin", entry)
		}
		if err := name(entry[:i]); err != nil {
			return nil, fmt.Errorf("%q: %w", entry, err)
		}
		if m[entry[:i]] != 0 {
			return nil, fmt.Errorf("%q: the name is given twice", entry)
		}
		m[entry[:i]] = scopes
	}
	return m, nil
}

// parsePeers reads a list of USER=SCOPES and @GROUP=SCOPES, both by name or number.
func parsePeers(list []string) (uids, gids map[int]rpc.Scope, err error) {
	uids, gids = map[int]rpc.Scope{}, map[int]rpc.Scope{}
	ids := map[string]int{}
	scopes, err := parseScopes(list, func(name string) (err error) {
		if group, ok := strings.CutPrefix(name, "@"); ok {
			ids[name], err = groupID(group)
		} else {
			ids[name], err = userID(name)
		}
		return err
	})
	if err != nil {
		return nil, nil, err
	}
	for name, s := range scopes {
		if strings.HasPrefix(name, "@") {
			gids[ids[name]] |= s
		} else {
			uids[ids[name]] |= s
		}
	}
	return uids, gids, nil
}

// userID looks a user up by name or number.
func userID(name string) (int, error) {
	if n, err := strconv.ParseUint(name, 10, 31); err == nil {
		return int(n), nil
	}
	u, err := user.Lookup(name)
	if err != nil {
		return -1, errors.New("no user of that name")
	}
	return strconv.Atoi(u.Uid)
}

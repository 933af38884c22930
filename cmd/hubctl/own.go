package main

import (
	"context"
	"fmt"

	"github.com/hubd-dev/hubd/client"
)

// dialOwn is dial for a command of hubctl that relies on an optional service of
// the hub: what a client or a far server offers under its name is somebody
// else's, and gets neither files nor anything else from it.
func (a *app) dialOwn(ctx context.Context, service string) (*client.Client, error) {
	c, err := a.dial(ctx)
	if err != nil || a.own[service] {
		return c, err
	}
	list, err := a.serviceMethods(ctx, service)
	switch {
	case client.KindOf(err) == client.KindPermission:
		// A narrow token may not ask. The hub keeps the names of its services.
	case err != nil:
		return nil, err
	}
	for _, m := range list {
		if m.Provider != "" {
			return nil, hintedError{
				fmt.Errorf("the service %s is not the hub's: it is offered by %s%w", service, oneLine(m.Provider), silent{client.NoMethod(m.Name)}),
				fmt.Sprintf("hubctl %s trusts the hub alone; %q calls it all the same", service, "hubctl call "+m.Name),
			}
		}
	}
	if a.own == nil {
		a.own = map[string]bool{}
	}
	a.own[service] = true
	return c, nil
}

package statesvc_test

import (
	"testing"

	"github.com/hubd-dev/hubd/internal/statesvc"
	"github.com/hubd-dev/hubd/internal/statesvc/storetest"
)

func TestMemoryStore(t *testing.T) {
	storetest.Run(t, func(*testing.T) statesvc.Store { return statesvc.OpenMemory(statesvc.Options{}) })
}

func TestLogStore(t *testing.T) {
	storetest.Run(t, func(t *testing.T) statesvc.Store {
		s, err := statesvc.Open(t.TempDir(), statesvc.Options{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

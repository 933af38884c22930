package snekrpc

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// What a far command takes is told on as the remote tells it: clients check
// arguments by it before they send.
func TestParametersOfRemotesAreToldAsTheyAre(t *testing.T) {
	const text = `[
		{"name":"a","doc":"the first","kind":0,"annotation":"int","default":null,"has_default":false,"hide":false},
		{"name":"b","doc":null,"kind":1,"annotation":null,"default":[1,"x"],"has_default":true,"hide":false},
		{"name":"args","doc":"more","kind":2,"annotation":"str","default":null,"has_default":false,"hide":false},
		{"name":"only","doc":null,"kind":3,"annotation":null,"default":null,"has_default":false,"hide":false},
		{"name":"kwargs","doc":null,"kind":4,"annotation":null,"default":null,"has_default":false,"hide":false}]`
	client, err := NewClient(ClientConfig{URL: "tcp://127.0.0.1:1"})
	if err != nil {
		t.Fatal(err)
	}
	r := &Remote{cfg: RemoteConfig{Alias: "far", Service: "x", Client: client}}
	var spec serviceSpec
	if err := json.Unmarshal([]byte(`{"name":"x","doc":null,"commands":[{"name":"f","doc":null,"parameters":[],"return_annotation":null,"is_generator":false}]}`), &spec); err != nil {
		t.Fatal(err)
	}
	v, err := rpc.Parse([]byte(text))
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Unmarshal(&spec.Commands[0].Parameters); err != nil {
		t.Fatal(err)
	}
	rows := r.build(&spec, map[string]*far{})
	var got struct{ Parameters any }
	if err := json.Unmarshal(appendCommandSpec(nil, "f", rows[0]), &got); err != nil {
		t.Fatal(err)
	}
	var want any
	if err := json.Unmarshal([]byte(text), &want); err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got.Parameters, want) {
		t.Errorf("got %v\nwant %v", got.Parameters, want)
	}
}

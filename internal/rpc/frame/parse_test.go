package frame

import "testing"

func BenchmarkParseRequest(b *testing.B) {
	line := []byte(`{"action":"rpc_request","request_id":"0123456789abcdef0123456789abcdef","method":"echo","params":{"text":"xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx","n":1},"timeout":30.0}`)
	var f Frame
	b.ReportAllocs()
	for b.Loop() {
		if err := Parse(line, &f); err != nil {
			b.Fatal(err)
		}
		if string(f.MethodName()) != "echo" {
			b.Fatal("method")
		}
	}
}

package rpc

import (
	"bytes"
	"io"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// countingFile counts what is read of it, and whether it was closed.
type countingFile struct {
	io.Reader
	read   atomic.Int64
	closed atomic.Int64
}

func (f *countingFile) Read(p []byte) (int, error) {
	n, err := f.Reader.Read(p)
	f.read.Add(int64(n))
	return n, err
}

func (f *countingFile) Close() error { f.closed.Add(1); return nil }

// A file is read as it is taken: only so much lies between.
func TestFileIsNotReadAhead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 8 << 20
		src := &countingFile{Reader: bytes.NewReader(make([]byte, size))}
		r, err := (&File{Open: func() (io.ReadCloser, error) { return src, nil }}).Stream()
		if err != nil {
			t.Fatal(err)
		}
		taken := 0
		for {
			v, more, err := r.Recv(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if !more {
				break
			}
			data, _ := v.AsBytes()
			taken += len(data)
			synctest.Wait() // it reads no more by itself
			if ahead := int(src.read.Load()) - taken; ahead > fileAhead+FilePiece {
				t.Fatalf("%d bytes were read ahead", ahead)
			}
		}
		if taken != size || src.closed.Load() != 1 {
			t.Errorf("%d bytes were taken, the file was closed %d times", taken, src.closed.Load())
		}
	})
}

// Who gives up lets the file go, also while it waits for room.
func TestFileIsClosedWhenGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		src := &countingFile{Reader: bytes.NewReader(make([]byte, 8<<20))}
		r, err := (&File{Open: func() (io.ReadCloser, error) { return src, nil }}).Stream()
		if err != nil {
			t.Fatal(err)
		}
		if _, _, err := r.Recv(t.Context()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		r.Close(ErrCancelled)
		synctest.Wait()
		if src.closed.Load() != 1 {
			t.Errorf("the file was closed %d times", src.closed.Load())
		}
	})
}

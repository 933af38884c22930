package rpc

import (
	"io"
	"sync"
)

// FilePiece is the size of the items of a stream that is read from a file.
const FilePiece = 32 << 10

// fileAhead bounds the bytes that are read ahead of who takes them.
const fileAhead = 256 << 10

// Stream returns the content of f as a stream of Bytes of FilePiece each. It is
// read as it is wanted, by a goroutine that exists while there is credit.
func (f *File) Stream() (*Reader, error) {
	src, err := f.Open()
	if err != nil {
		return nil, err
	}
	p := &filePump{src: src}
	p.to = NewReader(p)
	return p.to, nil
}

// filePump is the Source of a stream that is read from a file.
type filePump struct {
	src io.ReadCloser
	to  *Reader

	mu      sync.Mutex
	credit  int
	running bool
	stopped bool // src is closed, or will be by the goroutine that runs
}

// Grant reads on.
func (p *filePump) Grant(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.credit += n
	if p.running || p.stopped || p.credit <= 0 {
		return
	}
	p.running = true
	go p.run()
}

// Stop closes the file.
func (p *filePump) Stop(*Error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped {
		return
	}
	p.stopped = true
	if !p.running {
		p.src.Close()
	}
}

func (p *filePump) run() {
	for {
		p.mu.Lock()
		if p.stopped {
			p.running = false
			p.src.Close()
			p.mu.Unlock()
			return
		}
		if p.credit == 0 {
			p.running = false
			p.mu.Unlock()
			return
		}
		p.credit--
		p.mu.Unlock()
		piece := make([]byte, FilePiece)
		n, err := io.ReadFull(p.src, piece)
		if n > 0 {
			p.to.Item(Soon, TreeValue(Bytes{Data: piece[:n]}))
			room := make(chan struct{})
			p.to.OnRoom(fileAhead, func() { close(room) })
			<-room // also when nobody reads any more
		}
		if err == nil {
			continue
		}
		p.Stop(nil)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			p.to.End(Soon, nil)
		} else {
			p.to.End(Soon, &Error{Code: CodeInternal, Message: "internal error", cause: err})
		}
	}
}

package filesvc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"io"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// span is a part of a file.
type span struct {
	offset, length int64
}

// part checks what a client wants of a file. What lies behind its end is empty.
func part(offset int64, length *int64) (span, error) {
	s := span{offset, 1<<63 - 1}
	if length != nil {
		s.length = *length
	}
	if s.offset < 0 || s.length < 0 {
		return span{}, rpc.Errorf(rpc.CodeInvalidParams, "offset and length are not negative")
	}
	s.length = min(s.length, 1<<63-1-s.offset)
	return s, nil
}

func (s *Service) download(ctx context.Context, in struct {
	SrcPath string `rpc:"src_path" doc:"the file"`
	Offset  int64  `rpc:"offset,unlisted" default:"0" doc:"where to begin, in bytes"`
	Length  *int64 `rpc:"length,unlisted" doc:"how many bytes; to the end if not given"`
}, send func([]byte) error) error {
	part, err := part(in.Offset, in.Length)
	if err != nil {
		return err
	}
	if err := s.enter(); err != nil {
		return err
	}
	defer s.leave()
	f, err := s.open(in.SrcPath)
	if err != nil {
		return err
	}
	defer f.Close()
	src := io.NewSectionReader(f, part.offset, part.length)
	for {
		buf := make([]byte, piece) // whoever carries it keeps it
		n, err := io.ReadFull(src, buf)
		if n > 0 {
			if err := send(buf[:n]); err != nil {
				return err
			}
		}
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return nil
		}
		if err != nil {
			return failed(err, in.SrcPath)
		}
	}
}

func (s *Service) sha256(ctx context.Context, in struct {
	Path   string `rpc:"path" doc:"the file"`
	Offset int64  `rpc:"offset,unlisted" default:"0" doc:"where to begin, in bytes"`
	Length *int64 `rpc:"length,unlisted" doc:"how many bytes; to the end if not given"`
}) (string, error) {
	part, err := part(in.Offset, in.Length)
	if err != nil {
		return "", err
	}
	if err := s.enter(); err != nil {
		return "", err
	}
	defer s.leave()
	f, err := s.open(in.Path)
	if err != nil {
		return "", err
	}
	defer f.Close()
	sum := sha256.New()
	src := io.NewSectionReader(f, part.offset, part.length)
	buf := make([]byte, 256<<10)
	for {
		n, err := src.Read(buf)
		sum.Write(buf[:n])
		if err == io.EOF {
			return hex.EncodeToString(sum.Sum(nil)), nil
		}
		if err != nil {
			return "", failed(err, in.Path)
		}
		if err := ctx.Err(); err != nil {
			return "", err
		}
	}
}

package filesvc

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"hash"
	"path"
	"strings"
	"syscall"

	"github.com/hubd-dev/hubd/internal/rpc"
)

func (s *Service) upload(ctx context.Context, in struct {
	Src     *rpc.Reader `rpc:"src" doc:"the content"`
	DstPath string      `rpc:"dst_path" doc:"the file; what is there is replaced"`
	SHA256  *string     `rpc:"sha256,unlisted" doc:"what the content must have as its SHA-256"`
	Size    *int64      `rpc:"size,unlisted" doc:"how many bytes the content must have"`
}) (string, error) {
	dst, err := s.resolve(in.DstPath, true)
	if err != nil {
		return "", err
	}
	if dst == "." || strings.HasSuffix(in.DstPath, "/") {
		return "", failed(syscall.EISDIR, in.DstPath)
	}
	if in.Size != nil {
		if *in.Size > s.maxUpload {
			return "", s.tooLarge()
		}
		if s.quota != nil && *in.Size > 0 {
			if err := s.refused(s.quota.fits(ctx, charge(*in.Size))); err != nil { // before anything is sent in vain
				return "", err
			}
		}
	}
	if err := s.enter(); err != nil {
		return "", err
	}
	defer s.leave()
	// The first item is waited for before the disk is: from then on the sender
	// knows how far it may run ahead.
	v, more, err := in.Src.Recv(ctx)
	if err != nil {
		return "", err
	}
	dir, name := path.Split(dst)
	t, err := s.create(path.Clean("./" + dir))
	if err != nil {
		return "", failed(err, in.DstPath)
	}
	defer t.close()
	if err := t.keepMode(name); err != nil { // before anything is sent in vain
		return "", failed(err, in.DstPath)
	}
	room := claim{q: s.quota}
	defer room.release()
	if err := s.refused(room.grow(ctx, 0)); err != nil {
		return "", err
	}
	var sum hash.Hash
	if in.SHA256 != nil {
		sum = sha256.New()
	}
	var size int64
	for ; more; v, more, err = in.Src.Recv(ctx) {
		data, err := v.AsBytes()
		if err != nil {
			return "", rpc.Errorf(rpc.CodeInvalidParams, "stream item: %v", err)
		}
		if size += int64(len(data)); size > s.maxUpload {
			return "", s.tooLarge()
		}
		if err := s.refused(room.grow(ctx, size)); err != nil {
			return "", err
		}
		if _, err := t.f.Write(data); err != nil {
			return "", failed(err, in.DstPath)
		}
		if sum != nil {
			sum.Write(data)
		}
	}
	if err != nil {
		return "", err
	}
	if in.Size != nil && size != *in.Size {
		return "", rpc.HandlerError("ValueError", "the content does not have the size that was announced")
	}
	if sum != nil && !strings.EqualFold(hex.EncodeToString(sum.Sum(nil)), *in.SHA256) {
		return "", rpc.HandlerError("ValueError", "the content does not have the SHA-256 that was announced")
	}
	if err := ctx.Err(); err != nil { // cancelled while the last item was written
		return "", err
	}
	if err := t.commit(name, &room, size); err != nil {
		return "", failed(err, in.DstPath)
	}
	return dst, nil
}

func (s *Service) tooLarge() error {
	s.onLimit(LimitUpload)
	return rpc.Errorf(rpc.CodeTooLarge, "a file may have at most %d bytes", s.maxUpload)
}

// refused passes an error of the quota on, and tells of it.
func (s *Service) refused(err error) error {
	if errors.Is(err, errQuota) {
		s.onLimit(LimitQuota)
	}
	return err
}

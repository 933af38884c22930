package demo

import (
	"crypto/sha256"
	"encoding/hex"
	"io"

	"github.com/hubd-dev/hubd/internal/rpc"
)

// described is what demo.file_info says of a file.
type described struct {
	Name   *string `json:"name"`
	Size   int64   `json:"size"`
	SHA256 string  `json:"sha256"`
}

// fileInfos describes the files among the arguments, in their order, and
// ignores all else. A file never comes to be in memory as a whole.
func fileInfos(c *rpc.Call) (rpc.Value, error) {
	if c.Protocol != rpc.Krpc {
		return rpc.Value{}, rpc.Errorf(rpc.CodeInvalidParams, "files can only be passed over krpc")
	}
	files := []described{}
	add := func(v rpc.Value) error {
		f, ok := v.Tree().(*rpc.File)
		if !ok {
			return nil
		}
		info, err := fileInfo(c, f)
		files = append(files, info)
		return err
	}
	for v := range c.Args.List() {
		if err := add(v); err != nil {
			return rpc.Value{}, err
		}
	}
	for _, v := range c.Args.ByName() {
		if err := add(v); err != nil {
			return rpc.Value{}, err
		}
	}
	return rpc.Encode(files)
}

func fileInfo(c *rpc.Call, f *rpc.File) (described, error) {
	r, err := f.Open()
	if err != nil {
		return described{}, err
	}
	defer r.Close()
	sum := sha256.New()
	buf := make([]byte, 256<<10)
	var size int64
	for {
		n, err := r.Read(buf)
		sum.Write(buf[:n])
		size += int64(n)
		if err == io.EOF {
			break
		}
		if err == nil {
			err = c.Err() // nobody waits any more
		}
		if err != nil {
			return described{}, err
		}
	}
	info := described{Size: size, SHA256: hex.EncodeToString(sum.Sum(nil))}
	if f.Name != "" {
		info.Name = &f.Name
	}
	return info, nil
}

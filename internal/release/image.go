package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// An image for containers, without a container engine: the layout of OCI images
// in a tar file, with the list that docker load wants beside it. Its one layer
// has the programs, a user, and the folders which that user writes to.

const (
	mediaIndex    = "application/vnd.oci.image.index.v1+json"
	mediaManifest = "application/vnd.oci.image.manifest.v1+json"
	mediaConfig   = "application/vnd.oci.image.config.v1+json"
	mediaLayer    = "application/vnd.oci.image.layer.v1.tar+gzip"
)

// containerUser is who the hub runs as in a container; Containerfile names it too.
const containerUser = 65532

type descriptor struct {
	MediaType   string            `json:"mediaType"`
	Digest      string            `json:"digest"`
	Size        int               `json:"size"`
	Platform    *platform         `json:"platform,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type platform struct {
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	Variant      string `json:"variant,omitempty"`
}

type imageConfig struct {
	platform
	Created time.Time      `json:"created"`
	Config  imageSettings  `json:"config"`
	RootFS  imageRootFS    `json:"rootfs"`
	History []imageHistory `json:"history"`
}

// imageSettings is what a Containerfile says about how an image runs.
type imageSettings struct {
	User       string              `json:"User,omitempty"`
	Env        []string            `json:"Env,omitempty"`
	Entrypoint []string            `json:"Entrypoint,omitempty"`
	Volumes    map[string]struct{} `json:"Volumes,omitempty"`
	Labels     map[string]string   `json:"Labels,omitempty"`
	StopSignal string              `json:"StopSignal,omitempty"`
}

type imageRootFS struct {
	Type    string   `json:"type"`
	DiffIDs []string `json:"diff_ids"`
}

type imageHistory struct {
	Created   time.Time `json:"created"`
	CreatedBy string    `json:"created_by"`
}

// image writes hubd_VERSION_linux_ARCH.image.tar, and its layer as .rootfs.tar.gz
// for those who build their own.
func (r *release) image(t tree) error {
	plain, err := r.layer(t)
	if err != nil {
		return err
	}
	layer := compressed(plain)
	name := filepath.Join(r.out, fmt.Sprintf("hubd_%s_linux_%s", r.version, t.arch))
	if err := os.WriteFile(name+".rootfs.tar.gz", layer, 0o644); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join("deploy", "container", "Containerfile"))
	if err != nil {
		return fmt.Errorf("%w (to be run in the root of the project)", err)
	}
	settings, err := readContainerfile(string(text))
	if err != nil {
		return err
	}
	settings.Labels["org.opencontainers.image.version"] = r.version
	if r.commit != "" {
		settings.Labels["org.opencontainers.image.revision"] = r.commit
	}
	files := map[string][]byte{"oci-layout": []byte(`{"imageLayoutVersion":"1.0.0"}`)}
	blob := func(media string, text []byte) descriptor {
		sum := sumOfBytes(text)
		files["blobs/sha256/"+sum] = text
		return descriptor{MediaType: media, Digest: "sha256:" + sum, Size: len(text)}
	}
	encode := func(v any) []byte {
		text, _ := json.Marshal(v) // of types that can be
		return text
	}
	where := platform{Architecture: t.arch, OS: "linux"}
	if t.arch == "arm64" {
		where.Variant = "v8"
	}
	config := blob(mediaConfig, encode(imageConfig{
		platform: where, Created: r.date, Config: *settings,
		RootFS:  imageRootFS{"layers", []string{"sha256:" + sumOfBytes(plain)}},
		History: []imageHistory{{r.date, "hubd " + r.version}},
	}))
	layers := []descriptor{blob(mediaLayer, layer)}
	manifest := blob(mediaManifest, encode(map[string]any{
		"schemaVersion": 2, "mediaType": mediaManifest, "config": config, "layers": layers,
	}))
	tag := strings.NewReplacer("~", "-", "+", "-").Replace(r.version)
	manifest.Platform = &where
	manifest.Annotations = map[string]string{
		"org.opencontainers.image.ref.name": tag, "io.containerd.image.name": "localhost/hubd:" + tag,
	}
	files["index.json"] = encode(map[string]any{
		"schemaVersion": 2, "mediaType": mediaIndex, "manifests": []descriptor{manifest},
	})
	files["manifest.json"] = encode([]map[string]any{{ // of docker save
		"Config": blobPath(config), "RepoTags": []string{"localhost/hubd:" + tag}, "Layers": []string{blobPath(layers[0])},
	}})
	a := archiver{date: r.date}
	for _, path := range sortedKeys(files) {
		a.file(path, files[path], 0o644, 0)
	}
	archive, err := a.bytes()
	if err != nil {
		return err
	}
	return os.WriteFile(name+".image.tar", archive, 0o644)
}

func blobPath(d descriptor) string { return "blobs/sha256/" + strings.TrimPrefix(d.Digest, "sha256:") }

// layer is the file system of a container, as a tar file.
func (r *release) layer(t tree) ([]byte, error) {
	user := fmt.Sprintf("hubd:x:%d:%[1]d:hubd RPC and state hub:/var/lib/hubd:/sbin/nologin\n", containerUser)
	group := fmt.Sprintf("hubd:x:%d:\n", containerUser)
	a := archiver{date: r.date}
	for _, folder := range []string{"etc", "etc/hubd", "etc/hubd/conf.d", "run", "usr", "usr/bin", "usr/share", "usr/share/doc", "usr/share/doc/hubd", "var", "var/lib"} {
		a.folder(folder, 0o755, 0)
	}
	a.folder("tmp", 0o777|os.ModeSticky, 0)
	a.folder("run/hubd", 0o755, containerUser)
	a.folder("var/lib/hubd", 0o700, containerUser)
	a.file("etc/passwd", []byte("root:x:0:0:root:/:/sbin/nologin\n"+user), 0o644, 0)
	a.file("etc/group", []byte("root:x:0:\n"+group), 0o644, 0)
	for _, path := range []string{"usr/bin/hubctl", "usr/bin/hubd", "usr/share/doc/hubd/copyright"} {
		text, err := os.ReadFile(t.path(path))
		if err != nil {
			return nil, err
		}
		a.file(path, text, modeOf(path), 0)
	}
	return a.bytes()
}

// readContainerfile reads the instructions behind ADD that say how an image
// runs. It knows the forms that ours has and refuses all others.
func readContainerfile(text string) (*imageSettings, error) {
	s := &imageSettings{Volumes: map[string]struct{}{}, Labels: map[string]string{}}
	_, text, found := strings.Cut(text, "\nADD ")
	if !found {
		return nil, errors.New("deploy/container/Containerfile: no ADD")
	}
	_, text, _ = strings.Cut(text, "\n")
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if line == "" || line[0] == '#' {
			continue
		}
		what, rest, _ := strings.Cut(line, " ")
		var err error
		switch what {
		case "USER":
			s.User = rest
		case "STOPSIGNAL":
			s.StopSignal = rest
		case "ENV", "LABEL":
			name, quoted, _ := strings.Cut(rest, "=")
			var value string
			err = json.Unmarshal([]byte(quoted), &value)
			if what == "ENV" {
				s.Env = append(s.Env, name+"="+value)
			} else {
				s.Labels[name] = value
			}
		case "ENTRYPOINT":
			err = json.Unmarshal([]byte(rest), &s.Entrypoint)
		case "VOLUME":
			var paths []string
			err = json.Unmarshal([]byte(rest), &paths)
			for _, p := range paths {
				s.Volumes[p] = struct{}{}
			}
		default:
			err = errors.New("unknown instruction")
		}
		if err != nil {
			return nil, fmt.Errorf("deploy/container/Containerfile: %q: %w", line, err)
		}
	}
	return s, nil
}

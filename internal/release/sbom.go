package main

import (
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// A bill of materials in CycloneDX 1.5, as much of it as a Go program knows of
// itself: the modules that are linked in, with the hashes of their zip files.

type bill struct {
	BOMFormat    string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	Version      int          `json:"version"`
	Metadata     billMetadata `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type billMetadata struct {
	Timestamp string    `json:"timestamp"`
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version"`
	PURL       string     `json:"purl"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Alg     string `json:"alg"`
	Content string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

// bills writes one bill for each program of t.
func (r *release) bills(t tree) error {
	for _, program := range t.programs() {
		path := t.path("usr/bin/" + program)
		b, err := billOf(path, r.version, r.date)
		if err != nil {
			return err
		}
		text, err := json.MarshalIndent(b, "", "  ")
		if err != nil {
			return err
		}
		name := fmt.Sprintf("%s_%s_%s_%s.cdx.json", program, r.version, t.goos, t.arch)
		if err := os.WriteFile(filepath.Join(r.out, name), append(text, '\n'), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// billOf reads what is linked into the program at path.
func billOf(path, version string, date time.Time) (*bill, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return nil, err
	}
	sum, err := sumOf(path)
	if err != nil {
		return nil, err
	}
	root := component{
		Type: "application", Name: filepath.Base(path), Version: version, PURL: moduleURL(info.Main.Path, "v"+version),
		Hashes: []hash{{"SHA-256", sum}},
	}
	root.Ref = root.PURL + "#" + strings.TrimPrefix(info.Path, info.Main.Path+"/")
	for _, s := range info.Settings {
		switch s.Key {
		case "CGO_ENABLED", "GOARCH", "GOOS", "-trimpath":
			root.Properties = append(root.Properties, property{"go:" + s.Key, s.Value})
		}
	}
	goVersion := strings.TrimPrefix(info.GoVersion, "go")
	list := []component{{
		Type: "library", Ref: moduleURL("std", goVersion), Name: "std", Version: goVersion, PURL: moduleURL("std", goVersion),
	}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c := component{Type: "library", Name: m.Path, Version: m.Version, PURL: moduleURL(m.Path, m.Version)}
		c.Ref = c.PURL
		if sum := hashOf(m.Sum); sum != "" {
			c.Hashes = []hash{{"SHA-256", sum}}
		}
		list = append(list, c)
	}
	b := &bill{
		BOMFormat: "CycloneDX", SpecVersion: "1.5", Version: 1,
		Metadata:   billMetadata{Timestamp: date.Format(time.RFC3339), Component: root},
		Components: list,
	}
	all := dependency{Ref: root.Ref, DependsOn: []string{}}
	for _, c := range list {
		all.DependsOn = append(all.DependsOn, c.Ref)
	}
	b.Dependencies = []dependency{all}
	return b, nil
}

// moduleURL is the package URL of a module.
func moduleURL(path, version string) string { return "pkg:golang/" + path + "@" + version }

// hashOf is the SHA-256 of the list of the hashes of a module's files in hex,
// which go.sum calls h1 and writes in base64; "" if sum is none.
func hashOf(sum string) string {
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(sum, "h1:"))
	if err != nil || len(raw) != 32 {
		return ""
	}
	return hex.EncodeToString(raw)
}

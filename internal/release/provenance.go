package main

import (
	"debug/buildinfo"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
)

// Where the files come from: a statement of in-toto with the predicate of SLSA,
// version 1. It is not signed; docs/operations.md says how to do that. It has no
// times and no name of a machine, so that a second build gives the same.

const repository = "https://github.com/hubd-dev/hubd"

type statement struct {
	Type          string     `json:"_type"`
	Subject       []resource `json:"subject"`
	PredicateType string     `json:"predicateType"`
	Predicate     provenance `json:"predicate"`
}

type resource struct {
	Name        string            `json:"name,omitempty"`
	URI         string            `json:"uri,omitempty"`
	Digest      map[string]string `json:"digest,omitempty"`
	Annotations map[string]any    `json:"annotations,omitempty"`
}

type provenance struct {
	Definition buildDefinition `json:"buildDefinition"`
	Run        runDetails      `json:"runDetails"`
}

type buildDefinition struct {
	Type         string         `json:"buildType"`
	External     map[string]any `json:"externalParameters"`
	Internal     map[string]any `json:"internalParameters,omitempty"`
	Dependencies []resource     `json:"resolvedDependencies"`
}

type runDetails struct {
	Builder struct {
		ID      string            `json:"id"`
		Version map[string]string `json:"version,omitempty"`
	} `json:"builder"`
}

// provenance writes hubd_VERSION.provenance.json about all files that there are
// so far, which were made of the programs of trees.
func (r *release) provenance(trees []tree) error {
	sums, err := r.sums()
	if err != nil {
		return err
	}
	s := statement{Type: "https://in-toto.io/Statement/v1", PredicateType: "https://slsa.dev/provenance/v1"}
	for _, name := range sortedKeys(sums) {
		s.Subject = append(s.Subject, resource{Name: name, Digest: map[string]string{"sha256": sums[name]}})
	}
	modules, goVersion, err := modulesOf(trees)
	if err != nil {
		return err
	}
	source := resource{URI: "git+" + repository}
	if r.commit != "" {
		source.Digest = map[string]string{"gitCommit": r.commit}
		if r.dirty { // the commit is not the whole truth
			source.Annotations = map[string]any{"modified": true}
		}
	}
	var targets []string
	for _, t := range trees {
		targets = append(targets, t.goos+"/"+t.arch)
	}
	s.Predicate.Definition = buildDefinition{
		Type: repository + "/tree/main/internal/release",
		External: map[string]any{
			"repository": repository, "version": r.version, "targets": targets, "formats": r.formats,
		},
		Internal:     map[string]any{"sourceDateEpoch": r.date.Unix(), "nfpm": nfpm, "cgo": false, "trimpath": true},
		Dependencies: append([]resource{source}, modules...),
	}
	s.Predicate.Run.Builder.ID = r.builder
	s.Predicate.Run.Builder.Version = map[string]string{"go": goVersion}
	text, err := json.MarshalIndent(s, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.out, "hubd_"+r.version+".provenance.json"), append(text, '\n'), 0o644)
}

// modulesOf lists the modules that are linked into any program of trees, and
// what they were compiled with.
func modulesOf(trees []tree) (list []resource, goVersion string, err error) {
	found := map[string]resource{}
	for _, t := range trees {
		for _, program := range t.programs() {
			info, err := buildinfo.ReadFile(t.path("usr/bin/" + program))
			if err != nil {
				return nil, "", err
			}
			goVersion = info.GoVersion
			for _, m := range info.Deps {
				if m.Replace != nil {
					m = m.Replace
				}
				uri := moduleURL(m.Path, m.Version)
				found[uri] = resource{URI: uri, Digest: map[string]string{"dirHash": hashOf(m.Sum)}}
			}
		}
	}
	for _, uri := range sortedKeys(found) {
		list = append(list, found[uri])
	}
	return list, goVersion, nil
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

// Sbom prints a binary's bill of materials, as CycloneDX 1.5 in JSON: every Go module that was compiled into it, and the
// Go release. It reads what the Go linker wrote into the binary, so it says what is there and not what a lock file hopes.
// The same binary gives the same bytes.
//
//	go run ./deploy/sbom BINARY VERSION
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime/debug"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

// bom is the part of CycloneDX that is needed: https://cyclonedx.org/docs/1.5/json/
type bom struct {
	Format       string       `json:"bomFormat"`
	SpecVersion  string       `json:"specVersion"`
	SerialNumber string       `json:"serialNumber"`
	Version      int          `json:"version"`
	Metadata     metadata     `json:"metadata"`
	Components   []component  `json:"components"`
	Dependencies []dependency `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Hashes     []digest   `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type digest struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref       string   `json:"ref"`
	DependsOn []string `json:"dependsOn"`
}

func run(args []string, out io.Writer) error {
	if len(args) != 2 {
		return fmt.Errorf("want a binary and its version, got %q", args)
	}
	content, err := os.ReadFile(args[0])
	if err != nil {
		return err
	}
	info, err := buildinfo.ReadFile(args[0])
	if err != nil {
		return fmt.Errorf("reading the build information of %s: %w", args[0], err)
	}
	encoder := json.NewEncoder(out)
	encoder.SetIndent("", "  ")
	return encoder.Encode(bill(info, args[1], sha256.Sum256(content)))
}

// bill lists the binary, its modules and the standard library.
func bill(info *debug.BuildInfo, version string, sum [sha256.Size]byte) bom {
	program := component{
		Type: "application", Ref: "binary", Name: "hourgate", Version: version,
		PURL:   "pkg:golang/" + info.Main.Path + "@" + version,
		Hashes: []digest{{"SHA-256", hex.EncodeToString(sum[:])}},
	}
	for _, setting := range info.Settings {
		program.Properties = append(program.Properties, property{"go:" + setting.Key, setting.Value})
	}
	std := strings.TrimPrefix(info.GoVersion, "go")
	components := []component{{Type: "library", Ref: "std", Name: "std", Version: std, PURL: "pkg:golang/std@" + std}}
	for _, module := range info.Deps {
		if module.Replace != nil {
			module = module.Replace
		}
		purl := "pkg:golang/" + module.Path + "@" + module.Version
		components = append(components, component{
			Type: "library", Ref: purl, Name: module.Path, Version: module.Version, PURL: purl,
			// The checksum database's sum of the module's files, as in go.sum. It is no hash of one file, so it is no "hash" here.
			Properties: []property{{"go:sum", module.Sum}},
		})
	}
	all := dependency{Ref: program.Ref, DependsOn: []string{}}
	for _, c := range components {
		all.DependsOn = append(all.DependsOn, c.Ref)
	}
	return bom{
		Format: "CycloneDX", SpecVersion: "1.5", SerialNumber: serial(sum), Version: 1,
		Metadata: metadata{program}, Components: components, Dependencies: []dependency{all},
	}
}

// serial is a UUID of version 8, which is for values of one's own making, of the binary's hash.
func serial(sum [sha256.Size]byte) string {
	id := sum[:16]
	id[6] = id[6]&0x0f | 0x80
	id[8] = id[8]&0x3f | 0x80
	return fmt.Sprintf("urn:uuid:%x-%x-%x-%x-%x", id[:4], id[4:6], id[6:8], id[8:10], id[10:])
}

package main

import (
	"bytes"
	"debug/buildinfo"
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
)

// TestBillListsEveryModule reads the bill of this test's own binary and compares it with what Go says is in there.
func TestBillListsEveryModule(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	var first, second bytes.Buffer
	if err := run([]string{self, "v1.2.3"}, &first); err != nil {
		t.Fatal(err)
	}
	if err := run([]string{self, "v1.2.3"}, &second); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("the same binary gave two bills")
	}
	var got bom
	if err := json.Unmarshal(first.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	info, err := buildinfo.ReadFile(self)
	if err != nil {
		t.Fatal(err)
	}
	want := []string{"pkg:golang/std@" + strings.TrimPrefix(info.GoVersion, "go")}
	for _, module := range info.Deps {
		want = append(want, "pkg:golang/"+module.Path+"@"+module.Version)
	}
	var listed []string
	for _, c := range got.Components {
		listed = append(listed, c.PURL)
	}
	if !slices.Equal(listed, want) {
		t.Errorf("got %q, want %q", listed, want)
	}
	if got.Format != "CycloneDX" || got.SpecVersion != "1.5" || got.Metadata.Component.Version != "v1.2.3" || len(got.Metadata.Component.Hashes) != 1 {
		t.Errorf("got %+v", got.Metadata)
	}
	if len(got.SerialNumber) != len("urn:uuid:")+36 {
		t.Errorf("serial number %q is no UUID", got.SerialNumber)
	}
}

func TestBillOfWhatIsNoBinary(t *testing.T) {
	err := run([]string{"main.go", "v1.2.3"}, &bytes.Buffer{})
	if err == nil || !strings.Contains(err.Error(), "main.go") {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

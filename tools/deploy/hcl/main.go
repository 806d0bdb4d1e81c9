// Hcl checks that Terraform files parse and are laid out as `terraform fmt` does.
//
//	go -C tools/deploy run ./hcl FILE...
package main

import (
	"bytes"
	"fmt"
	"os"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
)

func main() {
	bad := false
	for _, file := range os.Args[1:] {
		if err := check(file); err != nil {
			fmt.Fprintln(os.Stderr, "hcl:", err)
			bad = true
		}
	}
	if bad || len(os.Args) < 2 {
		os.Exit(1)
	}
}

func check(file string) error {
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	if _, problems := hclsyntax.ParseConfig(content, file, hcl.InitialPos); problems.HasErrors() {
		return problems
	}
	if !bytes.Equal(hclwrite.Format(content), content) {
		return fmt.Errorf("%s is not as terraform fmt would have it", file)
	}
	return nil
}

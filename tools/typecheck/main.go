// Typecheck checks that a module and its tests can be compiled for another system, without compiling anything: the packages that
// they import are read from source as well, and only their declarations. That takes a tenth of the time that `go vet` takes, which
// compiles them all.
//
//	typecheck GOOS FOLDER
package main

import (
	"fmt"
	"os"

	"golang.org/x/tools/go/packages"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: typecheck GOOS FOLDER")
		os.Exit(2)
	}
	goos, folder := os.Args[1], os.Args[2]
	found, err := packages.Load(&packages.Config{
		Mode: packages.NeedName | packages.NeedFiles | packages.NeedCompiledGoFiles | packages.NeedImports | packages.NeedDeps |
			packages.NeedTypes | packages.NeedTypesInfo | packages.NeedTypesSizes | packages.NeedSyntax,
		Dir:   folder,
		Env:   append(os.Environ(), "GOOS="+goos, "CGO_ENABLED=0", "GOWORK=off"),
		Tests: true,
	}, "./...")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	if len(found) == 0 {
		fmt.Fprintf(os.Stderr, "no packages in %s\n", folder)
		os.Exit(2)
	}
	if packages.PrintErrors(found) > 0 {
		os.Exit(1)
	}
	fmt.Printf("%d packages and tests can be compiled for %s\n", len(found), goos)
}

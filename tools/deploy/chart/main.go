// Chart lints the Helm chart, renders it, and reads what comes out as strictly as a Kubernetes API server does.
//
//	go -C tools/deploy run ./chart CHART VALUES...        with each file of values, one after the other
//	go -C tools/deploy run ./chart -print CHART VALUES    print the manifests
//
// It is a module of its own, so that none of its dependencies is the gate's.
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"

	"helm.sh/helm/v3/pkg/chart/loader"
	"helm.sh/helm/v3/pkg/chartutil"
	"helm.sh/helm/v3/pkg/engine"
	"helm.sh/helm/v3/pkg/lint"
	"helm.sh/helm/v3/pkg/lint/support"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/json"
	"k8s.io/apimachinery/pkg/util/yaml"
	"k8s.io/client-go/kubernetes/scheme"
)

const namespace = "hourgate"

func main() {
	printed := flag.Bool("print", false, "print the manifests")
	flag.Parse()
	if flag.NArg() < 2 {
		fmt.Fprintln(os.Stderr, "usage: chart [-print] CHART VALUES...")
		os.Exit(2)
	}
	if err := run(flag.Arg(0), flag.Args()[1:], *printed); err != nil {
		fmt.Fprintln(os.Stderr, "chart:", err)
		os.Exit(1)
	}
}

func run(chart string, files []string, printed bool) error {
	for _, file := range files {
		manifests, err := check(chart, file)
		if err != nil {
			return fmt.Errorf("with %s: %w", file, err)
		}
		if printed {
			fmt.Print(manifests)
		}
	}
	return nil
}

// check lints and renders the chart with a file of values.
func check(chart, file string) (string, error) {
	values, err := chartutil.ReadValuesFile(file)
	if err != nil {
		return "", err
	}
	var problems []error
	for _, m := range lint.All(chart, values, namespace, true).Messages {
		if m.Severity >= support.WarningSev {
			problems = append(problems, m)
		}
	}
	manifests, err := render(chart, values)
	if err != nil {
		return "", errors.Join(append(problems, err)...)
	}
	return manifests, errors.Join(append(problems, decode(manifests))...)
}

// render is `helm template hourgate CHART --namespace hourgate`.
func render(chart string, values chartutil.Values) (string, error) {
	loaded, err := loader.Load(chart)
	if err != nil {
		return "", err
	}
	release := chartutil.ReleaseOptions{Name: "hourgate", Namespace: namespace, IsInstall: true, Revision: 1}
	all, err := chartutil.ToRenderValues(loaded, values, release, chartutil.DefaultCapabilities)
	if err != nil {
		return "", err
	}
	rendered, err := engine.Render(loaded, all)
	if err != nil {
		return "", err
	}
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(rendered)) {
		if content := strings.TrimSpace(rendered[name]); content != "" && strings.HasSuffix(name, ".yaml") {
			fmt.Fprintf(&b, "---\n%s\n", content)
		}
	}
	return b.String(), nil
}

// decode reads each manifest into its Go type. An unknown or a repeated field is an error. The Prometheus operator's kinds
// are not among Kubernetes' own, and are only read as YAML.
func decode(manifests string) error {
	strict := json.NewSerializerWithOptions(json.DefaultMetaFactory, scheme.Scheme, scheme.Scheme, json.SerializerOptions{Yaml: true, Strict: true})
	documents := yaml.NewYAMLReader(bufio.NewReader(strings.NewReader(manifests)))
	var problems []error
	for {
		document, err := documents.Read()
		if errors.Is(err, io.EOF) {
			return errors.Join(problems...)
		}
		if err != nil {
			return err
		}
		if len(bytes.TrimSpace(document)) == 0 {
			continue
		}
		_, kind, err := strict.Decode(document, nil, nil)
		if runtime.IsNotRegisteredError(err) && kind.Group == "monitoring.coreos.com" {
			continue
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("%v: %w", kind, err))
		}
	}
}

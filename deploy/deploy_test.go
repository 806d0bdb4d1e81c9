// Package deploy_test checks what is in this folder. `make deploy-check` runs the rest, with the tools that read these
// files in earnest: see tools_test.go.
package deploy_test

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestPoliciesAllowLittle reads the IAM policies: each action is named, and no resource is everything.
func TestPoliciesAllowLittle(t *testing.T) {
	files, err := filepath.Glob("iam/*.json")
	if err != nil || len(files) == 0 {
		t.Fatalf("no policies: %v", err)
	}
	for _, file := range files {
		var policy struct {
			Version   string
			Statement []struct {
				Sid, Effect      string
				Action, Resource any
				Condition        map[string]any
			}
		}
		if err := json.Unmarshal([]byte(read(t, file)), &policy); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if policy.Version != "2012-10-17" || len(policy.Statement) == 0 {
			t.Errorf("%s: version %q, %d statements", file, policy.Version, len(policy.Statement))
		}
		for _, statement := range policy.Statement {
			for _, action := range words(statement.Action) {
				reading := regexp.MustCompile(`:(Describe|List)[A-Z]`).MatchString(action)
				if strings.Contains(action, "*") || statement.Effect != "Allow" {
					t.Errorf("%s: %s: %s %s", file, statement.Sid, statement.Effect, action)
				}
				for _, resource := range words(statement.Resource) {
					if resource == "*" && !reading && len(statement.Condition) == 0 {
						t.Errorf("%s: %s: %s on everything", file, statement.Sid, action)
					}
				}
			}
		}
	}
}

// words is a string or a list of them.
func words(value any) []string {
	if one, ok := value.(string); ok {
		return []string{one}
	}
	var all []string
	list, _ := value.([]any)
	for _, element := range list {
		one, _ := element.(string)
		all = append(all, one)
	}
	return all
}

// TestEveryAlertIsTested compares the alerts with those that their tests expect to fire, and to stay silent.
func TestEveryAlertIsTested(t *testing.T) {
	rules, tests := read(t, "prometheus/hourgate.rules.yaml"), read(t, "prometheus/hourgate.rules.test.yaml")
	alerts := regexp.MustCompile(`(?m)^ +- alert: (\w+)\n(?: {8}.*\n)+`).FindAllStringSubmatch(rules, -1)
	if len(alerts) != strings.Count(rules, "alert:") || len(alerts) == 0 {
		t.Fatalf("found %d alerts of %d", len(alerts), strings.Count(rules, "alert:"))
	}
	for _, alert := range alerts {
		name := alert[1]
		if !strings.Contains(tests, "alertname: "+name+"\n        exp_alerts:") {
			t.Errorf("no test expects %s to fire", name)
		}
		if !strings.Contains(tests, "alertname: "+name+"}\n") {
			t.Errorf("no test expects %s to stay silent", name)
		}
		for _, part := range []string{"severity: ", "summary: ", "description: "} {
			if !strings.Contains(alert[0], part) {
				t.Errorf("%s has no %s", name, part)
			}
		}
	}
}

// TestAlertsNameSectionsThatExist looks for what the alerts say to see in docs/operations.md.
func TestAlertsNameSectionsThatExist(t *testing.T) {
	operations, rules := read(t, "../docs/operations.md"), read(t, "prometheus/hourgate.rules.yaml")
	found := regexp.MustCompile(`See "([^"]+)"`).FindAllStringSubmatch(rules, -1)
	if len(found) == 0 {
		t.Fatal("no alert says where to read on")
	}
	for _, match := range found {
		if !strings.Contains(operations, "\n## "+match[1]+"\n") {
			t.Errorf("docs/operations.md has no section %q", match[1])
		}
	}
}

func read(t *testing.T, file string) string {
	t.Helper()
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(content)
}

package discover_test

import (
	"encoding/json"
	"maps"
	"os"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/hourgate/hourgate/internal/awstest"
	"github.com/hourgate/hourgate/internal/discover"
	"github.com/hourgate/hourgate/secrets"
)

// statement is one of an IAM policy. Action is one or a list.
type statement struct {
	Sid, Effect string
	Action      any
	Resource    string
	Condition   map[string]map[string]string
}

func (s statement) actions() []string {
	if one, ok := s.Action.(string); ok {
		return []string{one}
	}
	var all []string
	for _, a := range s.Action.([]any) {
		all = append(all, a.(string))
	}
	return all
}

// The policy in deploy/iam allows what the code asks for, no more and no less.
func TestPolicyOfIAM(t *testing.T) {
	s := awstest.New(t)
	other := awstest.Where{Account: "222222222222", Region: "eu-west-1"}
	s.Add(other, awstest.Instance{ID: "orders", Tags: tagged()})
	s.Change(func() { s.Secrets["prod/hourgate"] = `{"username": "hourgate", "password": "x"}` })
	role := func(c *discover.AWSRDS) {
		c.AssumeRole, c.Reader = "arn:aws:iam::222222222222:role/hourgate-discovery", true
	}
	source, err := secrets.Open(t.Context(), find(t, once(t, rdsConfig(role)), "orders").Secret)
	if err == nil {
		_, err = source.Fetch(t.Context(), secrets.Current)
	}
	if err != nil {
		t.Fatal(err)
	}
	service := map[string]string{"DescribeDBInstances": "rds", "DescribeDBClusters": "rds", "GetSecretValue": "secretsmanager", "AssumeRole": "sts"}
	want := []string{"kms:Decrypt"} // Secrets Manager asks for it in our name
	for action := range s.Calls() {
		want = append(want, service[action]+":"+action)
	}
	slices.Sort(want)

	var policy struct{ Statement []statement }
	text, err := os.ReadFile("../../deploy/iam/discovery.json")
	if err == nil {
		err = json.Unmarshal(text, &policy)
	}
	if err != nil {
		t.Fatal(err)
	}
	allowed := make(map[string]bool)
	for _, st := range policy.Statement {
		for _, action := range st.actions() {
			allowed[action] = st.Effect == "Allow"
			if action != "rds:DescribeDBInstances" && action != "rds:DescribeDBClusters" && (st.Resource == "*" || len(st.Condition) == 0) {
				t.Errorf("%s is not narrowed: on %s, under %v", action, st.Resource, st.Condition)
			}
		}
	}
	if diff := cmp.Diff(want, slices.Sorted(maps.Keys(allowed))); diff != "" {
		t.Errorf("calls of the code (-) and actions of the policy (+): %s", diff)
	}
	for _, action := range []string{"secretsmanager:GetSecretValue"} {
		for _, st := range policy.Statement {
			if slices.Contains(st.actions(), action) && st.Condition["StringEquals"]["secretsmanager:ResourceTag/hourgate-read"] != "true" {
				t.Errorf("%s has no condition on the secret's tag", action)
			}
		}
	}
}

//go:build moto

package discover_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/rds"

	"github.com/hourgate/hourgate/internal/discover"
	"github.com/hourgate/hourgate/internal/mototest"
)

// Three accounts, three regions, hundreds of instances and clusters, a service that throttles and fails; then changes.
func TestMoto(t *testing.T) {
	p := mototest.Start(t)
	accounts, regions := []string{"222222222222", "333333333333", "444444444444"}, []string{"eu-west-1", "eu-central-1", "us-east-1"}
	const each = 40
	var entries []discover.Config
	for _, account := range accounts {
		for _, region := range regions {
			c := p.Account(t, account, region)
			for n := range each {
				c.Instance(t, fmt.Sprintf("db-%s-%s-%02d", account[:3], region, n), "postgres", mototest.Tags("hourgate", "true", "hourgate-secret", "prod/hourgate", "env", "prod"))
			}
			c.Instance(t, "other-"+region, "mysql", mototest.Tags("hourgate", "true"))
		}
		entries = append(entries, rdsConfig(func(c *discover.AWSRDS) {
			c.Regions, c.AssumeRole, c.Reader, c.Name = regions, "arn:aws:iam::"+account+":role/hourgate-discovery", true, ""
		}))
	}
	first := p.Account(t, accounts[0], regions[0])
	if _, err := first.RDS.CreateDBCluster(t.Context(), &rds.CreateDBClusterInput{
		DBClusterIdentifier: aws.String("stock"), Engine: aws.String("aurora-postgresql"), MasterUsername: aws.String("master"), MasterUserPassword: aws.String("a password 1"),
		Tags: mototest.Tags("hourgate", "true", "hourgate-secret", "prod/stock"),
	}); err != nil {
		t.Fatal(err)
	}
	p.Disturb.Store(true)
	began := time.Now()
	w := watch(t, discover.Options{}, entries...)
	total := each*len(accounts)*len(regions) + 1
	all := w.until(t, "all", func(all []discover.Integration) bool { return len(all) == total })
	t.Logf("%d integrations after %v, %d requests, %d of them disturbed", len(all), time.Since(began).Round(time.Millisecond), p.Requests.Load(), p.Thrown.Load())
	ids := make(map[string]bool)
	for _, i := range all {
		ids[i.ID] = true
		if i.NotReady != "" || i.Writer.Port == 0 || i.Secret.AWSSecretsManager == nil {
			t.Fatalf("not ready: %+v", i)
		}
	}
	if len(ids) != total {
		t.Errorf("%d identities, want %d", len(ids), total)
	}

	// A new one, a tag taken away, a deleted one, while a region of all accounts is down.
	p.Failing.Store(&regions[2])
	first.Instance(t, "new", "postgres", mototest.Tags("hourgate", "true", "hourgate-secret", "x"))
	if _, err := first.RDS.RemoveTagsFromResource(t.Context(), &rds.RemoveTagsFromResourceInput{
		ResourceName: aws.String("arn:aws:rds:eu-west-1:222222222222:db:db-222-eu-west-1-00"), TagKeys: []string{"hourgate"},
	}); err != nil {
		t.Fatal(err)
	}
	if _, err := first.RDS.DeleteDBInstance(t.Context(), &rds.DeleteDBInstanceInput{DBInstanceIdentifier: aws.String("db-222-eu-west-1-01"), SkipFinalSnapshot: aws.Bool(true)}); err != nil {
		t.Fatal(err)
	}
	all = w.until(t, "the changes", func(all []discover.Integration) bool {
		return len(all) == total-1 && slices.Contains(names(all), "new")
	})
	for _, gone := range []string{"db-222-eu-west-1-00", "db-222-eu-west-1-01"} {
		if slices.Contains(names(all), gone) {
			t.Errorf("%s is still there", gone)
		}
	}
}

package discover_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/hourgate/hourgate/internal/awstest"
	"github.com/hourgate/hourgate/internal/discover"
	"github.com/hourgate/hourgate/internal/upstream"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction("net/http.(*persistConn).readLoop"), goleak.IgnoreAnyFunction("net/http.(*persistConn).writeLoop"))
}

var ireland, frankfurt = awstest.Where{Account: awstest.OwnAccount, Region: "eu-west-1"}, awstest.Where{Account: awstest.OwnAccount, Region: "eu-central-1"}

// tagged are the tags of a server that is meant, and more.
func tagged(more ...string) map[string]string {
	tags := map[string]string{"hourgate": "true", "hourgate-secret": "prod/hourgate"}
	for k := 0; k+1 < len(more); k += 2 {
		tags[more[k]] = more[k+1]
	}
	return tags
}

// rdsConfig is the contract's entry, for one region unless change says otherwise.
func rdsConfig(change func(*discover.AWSRDS)) discover.Config {
	c := &discover.AWSRDS{
		Regions: []string{"eu-west-1"}, Tags: map[string]string{"hourgate": "true"}, Name: "{tag:hourgate-name}",
		Labels: map[string]string{"env": "{tag:env}", "team": "{tag:team}"}, Interval: time.Second,
	}
	if change != nil {
		change(c)
	}
	return discover.Config{AWSRDS: c}
}

func once(t *testing.T, entries ...discover.Config) discover.Report {
	t.Helper()
	d, err := discover.New(t.Context(), entries, discover.Options{})
	if err != nil {
		t.Fatal(err)
	}
	return d.Once(t.Context())
}

func find(t *testing.T, r discover.Report, name string) discover.Integration {
	t.Helper()
	for _, i := range r.Integrations {
		if i.Name == name {
			return i
		}
	}
	t.Fatalf("no integration %s; got %s, left out %v, failures %v", name, names(r.Integrations), r.LeftOut, r.Failures())
	return discover.Integration{}
}

func names(all []discover.Integration) []string {
	var list []string
	for _, i := range all {
		list = append(list, i.Name)
	}
	return list
}

func why(r discover.Report, identifier string) string {
	for _, l := range r.LeftOut {
		if l.Identifier == identifier {
			return l.Why
		}
	}
	return "not left out"
}

func TestFindsByTag(t *testing.T) {
	s := awstest.New(t)
	s.Add(ireland, awstest.Instance{ID: "orders", Tags: tagged("env", "prod", "team", "orders")})
	s.Add(ireland, awstest.Instance{ID: "billing", Port: 6000, Tags: tagged("hourgate-name", "bills", "env", "prod")})
	s.Add(ireland, awstest.Instance{ID: "shop", Engine: "mysql", Tags: tagged()})
	s.Add(ireland, awstest.Instance{ID: "other", Tags: map[string]string{"hourgate": "false"}})
	s.Add(ireland, awstest.Instance{ID: "untagged"})
	s.Add(ireland, awstest.Instance{ID: "slashed", Tags: tagged("hourgate-name", "a/b")})
	s.Add(frankfurt, awstest.Instance{ID: "elsewhere", Tags: tagged()})
	s.AddCluster(ireland, awstest.Cluster{ID: "stock", Tags: tagged("apono-secret", "x"), Writers: []string{"stock-1"}})
	s.Add(ireland, awstest.Instance{ID: "stock-1", Engine: "aurora-postgresql", Cluster: "stock", Tags: tagged()})
	s.AddCluster(ireland, awstest.Cluster{ID: "graph", Engine: "neptune", Tags: tagged()})
	r := once(t, rdsConfig(nil))
	if err := r.Failures(); err != nil {
		t.Fatal(err)
	}
	if got := names(r.Integrations); !slices.Equal(got, []string{"bills", "orders", "stock"}) {
		t.Fatalf("found %v", got)
	}
	orders, bills := find(t, r, "orders"), find(t, r, "bills")
	if got, want := orders.Writer.String(), "orders.abc.eu-west-1.rds.amazonaws.com:5432"; got != want {
		t.Errorf("endpoint of orders: got %s, want %s", got, want)
	}
	want := map[string]discover.Label{"env": {Value: "prod", Tags: []string{"env"}}, "team": {Value: "orders", Tags: []string{"team"}}}
	if diff := cmp.Diff(want, orders.Labels); diff != "" {
		t.Errorf("labels of orders: %s", diff)
	}
	if diff := cmp.Diff(map[string]discover.Label{"env": {Value: "prod", Tags: []string{"env"}}}, bills.Labels); diff != "" {
		t.Errorf("a label without its tag: %s", diff)
	}
	if orders.NameTags != nil || !slices.Equal(bills.NameTags, []string{"hourgate-name"}) {
		t.Errorf("tags of the names: %v and %v", orders.NameTags, bills.NameTags)
	}
	if orders.Database != "postgres" || orders.SSLMode != upstream.VerifyFull || orders.SSLRootCert != upstream.RootsRDS {
		t.Errorf("defaults: %+v", orders)
	}
	if got := orders.Secret.AWSSecretsManager; got == nil || got.SecretID != "prod/hourgate" || got.Region != "eu-west-1" {
		t.Errorf("secret of orders: %+v", got)
	}
	if orders.NotReady != "" || bills.Writer.Port != 6000 {
		t.Errorf("got %+v and %+v", orders, bills)
	}
	for identifier, want := range map[string]string{
		"shop": "mysql", "other": `its tag hourgate is "false"`, "untagged": "no tag hourgate", "slashed": "slash", "stock-1": "member of cluster stock", "graph": "neptune",
	} {
		if got := why(r, identifier); !strings.Contains(got, want) {
			t.Errorf("%s was left out because %q, want %q", identifier, got, want)
		}
	}
}

func TestTagPatterns(t *testing.T) {
	s := awstest.New(t)
	for id, value := range map[string]string{"a": "prod-eu", "b": "prod", "c": "preprod-eu", "d": "prod-us"} {
		s.Add(ireland, awstest.Instance{ID: id, Tags: tagged("env", value)})
	}
	r := once(t, rdsConfig(func(c *discover.AWSRDS) { c.Tags = map[string]string{"hourgate": "*", "env": "prod-?*"} }))
	if got := names(r.Integrations); !slices.Equal(got, []string{"a", "d"}) {
		t.Errorf("found %v", got)
	}
}

func TestStates(t *testing.T) {
	s := awstest.New(t)
	for id, status := range map[string]string{"a": "backing-up", "b": "storage-optimization", "c": "stopped", "d": "rebooting"} {
		s.Add(ireland, awstest.Instance{ID: id, Status: status, Tags: tagged()})
	}
	s.Add(ireland, awstest.Instance{ID: "e", Status: "creating", Host: "-", Tags: tagged()})
	r := once(t, rdsConfig(nil))
	for name, want := range map[string]string{"a": "", "b": "", "c": "the instance is stopped", "d": "", "e": "the instance is creating"} {
		if got := find(t, r, name).NotReady; got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestSecrets(t *testing.T) {
	const master = "arn:aws:secretsmanager:eu-west-1:111111111111:secret:rds!db-1-AbCdEf"
	const own = "arn:aws:secretsmanager:eu-central-1:111111111111:secret:prod/orders-AbCdEf"
	allow := func(c *discover.AWSRDS) { c.AllowMasterSecret = true }
	cases := []struct {
		name     string
		tags     map[string]string
		managed  string
		change   func(*discover.AWSRDS)
		id, why  string
		inRegion string
	}{
		{name: "by tag", tags: tagged(), id: "prod/hourgate", inRegion: "eu-west-1"},
		{name: "by ARN of another region", tags: tagged("hourgate-secret", own), id: own, inRegion: "eu-central-1"},
		{name: "Apono's tag", tags: map[string]string{"hourgate": "true", "apono-secret": "prod/apono"}, id: "prod/apono", inRegion: "eu-west-1"},
		{name: "our tag before Apono's", tags: tagged("apono-secret", "prod/apono"), id: "prod/hourgate", inRegion: "eu-west-1"},
		{name: "a tag of one's own", tags: tagged("secret", "mine"), change: func(c *discover.AWSRDS) { c.Secret.Tag = "secret" }, id: "mine", inRegion: "eu-west-1"},
		{name: "by name", tags: map[string]string{"hourgate": "true"}, change: func(c *discover.AWSRDS) { c.Secret.Name = "rds/{account}/{identifier}" }, id: "rds/111111111111/orders", inRegion: "eu-west-1"},
		{name: "none", tags: map[string]string{"hourgate": "true"}, why: "it has no secret: no tag hourgate-secret"},
		{name: "master's only", tags: map[string]string{"hourgate": "true"}, managed: master, why: "master user"},
		{name: "master's allowed", tags: map[string]string{"hourgate": "true"}, managed: master, change: allow, id: master, inRegion: "eu-west-1"},
		{name: "master's by tag", tags: tagged("hourgate-secret", master), managed: master, why: "master user"},
		{name: "master's by its name", tags: tagged("hourgate-secret", "rds!db-1"), managed: master, why: "master user"},
		{name: "another's master", tags: tagged("hourgate-secret", "rds!db-2"), why: "master user"},
		{name: "managed by RDS", tags: tagged(), managed: master, change: func(c *discover.AWSRDS) { allow(c); c.Secret.RDSManaged = true }, id: master, inRegion: "eu-west-1"},
		{name: "managed, but there is none", tags: tagged(), change: func(c *discover.AWSRDS) { allow(c); c.Secret.RDSManaged = true }, why: "RDS manages none"},
		{name: "another account's", tags: tagged("hourgate-secret", strings.Replace(own, "111111111111", "222222222222", 1)), why: "of account 222222222222"},
		{name: "a host of the tagger's own", tags: tagged("hourgate-secret", strings.Replace(own, "eu-central-1", "x.evil.example/", 1)), why: "not the ARN of a secret"},
		{name: "no secret at all", tags: tagged("hourgate-secret", "arn:aws:s3:::bucket"), why: "not the ARN of a secret"},
		{name: "no name", tags: tagged("hourgate-secret", "pass word"), why: "neither the name of a secret nor an ARN"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			s := awstest.New(t)
			s.Add(ireland, awstest.Instance{ID: "orders", Tags: c.tags, Secret: c.managed})
			orders := find(t, once(t, rdsConfig(c.change)), "orders")
			if c.why != "" {
				if !strings.Contains(orders.NotReady, c.why) || orders.Secret.AWSSecretsManager != nil {
					t.Errorf("got %q and %+v, want %q", orders.NotReady, orders.Secret, c.why)
				}
				return
			}
			if got := orders.Secret.AWSSecretsManager; orders.NotReady != "" || got.SecretID != c.id || got.Region != c.inRegion {
				t.Errorf("got %q and %+v, want %s in %s", orders.NotReady, got, c.id, c.inRegion)
			}
		})
	}
}

// Several accounts by their roles, several regions, hundreds of servers, pages, and throttling at random.
func TestAccountsRegionsPagesThrottling(t *testing.T) {
	s := awstest.New(t)
	accounts, regions := []string{"222222222222", "333333333333"}, []string{"eu-west-1", "eu-central-1", "us-east-1"}
	var entries []discover.Config
	for _, account := range accounts {
		for _, region := range regions {
			for n := range 150 {
				s.Add(awstest.Where{Account: account, Region: region}, awstest.Instance{ID: fmt.Sprintf("orders-%03d", n), Tags: tagged()})
			}
		}
		entries = append(entries, rdsConfig(func(c *discover.AWSRDS) {
			c.Regions, c.AssumeRole = regions, "arn:aws:iam::"+account+":role/hourgate-discovery"
		}))
	}
	var requests atomic.Int64
	s.Fault = func(awstest.Where, string) (int, string, string) {
		if requests.Add(1)%8 == 0 {
			return http.StatusBadRequest, "Throttling", "Rate exceeded"
		}
		return 0, "", ""
	}
	r := once(t, entries...)
	if err := r.Failures(); err != nil {
		t.Fatal(err)
	}
	if got, want := len(r.Integrations), 150*len(accounts)*len(regions); got != want {
		t.Fatalf("found %d, want %d", got, want)
	}
	all := names(r.Integrations)
	if unique := len(slices.Compact(slices.Clone(all))); unique != len(all) {
		t.Errorf("%d names of %d are not unique", len(all)-unique, len(all))
	}
	if !slices.Contains(all, "orders-007-333333333333-us-east-1") {
		t.Errorf("a name without account and region: %v", all[:10])
	}
	i := find(t, r, "orders-007-333333333333-us-east-1")
	if got := i.Secret.AWSSecretsManager; got.AssumeRole != "arn:aws:iam::333333333333:role/hourgate-discovery" || got.Region != "us-east-1" {
		t.Errorf("secret: %+v", got)
	}
}

// One account, region or kind that fails disturbs no other, and is seen.
func TestErrorsAreIsolated(t *testing.T) {
	s := awstest.New(t)
	other := awstest.Where{Account: "222222222222", Region: "eu-west-1"}
	s.Add(ireland, awstest.Instance{ID: "own", Tags: tagged()})
	s.AddCluster(ireland, awstest.Cluster{ID: "own-cluster", Tags: tagged()})
	s.Add(frankfurt, awstest.Instance{ID: "german", Tags: tagged()})
	s.Add(other, awstest.Instance{ID: "foreign", Tags: tagged()})
	s.Fault = func(w awstest.Where, action string) (int, string, string) {
		switch {
		case action == "AssumeRole":
			return http.StatusForbidden, "AccessDenied", "not authorized to perform: sts:AssumeRole"
		case w == frankfurt:
			return http.StatusForbidden, "InvalidClientTokenId", "the region is not enabled"
		case w == ireland && action == "DescribeDBClusters":
			return http.StatusForbidden, "AccessDenied", "not authorized to perform: rds:DescribeDBClusters"
		}
		return 0, "", ""
	}
	registry := prometheus.NewRegistry()
	d, err := discover.New(t.Context(), []discover.Config{
		rdsConfig(func(c *discover.AWSRDS) { c.Regions = []string{"eu-west-1", "eu-central-1"} }),
		rdsConfig(func(c *discover.AWSRDS) { c.AssumeRole = "arn:aws:iam::222222222222:role/discovery" }),
	}, discover.Options{Registry: registry})
	if err != nil {
		t.Fatal(err)
	}
	r := d.Once(t.Context())
	if got := names(r.Integrations); !slices.Equal(got, []string{"own"}) {
		t.Errorf("found %v", got)
	}
	got := r.Failures().Error()
	for _, want := range []string{
		"aws_rds own account eu-west-1 clusters: AccessDenied: allow the gate's AWS identity rds:DescribeDBClusters",
		"aws_rds own account eu-central-1 instances: InvalidClientTokenId", "aws_rds own account eu-central-1 clusters: ",
		"aws_rds 222222222222 eu-west-1 instances: AccessDenied: the gate's AWS identity may not assume arn:aws:iam::222222222222:role/discovery",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("failures are\n%s\nwant %s", got, want)
		}
	}
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	places, failed := 0, 0
	for _, f := range families {
		if f.GetName() == "hourgate_discovery_failures_total" {
			for _, m := range f.GetMetric() {
				places++
				failed += int(m.GetCounter().GetValue())
			}
		}
	}
	if failed != 5 || places != 6 {
		t.Errorf("%d of %d places count as failed, want 5 of 6", failed, places)
	}
}

// watcher follows what Watch says.
type watcher struct {
	*discover.Discovery
	mu   sync.Mutex
	last []discover.Integration
	all  int
}

func watch(t *testing.T, o discover.Options, entries ...discover.Config) *watcher {
	t.Helper()
	d, err := discover.New(t.Context(), entries, o)
	if err != nil {
		t.Fatal(err)
	}
	w := &watcher{Discovery: d}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d.Watch(ctx, func(found []discover.Integration) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.last, w.all = found, w.all+1
		})
	}()
	t.Cleanup(func() { cancel(); <-done })
	return w
}

// until waits for a state of what was found.
func (w *watcher) until(t *testing.T, what string, is func([]discover.Integration) bool) []discover.Integration {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		w.mu.Lock()
		last, ok := w.last, is(w.last)
		w.mu.Unlock()
		if ok {
			return last
		}
		if time.Now().After(deadline) {
			t.Fatalf("waited for %s; found %+v", what, last)
		}
	}
}

func named(want ...string) func([]discover.Integration) bool {
	return func(all []discover.Integration) bool { return slices.Equal(names(all), want) }
}

// Servers are renamed, fail over, are retagged and vanish.
func TestWatch(t *testing.T) {
	s := awstest.New(t)
	orders := s.Add(ireland, awstest.Instance{ID: "orders", Tags: tagged("env", "dev")})
	s.Add(ireland, awstest.Instance{ID: "billing", Tags: tagged()})
	w := watch(t, discover.Options{}, rdsConfig(nil))
	before := w.until(t, "two", named("billing", "orders"))[1]

	s.Change(func() { orders.ID, orders.Host = "orders-2", "orders-2.abc.eu-west-1.rds.amazonaws.com" })
	after := w.until(t, "the new name", named("billing", "orders-2"))[1]
	if before.ID != after.ID || after.Writer.Host != "orders-2.abc.eu-west-1.rds.amazonaws.com" {
		t.Errorf("a rename made %+v of %+v", after, before)
	}
	s.Change(func() { orders.Tags = tagged("env", "prod") })
	w.until(t, "the new label", func(all []discover.Integration) bool { return all[1].Labels["env"].Value == "prod" })

	// What is missing once is marked, what is missing twice is gone.
	s.Change(func() { s.Instances[ireland] = s.Instances[ireland][1:] })
	w.until(t, "the mark", func(all []discover.Integration) bool {
		return len(all) == 2 && strings.Contains(all[1].NotReady, "missing")
	})
	w.until(t, "one", named("billing"))

	// While nobody answers, what there was stays.
	s.Change(func() {
		s.Fault = func(awstest.Where, string) (int, string, string) {
			return http.StatusForbidden, "AccessDenied", "not now"
		}
		s.Instances[ireland] = nil
	})
	for deadline := time.Now().Add(30 * time.Second); w.Report().Failures() == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the failure is not seen")
		}
	}
	if got := names(w.Report().Integrations); !slices.Equal(got, []string{"billing"}) {
		t.Errorf("while nobody answers: %v", got)
	}
}

// Nobody gets a name that is used, by making a server or by tagging one; and the order of answers does not matter.
func TestNamesAreNotTaken(t *testing.T) {
	s := awstest.New(t)
	young := time.Date(2026, 6, 1, 0, 0, 0, 0, time.UTC)
	s.Add(ireland, awstest.Instance{ID: "first", Created: young, Tags: tagged("hourgate-name", "orders")})
	s.Add(frankfurt, awstest.Instance{ID: "configured", Tags: tagged()})
	w := watch(t, discover.Options{Taken: []string{"configured"}}, rdsConfig(bothRegions))
	w.until(t, "two", named("configured-111111111111-eu-central-1", "orders"))
	thief := s.Add(frankfurt, awstest.Instance{ID: "thief", Created: young.AddDate(-1, 0, 0), Tags: tagged("hourgate-name", "orders")})
	all := w.until(t, "three", func(all []discover.Integration) bool { return len(all) == 3 })
	if got := names(all); !slices.Equal(got, []string{"configured-111111111111-eu-central-1", "orders", "orders-111111111111-eu-central-1"}) || all[1].Identifier != "first" {
		t.Errorf("names: %v", got)
	}
	// A gate that starts without a memory gives the name to the older server.
	s.Change(func() { thief.Created = young.AddDate(1, 0, 0) })
	if got := find(t, once(t, rdsConfig(bothRegions)), "orders").Identifier; got != "first" {
		t.Errorf("orders is %s", got)
	}
}

// A server that is replaced within one interval, as Terraform does it, is another one, and has the name at once.
func TestServerThatIsReplaced(t *testing.T) {
	s := awstest.New(t)
	old := s.Add(ireland, awstest.Instance{ID: "orders", Tags: tagged()})
	w := watch(t, discover.Options{}, rdsConfig(nil))
	id := w.until(t, "orders", named("orders"))[0].ID
	s.Change(func() { old.Resource, old.Created = "db-NEW", old.Created.AddDate(0, 1, 0) })
	w.until(t, "the new one under the name", func(all []discover.Integration) bool {
		return slices.Equal(names(all), []string{"orders"}) && all[0].ID != id && all[0].NotReady == ""
	})
}

// Whatever tags say, it is data: it makes no name that can't be written, and no label or secret that was not meant.
func TestTagsThatAreHostile(t *testing.T) {
	s := awstest.New(t)
	s.Add(ireland, awstest.Instance{ID: "lines", Tags: tagged("hourgate-name", "a\nb")})
	s.Add(ireland, awstest.Instance{ID: "hidden", Tags: tagged("hourgate-name", "or\u202eders")})
	s.Add(ireland, awstest.Instance{ID: "spaced", Tags: tagged("hourgate-name", " orders")})
	s.Add(ireland, awstest.Instance{ID: "long", Tags: tagged("hourgate-name", strings.Repeat("x", 129))})
	const yaml = `"]}, {users: [*a], team: 'x' # <>&`
	s.Add(ireland, awstest.Instance{ID: "yaml", Tags: tagged("hourgate-name", yaml, "env", "prod\n  team: orders", "team", `{tag:env}{account}*`)})
	r := once(t, rdsConfig(nil))
	for identifier, want := range map[string]string{"lines": "control characters", "hidden": "control characters", "spaced": "begin or end", "long": "128 bytes"} {
		if got := why(r, identifier); !strings.Contains(got, want) || strings.ContainsAny(got, "\n\u202e") {
			t.Errorf("%s was left out because %q, want %q", identifier, got, want)
		}
	}
	i := find(t, r, yaml)
	want := map[string]discover.Label{"env": {Value: "prod\n  team: orders", Tags: []string{"env"}}, "team": {Value: "{tag:env}{account}*", Tags: []string{"team"}}}
	if diff := cmp.Diff(want, i.Labels); diff != "" {
		t.Errorf("labels: %s", diff)
	}
}

// A service that plays RDS gives all instances one resource id.
func TestResourceIDsThatAreNotUnique(t *testing.T) {
	s := awstest.New(t)
	first := s.Add(ireland, awstest.Instance{ID: "first", Resource: "db-SAME", Tags: tagged()})
	w := watch(t, discover.Options{}, rdsConfig(nil))
	id := w.until(t, "one", named("first"))[0].ID
	for _, name := range []string{"second", "third"} {
		s.Add(ireland, awstest.Instance{ID: name, Resource: "db-SAME", Tags: tagged()})
	}
	all := w.until(t, "three", named("first", "second", "third"))
	if all[0].ID != id || all[1].ID == id || all[2].ID == id || all[1].ID == all[2].ID {
		t.Errorf("identities: %s, %s, %s", all[0].ID, all[1].ID, all[2].ID)
	}
	second := all[1].ID
	s.Change(func() {
		s.Instances[ireland] = slices.DeleteFunc(s.Instances[ireland], func(i *awstest.Instance) bool { return i == first })
	})
	if all = w.until(t, "two", named("second", "third")); all[0].ID != second {
		t.Errorf("the identity of the second became %s", all[0].ID)
	}
}

func TestReaders(t *testing.T) {
	s := awstest.New(t)
	stock := s.AddCluster(ireland, awstest.Cluster{ID: "stock", Tags: tagged(), Writers: []string{"stock-1"}, Readers: []string{"stock-2", "stock-3"}})
	for _, id := range []string{"stock-1", "stock-2", "stock-3"} {
		s.Add(ireland, awstest.Instance{ID: id, Engine: "aurora-postgresql", Cluster: "stock"})
	}
	s.Add(ireland, awstest.Instance{ID: "orders", Tags: tagged()})
	s.Add(ireland, awstest.Instance{ID: "orders-ro", Source: "orders", Tags: tagged()})
	s.Add(ireland, awstest.Instance{ID: "far", Source: "arn:aws:rds:us-east-1:111111111111:db:orders", Tags: tagged()})
	readers := func(c *discover.AWSRDS) { c.Reader = true }
	hosts := func(i discover.Integration) string {
		var list []string
		for _, r := range i.Readers {
			list = append(list, strings.Split(r.Host, ".")[0])
		}
		return strings.Join(list, " ")
	}
	r := once(t, rdsConfig(readers))
	if got := hosts(find(t, r, "stock")); got != "stock-2 stock-3" {
		t.Errorf("readers of the cluster: %s", got)
	}
	if got := hosts(find(t, r, "orders")); got != "orders-ro" {
		t.Errorf("read replicas: %s", got)
	}
	if got := why(r, "orders-ro"); got != "it is a read replica of orders, and offered with that" {
		t.Error(got)
	}
	if got := why(r, "far"); !strings.Contains(got, "in another region") {
		t.Error(got)
	}
	r = once(t, rdsConfig(nil))
	if got := find(t, r, "stock").Readers; got != nil {
		t.Errorf("without reader: %v", got)
	}
	if got := why(r, "orders-ro"); !strings.Contains(got, "reader: true") {
		t.Error(got)
	}

	// A failover makes another instance the writer; without the sight of instances there is the cluster's alias.
	s.Change(func() { stock.Writers, stock.Readers = []string{"stock-2"}, []string{"stock-1", "stock-3"} })
	if got := hosts(find(t, once(t, rdsConfig(readers)), "stock")); got != "stock-1 stock-3" {
		t.Errorf("readers after the failover: %s", got)
	}
	s.Fault = func(_ awstest.Where, action string) (int, string, string) {
		if action == "DescribeDBInstances" {
			return http.StatusForbidden, "AccessDenied", "no"
		}
		return 0, "", ""
	}
	if got := find(t, once(t, rdsConfig(readers)), "stock").Readers; len(got) != 1 || !strings.Contains(got[0].Host, "cluster-ro") {
		t.Errorf("readers without instances: %v", got)
	}
}

func TestDial(t *testing.T) {
	s := awstest.New(t)
	s.Add(ireland, awstest.Instance{ID: "orders", Tags: tagged()})
	s.Add(ireland, awstest.Instance{ID: "billing", Tags: tagged()})
	s.Add(ireland, awstest.Instance{ID: "stock", Port: 6000, Tags: tagged()})
	r := once(t, rdsConfig(func(c *discover.AWSRDS) {
		c.Dial = map[string]string{
			"*":                        "127.0.0.1:1",
			"orders.*":                 "127.0.0.1:2",
			"*.rds.amazonaws.com:6000": "127.0.0.1:3",
			"billing.abc.eu-west-1.rds.amazonaws.com:5432": "127.0.0.1:4",
		}
	}))
	for name, want := range map[string]string{"orders": "127.0.0.1:2", "billing": "127.0.0.1:4", "stock": "127.0.0.1:3"} {
		if got := find(t, r, name).Writer; got.String() != want || got.Name != name+".abc.eu-west-1.rds.amazonaws.com" {
			t.Errorf("%s is dialled at %s as %s, want %s", name, got, got.Name, want)
		}
	}
}

// A service that goes in circles is left, and one that never answers is not waited for.
func TestServicesThatMisbehave(t *testing.T) {
	s := awstest.New(t)
	for n := range 120 {
		s.Add(ireland, awstest.Instance{ID: fmt.Sprintf("i-%d", n), Tags: tagged()})
	}
	again := s.Config.Handler
	s.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_ = r.ParseForm()
		r.Form.Del("Marker")
		again.ServeHTTP(w, r)
	})
	r := once(t, rdsConfig(nil))
	if err := r.Failures(); err == nil || !strings.Contains(err.Error(), "circles") {
		t.Errorf("got %v", err)
	}
	if len(r.Integrations) != 0 {
		t.Errorf("half an answer was taken: %v", names(r.Integrations))
	}
}

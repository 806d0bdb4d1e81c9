package discover

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/rds/types"

	"github.com/hourgate/hourgate/secrets"
)

// database is a DB instance or a DB cluster as AWS describes it, as far as it matters here.
type database struct {
	id                      string // set by identities
	kind                    Kind
	account, region         string
	resource                string // DbiResourceId, DbClusterResourceId
	identifier              string
	engine, version, status string
	endpoint, reader        Server // Port 0: none yet
	tags                    map[string]string
	masterSecret            string // ARN
	created                 time.Time
	missing                 bool // from the last answer

	cluster string   // of an instance: the identifier of its cluster
	source  string   // of a read replica: the identifier of its source, or its ARN in another region
	writers []string // of a cluster: the identifiers of its instances
	readers []string
}

// key tells one database from another, also where resource ids are not unique.
func (d *database) key() string {
	return strings.Join([]string{d.account, d.region, d.resource, d.created.UTC().Format(time.RFC3339Nano)}, "/")
}

func (d *database) fact(name string) string {
	return map[string]string{"identifier": d.identifier, "account": d.account, "region": d.region, "engine": d.engine}[name]
}

// noun is what people call it.
func (d *database) noun() string {
	if d.kind == Clusters {
		return "cluster"
	}
	return "instance"
}

func fromInstance(i *types.DBInstance, p Place) database {
	d := database{
		kind: Instances, account: accountOf(aws.ToString(i.DBInstanceArn)), region: p.Region,
		resource: aws.ToString(i.DbiResourceId), identifier: aws.ToString(i.DBInstanceIdentifier),
		engine: aws.ToString(i.Engine), version: aws.ToString(i.EngineVersion), status: aws.ToString(i.DBInstanceStatus),
		tags: tagsOf(i.TagList), masterSecret: managed(i.MasterUserSecret), created: aws.ToTime(i.InstanceCreateTime),
		cluster: aws.ToString(i.DBClusterIdentifier), source: aws.ToString(i.ReadReplicaSourceDBInstanceIdentifier),
	}
	if i.Endpoint != nil {
		d.endpoint = endpoint(i.Endpoint.Address, i.Endpoint.Port)
	}
	return d
}

func fromCluster(c *types.DBCluster, p Place) database {
	d := database{
		kind: Clusters, account: accountOf(aws.ToString(c.DBClusterArn)), region: p.Region,
		resource: aws.ToString(c.DbClusterResourceId), identifier: aws.ToString(c.DBClusterIdentifier),
		engine: aws.ToString(c.Engine), version: aws.ToString(c.EngineVersion), status: aws.ToString(c.Status),
		endpoint: endpoint(c.Endpoint, c.Port), reader: endpoint(c.ReaderEndpoint, c.Port),
		tags: tagsOf(c.TagList), masterSecret: managed(c.MasterUserSecret), created: aws.ToTime(c.ClusterCreateTime),
		source: aws.ToString(c.ReplicationSourceIdentifier),
	}
	for _, m := range c.DBClusterMembers {
		if aws.ToBool(m.IsClusterWriter) {
			d.writers = append(d.writers, aws.ToString(m.DBInstanceIdentifier))
		} else {
			d.readers = append(d.readers, aws.ToString(m.DBInstanceIdentifier))
		}
	}
	return d
}

func tagsOf(list []types.Tag) map[string]string {
	tags := make(map[string]string, len(list))
	for _, t := range list {
		tags[aws.ToString(t.Key)] = aws.ToString(t.Value)
	}
	return tags
}

func managed(s *types.MasterUserSecret) string {
	if s == nil {
		return ""
	}
	return aws.ToString(s.SecretArn)
}

func endpoint(host *string, port *int32) Server {
	p := aws.ToInt32(port)
	if aws.ToString(host) == "" || p < 1 || p > 65535 {
		return Server{}
	}
	return Server{Host: aws.ToString(host), Port: uint16(p)}
}

// assemble says which of a region's databases are integrations, and why the others are none.
func assemble(c *AWSRDS, p Place, all []database) (found []Integration, left []LeftOut) {
	for k := range all {
		d := &all[k]
		place := p
		place.Kind, place.Account = d.kind, d.account
		if why := unwanted(c, d); why != "" {
			left = append(left, LeftOut{place, d.identifier, why})
			continue
		}
		i, why := c.integration(d, place)
		if why != "" {
			left = append(left, LeftOut{place, d.identifier, why})
			continue
		}
		if c.Reader {
			i.Readers = c.readers(d, all)
		}
		found = append(found, i)
	}
	return found, left
}

// unwanted says why d is no integration of its own, whatever its state; "" if it is one.
func unwanted(c *AWSRDS, d *database) string {
	switch {
	case d.identifier == "" || d.resource == "":
		return "AWS gives it no identifier or no resource id"
	case d.engine != "postgres" && d.engine != "aurora-postgresql":
		return fmt.Sprintf("its engine is %s, not PostgreSQL", d.engine)
	case d.cluster != "":
		return "it is a member of cluster " + d.cluster + ": what counts are the tags of the cluster"
	case d.source != "" && d.kind == Clusters:
		return "it is a read replica of " + d.source + ", in which no role can be made"
	case d.source != "" && strings.HasPrefix(d.source, "arn:"):
		return "it is a read replica of " + d.source + " in another region, in which no role can be made"
	case d.source != "" && !c.Reader:
		return "it is a read replica of " + d.source + ": reader: true offers it with that"
	case d.source != "":
		return "it is a read replica of " + d.source + ", and offered with that"
	}
	for _, key := range slices.Sorted(maps.Keys(c.Tags)) {
		value, there := d.tags[key]
		switch {
		case !there:
			return fmt.Sprintf("it has no tag %s", key)
		case !matches(c.Tags[key], value):
			return fmt.Sprintf("its tag %s is %q, and not %q", key, value, c.Tags[key])
		}
	}
	return ""
}

// unreachable are the states in which a server lets nobody in and which don't pass by themselves, or only by its end. In
// all others it is tried: most let people in (backing-up, modifying, storage-optimization), and some pass within minutes
// (rebooting, failing-over, upgrading).
var unreachable = []string{
	"creating", "deleting", "delete-precheck", "failed", "inaccessible-encryption-credentials", "inaccessible-encryption-credentials-recoverable",
	"incompatible-create", "incompatible-network", "incompatible-parameters", "incompatible-restore", "insufficient-capacity",
	"migration-failed", "restore-error", "starting", "stopped", "stopping",
}

// integration describes d. leave says why it can't be one at all.
func (c *AWSRDS) integration(d *database, p Place) (i Integration, leave string) {
	i = Integration{
		ID: d.id, Place: p, Identifier: d.identifier, Engine: strings.TrimSpace(d.engine + " " + d.version),
		Writer: c.redirect(d.endpoint), Labels: make(map[string]Label),
		Database: c.Defaults.Database, SSLMode: c.Defaults.SSLMode, SSLRootCert: c.Defaults.SSLRootCert, SSLNegotiation: c.Defaults.SSLNegotiation,
		created: d.created,
	}
	name, _ := parseTemplate(c.Name)
	var missing string
	if i.Name, i.NameTags, missing = name.fill(d); missing != "" || i.Name == "" {
		i.Name, i.NameTags = d.identifier, nil
	}
	if why := badName(i.Name); why != "" {
		return i, fmt.Sprintf("its name would be %q: %s", i.Name, why)
	}
	for key, text := range c.Labels {
		label, _ := parseTemplate(text)
		if value, tags, missing := label.fill(d); missing == "" {
			i.Labels[key] = Label{Value: value, Tags: tags}
		}
	}
	var why string
	i.Secret, why = c.secret(d)
	switch {
	case d.missing:
		i.NotReady = missingNow
	case slices.Contains(unreachable, d.status):
		i.NotReady = fmt.Sprintf("the %s is %s", d.noun(), d.status)
	case d.endpoint.Port == 0:
		i.NotReady = fmt.Sprintf("the %s has no endpoint yet (it is %s)", d.noun(), d.status)
	default:
		i.NotReady = why
	}
	return i, ""
}

// badName says why people can't write a name. It is what the configuration's own names must keep to.
func badName(name string) string {
	switch {
	case len(name) > 128:
		return "longer than 128 bytes"
	case strings.ContainsFunc(name, func(r rune) bool { return r == '/' || !unicode.IsGraphic(r) }):
		return "a name has no slash and no control characters, because people write it as integration/database"
	case strings.TrimSpace(name) != name:
		return "a name does not begin or end with a space"
	}
	return ""
}

// readers are the instances of a cluster that are no writers, or the read replicas of an instance. Each is named by
// itself, not by an alias that leads to another one each time: sessions must be ended on the server that they are on.
func (c *AWSRDS) readers(d *database, all []database) []Server {
	var servers []Server
	for k := range all {
		o := &all[k]
		replica := d.kind == Instances && o.source == d.identifier
		member := d.kind == Clusters && o.cluster == d.identifier && slices.Contains(d.readers, o.identifier)
		if o.kind != Instances || !replica && !member || o.endpoint.Port == 0 || o.missing || slices.Contains(unreachable, o.status) {
			continue
		}
		servers = append(servers, c.redirect(o.endpoint))
	}
	slices.SortFunc(servers, func(a, b Server) int { return strings.Compare(a.String(), b.String()) })
	// Without the permission to see instances the cluster's alias has to do.
	if d.kind == Clusters && len(servers) == 0 && len(d.readers) > 0 && d.reader.Port != 0 {
		servers = append(servers, c.redirect(d.reader))
	}
	return servers
}

// secretName is what Secrets Manager allows in a name.
var secretName = regexp.MustCompile(`^[A-Za-z0-9/_+=.@!-]{1,512}$`)

// secret says where the admin's secret is, or why there is none to use.
func (c *AWSRDS) secret(d *database) (s secrets.Config, why string) {
	id, from := c.secretID(d)
	master := d.masterSecret != "" && (id == d.masterSecret || id == secretNameOf(d.masterSecret))
	switch {
	case id == "" && d.masterSecret != "" && !c.AllowMasterSecret:
		return s, fmt.Sprintf("it has no tag %s, and only the secret of the master user, who may do everything on the server: make a user for Hourgate, or set allow_master_secret", c.Secret.Tag)
	case id == "" && d.masterSecret == "":
		return s, "it has no secret: " + from
	case id == "":
		id = d.masterSecret
	case (master || strings.HasPrefix(secretNameOf(id), "rds!")) && !c.AllowMasterSecret:
		return s, from + " names the secret of the master user, who may do everything on the server: make a user for Hourgate, or set allow_master_secret"
	}
	if parts := strings.Split(id, ":"); parts[0] == "arn" {
		if len(parts) != 7 || parts[2] != "secretsmanager" || parts[5] != "secret" || !regionName.MatchString(parts[3]) || !secretName.MatchString(parts[6]) {
			return s, from + " is not the ARN of a secret"
		}
		if parts[4] != d.account {
			return s, fmt.Sprintf("%s names a secret of account %s, and the server is in %s: whoever may tag it could have it sent any secret", from, parts[4], d.account)
		}
		return c.awsSecret(parts[3], id), ""
	}
	if !secretName.MatchString(id) {
		return s, from + " is neither the name of a secret nor an ARN"
	}
	return c.awsSecret(d.region, id), ""
}

func (c *AWSRDS) awsSecret(region, id string) secrets.Config {
	return secrets.Config{AWSSecretsManager: &secrets.AWSSecretsManager{
		Region: region, SecretID: id, AssumeRole: c.AssumeRole, ExternalID: c.ExternalID,
	}}
}

// secretID is what a tag or the template says, and which of them; "" if neither says anything, and then why.
func (c *AWSRDS) secretID(d *database) (id, from string) {
	if c.Secret.RDSManaged {
		return "", "RDS manages none for it"
	}
	for _, tag := range []string{c.Secret.Tag, aponoSecretTag} {
		if value := strings.TrimSpace(d.tags[tag]); value != "" {
			return value, "its tag " + tag
		}
	}
	none := "no tag " + c.Secret.Tag
	if c.Secret.Name == "" {
		return "", none
	}
	name, _ := parseTemplate(c.Secret.Name)
	id, _, missing := name.fill(d)
	if missing != "" {
		return "", none + ", and no tag " + missing + " for the name of one"
	}
	return id, "secret.name"
}

// secretNameOf returns the name in the ARN of a secret, with the six characters that AWS adds; other texts as they are.
func secretNameOf(id string) string {
	if parts := strings.SplitN(id, ":", 7); len(parts) == 7 && parts[0] == "arn" {
		return parts[6]
	}
	return id
}

// Package awstest plays the parts of AWS that discovery and secrets ask for: RDS's and Secrets Manager's answers, and STS's
// roles, in AWS's form. It is for tests that need no more; moto plays the rest.
package awstest

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"
)

// Server plays the parts of RDS and STS that are asked for: it knows accounts and regions by the request's signature, and
// answers in AWS's form.
type Server struct {
	*httptest.Server
	mu sync.Mutex
	// What there is; tests change it within Change.
	Instances map[Where][]*Instance
	Clusters  map[Where][]*Cluster
	Secrets   map[string]string // documents, by name
	calls     map[string]int    // by action
	// Fault answers in RDS's stead if it returns a status.
	Fault func(w Where, action string) (status int, code, message string)
}

// Where is an account and a region.
type Where struct{ Account, Region string }

// OwnAccount is that of the credentials in the environment.
const OwnAccount = "111111111111"

// Instance is a DB instance. What is zero is filled in by Add; Host "-" is none.
type Instance struct {
	ID, Resource, Engine, Status, Host string
	Port                               int
	Tags                               map[string]string
	Secret, Cluster, Source            string
	Created                            time.Time
}

// Cluster is a DB cluster.
type Cluster struct {
	ID, Resource, Engine, Status, Host, Reader string
	Port                                       int
	Tags                                       map[string]string
	Secret                                     string
	Writers, Readers                           []string
	Created                                    time.Time
}

// New starts it and points the SDK to it. Tests with it can't be parallel: the SDK reads the environment.
func New(t *testing.T) *Server {
	t.Helper()
	s := &Server{Instances: make(map[Where][]*Instance), Clusters: make(map[Where][]*Cluster), Secrets: make(map[string]string), calls: make(map[string]int)}
	s.Server = httptest.NewServer(s)
	t.Cleanup(s.Close)
	for key, value := range map[string]string{
		"AWS_ENDPOINT_URL": s.URL, "AWS_ACCESS_KEY_ID": "AKIA" + OwnAccount, "AWS_SECRET_ACCESS_KEY": "secret", "AWS_SESSION_TOKEN": "",
		"AWS_CONFIG_FILE": "/nonexistent", "AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "AWS_PROFILE": "", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(key, value)
	}
	return s
}

// Change changes what there is.
func (s *Server) Change(do func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	do()
}

// Add puts an instance into an account and region, with what is left out filled in.
func (s *Server) Add(w Where, i Instance) *Instance {
	s.mu.Lock()
	defer s.mu.Unlock()
	fill(&i.Resource, "db-"+strings.ToUpper(i.ID))
	fill(&i.Engine, "postgres")
	fill(&i.Status, "available")
	fill(&i.Host, i.ID+".abc."+w.Region+".rds.amazonaws.com")
	if i.Port == 0 {
		i.Port = 5432
	}
	if i.Created.IsZero() {
		i.Created = time.Date(2026, 1, 1, 0, 0, len(s.Instances[w]), 0, time.UTC)
	}
	s.Instances[w] = append(s.Instances[w], &i)
	return &i
}

// AddCluster is Add for a cluster.
func (s *Server) AddCluster(w Where, c Cluster) *Cluster {
	s.mu.Lock()
	defer s.mu.Unlock()
	fill(&c.Resource, "cluster-"+strings.ToUpper(c.ID))
	fill(&c.Engine, "aurora-postgresql")
	fill(&c.Status, "available")
	fill(&c.Host, c.ID+".cluster-abc."+w.Region+".rds.amazonaws.com")
	fill(&c.Reader, c.ID+".cluster-ro-abc."+w.Region+".rds.amazonaws.com")
	if c.Port == 0 {
		c.Port = 5432
	}
	if c.Created.IsZero() {
		c.Created = time.Date(2026, 2, 1, 0, 0, len(s.Clusters[w]), 0, time.UTC)
	}
	s.Clusters[w] = append(s.Clusters[w], &c)
	return &c
}

func fill(to *string, value string) {
	if *to == "" {
		*to = value
	}
}

var scope = regexp.MustCompile(`Credential=A[A-Z]{3}(\d{12})/\d+/([a-z0-9-]+)/(\w+)/`)

// Calls returns the actions that were asked for, and how often.
func (s *Server) Calls() map[string]int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return maps.Clone(s.calls)
}

// ServeHTTP answers one request.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	_ = r.ParseForm() // Secrets Manager's is JSON
	signed := scope.FindStringSubmatch(r.Header.Get("Authorization"))
	if signed == nil {
		Problem(w, http.StatusForbidden, "MissingAuthenticationToken", "not signed")
		return
	}
	at, action := Where{signed[1], signed[2]}, r.Form.Get("Action")
	if target := r.Header.Get("X-Amz-Target"); target != "" {
		action = strings.TrimPrefix(target, "secretsmanager.")
	}
	s.mu.Lock()
	s.calls[action]++
	fault := s.Fault
	s.mu.Unlock()
	if fault != nil {
		if status, code, message := fault(at, action); status != 0 {
			Problem(w, status, code, message)
			return
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch action {
	case "GetSecretValue":
		var in struct{ SecretId, VersionStage string }
		_ = json.Unmarshal(body, &in)
		document, ok := s.Secrets[in.SecretId]
		if !ok || in.VersionStage != "AWSCURRENT" {
			w.WriteHeader(http.StatusBadRequest)
			_ = json.NewEncoder(w).Encode(map[string]string{"__type": "ResourceNotFoundException", "Message": "none"})
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]string{"Name": in.SecretId, "SecretString": document})
	case "AssumeRole":
		role := r.Form.Get("RoleArn")
		fmt.Fprintf(w, `<AssumeRoleResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleResult><Credentials>
			<AccessKeyId>ASIA%s</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>t</SessionToken><Expiration>%s</Expiration>
			</Credentials></AssumeRoleResult></AssumeRoleResponse>`, strings.Split(role, ":")[4], time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
	case "DescribeDBInstances":
		page, marker := paged(s.Instances[at], r)
		fmt.Fprint(w, `<DescribeDBInstancesResponse xmlns="http://rds.amazonaws.com/doc/2014-10-31/"><DescribeDBInstancesResult><DBInstances>`)
		for _, i := range page {
			fmt.Fprint(w, i.xml(at))
		}
		fmt.Fprintf(w, `</DBInstances>%s</DescribeDBInstancesResult></DescribeDBInstancesResponse>`, marker)
	case "DescribeDBClusters":
		page, marker := paged(s.Clusters[at], r)
		fmt.Fprint(w, `<DescribeDBClustersResponse xmlns="http://rds.amazonaws.com/doc/2014-10-31/"><DescribeDBClustersResult><DBClusters>`)
		for _, c := range page {
			fmt.Fprint(w, c.xml(at))
		}
		fmt.Fprintf(w, `</DBClusters>%s</DescribeDBClustersResult></DescribeDBClustersResponse>`, marker)
	default:
		Problem(w, http.StatusBadRequest, "InvalidAction", "the stand-in does not know "+action)
	}
}

// Problem answers with an error in the form of RDS.
func Problem(w http.ResponseWriter, status int, code, message string) {
	w.WriteHeader(status)
	fmt.Fprintf(w, `<ErrorResponse><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error><RequestId>1</RequestId></ErrorResponse>`, code, message)
}

// paged returns one page and the XML of the marker of the next.
func paged[T any](all []T, r *http.Request) (page []T, marker string) {
	size, _ := strconv.Atoi(r.Form.Get("MaxRecords"))
	from, _ := strconv.Atoi(r.Form.Get("Marker"))
	to := min(len(all), from+max(size, 20))
	if to < len(all) {
		marker = fmt.Sprintf("<Marker>%d</Marker>", to)
	}
	return slices.Clone(all[from:to]), marker
}

func text(name, value string) string {
	if value == "" {
		return ""
	}
	var b strings.Builder
	_ = xml.EscapeText(&b, []byte(value))
	return "<" + name + ">" + b.String() + "</" + name + ">"
}

func tagList(tags map[string]string) string {
	var b strings.Builder
	for key, value := range tags {
		b.WriteString("<Tag>" + text("Key", key) + text("Value", value) + "</Tag>")
	}
	return "<TagList>" + b.String() + "</TagList>"
}

func secretXML(arn string) string {
	if arn == "" {
		return ""
	}
	return "<MasterUserSecret>" + text("SecretArn", arn) + "<SecretStatus>active</SecretStatus></MasterUserSecret>"
}

func (i *Instance) xml(w Where) string {
	end := ""
	if i.Host != "-" {
		end = "<Endpoint>" + text("Address", i.Host) + text("Port", strconv.Itoa(i.Port)) + "</Endpoint>"
	}
	return "<DBInstance>" + text("DBInstanceIdentifier", i.ID) + text("DbiResourceId", i.Resource) + text("Engine", i.Engine) + text("EngineVersion", "16.4") +
		text("DBInstanceStatus", i.Status) + text("DBInstanceArn", "arn:aws:rds:"+w.Region+":"+w.Account+":db:"+i.ID) + end + tagList(i.Tags) +
		secretXML(i.Secret) + text("DBClusterIdentifier", i.Cluster) + text("ReadReplicaSourceDBInstanceIdentifier", i.Source) +
		text("InstanceCreateTime", i.Created.Format(time.RFC3339Nano)) + "</DBInstance>"
}

func (c *Cluster) xml(w Where) string {
	var members strings.Builder
	for k, id := range slices.Concat(c.Writers, c.Readers) {
		members.WriteString("<DBClusterMember>" + text("DBInstanceIdentifier", id) + text("IsClusterWriter", strconv.FormatBool(k < len(c.Writers))) + "</DBClusterMember>")
	}
	return "<DBCluster>" + text("DBClusterIdentifier", c.ID) + text("DbClusterResourceId", c.Resource) + text("Engine", c.Engine) + text("EngineVersion", "16.4") +
		text("Status", c.Status) + text("DBClusterArn", "arn:aws:rds:"+w.Region+":"+w.Account+":cluster:"+c.ID) + text("Endpoint", c.Host) + text("ReaderEndpoint", c.Reader) +
		text("Port", strconv.Itoa(c.Port)) + tagList(c.Tags) + secretXML(c.Secret) + "<DBClusterMembers>" + members.String() + "</DBClusterMembers>" +
		text("ClusterCreateTime", c.Created.Format(time.RFC3339Nano)) + "</DBCluster>"
}

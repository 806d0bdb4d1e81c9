package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/hourgate/hourgate/internal/awstest"
	"github.com/hourgate/hourgate/internal/pgtest"
)

// The commands about discovery as people type them: testdata/discovery. AWS is a stand-in with two regions of one account;
// Frankfurt refuses to answer. All endpoints lead to one PostgreSQL, the database and admin of which are in $DB and $ADMIN.
func TestDiscoveryScripts(t *testing.T) {
	db := pgtest.Start(t, 17).Database(t)
	aws := awstest.New(t)
	ireland, frankfurt := awstest.Where{Account: awstest.OwnAccount, Region: "eu-west-1"}, awstest.Where{Account: awstest.OwnAccount, Region: "eu-central-1"}
	tags := func(more ...string) map[string]string {
		all := map[string]string{"hourgate": "true", "hourgate-secret": "prod/hourgate"}
		for k := 0; k < len(more); k += 2 {
			all[more[k]] = more[k+1]
		}
		return all
	}
	aws.Add(ireland, awstest.Instance{ID: "orders", Tags: tags("env", "prod")})
	aws.Add(ireland, awstest.Instance{ID: "forger", Tags: tags("env", "prod\nnobody  forged line\x1b[2J")})
	aws.Add(ireland, awstest.Instance{ID: "stopped", Status: "stopped", Tags: tags()})
	aws.Add(ireland, awstest.Instance{ID: "powerless", Tags: tags("hourgate-secret", "prod/owner")})
	aws.Add(ireland, awstest.Instance{ID: "shop", Engine: "mysql", Tags: tags()})
	aws.Add(ireland, awstest.Instance{ID: "slashed", Tags: tags("hourgate-name", "a/b")})
	aws.Change(func() {
		aws.Secrets["prod/hourgate"] = fmt.Sprintf(`{"username": %q, "password": %q}`, db.Admin, db.AdminPassword)
		aws.Secrets["prod/owner"] = fmt.Sprintf(`{"username": %q, "password": %q}`, db.Owner, db.OwnerPassword)
		aws.Fault = func(w awstest.Where, action string) (int, string, string) {
			if w == frankfurt && strings.HasPrefix(action, "Describe") {
				return 403, "AccessDenied", "no way"
			}
			return 0, "", ""
		}
	})
	ca := pgtest.CA(t)
	certFile, keyFile := ca.Issue(t, "localhost")
	testscript.Run(t, testscript.Params{
		Dir: "testdata/discovery",
		Setup: func(env *testscript.Env) error {
			for _, variable := range os.Environ() {
				if strings.HasPrefix(variable, "AWS_") {
					env.Vars = append(env.Vars, variable)
				}
			}
			known := strings.NewReplacer("$CERT", certFile, "$KEY", keyFile, "$ROOTS", db.Server.CAFile, "$PORT", fmt.Sprint(db.Server.Port), "$DB", db.Name,
				"$SOON", time.Now().Add(time.Hour).UTC().Format(time.RFC3339))
			files, err := filepath.Glob(filepath.Join(env.WorkDir, "*.yaml"))
			if err != nil {
				return err
			}
			for _, file := range files {
				content, err := os.ReadFile(file)
				if err != nil {
					return err
				}
				if err := os.WriteFile(file, []byte(known.Replace(string(content))), 0o600); err != nil {
					return err
				}
			}
			return os.WriteFile(filepath.Join(env.WorkDir, "secret.json"), fmt.Appendf(nil, `{"username": %q, "password": %q}`, db.Admin, db.AdminPassword), 0o600)
		},
	})
}

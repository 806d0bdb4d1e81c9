package roles

import (
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgerrcode"
	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles/ledger"
)

//go:embed sql/profile_gaps.sql
var profileGapsSQL string

//go:embed sql/object_gaps.sql
var objectGapsSQL string

// A profile is what an access allows in one database. On the server it is a NOLOGIN role that holds these privileges,
// owns nothing and may create nothing; ephemeral roles are members of it. The profiles of levels stay. Those of named
// objects are made for the first grant that needs them and go with the last role that is a member.
//
// A profile never holds CREATE: on servers before 16, and on unpatched ones after it, a member could hand objects to
// the profile that would outlive the grant. ADMIN's right to create is granted to the ephemeral role itself.
type profile struct {
	database string
	level    policy.Level // "" for named objects
	objects  string       // JSON, for object_gaps.sql; empty for nothing but CONNECT
	owner    string       // with objects: the deployment that makes and removes the profile
}

// profileOf is the profile for an access in a database.
func (k *Keeper) profileOf(database string, access policy.Access) profile {
	objects := access.Objects()
	if access.Level != "" || len(objects) == 0 {
		return profile{database: database, level: access.Level}
	}
	type item struct {
		Kind       string             `json:"kind"`
		Schema     string             `json:"schema"`
		Name       string             `json:"name"`
		Arguments  string             `json:"arguments"`
		Privileges []policy.Privilege `json:"privileges"`
	}
	items := make([]item, len(objects))
	for i, o := range objects {
		items[i] = item(o)
	}
	encoded, err := json.Marshal(items)
	if err != nil {
		panic("roles: objects that can't be encoded: " + err.Error()) // strings; can't happen
	}
	return profile{database: database, objects: string(encoded), owner: k.cfg.Deployment}
}

// name is readable, unique for database and privileges, and the same for every proxy.
func (p profile) name() string {
	switch {
	case p.objects != "":
		sum := sha256.Sum256([]byte(p.database + "\x00" + p.owner + "\x00" + p.objects))
		return ledger.ProfilePrefix + ledger.KindObjects + "_" + ledger.Part(p.database, 32) + "_" + hex.EncodeToString(sum[:8])
	case p.level == "":
		return ledger.DatabaseRole(ledger.KindConnect, p.database)
	}
	kind := map[policy.Level]string{
		policy.ReadOnly: ledger.KindReadOnly, policy.ReadWrite: ledger.KindReadWrite, policy.Admin: ledger.KindAdmin,
	}[p.level]
	return ledger.DatabaseRole(kind, p.database)
}

// comment says what the role is; of a profile of objects also whose, for the sweep.
func (p profile) comment() string {
	switch {
	case p.objects != "":
		return ledger.ObjectsEntry{Version: ledger.Version, Deployment: p.owner, Database: p.database}.Comment()
	case p.level == "":
		return "Hourgate profile: connecting to database " + p.database
	}
	return fmt.Sprintf("Hourgate profile: what %s allows in database %s", p.level, p.database)
}

// privileges are those of a level. They are listed one by one and never ALL, which would grow with the server's version.
// TRIGGER is not among them: a trigger has no owner, so one on somebody else's table would outlive the tenant, whether
// its function does or not; see docs/decisions.
//
// REFERENCES is an ADMIN's from 18 on. Before, the server runs the triggers of a table that refers to another one as the
// owner of that, when a row there is deleted: a tenant's foreign key with ON DELETE CASCADE would make its trigger run as
// the owner of the tables. MAINTAIN, from 17 on, is to analyze, vacuum, reindex, cluster and refresh.
func (p profile) privileges(version int) (tables, sequences []string) {
	switch p.level {
	case policy.ReadWrite:
		return []string{"SELECT", "INSERT", "UPDATE", "DELETE"}, []string{"SELECT", "USAGE", "UPDATE"}
	case policy.Admin:
		tables = []string{"SELECT", "INSERT", "UPDATE", "DELETE", "TRUNCATE"}
		if version >= 170000 {
			tables = append(tables, "MAINTAIN")
		}
		if version >= safeReferences {
			tables = append(tables, "REFERENCES")
		}
		return tables, []string{"SELECT", "USAGE", "UPDATE"}
	default:
		return []string{"SELECT"}, []string{"SELECT"}
	}
}

// safeReferences is the first version in which a foreign key runs the referring table's triggers with the rights of
// whoever it was that changed the other table.
const safeReferences = 180000

// profileMaxAge is how long a profile is believed to cover the database. Tables that are made meanwhile are covered by
// default privileges, unless their owner is new.
const profileMaxAge = time.Minute

// profiles remembers which profiles are in order on the server.
type profiles struct {
	mu    sync.Mutex
	state map[profile]*profileState
}

type profileState struct {
	checking   sync.Mutex // held while the server is asked
	checked    atomic.Pointer[time.Time]
	refreshing atomic.Bool
	leftOut    atomic.Pointer[string] // owners of what the profile lacks, and how many objects of each
	missing    atomic.Int64           // how many objects in all
	creates    atomic.Bool            // everybody may create in a schema of the database
}

func (p *profiles) get(key profile) *profileState {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state == nil {
		p.state = make(map[profile]*profileState)
	}
	s, ok := p.state[key]
	if !ok {
		s = &profileState{}
		p.state[key] = s
	}
	return s
}

// missing is how many objects all profiles lack.
func (p *profiles) missing() (n int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, s := range p.state {
		n += s.missing.Load()
	}
	return n
}

// forget makes the next use check again, after somebody dropped a profile under us.
func (p *profiles) forget(key profile) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.state, key)
}

// ensureProfile brings the profile's role in order before its first use. After that it is looked at again once a minute
// while it is used, without anybody waiting for it.
func (k *Keeper) ensureProfile(ctx context.Context, c *admin.Conn, p profile) error {
	state := k.profiles.get(p)
	if state.checked.Load() == nil {
		return k.checkProfile(ctx, c, p, state, time.Now())
	}
	if time.Since(*state.checked.Load()) > profileMaxAge && state.refreshing.CompareAndSwap(false, true) {
		k.tended.Go(func() { k.refreshProfile(p, state) })
	}
	return nil
}

// refreshProfile looks at a profile again in the background.
func (k *Keeper) refreshProfile(p profile, state *profileState) {
	ctx, cancel := context.WithTimeout(k.ending, provisionTimeout)
	defer cancel()
	defer state.refreshing.Store(false)
	asked := time.Now()
	err := k.pool.In(ctx, p.database, func(c *admin.Conn) error { return k.checkProfile(ctx, c, p, state, asked) })
	if err != nil && ctx.Err() == nil {
		k.log.Error("profile could not be refreshed", "profile", p.name(), "error", err)
	}
}

// checkProfile makes the role and grants what is missing, unless somebody did so after asked.
func (k *Keeper) checkProfile(ctx context.Context, c *admin.Conn, p profile, state *profileState, asked time.Time) error {
	state.checking.Lock()
	defer state.checking.Unlock()
	if last := state.checked.Load(); last != nil && last.After(asked) {
		return nil
	}
	if err := k.makeProfileRole(ctx, c, p); err != nil {
		return err
	}
	if err := k.fillProfile(ctx, c, p); err != nil {
		return err
	}
	creates, err := publicCreates(ctx, c)
	if err != nil {
		return err
	}
	state.creates.Store(creates)
	now := time.Now()
	state.checked.Store(&now)
	return nil
}

// publicCreates reports whether everybody may make objects in some schema of the database that c is connected to.
func publicCreates(ctx context.Context, c *admin.Conn) (creates bool, err error) {
	err = c.QueryOne(ctx, `
		SELECT EXISTS (SELECT FROM pg_namespace n, aclexplode(n.nspacl) x WHERE x.grantee = 0 AND x.privilege_type = 'CREATE')
		    OR EXISTS (SELECT FROM pg_database d, aclexplode(d.datacl) x WHERE d.datname = current_database() AND x.grantee = 0 AND x.privilege_type = 'CREATE')`, nil, &creates)
	return creates, err
}

// makeProfileRole creates the role unless it is there, and refuses one that is more than a profile.
func (k *Keeper) makeProfileRole(ctx context.Context, c *admin.Conn, p profile) error {
	name := admin.QuoteIdentifier(p.name())
	var harmless bool
	err := c.QueryOne(ctx, `
		SELECT NOT (rolcanlogin OR rolsuper OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)
		       AND NOT EXISTS (SELECT FROM pg_auth_members m WHERE m.member = r.oid)
		  FROM pg_roles r WHERE rolname = $1`, []any{p.name()}, &harmless)
	switch {
	case err == nil && harmless:
		return nil
	case err == nil:
		return &admin.PrivilegeError{
			Problem:    fmt.Sprintf("role %s exists with rights of its own, so it can't serve as a profile on %s", p.name(), p.database),
			Statements: []string{"DROP ROLE " + name + ";"},
		}
	case !errors.Is(err, pgx.ErrNoRows):
		return err
	}
	_, err = c.Script(ctx, "BEGIN",
		"CREATE ROLE "+name+" NOLOGIN",
		"COMMENT ON ROLE "+name+" IS "+admin.QuoteLiteral(p.comment()),
		"COMMIT")
	if err == nil {
		return nil
	}
	if rollbackErr := c.Rollback(ctx); rollbackErr != nil {
		return errors.Join(err, rollbackErr)
	}
	if admin.SQLState(err) == pgerrcode.DuplicateObject || admin.SQLState(err) == pgerrcode.UniqueViolation {
		return nil // another proxy was quicker
	}
	return err
}

// gap is one row of profile_gaps.sql.
type gap struct {
	Kind, Target, Privileges, Owner string
	Grantable                       bool
}

// fillProfile grants what the profile lacks in the database that c is connected to.
func (k *Keeper) fillProfile(ctx context.Context, c *admin.Conn, p profile) error {
	if c.Version < safeReferences && strings.Contains(p.objects, `"REFERENCES"`) {
		return fmt.Errorf("%w: REFERENCES on this version (18 is the first) lets a person's trigger run as the owner of the table that is referred to", ErrRoleRefused)
	}
	gaps, err := k.profileGaps(ctx, c, p)
	if err != nil || len(gaps) == 0 {
		return err
	}
	if err := missingObjects(gaps, p.database); err != nil {
		return err
	}
	gaps, left := p.leaveOut(gaps)
	k.leftOut(p, left)
	if err := missingOwners(gaps, c.Acting, c.Version); err != nil || len(gaps) == 0 {
		return err
	}
	return c.Exclusively(ctx, func() error {
		_, err := c.Script(ctx, grantStatements(gaps, p.name())...)
		return err
	})
}

func (k *Keeper) profileGaps(ctx context.Context, c *admin.Conn, p profile) ([]gap, error) {
	if p.level == "" {
		objects := p.objects
		if objects == "" {
			objects = "[]"
		}
		rows, err := c.Query(ctx, objectGapsSQL, p.name(), objects)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowToStructByPos[gap])
	}
	tables, sequences := p.privileges(c.Version)
	admin, writes := p.level == policy.Admin, p.level != policy.ReadOnly
	rows, err := c.Query(ctx, profileGapsSQL, p.name(), tables, sequences, admin, writes)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[gap])
}

// leaveOut takes from the gaps what the admin may not grant and the grant does not name: somebody's table of their own,
// which anybody may make, must not keep everybody out of the database.
func (p profile) leaveOut(gaps []gap) (grantable, left []gap) {
	for _, g := range gaps {
		kind, star := strings.CutPrefix(g.Kind, "LEFT OUT ")
		switch {
		case star, p.level != "" && !g.Grantable && kind != "DATABASE":
			left = append(left, g)
		default:
			grantable = append(grantable, g)
		}
	}
	return grantable, left
}

// leftOut says what a profile lacks because the admin may not grant it, when that changes.
func (k *Keeper) leftOut(p profile, left []gap) {
	owners := make(map[string]int)
	for _, g := range left {
		owners[g.Owner]++
	}
	now := fmt.Sprint(owners)
	state := k.profiles.get(p)
	if before := state.leftOut.Swap(&now); before != nil && *before == now || before == nil && len(left) == 0 {
		return
	}
	state.missing.Store(int64(len(left)))
	k.metrics.leftOut.Set(float64(k.profiles.missing()))
	if len(left) > 0 {
		k.log.Warn("left out of what grants cover, since the admin is not a member of the owners: hourgate preflight has the SQL",
			"database", p.database, "profile", p.name(), "objects", len(left), "owners", len(owners), "example", left[0].Target)
	}
}

// missingObjects is the error for what the grant names and the database does not have.
func missingObjects(gaps []gap, database string) error {
	var names []string
	for _, g := range gaps {
		if g.Kind == "MISSING" {
			names = append(names, g.Target)
		}
	}
	if len(names) == 0 {
		return nil
	}
	return fmt.Errorf("%w: database %s has no %s", ErrNoObject, database, strings.Join(names, ", "))
}

// missingOwners is the error for objects on which the admin can't grant, with what a DBA has to run.
func missingOwners(gaps []gap, acting string, version int) error {
	counts := make(map[string]int)
	var statements []string
	var example string
	for _, g := range gaps {
		if g.Grantable {
			continue
		}
		if counts[g.Owner]++; counts[g.Owner] > 1 {
			continue
		}
		example = g.Kind + " " + g.Target
		options := ""
		if version >= 160000 {
			options = " WITH INHERIT TRUE"
		}
		statements = append(statements, fmt.Sprintf("GRANT %s TO %s%s;", admin.QuoteIdentifier(g.Owner), admin.QuoteIdentifier(acting), options))
	}
	if len(statements) == 0 {
		return nil
	}
	return &admin.PrivilegeError{
		Problem:    fmt.Sprintf("the admin %s is not a member of %d owner(s) of objects that the access level covers, such as %s", acting, len(counts), example),
		Statements: statements,
	}
}

// grantBatch bounds the objects of one GRANT, and with them the locks and the size of a statement.
const grantBatch = 200

// grantStatements turns gaps into GRANTs, many objects a statement.
func grantStatements(gaps []gap, profile string) []string {
	role := admin.QuoteIdentifier(profile)
	targets := make(map[[2]string][]string) // kind and privileges → objects
	var order [][2]string
	var statements []string
	for _, g := range gaps {
		what, schema, _ := strings.Cut(g.Kind, " ")
		switch what {
		case "TABLES", "SEQUENCES", "FUNCTIONS", "SCHEMAS":
			statements = append(statements,
				fmt.Sprintf("ALTER DEFAULT PRIVILEGES FOR ROLE %s %s GRANT %s ON %s TO %s", g.Target, schema, g.Privileges, what, role))
			continue
		case "REVOKE":
			if schema == "TABLES" || schema == "SEQUENCES" {
				statements = append(statements,
					fmt.Sprintf("ALTER DEFAULT PRIVILEGES FOR ROLE %s REVOKE %s ON %s FROM %s", g.Target, g.Privileges, schema, role))
				continue
			}
			statements = append(statements, fmt.Sprintf("REVOKE %s ON %s %s FROM %s", g.Privileges, schema, g.Target, role))
			continue
		}
		key := [2]string{g.Kind, g.Privileges}
		if targets[key] == nil {
			order = append(order, key)
		}
		targets[key] = append(targets[key], g.Target)
	}
	for _, key := range order {
		for objects := targets[key]; len(objects) > 0; {
			n := min(grantBatch, len(objects))
			statements = append(statements,
				fmt.Sprintf("GRANT %s ON %s %s TO %s", key[1], key[0], strings.Join(objects[:n], ", "), role))
			objects = objects[n:]
		}
	}
	return statements
}

package profile

import (
	"context"
	_ "embed"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/hourgate/hourgate/internal/admin"
	"github.com/hourgate/hourgate/policy"
)

//go:embed sql/profile_gaps.sql
var profileGapsSQL string

//go:embed sql/object_gaps.sql
var objectGapsSQL string

// gap is one row of profile_gaps.sql.
type gap struct {
	Kind, Target, Privileges, Owner string
	Grantable                       bool
}

// fill grants what the profile lacks in the database that c is connected to.
func (ps *Profiles) fill(ctx context.Context, c *admin.Conn, p Profile) error {
	if c.Version < safeReferences && strings.Contains(p.objects, `"REFERENCES"`) {
		return fmt.Errorf("%w: REFERENCES on this version (18 is the first) lets a person's trigger run as the owner of the table that is referred to", ErrRoleRefused)
	}
	gaps, err := p.gaps(ctx, c)
	if err != nil || len(gaps) == 0 {
		return err
	}
	if err := missingObjects(gaps, p.database); err != nil {
		return err
	}
	gaps, left := p.leaveOut(gaps)
	ps.leftOut(p, left)
	if err := missingOwners(gaps, c.Acting, c.Version); err != nil || len(gaps) == 0 {
		return err
	}
	return c.Exclusively(ctx, func() error {
		_, err := c.Script(ctx, grantStatements(gaps, p.Name())...)
		return err
	})
}

func (p Profile) gaps(ctx context.Context, c *admin.Conn) ([]gap, error) {
	if p.level == "" {
		objects := p.objects
		if objects == "" {
			objects = "[]"
		}
		rows, err := c.Query(ctx, objectGapsSQL, p.Name(), objects)
		if err != nil {
			return nil, err
		}
		return pgx.CollectRows(rows, pgx.RowToStructByPos[gap])
	}
	tables, sequences := p.privileges(c.Version)
	admin, writes := p.level == policy.Admin, p.level != policy.ReadOnly
	rows, err := c.Query(ctx, profileGapsSQL, p.Name(), tables, sequences, admin, writes)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByPos[gap])
}

// leaveOut takes from the gaps what the admin may not grant and the grant does not name: somebody's table of their own,
// which anybody may make, must not keep everybody out of the database.
func (p Profile) leaveOut(gaps []gap) (grantable, left []gap) {
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
func (ps *Profiles) leftOut(p Profile, left []gap) {
	owners := make(map[string]int)
	for _, g := range left {
		owners[g.Owner]++
	}
	now := fmt.Sprint(owners)
	state := ps.get(p)
	if before := state.leftOut.Swap(&now); before != nil && *before == now || before == nil && len(left) == 0 {
		return
	}
	state.missing.Store(int64(len(left)))
	ps.cfg.LeftOut.Set(float64(ps.missing()))
	if len(left) > 0 {
		ps.cfg.Log.Warn("left out of what grants cover, since the admin is not a member of the owners: hourgate preflight has the SQL",
			"database", p.database, "profile", p.Name(), "objects", len(left), "owners", len(owners), "example", left[0].Target)
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

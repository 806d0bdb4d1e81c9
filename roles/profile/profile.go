package profile

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"

	"github.com/hourgate/hourgate/policy"
	"github.com/hourgate/hourgate/roles/ledger"
)

// Profile is what an access allows in one database. On the server it is a NOLOGIN role that holds these privileges,
// owns nothing and may create nothing; ephemeral roles are members of it. The profiles of levels stay. Those of named
// objects are made for the first grant that needs them and go with the last role that is a member.
//
// A profile never holds CREATE: on servers before 16, and on unpatched ones after it, a member could hand objects to
// the profile that would outlive the grant. ADMIN's right to create is granted to the ephemeral role itself.
type Profile struct {
	database string
	level    policy.Level // "" for named objects
	objects  string       // JSON, for object_gaps.sql; empty for nothing but CONNECT
	owner    string       // with objects: the deployment that makes and removes the profile
}

// Of is the profile for an access in a database. The deployment owns the profiles of named objects.
func Of(database string, access policy.Access, deployment string) Profile {
	objects := access.Objects()
	if access.Level != "" || len(objects) == 0 {
		return Profile{database: database, level: access.Level}
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
		panic("profile: objects that can't be encoded: " + err.Error()) // strings; can't happen
	}
	return Profile{database: database, objects: string(encoded), owner: deployment}
}

// Name is the role's: readable, unique for database and privileges, and the same for every proxy.
func (p Profile) Name() string {
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
func (p Profile) comment() string {
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
func (p Profile) privileges(version int) (tables, sequences []string) {
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

// Database is the one that the profile belongs to.
func (p Profile) Database() string { return p.database }

// Local reports whether making a role of the profile changes privileges in the database itself.
func (p Profile) Local() bool { return p.level == policy.Admin || p.objects != "" }

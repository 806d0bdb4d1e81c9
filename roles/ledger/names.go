package ledger

import (
	"crypto/sha256"
	"encoding/hex"
	"regexp"
	"strings"
)

// Kinds of profiles, in their names.
const (
	KindReadOnly  = "ro"
	KindReadWrite = "rw"
	KindAdmin     = "admin"
	KindConnect   = "in"  // CONNECT only, for grants of roles
	KindObjects   = "set" // named objects
)

// ProfilePattern matches the names of all profiles, and ObjectsPattern of those that are removed after use.
const (
	ProfilePattern = "^" + ProfilePrefix + "(" + KindReadOnly + "|" + KindReadWrite + "|" + KindAdmin + "|" + KindConnect + "|" + KindObjects + ")_"
	ObjectsPattern = "^" + ProfilePrefix + KindObjects + "_"
)

// IsObjectsProfile reports whether the name is one of a profile of named objects.
func IsObjectsProfile(name string) bool {
	return strings.HasPrefix(name, ProfilePrefix+KindObjects+"_")
}

// DatabaseRole names a NOLOGIN role of ours that belongs to one database.
func DatabaseRole(kind, database string) string {
	sum := sha256.Sum256([]byte(database))
	return ProfilePrefix + kind + "_" + Part(database, 32) + "_" + hex.EncodeToString(sum[:4])
}

// KeeperSeparator is between a process's name and a keeper's in an entry's Proxy.
const KeeperSeparator = "."

// Application is the application_name of a process's admin connections. Everybody may read it in pg_stat_activity, so it
// tells other processes of the deployment that this one lives. All keepers of a process have the same.
func Application(deployment, proxy string) string {
	process, _, _ := strings.Cut(proxy, KeeperSeparator)
	name := "hourgate " + process + " " + deployment
	return name[:min(len(name), MaxIdentifier)]
}

var profileNames = regexp.MustCompile(ProfilePattern)

// IsProfile reports whether the name is one of a profile.
func IsProfile(name string) bool { return profileNames.MatchString(name) }

package roles

import (
	"errors"
	"fmt"
	"strings"

	"github.com/jackc/pgx/v5/pgconn"
)

// SQLSTATEs that this package acts on (PostgreSQL's src/backend/utils/errcodes.txt). Messages are never matched: servers
// answer in other languages too.
const (
	codeInsufficientPrivilege = "42501"
	codeDependentObjects      = "2BP01"
	codeDuplicateObject       = "42710"
	codeUndefinedObject       = "42704"
	codeUniqueViolation       = "23505"
	codeLockNotAvailable      = "55P03"
	codeDeadlock              = "40P01"
	codeInternal              = "XX000" // "tuple concurrently updated"
	codeOutOfMemory           = "53200" // more locks than the server has room for, too
	codeNotConnectable        = "55000" // datallowconn = false, at log-in
	codeNoDatabase            = "3D000"
	codePrivilegeNotRevoked   = "01006"
)

// ErrNoObject is in the error of Acquire when a grant names objects that the database does not have.
var ErrNoObject = errors.New("roles: the grant names what is not there")

// PrivilegeError is an admin that lacks a right which it needs. Statements are what a DBA runs to mend it.
type PrivilegeError struct {
	Problem    string
	Statements []string
}

func (e *PrivilegeError) Error() string {
	return fmt.Sprintf("%s; a DBA has to run: %s", e.Problem, strings.Join(e.Statements, " "))
}

// TombstoneError is a role that can no longer log in, but that can't be dropped while others hold on to it.
type TombstoneError struct {
	Role   string
	HeldBy []string // pg_describe_object's words
}

func (e *TombstoneError) Error() string {
	return fmt.Sprintf("role %s is disabled but can't be dropped, it is held by: %s", e.Role, strings.Join(e.HeldBy, "; "))
}

// sqlstate is the SQLSTATE of a server's error, or "".
func sqlstate(err error) string {
	var pgErr *pgconn.PgError
	if errors.As(err, &pgErr) {
		return pgErr.Code
	}
	return ""
}

// transient reports an error that another try can get past: somebody else held a lock or changed the same row.
func transient(err error) bool {
	switch sqlstate(err) {
	case codeLockNotAvailable, codeDeadlock, codeInternal:
		return true
	}
	return false
}

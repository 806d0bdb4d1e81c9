package admin

import (
	"strings"

	"github.com/jackc/pgx/v5"
)

// QuoteIdentifier quotes a name for SQL.
func QuoteIdentifier(name string) string { return pgx.Identifier{name}.Sanitize() }

// QuoteLiteral quotes a text for SQL with standard_conforming_strings = on, which every admin connection pins.
func QuoteLiteral(s string) string { return "'" + strings.ReplaceAll(s, "'", "''") + "'" }

// Join is the statement that makes the admin a member of a role, whose name is quoted. That is what allows the admin to
// terminate the role's backends and to drop what it owns.
func (c *Conn) Join(quoted string) string {
	if c.Version >= 160000 {
		return "GRANT " + quoted + " TO CURRENT_USER WITH INHERIT TRUE, SET TRUE"
	}
	return "GRANT " + quoted + " TO CURRENT_USER"
}

// Package profile keeps the roles in order of which ephemeral roles are members: one for each access and database, which
// holds the privileges. It also looks at the roles of others that a grant names instead.
package profile

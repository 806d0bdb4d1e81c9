// Package first takes a person from nothing to a first session: it looks at the server, writes what a gate needs into a
// folder, and can run the SQL for the admin. It overwrites nothing.
package first

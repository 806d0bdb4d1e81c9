// Package survey looks at a server that Hourgate has no admin on yet, as a DBA, and writes the SQL that makes one: for this
// server's version, for who owns what in the database, and for what this DBA may grant. It changes nothing unless it is
// told to run that SQL.
//
// What it writes: a role hourgate_owner that makes all others and stays when the admin's user is replaced, the admin's
// user, and the memberships in the owners, which are what lets Hourgate grant on their objects.
package survey

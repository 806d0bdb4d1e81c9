// Package console speaks PostgreSQL's protocol to clients of a database that is none: simple and extended queries, whose
// statements a Handler sees as text and answers with text.
package console

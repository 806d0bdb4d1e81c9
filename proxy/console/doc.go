// Package console speaks PostgreSQL's protocol to clients of a database that is none: simple and extended queries, whose
// statements a Handler sees as text and answers with text.
//
// BEGIN, COMMIT, ROLLBACK, SAVEPOINT, RELEASE, SET, RESET, SHOW, DISCARD and DEALLOCATE are answered here, as far as clients need them.
// Nothing is undone by ROLLBACK.
package console

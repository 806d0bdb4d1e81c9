// Package statements watches a relay and tells the trail what a session asks for, before the server is asked, and what became
// of it.
package statements

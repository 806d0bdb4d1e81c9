// Package preflight looks at a server, and at what Hourgate's admin can and cannot do there, before anybody depends on it. It
// changes nothing.
package preflight

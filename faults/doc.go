// Package faults breaks what is around a gate, at each moment of a session's life, and looks at what holds all the same.
// `make faults` runs it and writes the table of docs/reliability.md.
package faults

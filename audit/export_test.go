package audit

import "time"

// Blind returns options of a trail that does not look after its files by itself.
func Blind(o Options) Options {
	o.lookEvery = time.Hour
	return o
}

package policy

import "time"

// Count tells how many grants are live at a time, begin later, and have ended.
func (s *Set) Count(now time.Time) (live, future, ended int) {
	for _, g := range s.grants {
		switch {
		case now.Before(g.From):
			future++
		case now.Before(g.Until):
			live++
		default:
			ended++
		}
	}
	return live, future, ended
}

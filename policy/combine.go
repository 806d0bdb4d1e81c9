package policy

import "maps"

// Combine returns the policy of the files together with grants that come from requests, which must be complete: Databases
// and Until are set. The users are those of the files, so that whoever is taken out of the files, or disabled there, has
// nothing by a request either. Where a name is taken by a grant of the files, that one counts and the other does not.
//
// Grants that overlap are never added up and never shorten one another: [Set.Decide] gives a new session the one that
// allows most and, of those that allow the same, the one that ends last. A session that runs keeps its own grant, and ends
// with it; a further grant for the same database neither ends it nor changes it.
func Combine(files *Set, granted []*Grant) *Set {
	s := *files
	s.grants, s.byUser, s.byGroup = maps.Clone(files.grants), maps.Clone(files.byUser), maps.Clone(files.byGroup)
	for _, g := range granted {
		if _, taken := s.grants[g.Name]; !taken {
			s.add(g)
		}
	}
	return &s
}

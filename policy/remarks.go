package policy

import (
	"fmt"
	"maps"
	"slices"
	"strings"
)

// Remarks says of each grant and flow that means nothing now why, and then of each grant that leaves something behind, or
// lets people put code where others run it, what that is: a line each. Nothing in it is a mistake.
func (s *Set) Remarks() []string {
	lines := slices.Clone(s.notes)
	for _, name := range slices.Sorted(maps.Keys(s.grants)) {
		for _, remark := range s.grants[name].remarks() {
			lines = append(lines, fmt.Sprintf("grant %s: %s", name, remark))
		}
	}
	if s.FlowCount() > 0 {
		lines = append(lines, s.alike()...)
	}
	return lines
}

// alike are users whose names are the same but for case: nobody decides their own requests, but one person with two names could.
func (s *Set) alike() []string {
	var lines []string
	first := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(s.users)) {
		folded := strings.ToLower(name)
		if other, twice := first[folded]; twice {
			lines = append(lines, fmt.Sprintf("users %s and %s: if they are one person, that one may decide requests of their own", other, name))
			continue
		}
		first[folded] = name
	}
	return lines
}

func (g *Grant) remarks() []string {
	var remarks []string
	a := g.Access
	switch {
	case a.ActAs != "":
		remarks = append(remarks, fmt.Sprintf("sessions work as %s: what they make or change is that role's and stays after the grant, "+
			"functions and privileges too", a.ActAs))
	case a.Dangerous:
		remarks = append(remarks, fmt.Sprintf("what is done as %s stays after the grant, functions and privileges too", strings.Join(a.Roles, ", ")))
	}
	if len(a.CreateIn) > 0 {
		remarks = append(remarks, fmt.Sprintf("creates in %s: while the grant lives, a function of the person's there may be what others "+
			"call who have the schema on their search_path and do not name it", strings.Join(a.CreateIn, ", ")))
	}
	if g.KeepObjectsAs != "" {
		remarks = append(remarks, fmt.Sprintf("tables, indexes, sequences, types and views that run no code go to %s at the end; the rest is dropped",
			g.KeepObjectsAs))
	}
	return remarks
}

// Ending says what becomes of what a session makes, for the notice at log-in. creates is whether the server lets the
// session make objects that outlive it besides what the access is known for; where neither does, it is "".
func (g *Grant) Ending(creates bool) string {
	a := g.Access
	switch {
	case a.ActAs != "":
		return fmt.Sprintf("you work as %s, and what you make is that role's and stays", a.ActAs)
	case !a.Creates() && !creates:
		return ""
	case g.KeepObjectsAs != "":
		return fmt.Sprintf("tables, sequences, types and views of yours that run no code go to %s then, and the rest is dropped", g.KeepObjectsAs)
	case a.Dangerous:
		return fmt.Sprintf("what you own yourself is dropped then, and what you make as %s stays", strings.Join(a.Roles, ", "))
	}
	return "what you own is kept until then, also when you disconnect, and dropped then"
}

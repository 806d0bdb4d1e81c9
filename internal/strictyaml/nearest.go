package strictyaml

import "strings"

// Nearest returns the word of known that word was probably meant to be: the one with the fewest letters to change, if
// these are at most a third of them. The comparison ignores case.
func Nearest(word string, known []string) (string, bool) {
	// The distance takes time in proportion to both lengths; no word that anyone means is this long.
	const longest = 64
	if len(word) > longest {
		return "", false
	}
	nearest, fewest := "", 1+max(1, len(word)/3)
	for _, k := range known {
		if n := distance(strings.ToLower(word), strings.ToLower(k)); n < fewest {
			nearest, fewest = k, n
		}
	}
	return nearest, nearest != ""
}

// distance is the number of bytes to insert, delete, replace or swap with the next to make b of a.
func distance(a, b string) int {
	d := make([][]int, len(a)+1) // d[i][j]: from a[:i] to b[:j]
	for i := range d {
		d[i] = make([]int, len(b)+1)
		d[i][0] = i
	}
	for j := range d[0] {
		d[0][j] = j
	}
	for i := 1; i <= len(a); i++ {
		for j := 1; j <= len(b); j++ {
			replace := d[i-1][j-1]
			if a[i-1] != b[j-1] {
				replace++
			}
			d[i][j] = min(replace, d[i-1][j]+1, d[i][j-1]+1)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				d[i][j] = min(d[i][j], d[i-2][j-2]+1)
			}
		}
	}
	return d[len(a)][len(b)]
}

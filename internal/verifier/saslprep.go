package verifier

import (
	"unicode/utf8"

	"github.com/xdg-go/stringprep"
	"golang.org/x/text/unicode/norm"
)

// checked is SASLprep (RFC 4013) without the normalisation, in the order of PostgreSQL's pg_saslprep
// (src/common/saslprep.c), which differs from the library's own profile in two ways: U+200B, which is in both tables,
// becomes a space and not nothing; and what is prohibited is looked for before the normalisation and not after.
var checked = stringprep.Profile{
	Mappings: []stringprep.Mapping{spaces, stringprep.TableB1},
	Prohibits: []stringprep.Set{
		stringprep.TableA1,
		stringprep.TableC1_2,
		stringprep.TableC2_1,
		stringprep.TableC2_2,
		stringprep.TableC3,
		stringprep.TableC4,
		stringprep.TableC5,
		stringprep.TableC6,
		stringprep.TableC7,
		stringprep.TableC8,
		stringprep.TableC9,
	},
	CheckBiDi: true,
}

// spaces maps the spaces of RFC 3454, table C.1.2, to the ASCII one.
var spaces = func() stringprep.Mapping {
	m := stringprep.Mapping{}
	for _, r := range "\u00a0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a\u200b\u202f\u205f\u3000" {
		m[r] = []rune{' '}
	}
	return m
}()

// prepare returns the password that goes into the key: SASLprep's result or, where SASLprep refuses, the password as
// it is, as PostgreSQL and libpq do.
func prepare(password string) string {
	if !utf8.ValidString(password) {
		return password
	}
	mapped, err := checked.Prepare(password)
	if err != nil || mapped == "" {
		return password
	}
	return norm.NFKC.String(mapped)
}

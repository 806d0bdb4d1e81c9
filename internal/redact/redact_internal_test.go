package redact

import (
	"bytes"
	"slices"
	"testing"
)

func TestRedact(t *testing.T) {
	tests := []struct{ text, want string }{ // want "" for the same
		{text: ""},
		{text: "SELECT 1"},
		{text: "SELECT password FROM users WHERE password = 'x'"},
		{"ALTER ROLE alice PASSWORD 'geheim'", "ALTER ROLE alice PASSWORD '[redacted]'"},
		{"create user a with login encrypted password 'x' valid until 'y'", "create user a with login encrypted password '[redacted]' valid until 'y'"},
		{"/* a /* b */ ' */ -- '\n Create\tGROUP g PaSsWoRd--\n'x'", "/* a /* b */ ' */ -- '\n Create\tGROUP g PaSsWoRd--\n'[redacted]'"},
		{"ALTER ROLE a PASSWORD 'it''s'", "ALTER ROLE a PASSWORD '[redacted]'"},
		{"ALTER ROLE a PASSWORD 'x'\n 'y' CREATEDB", "ALTER ROLE a PASSWORD '[redacted]'\n '[redacted]' CREATEDB"},
		{`ALTER ROLE a PASSWORD E'it\'s'; SELECT 'b'`, "ALTER ROLE a PASSWORD E'[redacted]'; SELECT 'b'"},
		{"ALTER ROLE a PASSWORD U&'d\\0061t' UESCAPE '!'", "ALTER ROLE a PASSWORD U&'[redacted]' UESCAPE '!'"},
		{"ALTER ROLE a PASSWORD $$x$$", "ALTER ROLE a PASSWORD $$[redacted]$$"},
		{"ALTER ROLE a PASSWORD $q$x$$'$q$; SELECT 2", "ALTER ROLE a PASSWORD $q$[redacted]$q$; SELECT 2"},
		{"ALTER ROLE a PASSWORD N'x'", "ALTER ROLE a PASSWORD N'[redacted]'"},
		{"ALTER ROLE a PASSWORD 'never closed", "ALTER ROLE a PASSWORD '[redacted]"},
		{"ALTER ROLE a PASSWORD $$never closed", "ALTER ROLE a PASSWORD $$[redacted]"},
		{"ALTER ROLE a PASSWORD E'never closed\\", "ALTER ROLE a PASSWORD E'[redacted]"},
		{text: "ALTER ROLE a PASSWORD"},
		{text: "ALTER ROLE a PASSWORD '"},
		{text: "ALTER ROLE a PASSWORD NULL"},
		{text: "ALTER ROLE a PASSWORD $1"},
		{text: "ALTER ROLE a PASSWORD ''"},
		{"CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password 'x')", "CREATE USER MAPPING FOR a SERVER s OPTIONS (user 'u', password '[redacted]')"},
		{"SELECT 1; ALTER USER a PASSWORD 'x'; SELECT 'y'", "SELECT 1; ALTER USER a PASSWORD '[redacted]'; SELECT 'y'"},
		{`ALTER ROLE "password 'x'" PASSWORD 'y'`, `ALTER ROLE "password 'x'" PASSWORD '[redacted]'`},
		{`ALTER ROLE U&"a""b" PASSWORD 'y'`, `ALTER ROLE U&"a""b" PASSWORD '[redacted]'`},
		{"ALTER ROLE j\xfcrgen PASSWORD 'y\xfc'", "ALTER ROLE j\xfcrgen PASSWORD '[redacted]'"},
		{`ALTER ROLE a PASSWORD 'ends in \'`, "ALTER ROLE a PASSWORD '[redacted]'"},

		// Ways to hide something: nothing of what may run is replaced.
		{text: "SELECT 'password', evil(), ''"},
		{text: "SELECT run(password 'DROP TABLE x')"},
		{text: "DO $$ALTER ROLE a PASSWORD 'x'$$"},
		{text: `CREATE ROLE "a'" IN ROLE b; SELECT password 'evil'`},
		{text: `SET standard_conforming_strings = off; CREATE ROLE a CONNECTION LIMIT 'a\', PASSWORD '; DROP TABLE x; --'`},
		{text: "CREATE ROLE a VALID UNTIL E'\x95\\', PASSWORD '; DROP TABLE x; --'"},
		{text: "CREATE ROLES a PASSWORD 'x'"},
		{text: "CREATE a ROLE PASSWORD 'x'"},
		{text: "ALTER ROLE a xpassword 'x'"},
		{text: "ALTER ROLE a passwords 'x'"},
		{text: "ALTER ROLE a password, 'x'"},
		{text: "EXPLAIN ALTER ROLE a PASSWORD 'x'"},
	}
	for _, tt := range tests {
		text := []byte(tt.text)
		got, redacted := Passwords(text)
		want := tt.want
		if want == "" {
			want = tt.text
		}
		if string(got) != want || redacted != (tt.want != "") {
			t.Errorf("%q:\ngot  %q, %v\nwant %q", tt.text, got, redacted, want)
		}
		if string(text) != tt.text {
			t.Errorf("%q: the caller's text was changed to %q", tt.text, text)
		}
	}
}

// FuzzRedact shows that a redaction takes out only what it says, whatever the text.
func FuzzRedact(f *testing.F) {
	f.Add([]byte("ALTER ROLE a PASSWORD 'x\\'' 'y'; CREATE USER b PASSWORD $a$b$a$"))
	f.Add([]byte("create group \xff\\' /* */ password E'\\"))
	f.Add([]byte("ALTER ROLE a PASSWORD U&'"))
	f.Fuzz(func(t *testing.T, text []byte) {
		for reading := range 4 {
			l := lexer{text: text, escapes: reading&1 != 0, wide: reading&2 != 0}
			last := 0
			for _, s := range l.passwords() {
				if s.from < last || s.to <= s.from || s.to > len(text) {
					t.Fatalf("got %+v after %d in %d bytes", s, last, len(text))
				}
				last = s.to
			}
		}
		out, redacted := Passwords(text)
		if !redacted && !bytes.Equal(out, text) {
			t.Errorf("%q became %q", text, out)
		}
		if mentionsPassword(text) != bytes.Contains(asciiLower(text), []byte("password")) {
			t.Errorf("%q: mentionsPassword is wrong", text)
		}
	})
}

func asciiLower(b []byte) []byte {
	b = slices.Clone(b)
	for i, c := range b {
		if c >= 'A' && c <= 'Z' {
			b[i] = c | 0x20
		}
	}
	return b
}

func BenchmarkRedact(b *testing.B) {
	usual := []byte("SELECT w.id, w.name FROM warehouse w WHERE w.id = $1 AND w.open")
	for name, text := range map[string][]byte{
		"usual": usual, "64KiB": bytes.Repeat(usual, (64<<10)/len(usual)), "password": []byte("ALTER ROLE a PASSWORD 'x'"),
		"all w": bytes.Repeat([]byte("w"), (64 << 10)),
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				Passwords(text)
			}
		})
	}
}

package verifier

import (
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// TestRFC7677 checks the example exchange of RFC 7677, section 3, from the side of a server that holds the verifier.
func TestRFC7677(t *testing.T) {
	salt := unbase64(t, "W22ZaJ0SNY7soEsUEjb6gQ==")
	v, err := derive("pencil", salt, 4096)
	if err != nil {
		t.Fatal(err)
	}
	const exchange = "n=user,r=rOprNGfwEbeRWgbNEkqO," +
		"r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0,s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096," +
		"c=biws,r=rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"

	clientKey := make([]byte, sha256.Size)
	subtle.XORBytes(clientKey, unbase64(t, "dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ="), mac(v.StoredKey, exchange))
	got := sha256.Sum256(clientKey)
	if diff := cmp.Diff(v.StoredKey, got[:]); diff != "" {
		t.Errorf("the client's proof does not match the stored key (-want +got):\n%s", diff)
	}
	want := unbase64(t, "6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4=")
	if diff := cmp.Diff(want, mac(v.ServerKey, exchange)); diff != "" {
		t.Errorf("server signature (-want +got):\n%s", diff)
	}
}

// TestPostgreSQL checks verifiers that PostgreSQL 15 made for CREATE ROLE … PASSWORD.
func TestPostgreSQL(t *testing.T) {
	for _, tt := range []struct{ name, password, stored string }{
		{
			"ASCII", "pencil",
			"SCRAM-SHA-256$4096:6eDUWcyTuwyuTs49UElVUg==$6toJAcGl1gwDXtQA4D3UTlaN3RKsbaC8hoMvSdT9SGY=:S2nJCVTPPQUWlm4B+HKSv+aLnq+wChqUa8YUUFyexi8=",
		},
		{
			"mapped and normalised", "a\u200bb\u2168",
			"SCRAM-SHA-256$4096:JrzDHUVRoMfVuKTgPDI0PA==$4eX3iKgkWOHmWWBmcLnpmqgknps9fb7sPtD03mmR9yo=:DOeA77JNxc80TCc+yAg8IOU0J8JMiUY7rYJw28/gwaE=",
		},
		{
			"refused by SASLprep", "\u0007\u2168",
			"SCRAM-SHA-256$4096:8IO844rh4sZYrjCJ2Bk1jQ==$ajpbmhL6eLCEJ7swW7nULtCwDokCUmT+D6pi6dC/QuI=:B3pah5h16PQQouXrestTusEjU7WKmwwKs8vlmoS54Pg=",
		},
		{
			"refused only before normalisation", "a\u0340",
			"SCRAM-SHA-256$4096:tAjAASgMvAXEMMGq+CeMyg==$OvQWene7Xxd5lOTFJ13ejbP/Nc3XAria+Qbf1YlbUag=:LV5oWaAm1SOJZ6TfGMOFyai02WoGc1/+IkzjmTx4tXE=",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			stored, err := Parse(tt.stored)
			if err != nil {
				t.Fatal(err)
			}
			got, err := derive(tt.password, stored.Salt, stored.Iterations)
			if err != nil {
				t.Fatal(err)
			}
			if got.Encode() != tt.stored {
				t.Errorf("got %s, want %s", got.Encode(), tt.stored)
			}
		})
	}
}

func TestPrepare(t *testing.T) {
	for _, tt := range []struct{ name, password, want string }{
		{"ASCII stays", "pencil", "pencil"},
		{"soft hyphen vanishes", "I\u00adX", "IX"},
		{"case stays", "USER", "USER"},
		{"compatibility form", "\u00aa", "a"},
		{"Roman nine", "\u2168", "IX"},
		{"no-break space", "a\u00a0b", "a b"},
		{"zero width space is a space", "a\u200bb", "a b"},
		{"control character: as it is", "\u0007", "\u0007"},
		{"ASCII control beside a mapping: as it is", "\u0007\u2168", "\u0007\u2168"},
		{"mixed directions: as it is", "\u0627\u0031", "\u0627\u0031"},
		{"mapped to nothing: as it is", "\u00ad", "\u00ad"},
		{"unassigned in Unicode 3.2: as it is", "\U0001f600\u2168", "\U0001f600\u2168"},
		{"prohibited before normalisation: as it is", "\u0340", "\u0340"},
		{"not UTF-8: as it is", "\xff\u2168", "\xff\u2168"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := prepare(tt.password); got != tt.want {
				t.Errorf("prepare(%+q) = %+q, want %+q", tt.password, got, tt.want)
			}
		})
	}
}

func unbase64(t *testing.T, s string) []byte {
	t.Helper()
	b, err := base64.StdEncoding.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

package strangers

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/hourgate/hourgate/audit"
)

// Strangers cause a bounded number of records a minute, however many they are; none of their refusals goes uncounted,
// and people who have authenticated are not drowned by them.
func TestRefusalsAreBounded(t *testing.T) {
	for _, networks := range []int{1, 50, 5000} {
		synctest.Test(t, func(t *testing.T) {
			var mu sync.Mutex // the window's timer writes too
			var written []audit.Record
			r := Refusals{Append: func(r audit.Record) error {
				mu.Lock()
				defer mu.Unlock()
				written = append(written, r)
				return nil
			}}
			refuse := func(user, network, cause string, known bool) {
				record := audit.Record{Event: audit.SessionRefused, Subject: audit.Subject{User: user, RemoteAddr: network + ":1"}, Outcome: audit.Outcome{Cause: cause}}
				if err := r.Record(record, network, known); err != nil {
					t.Fatal(err)
				}
			}
			const each = 3
			total := int64(0)
			for range each {
				for minute := time.Now().Add(refusalWindow); time.Now().Before(minute); time.Sleep(10 * time.Millisecond) {
					for range 10 {
						refuse("x", fmt.Sprint("net", total%int64(networks)), []string{"plaintext", "authentication"}[total%2], false)
						total++
					}
				}
				refuse("alice", "net0", "no_grant", true)
				total++
			}
			time.Sleep(2 * refusalWindow)
			synctest.Wait()
			counted, size, alices := int64(0), 0, 0
			for _, r := range written {
				counted += max(r.Count, 1)
				b, err := json.Marshal(r)
				if err != nil {
					t.Fatal(err)
				}
				size += len(b)
				if r.User == "alice" {
					alices++
				}
			}
			if counted != total || alices != each {
				t.Errorf("%d networks: %d refusals recorded, %d of alice; want %d and %d", networks, counted, alices, total, each)
			}
			if most := each * (wholeInAll + maxRefusalKeys + 10); len(written) > most || size > most*400 {
				t.Errorf("%d networks: %d records, %d bytes", networks, len(written), size)
			}
		})
	}
}

func TestClaim(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct{ sent, want string }{
		{"", ""},
		{"alice@example.com", "alice@example.com"},
		{"jürgen", "jürgen"},
		{"a\nb\x1b[2K\u202e", `a\nb\x1b[2K\u202e`},
		{"\xff", `\xff`},
		{strings.Repeat("x", 63), strings.Repeat("x", 63)},
		{strings.Repeat("x", 64), strings.Repeat("x", 63) + "… (64 bytes)"},
		{strings.Repeat("x", 62) + "é", strings.Repeat("x", 62) + "… (64 bytes)"},
	} {
		if got := Claim(tt.sent); got != tt.want {
			t.Errorf("%q: got %q, want %q", tt.sent, got, tt.want)
		}
	}
}

func FuzzClaim(f *testing.F) {
	f.Add("alice\n")
	f.Add(strings.Repeat("\xff", 70))
	f.Fuzz(func(t *testing.T, s string) {
		if got := Claim(s); len(got) > 10*maxClaim+40 || !utf8.ValidString(got) || strings.ContainsAny(got, "\n\r\x00\x1b") {
			t.Errorf("%q became %q", s, got)
		}
	})
}

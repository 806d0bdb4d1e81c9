package audit_test

import (
	"fmt"
	"testing"

	"github.com/hourgate/hourgate/audit"
)

// Records keep their order, no more than a few thousand are held back, and a result that comes too late is not lost.
func TestPairerHoldsLittleBack(t *testing.T) {
	t.Parallel()
	var got []audit.Record
	p := audit.Pairer{Emit: func(r *audit.Record) error { got = append(got, *r); return nil }}
	add := func(event audit.Event, call uint32) {
		r := audit.Record{Event: event, Subject: audit.Subject{Session: "s"}, Asked: audit.Asked{Call: call}}
		if event == audit.StatementResult {
			r.Command = fmt.Sprint("SELECT ", call)
		}
		if err := p.Add(&r); err != nil {
			t.Fatal(err)
		}
	}
	const n = 20_000
	for call := range uint32(n) {
		add(audit.SessionStatement, call+1)
		if call%2 == 0 {
			add(audit.StatementResult, call+1)
		}
		if held := int(call) + 1 - len(got); held > 5000 {
			t.Fatalf("%d records are held back", held)
		}
	}
	add(audit.StatementResult, 2)
	add(audit.StatementResult, n)
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	if len(got) != n+1 || got[n].Command != "SELECT 2" || got[n].Event != audit.StatementResult {
		t.Fatalf("%d records, want %d; the last is %+v", len(got), n+1, got[len(got)-1])
	}
	for i, r := range got[:n] {
		want := ""
		if i%2 == 0 || i == n-1 {
			want = fmt.Sprint("SELECT ", i+1)
		}
		if r.Call != uint32(i+1) || r.Command != want {
			t.Fatalf("record %d: call %d, command %q, want %q", i, r.Call, r.Command, want)
		}
	}
}

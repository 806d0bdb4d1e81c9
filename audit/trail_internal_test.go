package audit

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"
)

// When even the cut after a failed write fails (a dying disk), the next Append makes up for it.
func TestAppendCutsWhatAnEarlierFailureLeft(t *testing.T) {
	trail, err := Open(filepath.Join(t.TempDir(), "trail.jsonl"), Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer trail.Close()
	const rest = `{"seq":2,"prev":"`
	if _, err := trail.file.WriteString(rest); err != nil {
		t.Fatal(err)
	}
	trail.torn = int64(len(rest))
	if err := trail.Append(Record{Event: SessionStart}); err != nil {
		t.Fatal(err)
	}
	f, err := os.Open(trail.path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if s, err := Verify(f); err != nil || s.Records != 2 {
		t.Errorf("got %+v, %v", s, err)
	}
}

// FuzzRecord: whatever a client or a server had put into a record, its line is one line, is taken for a whole record, and
// says the same again; no text can add a field or a line.
func FuzzRecord(f *testing.F) {
	f.Add("alice", "psql", "orders", int64(1), uint32(2))
	f.Add("bob\n{\"seq\":2", `","crc":"00000000"}`, "\xff\xc3(", int64(-1), uint32(0))
	f.Add("\u2028\u2029\x00", "</script>", "\ufeff", int64(1<<62), uint32(1<<31))
	trail := Trail{opts: Options{Deployment: "d", Proxy: "p"}, seq: 41, prev: hashLine(nil)}
	f.Fuzz(func(t *testing.T, user, application, text string, number int64, oid uint32) {
		if len(user)+len(application)+len(text) > 16<<10 {
			return
		}
		r := Record{
			Event: SessionEnd, Time: time.Unix(number%1e10, number%1e9), Error: text,
			Subject: Subject{User: user, Application: application}, Remains: Remains{Dropped: []string{text, user}},
			Detail: map[string]string{"d": application}, Traffic: Traffic{BytesFromClient: number}, Means: Means{RoleOID: oid},
		}
		recordBody, err := trail.encode(r)
		if err != nil {
			if year := r.Time.UTC().Year(); year >= 0 && year <= 9999 {
				t.Fatal(err)
			}
			return
		}
		trail.batch.begin(trail.seq, trail.prev)
		trail.batch.addRecord(recordBody)
		line := trail.batch.lines
		body, ok := bytes.CutSuffix(line, []byte("\n"))
		if !ok || bytes.ContainsAny(body, "\n\r\x00") {
			t.Fatalf("%q is not one line", line)
		}
		got, err := parseLine(body)
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		if got.Seq != 42 || got.Prev != trail.prev || got.Event != SessionEnd || !got.Time.Equal(r.Time) || got.Deployment != "d" || got.Proxy != "p" ||
			got.User != valid(user) || got.Application != valid(application) || got.Error != valid(text) || got.Detail["d"] != valid(application) ||
			!slices.Equal(got.Dropped, []string{valid(text), valid(user)}) || got.BytesFromClient != number || got.RoleOID != oid ||
			got.Session+got.Grant+got.Role+got.Reason+got.Code+got.Database != "" {
			t.Fatalf("%+v was written as %q and read as %+v", r, line, got)
		}
	})
}

// valid is text as JSON keeps it: a byte that is not UTF-8 becomes U+FFFD.
func valid(text string) string { return string([]rune(text)) }

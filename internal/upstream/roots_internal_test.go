package upstream

import "testing"

// A thousand servers with the same authorities keep them once.
func TestRootsAreShared(t *testing.T) {
	t.Parallel()
	a, err := rootsOf(RootsRDS).get()
	if err != nil {
		t.Fatal(err)
	}
	if b, err := rootsOf(RootsRDS).get(); err != nil || a != b {
		t.Errorf("they are kept twice (%v)", err)
	}
}

func BenchmarkRDSRoots(b *testing.B) {
	b.ReportAllocs()
	for b.Loop() {
		if _, err := parseAnchors(rdsRoots); err != nil {
			b.Fatal(err)
		}
	}
}

package runtime

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/boxlitefs/boxlite/runtime/status"
)

func TestWhatABoxHasChangedOfAnImage(t *testing.T) {
	rt := testRuntime(t)
	b, err := rt.Create("x")
	must(t, err)
	const digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	upper := filepath.Join(b.dir, changesDir, imageKey(digest), "upper")
	look := func(is status.Status, runs int, want bool) {
		t.Helper()
		s := *b.Snapshot()
		s.Status, s.Runs = is, runs
		if got := b.hasChanges(digest, &s); got != want {
			t.Errorf("%s after %d runs: %v", is, runs, got)
		}
	}
	look(status.Stopped, 1, false)
	// Who looks while a start still waits for the registry sees nothing, and that is not
	// what is known when the run is over.
	look(status.Starting, 2, false)
	must(t, os.MkdirAll(filepath.Join(upper, "etc"), 0o755))
	must(t, os.WriteFile(filepath.Join(upper, "etc/hosts"), nil, 0o644)) // for a mount
	look(status.Stopped, 2, false)
	must(t, os.WriteFile(filepath.Join(upper, "mine"), nil, 0o644))
	look(status.Starting, 3, true)
	look(status.Stopped, 2, false) // it was seen, and only a run makes changes
	look(status.Stopped, 3, true)
}

func TestALookAtAnUpperDirectoryIsBounded(t *testing.T) {
	upper := t.TempDir()
	for n := range 5000 {
		must(t, os.WriteFile(filepath.Join(upper, strconv.Itoa(n)), nil, 0o644))
	}
	most := testing.AllocsPerRun(1, func() {
		if changed, err := changedBelow(upper, "/", map[string]bool{"/proc": true}); !changed || err != nil {
			t.Errorf("%v %v", changed, err)
		}
	})
	if most > 1000 {
		t.Errorf("it takes %v allocations", most)
	}
}

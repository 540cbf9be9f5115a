package runtime

import (
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/runtime/config"
)

// Each lookup asks for access to the files of a box, and what that costs is there until the
// run ends.
func TestThereIsOneRootOfARun(t *testing.T) {
	rootOfHost = true
	defer func() { rootOfHost = false }()
	b, r := running(t, &config.Config{})
	first, err := b.OpenRoot()
	must(t, err)
	for range 100 {
		again, err := b.OpenRoot()
		must(t, err)
		if again != first {
			t.Fatal("a lookup has a root of its own")
		}
	}
	// The next run has its own.
	next := newRun(2, "next", r.cfg, nil)
	b.mu.Lock()
	s := *b.Snapshot()
	s.run = next
	b.run = next
	b.publish(&s, time.Now())
	b.mu.Unlock()
	if other, err := b.OpenRoot(); err != nil || other == first {
		t.Errorf("the next run has the same, or %v", err)
	}
}

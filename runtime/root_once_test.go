package runtime

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Each lookup asks for the way to the files of a box, and what it costs is there until the
// run ends.
func TestThereIsOneWayToTheFilesOfARun(t *testing.T) {
	rootOfHost = true
	defer func() { rootOfHost = false }()
	b, r := running(t, &Config{})
	first, err := b.OpenRoot()
	must(t, err)
	begun := 0
	first.begin = func() error {
		begun++
		proc, err := unix.Open("/proc/self", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return err
		}
		return first.attach(proc)
	}
	defer func() { first.Close() }()
	for range 100 {
		again, err := b.OpenRoot()
		must(t, err)
		if again != first {
			t.Fatal("a lookup has a way of its own")
		}
		if _, err := again.Lstat(t.Context(), ""); err != nil {
			t.Fatal(err)
		}
	}
	if begun != 1 {
		t.Errorf("it was opened %d times", begun)
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

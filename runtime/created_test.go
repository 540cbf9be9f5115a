package runtime

import (
	"strings"
	"sync"
	"testing"
)

// Who finds a box before its maker has the answer may change it as soon as its lock is free.
func TestABoxIsCreatedBeforeAnythingElse(t *testing.T) {
	rt := testRuntime(t)
	for round := range 300 {
		name := "b" + strings.Repeat("x", round%10)
		var other sync.WaitGroup
		other.Go(func() {
			var b *Box
			for b == nil {
				b = rt.Box(name)
			}
			for !b.mu.TryLock() { // to wait in line for it would be later
			}
			text, _ := b.EventsText()
			b.mu.Unlock()
			if !strings.Contains(string(text.Bytes), " created") {
				t.Errorf("round %d: a box without the event can be changed: %q", round, text.Bytes)
			}
		})
		b, err := rt.Create(name)
		must(t, err)
		other.Wait()
		must(t, b.Remove())
	}
}

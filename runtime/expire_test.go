package runtime

import (
	"runtime"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/runtime/config"
)

// onRecord returns state.json when nothing of it waits to be written.
func onRecord(t *testing.T, b *Box) *stateRecord {
	t.Helper()
	for b.saveQueued.Load() {
		runtime.Gosched()
	}
	b.save.Lock()
	defer b.save.Unlock()
	rec, err := load(b.dir, stateFile, decodeState)
	must(t, err)
	if rec == nil {
		rec = &stateRecord{}
	}
	return rec
}

func TestTouchesAreWrittenDownOnceASecond(t *testing.T) {
	b, _ := running(t, &config.Config{Expire: config.Expire{Idle: time.Hour}})
	seen := map[moment]bool{}
	active := func() moment {
		return onRecord(t, b).ActiveAt
	}
	began := time.Now()
	for range 100 {
		must(t, b.Touch())
		seen[active()] = true
	}
	if most := 1 + int(time.Since(began)/activePause); len(seen) > most {
		t.Errorf("100 touches in %s were written down %d times, not %d", time.Since(began), len(seen), most)
	}
	// The last of them is, too.
	for last := b.active.Load(); int64(active()) != last; {
		if time.Since(began) > 10*time.Second {
			t.Fatal("the last touch was never written down")
		}
	}
}

func TestTouchCountsForTheRunThatGoesOn(t *testing.T) {
	b, _ := running(t, &config.Config{Expire: config.Expire{Idle: time.Hour}})
	must(t, b.update("test", func(x *tx) error { x.Config = &config.Config{}; return nil }))
	must(t, b.Touch())
	if onRecord(t, b).Active.IsZero() {
		t.Error("it is not on record")
	}
}

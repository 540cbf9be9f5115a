package runtime

import (
	"os"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// What state.json was to say is not lost where the directory could not be opened.
func TestAnEndIsWrittenAfterTheDirectoryCouldNotBeOpened(t *testing.T) {
	b, _ := execBox(t)
	b.save.Lock()
	defer b.save.Unlock()
	must(t, os.Rename(b.dir, b.dir+".away"))
	if b.writeAll(func(s *stateRecord) { s.LastRun, s.LastNumber = "r1", 1 }) == nil {
		t.Fatal("the directory was opened")
	}
	must(t, os.Rename(b.dir+".away", b.dir))
	must(t, b.writeAll(nil))
	rec, err := load(b.dir, stateFile, decodeState)
	must(t, err)
	if rec.LastRun != "r1" || rec.LastNumber != 1 {
		t.Errorf("on record: %+v", rec)
	}
}

func TestTheEndOfARunIsWhenItsShimSawIt(t *testing.T) {
	started := time.Now().Add(-time.Hour)
	for name, c := range map[string]struct{ ended, want time.Time }{
		"before now":    {started.Add(time.Minute), started.Add(time.Minute)},
		"before it":     {started.Add(-time.Minute), started},
		"still to come": {time.Now().Add(time.Hour), time.Now()},
	} {
		got := endOf(&wire.ExitRecord{EndedNs: c.ended.UnixNano()}, started)
		if d := got.Sub(c.want).Abs(); d > time.Minute/2 {
			t.Errorf("%s: %s, not %s", name, got, c.want)
		}
	}
}

// A start that waits for the end of the run before to be told gives way to a kill.
func TestAStartDoesNotWaitForTheRunBeforeAfterAKill(t *testing.T) {
	b, _ := execBox(t)
	k, r := newRun(1, "r1", &config.Config{}, nil), newRun(2, "r2", &config.Config{}, nil)
	telling, told := make(chan struct{}), make(chan struct{})
	defer close(told)
	go k.over.Do(func() {
		close(telling)
		<-told
	})
	<-telling
	b.keeper.Store(k)
	r.giveUp()
	done := make(chan error, 1)
	go func() { done <- b.dismissKeeper(r) }()
	select {
	case err := <-done:
		must(t, err)
	case <-time.After(10 * time.Second):
		t.Fatal("it waits")
	}
}

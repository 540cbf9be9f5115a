package runtime

import (
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestTouchesAreWrittenDownNowAndThen(t *testing.T) {
	b, _ := running(t, &Config{Expire: Expire{Idle: time.Hour}})
	written := func() time.Time {
		t.Helper()
		b.rt.work.Wait()
		fi, err := os.Stat(filepath.Join(b.dir, stateFile))
		must(t, err)
		return fi.ModTime()
	}
	must(t, b.Touch())
	first := written()
	for range 100 {
		must(t, b.Touch())
	}
	if got := written(); !got.Equal(first) {
		t.Error("written down again at once")
	}
	b.activeSaved.Store(time.Now().Add(-3 * time.Minute).UnixNano())
	must(t, b.Touch())
	if got := written(); got.Equal(first) {
		t.Error("not written down again")
	}
	if at, _ := b.expires(b.run); time.Until(at) < 59*time.Minute {
		t.Errorf("it expires in %s", time.Until(at))
	}
}

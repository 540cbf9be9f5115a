package runtime

import (
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/boxlitefs/boxlite/runtime/epoll"
)

// testRuntime is a Runtime without boxes and without a watcher, for what needs
// no process.
func testRuntime(t *testing.T) *Runtime {
	t.Helper()
	s, err := openStore(t.TempDir())
	must(t, err)
	t.Cleanup(func() { must(t, s.lock.Close()) })
	log := logrus.New()
	log.SetOutput(t.Output())
	rt := &Runtime{metrics: newMetrics(), log: logrus.NewEntry(log), store: s, boxes: map[string]*Box{}, closing: make(chan struct{}), life: t.Context()}
	rt.events.Max = eventHistory
	rt.setLastError("ok")
	rt.timers, err = epoll.NewTimers()
	must(t, err)
	rt.prober, err = newProber(rt, DefaultMaxProbes)
	must(t, err)
	t.Cleanup(func() { must(t, rt.prober.close()) })
	return rt
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

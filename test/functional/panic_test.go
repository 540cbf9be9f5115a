package functional

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/test/daemon"
)

// TestAPanicEndsTheDaemon has requests panic, some with a lock held, and the work that
// they have begun. The daemon must end at once and say why; what runs goes on, and the
// next daemon is as good as any.
func TestAPanicEndsTheDaemon(t *testing.T) {
	for _, p := range []struct {
		point string
		code  int
		stack string // a function of it
		act   func(c *crashed)
		want  []string
	}{
		{"remove.accepted", 7, "runtime.(*Box).remove(", discard, stays}, // the box's lock is held
		{"exec.made", 7, "runtime.(*Box).createExec(", execute, goesOn},  // that of its execs is
		{"config.part", 7, "fsapi.(*draftHandle).Write(", rewrite, stays},
		{"create.mapped", 7, "runtime.(*Runtime).CreateMode(", anew, []string{"gone"}},
		{"stop.accepted", 7, "fsapi.(*ctlHandle).Write(", tell("kill"), goesOn},
		// Where no request is, the end is Go's, also below a library that recovers.
		{"metrics.collecting", 2, "runtime.boxCollector.Collect(", scrape, stays},
		{"kill.sent", 2, "runtime.(*Box).end(", tell("kill"), killed},
	} {
		t.Run(p.point, func(t *testing.T) {
			t.Parallel()
			m := newMount(t)
			c := &crashed{T: t, m: m, next: other, gate: m.h.Dir + "/gate"}
			m.open()
			c.config("keep", c.marked("keep", script("while :; do echo tick; sleep 0.05; done")))
			do(t, m, "keep", "start")
			c.keep = pidOf(t, m, "keep")
			c.config("old", script("exit 7"))
			do(t, m, "old", "start")
			waits(t, m, "old", "stopped")
			switch p.want[0] {
			case "gone":
			case stays[0]:
				c.ran()
			default:
				c.runs()
			}
			m.shut()
			h := m.h
			h.Boxlited, h.Env = daemon.Variant(t, "boxlited-faults", "-tags", "faults"), []string{"BOXLITE_FAULT=" + p.point, "BOXLITE_FAULT_BY=panic"}
			m.d = h.Start()
			from := len(h.Log())
			// Whoever is in a request when it ends is let go.
			wait := watch(t, m, "keep", "stopped")
			p.act(c)
			m.d.AwaitEnd(p.code)
			if _, k := result(t, "wait/stopped", wait); k != kindOfErrno(unix.ECONNABORTED) && k != kindOfErrno(unix.ENOTCONN) {
				t.Errorf("a reader is told %s", k)
			}
			said := h.Log()[from:]
			for _, words := range []string{"fault point " + p.point, p.stack} {
				if !strings.Contains(said, words) {
					t.Errorf("the log does not have %q:\n%s", words, said)
				}
			}
			h.Boxlited, h.Env = "", nil
			m.open()
			c.sound(p.want, []string{c.text, c.rewritten()})
			c.usable()
		})
	}
}

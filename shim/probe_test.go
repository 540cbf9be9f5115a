package shim

import (
	"testing"
	"time"
)

// probed makes a box that sleeps and is probed by a command.
func probed(t testing.TB, argv ...string) *box {
	t.Helper()
	b := newBox(t, "/bin/sleep", "1000")
	b.spec.Probe = Probe{Kind: ProbeCommand, Argv: argv, TimeoutNs: int64(patience)}
	return b
}

func TestProbeExit(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   ProbeResult
	}{
		"0": {"exit 0", ProbeResult{}},
	} {
		t.Run(name, func(t *testing.T) {
			l := probed(t, "/bin/sh", "-c", c.script).mustStart().line()
			got := l.probe()
			t.Logf("%+v", got)
		})
	}
	_ = time.Now
}

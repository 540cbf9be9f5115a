package shim

import (
	"fmt"
	"maps"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/shim/wire"
)

// readStat reads a file of /proc/PID.
func readStat(t testing.TB, pid int, name string) string {
	t.Helper()
	return string(must(os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, name))))
}

// perThread reads one number of each thread of the shim.
func (b *box) perThread(read func(task string) string) map[string]int64 {
	b.t.Helper()
	threads := map[string]int64{}
	for _, e := range must(os.ReadDir(fmt.Sprintf("/proc/%d/task", b.h.PID))) {
		threads[e.Name()] = must(strconv.ParseInt(read("task/"+e.Name()), 10, 64))
	}
	return threads
}

// cpuTime is how long all threads of the shim have run, in nanoseconds.
func (b *box) cpuTime() (ns int64) {
	b.t.Helper()
	for _, ran := range b.perThread(func(task string) string {
		return strings.Fields(readStat(b.t, b.h.PID, task+"/schedstat"))[0]
	}) {
		ns += ran
	}
	return ns
}

// A ping is the business of one thread, however long the shim was idle before: that
// is what makes it cheap. The runtime has others, and would wake them.
func TestPingWakesOneThread(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	l := b.line()
	switches := func() map[string]int64 {
		return b.perThread(func(task string) string {
			return field(readStat(t, b.h.PID, task+"/status"), "voluntary_ctxt_switches")
		})
	}
	until(t, "all have come to rest", func() bool {
		before := switches()
		time.Sleep(200 * time.Millisecond)
		return maps.Equal(switches(), before)
	})
	before := switches()
	const pings = 30
	for range pings {
		l.quiet()
		time.Sleep(5 * time.Millisecond)
	}
	after := switches()
	maps.DeleteFunc(after, func(thread string, n int64) bool { return n == before[thread] })
	if len(after) != 1 {
		t.Errorf("these threads have run for %d pings: %v, before %v", pings, after, before)
	}
}

// BenchmarkPing is what a ping costs the shim, in CPU time of all its threads.
func BenchmarkPing(b *testing.B) {
	for name, pause := range map[string]time.Duration{"idle": 100 * time.Millisecond, "busy": 0} {
		b.Run(name, func(b *testing.B) {
			bx := sh(b, "exec sleep 1000").mustStart()
			l := bx.line()
			l.quiet()
			before := bx.cpuTime()
			for b.Loop() {
				l.quiet()
				time.Sleep(pause)
			}
			b.ReportMetric(float64(bx.cpuTime()-before)/float64(b.N)/1000, "shim-µs/op")
		})
	}
}

// BenchmarkProbe is what a probe costs the shim, without what it runs.
func BenchmarkProbe(b *testing.B) {
	port := serve(b, "127.0.0.1:0", hold)
	for name, p := range map[string]wire.Probe{
		"command": {Kind: wire.ProbeCommand, Argv: []string{"/bin/true"}},
		"tcp":     {Kind: wire.ProbeTCP, Port: port},
	} {
		b.Run(name, func(b *testing.B) {
			p.TimeoutNs = int64(patience)
			bx := probed(b)
			bx.spec.Probe = p
			l := bx.mustStart().line()
			l.probe()
			before := bx.cpuTime()
			for b.Loop() {
				l.probe()
				time.Sleep(20 * time.Millisecond)
			}
			b.ReportMetric(float64(bx.cpuTime()-before)/float64(b.N)/1000, "shim-µs/op")
		})
	}
}

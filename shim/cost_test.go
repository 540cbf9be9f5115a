package shim

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"
)

// cpuTime is what all threads of the shim have run, in nanoseconds.
func (b *box) cpuTime() (ns int64) {
	b.t.Helper()
	dir := fmt.Sprintf("/proc/%d/task", b.h.PID)
	for _, task := range must(os.ReadDir(dir)) {
		data := must(os.ReadFile(dir + "/" + task.Name() + "/schedstat"))
		ns += must(strconv.ParseInt(strings.Fields(string(data))[0], 10, 64))
	}
	return ns
}

func (b *box) threads() string {
	out := ""
	dir := fmt.Sprintf("/proc/%d/task", b.h.PID)
	for _, task := range must(os.ReadDir(dir)) {
		st := readStat(b.t, b.h.PID, "task/"+task.Name()+"/status")
		out += task.Name() + " " + strings.TrimSpace(readStat(b.t, b.h.PID, "task/"+task.Name()+"/schedstat")) + " vol " + field(st, "voluntary_ctxt_switches") + " inv " + field(st, "nonvoluntary_ctxt_switches") + "; "
	}
	return out
}

func TestPingCost(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	l := b.line()
	l.quiet()
	for _, c := range []struct {
		n     int
		pause time.Duration
	}{{100, 100 * time.Millisecond}, {10_000, 0}} {
		before := b.cpuTime()
		t.Log(b.threads())
		for range c.n {
			l.quiet()
			time.Sleep(c.pause)
		}
		t.Log(b.threads())
		t.Logf("%d pings, %v apart: %.1f µs of CPU each", c.n, c.pause, float64(b.cpuTime()-before)/float64(c.n)/1000)
	}
}

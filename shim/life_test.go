package shim

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

func TestExit(t *testing.T) {
	for name, c := range map[string]struct {
		script       string
		code, signal int
	}{
		"0":       {"exit 0", 0, 0},
		"7":       {"exit 7", 7, 0},
		"255":     {"exit 255", 255, 0},
		"SIGKILL": {"kill -KILL $$", 137, 9},
		"SIGTERM": {"kill -TERM $$", 143, 15},
	} {
		t.Run(name, func(t *testing.T) {
			b := sh(t, c.script).mustStart()
			if ws := b.wait(); !ws.Exited() || ws.ExitStatus() != c.code {
				t.Errorf("the shim's status: %#x", ws)
			}
			r := b.record()
			if r.Code != c.code || r.Signal != c.signal || r.StoppedBy != wire.StoppedByItself || r.Failed != "" || r.StartedNs != b.h.StartedNs || r.StartedNs == 0 {
				t.Errorf("record %+v", r)
			}
			info, err := os.Stat(filepath.Join(b.path, wire.RecordName))
			if err != nil || info.Mode() != 0o600 {
				t.Errorf("%v, %v", info, err)
			}
		})
	}
}

// The record of a run takes the place of the one before, and is written over the one
// before that, which may have been longer.
func TestARecordIsWrittenOverAnOldOne(t *testing.T) {
	dir := t.TempDir()
	for i, padding := range []int{300, 200, 0, 100, 0} {
		b := newBoxIn(t, dir, "/bin/sh", "-c", fmt.Sprint("exit ", i))
		b.spec.Run += strings.Repeat("x", padding)
		b.mustStart().wait()
		if r := b.record(); r.Code != i {
			t.Errorf("run %d: record %+v", i, r)
		}
	}
}

func TestCPUTimeCountsOrphans(t *testing.T) {
	// The burner is reaped by the shim, not by the shell.
	b := sh(t, `(sh -c 'i=0; while [ $i -lt 400000 ]; do i=$((i+1)); done; echo burnt' & ) ; while [ "$(ls -d /proc/[0-9]* | wc -l)" -gt 4 ]; do sleep 0.01; done`)
	b.mustStart()
	b.awaitLog("burnt")
	b.wait()
	if cpu := b.record().CPUUsec; cpu < 20_000 {
		t.Errorf("%d µs", cpu)
	}
}

// TestOrphans has many processes daemonise and end at once. None may stay a
// zombie, and whoever waits inside the box gets the statuses that are his.
func TestOrphans(t *testing.T) {
	b := newBox(t, "/usr/bin/python3", "-c", `
import os, sys, time
for round in range(20):
    for i in range(25):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os._exit(i)
            os._exit(7)
    for i in range(25):
        pid, status = os.wait()
        assert os.WEXITSTATUS(status) == 7, status
try:
    os.wait()
    sys.exit("a child too many")
except ChildProcessError:
    pass
deadline = time.time() + 10
while True:
    pids = [p for p in os.listdir("/proc") if p.isdigit()]
    if len(pids) == 2: break
    if time.time() > deadline: sys.exit("left: %s" % pids)
    time.sleep(0.002)
print("none left", flush=True)
sys.exit(33)
`)
	b.mustStart()
	if ws := b.wait(); ws.ExitStatus() != 33 || b.log() != "none left\n" {
		t.Errorf("exit %d, log %q", ws.ExitStatus(), b.log())
	}
}

// TestTheCommandsStatusIsNotLost ends the command in the middle of a storm.
func TestTheCommandsStatusIsNotLost(t *testing.T) {
	for i := range 10 {
		b := newBox(t, "/usr/bin/python3", "-c", fmt.Sprintf(`
import os
for i in range(100):
    if os.fork() == 0:
        if os.fork() == 0: os._exit(1)
        os._exit(2)
os._exit(%d)
`, 40+i)).mustStart()
		if ws := b.wait(); ws.ExitStatus() != 40+i || b.record().Code != 40+i {
			t.Fatalf("exit %d, record %+v", ws.ExitStatus(), b.record())
		}
	}
}

func TestKillTakesAll(t *testing.T) {
	b := sh(t, `setsid sh -c 'trap "" TERM HUP INT; echo one; sleep 1000' & (setsid sleep 1000 &) ; nohup setsid sleep 1000 & echo two; wait`)
	b.mustStart()
	b.awaitLog("one")
	b.awaitLog("two")
	until(t, "all run", func() bool { return len(processesWith(t, b.tag)) == 5 })
	if err := unix.PidfdSendSignal(b.h.PIDFD, unix.SIGKILL, nil, 0); err != nil {
		t.Fatal(err)
	}
	if ws := b.wait(); ws.Signal() != unix.SIGKILL {
		t.Errorf("status %#x", ws)
	}
	// A reaped shim means that all is gone, at once and not soon.
	if left := processesWith(t, b.tag); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	if _, err := os.Stat(filepath.Join(b.path, wire.RecordName)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a record of nobody: %v", err)
	}
}

func TestTheEndOfTheCommandEndsTheBox(t *testing.T) {
	// The descendant floods the log, which must not hold up the end.
	b := sh(t, `setsid sh -c 'yes flood' & sleep 0.1; exit 3`).mustStart()
	if ws := b.wait(); ws.ExitStatus() != 3 {
		t.Errorf("status %#x", ws)
	}
	if left := processesWith(t, b.tag); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

func TestState(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	got := b.ask(wire.Request{Op: wire.OpState})
	want := client.Reply{Reply: wire.Reply{State: wire.State{Run: b.spec.Run, Alive: true, PID: got.State.PID, StartedNs: b.h.StartedNs}}, Peer: b.h.PID}
	if got != want || got.State.PID < 2 {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestSignal(t *testing.T) {
	b := sh(t, `trap 'echo usr1' USR1; echo ready; while :; do sleep 0.01; done`).mustStart()
	b.awaitLog("ready")
	if r := b.ask(wire.Request{Op: wire.OpStop, Run: "another"}); r.Errno != unix.ESTALE || r.State.Run != b.spec.Run {
		t.Errorf("to a request for another run: %+v", r)
	}
	if r := b.ask(wire.Request{Op: wire.OpSignal, Signal: unix.SIGUSR1}); r.Errno != 0 || r.State.Stopping {
		t.Errorf("%+v", r)
	}
	b.awaitLog("usr1")
	b.ask(wire.Request{Op: wire.OpSignal, Signal: unix.SIGKILL})
	if b.wait(); b.record().Signal != 9 || b.record().StoppedBy != wire.StoppedByItself {
		t.Errorf("%+v", b.record())
	}
}

// term is what a person does with kill(1).
func (b *box) term() {
	b.t.Helper()
	if err := unix.PidfdSendSignal(b.h.PIDFD, unix.SIGTERM, nil, 0); err != nil {
		b.t.Fatal(err)
	}
}

func TestStop(t *testing.T) {
	const stubborn = `trap 'echo got TERM' TERM; echo ready; while :; do sleep 0.01; done`
	const polite = `trap 'echo bye; exit 5' TERM; trap 'echo int; exit 6' INT; echo ready; while :; do sleep 0.01; done`
	// Long enough for a shell to say that it got a signal, on any machine.
	const grace = time.Second
	for name, c := range map[string]struct {
		script string
		stop   func(*box)
		code   int
		by     string
		says   string
	}{
		"by request":       {polite, func(b *box) { b.ask(wire.Request{Op: wire.OpStop, Grace: patience}) }, 5, wire.StoppedByStop, "bye"},
		"another signal":   {polite, func(b *box) { b.ask(wire.Request{Op: wire.OpStop, Signal: unix.SIGINT, Grace: patience}) }, 6, wire.StoppedByStop, "int"},
		"by SIGTERM":       {polite, func(b *box) { b.term() }, 5, wire.StoppedByTerm, "bye"},
		"without a grace":  {polite, func(b *box) { b.ask(wire.Request{Op: wire.OpStop}) }, 137, wire.StoppedByStop, "ready"},
		"stubborn":         {stubborn, func(b *box) { b.ask(wire.Request{Op: wire.OpStop, Grace: grace}) }, 137, wire.StoppedByStop, "got TERM"},
		"stubborn SIGTERM": {stubborn, func(b *box) { b.term() }, 137, wire.StoppedByTerm, "got TERM"},
		"shortened": {stubborn, func(b *box) {
			if r := b.ask(wire.Request{Op: wire.OpStop, Grace: time.Hour}); !r.State.Stopping || !r.State.Alive {
				b.t.Errorf("%+v", r)
			}
			b.awaitLog("got TERM")
			b.ask(wire.Request{Op: wire.OpStop, Grace: time.Millisecond})
		}, 137, wire.StoppedByStop, "got TERM"},
		"not lengthened": {stubborn, func(b *box) {
			b.ask(wire.Request{Op: wire.OpStop, Grace: grace})
			b.ask(wire.Request{Op: wire.OpStop, Grace: time.Hour})
		}, 137, wire.StoppedByStop, "got TERM"},
		"while paused": {polite, func(b *box) {
			b.ask(wire.Request{Op: wire.OpPause})
			b.ask(wire.Request{Op: wire.OpStop, Grace: patience})
		}, 5, wire.StoppedByStop, "bye"},
	} {
		t.Run(name, func(t *testing.T) {
			b := sh(t, c.script)
			b.spec.StopGraceNs = int64(grace)
			if c.by == wire.StoppedByTerm && c.code != 137 {
				b.spec.StopGraceNs = int64(patience)
			}
			b.mustStart()
			b.awaitLog("ready")
			c.stop(b)
			if ws := b.wait(); ws.ExitStatus() != c.code {
				t.Errorf("status %#x, want %d", ws, c.code)
			}
			if r := b.record(); r.Code != c.code || r.StoppedBy != c.by {
				t.Errorf("record %+v", r)
			}
			if n := strings.Count(b.log(), c.says+"\n"); n != 1 {
				t.Errorf("%q %d times in %q", c.says, n, b.log())
			}
		})
	}
}

func TestPauseAndResume(t *testing.T) {
	b := sh(t, `echo ready; while :; do sleep 0.01; echo tick; done`).mustStart()
	b.awaitLog("tick")
	for range 3 {
		if r := b.ask(wire.Request{Op: wire.OpPause}); r.Errno != 0 || !r.State.Paused || !r.State.Alive {
			t.Fatalf("%+v", r)
		}
		// A running process stops when its CPU sees the signal, and the parent of
		// a stopped vfork stays in D.
		until(t, "all are stopped", func() bool {
			for _, pid := range processesWith(t, b.tag) {
				status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
				if state := field(string(status), "State"); err != nil || state[0] != 'T' && state[0] != 'D' {
					return false
				}
			}
			return true
		})
		// The log holds still as well.
		if before := b.log(); b.log() != before {
			t.Error("output of a paused box")
		}
		if r := b.ask(wire.Request{Op: wire.OpResume}); r.Errno != 0 || r.State.Paused {
			t.Fatalf("%+v", r)
		}
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		w, err := client.WatchLog(ctx, b.dir)
		if err != nil {
			t.Fatal(err)
		}
		if err := w.Next(ctx); err != nil {
			t.Errorf("no tick after the resume: %v", err)
		}
		cancel()
		_ = w.Close()
	}
}

func TestHoldPipe(t *testing.T) {
	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(r)
	b := sh(t, `trap '' TERM; setsid sleep 1000 & echo ready; while :; do sleep 0.01; done`)
	b.hold, b.spec.DieWithDaemon = r, true
	b.mustStart()
	b.awaitLog("ready")
	_ = w.Close()
	b.wait()
	if r := b.record(); r.StoppedBy != wire.StoppedByDaemonDied || r.Code != 137 {
		t.Errorf("record %+v", r)
	}
}

func TestFullDiskForTheRecord(t *testing.T) {
	for name, end := range map[string]struct {
		with   func(b *box)
		record bool
	}{
		"until there is room": {func(b *box) { _ = os.Truncate(filepath.Join(b.path, wire.LogName(0)), 0) }, true},
		"until it is stopped": {func(b *box) { b.term() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBoxIn(t, tinyDir(t, 64<<10), "/bin/sh", "-c", "sleep 1000 & setsid sleep 1000 & head -c 200000 /dev/zero; exit 6")
			b.mustStart()
			ctx, cancel := context.WithTimeout(context.Background(), patience)
			defer cancel()
			var told []byte
			until(t, "the end to be had", func() bool {
				var err error
				told, err = client.AskEnd(ctx, b.dir, b.spec.Run)
				if err != nil && !errors.Is(err, unix.EBUSY) {
					t.Fatal(err)
				}
				return err == nil
			})
			var r wire.ExitRecord
			if err := json.Unmarshal(told, &r); err != nil || r.Run != b.spec.Run || r.Code != 6 || r.EndedNs == 0 {
				t.Errorf("%s: %v", told, err)
			}
			if _, err := client.AskEnd(ctx, b.dir, "another"); !errors.Is(err, unix.EBUSY) {
				t.Errorf("asked for another run: %v", err)
			}
			if reply := b.ask(wire.Request{Op: wire.OpState}); reply.State.Alive {
				t.Errorf("alive: %+v", reply)
			}
			// It is also told to who has a line, and to who opens one.
			l := b.openLine(b.spec.Run)
			if a := l.next(); a.Op != wire.LineHello || a.Alive {
				t.Errorf("greeted with %+v", a)
			}
			if a := l.next(); a.Op != wire.LineEnd || a.Alive || a.Seq != 0 {
				t.Errorf("got %+v", a)
			}
			until(t, "the rest of the box to go", func() bool { return len(processesWith(t, b.tag)) == 0 })
			if n, err := unix.Poll([]unix.PollFd{{Fd: int32(b.h.PIDFD), Events: unix.POLLIN}}, 0); n != 0 {
				t.Fatalf("the shim has not kept the end (%v)", err)
			}
			end.with(b)
			if ws := b.wait(); ws.ExitStatus() != r.Code {
				t.Errorf("status %#x, want %d", ws, r.Code)
			}
			if _, err := os.Stat(filepath.Join(b.path, wire.RecordName)); end.record != (err == nil) {
				t.Errorf("record: %v", err)
			} else if end.record && b.record() != r {
				t.Errorf("record %+v, and told was %+v", b.record(), r)
			}
		})
	}
}

// Who is told of the end says that nothing of the box is left.
func TestAnEndIsToldWhenTheShimIsAlone(t *testing.T) {
	ends := must(unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0))
	defer sys.Close(ends[0])
	defer sys.Close(ends[1])
	s := supervisor{spec: &wire.Spec{Run: "r"}, pending: pending{end: &wire.ExitRecord{Run: "r", Code: 7}}}
	ask := func() (unix.Errno, []byte) {
		s.sendEnd(ends[0], "r")
		var buf [1 << 10]byte
		n := must(unix.Read(ends[1], buf[:]))
		errno, record, err := wire.DecodeEndReply(buf[:n])
		if err != nil {
			t.Fatal(err)
		}
		return errno, record
	}
	s.nobodyLeft(false)
	if errno, record := ask(); errno != unix.EBUSY {
		t.Errorf("before: %v, %s", errno, record)
	}
	s.nobodyLeft(true)
	if errno, record := ask(); errno != 0 || !strings.Contains(string(record), `"code":7`) {
		t.Errorf("after: %v, %s", errno, record)
	}
}

func TestAnEndIsNotKeptForEver(t *testing.T) {
	s := supervisor{pending: pending{end: &wire.ExitRecord{}, until: 100}}
	if s.over(99) || !s.over(100) || s.pending.next() != 100 {
		t.Errorf("%+v", s.pending)
	}
	s.pending.written = true
	if !s.over(0) {
		t.Error("kept when it is on record")
	}
	s.pending.execs = 1
	if s.over(0) {
		t.Error("not kept for an exec")
	}
}

func TestDescriptorsOfTheShim(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	// null (twice), 2 logs, directory, listener, epoll, eventfd, pipe's two ends; the
	// report's pipe is closed only after the report.
	until(t, "10 descriptors", func() bool {
		return len(must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.h.PID)))) == 10
	})
}

// TestIdle shows that a shim with nothing to do does nothing.
func TestIdle(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	b.ask(wire.Request{Op: wire.OpState})
	switches := func() string {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", b.h.PID))
		if err != nil {
			t.Fatal(err)
		}
		return field(string(data), "voluntary_ctxt_switches")
	}
	// One reading to let the answer above end; then there may be none.
	until(t, "the main thread is quiet", func() bool {
		before := switches()
		time.Sleep(200 * time.Millisecond)
		return switches() == before
	})
}

// TestPSS prints what a shim costs and fails over the promise.
func TestPSS(t *testing.T) {
	const n = 100
	var all []*box
	for range n {
		all = append(all, sh(t, "exec sleep 1000").mustStart())
	}
	total := 0
	for _, b := range all {
		data, err := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", b.h.PID))
		if err != nil {
			t.Fatal(err)
		}
		kib, err := strconv.Atoi(strings.Fields(field(string(data), "Pss"))[0])
		if err != nil {
			t.Fatal(err)
		}
		total += kib
	}
	t.Logf("PSS: %d KiB a shim, %d alive", total/n, n)
	if total/n >= 800 {
		t.Errorf("%d KiB", total/n)
	}
}

// BenchmarkStartToExit is Launch to the reaped shim, of /bin/true. The stages add
// up to it.
func BenchmarkStartToExit(b *testing.B) {
	bx := newBox(b, "/bin/true")
	var stages [3]time.Duration
	for b.Loop() {
		t0 := time.Now()
		bx.launch()
		t1 := time.Now()
		if err := errors.Join(bx.h.Begin(), bx.h.WaitStarted(context.Background())); err != nil {
			b.Fatal(err)
		}
		t2 := time.Now()
		bx.wait()
		t3 := time.Now()
		for i, d := range []time.Duration{t1.Sub(t0), t2.Sub(t1), t3.Sub(t2)} {
			stages[i] += d
		}
		bx.h.Close()
		sys.Close(bx.h.PIDFD)
		bx.reaped = false
	}
	bx.h = nil
	for i, unit := range []string{"launch-µs", "started-µs", "exited-µs"} {
		b.ReportMetric(float64(stages[i].Microseconds())/float64(b.N), unit)
	}
}

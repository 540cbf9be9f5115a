package runtime

import (
	"errors"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/shim/wire"
)

func TestWhatIsSaidOfAnEnd(t *testing.T) {
	exited := func(code int) *wire.ExitRecord { return &wire.ExitRecord{Run: "r", Code: code} }
	killed := &wire.ExitRecord{Run: "r", Code: 137, Signal: int(unix.SIGKILL)}
	oom := cgroup.Stats{OOMKills: 2}
	for name, c := range map[string]struct {
		failure error
		rec     *wire.ExitRecord
		exit    reaper.Exit
		used    cgroup.Stats

		status  status.Status
		code    int
		message string // what it begins with
	}{
		"exit 0":                  {rec: exited(0), status: status.Stopped, message: "ok"},
		"exit 3":                  {rec: exited(3), status: status.Stopped, code: 3, message: "the command exited with status 3"},
		"killed":                  {rec: killed, status: status.Stopped, code: 137, message: "the command was killed by SIGKILL"},
		"killed for memory":       {rec: killed, used: oom, status: status.Stopped, code: 137, message: "the command was killed by the OOM killer: it needed more memory"},
		"a child, and it exits 3": {rec: exited(3), used: oom, status: status.Stopped, code: 3, message: "the command exited with status 3; the OOM killer had killed 2 of its processes"},
		"a child, and it exits 0": {rec: exited(0), used: oom, status: status.Stopped, message: "ok"},
		"a child, and a SIGTERM": {
			rec:  &wire.ExitRecord{Run: "r", Code: 143, Signal: int(unix.SIGTERM)},
			used: oom, status: status.Stopped, code: 143, message: "the command was killed by SIGTERM",
		},
		"a stop": {
			rec:  &wire.ExitRecord{Run: "r", Code: 137, Signal: int(unix.SIGKILL), StoppedBy: wire.StoppedByStop},
			used: oom, status: status.Stopped, code: 137, message: "ok",
		},
		"the shim killed":     {exit: reaper.Exit{Code: 137, Signal: unix.SIGKILL}, status: status.Stopped, code: 137, message: "its shim was killed by SIGKILL"},
		"the shim's own end":  {exit: reaper.Exit{Code: 2}, status: status.Failed, code: 2, message: "its shim exited with status 2 by itself"},
		"nobody saw it":       {exit: reaper.Exit{Code: -1}, status: status.Stopped, code: -1, message: "it ended while nobody watched"},
		"it never ran":        {rec: &wire.ExitRecord{Run: "r", Code: 125, Failed: "no such file"}, status: status.Failed, code: -1, message: "start: no such file"},
		"the start was to be": {failure: errors.New("no cgroup"), exit: reaper.Exit{Code: -1}, status: status.Failed, code: -1, message: "start: no cgroup"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(1, "r", config.Default("x"), nil)
			r.failure = c.failure
			got := judge(r, c.rec, c.exit, c.used, "shim.log")
			if got.status != c.status || got.code != c.code || !strings.HasPrefix(got.message, c.message) {
				t.Errorf("%s, %d, %q, not %s, %d, %q", got.status, got.code, got.message, c.status, c.code, c.message)
			}
			if mention := strings.Contains(got.message, "OOM"); mention != strings.Contains(c.message, "OOM") {
				t.Errorf("the OOM killer in %q", got.message)
			}
		})
	}
}

func TestTheGroupsTimeIsTheRunsTime(t *testing.T) {
	rec := &wire.ExitRecord{Run: "r", CPUUsec: 1000}
	r := newRun(1, "r", config.Default("x"), nil)
	if got := judge(r, rec, reaper.Exit{}, cgroup.Stats{}, "").cpu; got != time.Millisecond {
		t.Errorf("without a cgroup: %s, not what the shim says", got)
	}
	if got := judge(r, rec, reaper.Exit{}, cgroup.Stats{CPU: time.Second}, "").cpu; got != time.Second {
		t.Errorf("with a cgroup: %s, not what that says", got)
	}
}

// A restart begins the next run as soon as the end of the last is told, and mostly
// before a removal would come. If that run fails, the box is there to say why.
func TestTheEndThatARestartBringsRemovesNothing(t *testing.T) {
	for _, restarting := range []bool{false, true} {
		rt := testRuntime(t)
		o := &removal{rt: rt}
		rt.opt.Observer = o
		var err error
		rt.oom, err = cgroup.NewOOMWatch(false)
		must(t, err)
		t.Cleanup(func() { must(t, rt.oom.Close()) })
		b, err := rt.Create("x")
		must(t, err)
		must(t, b.Configure([]byte("command: [sleep, infinity]\nremove_on_exit: true\n")))
		r := newRun(1, "r", b.Snapshot().Config, nil)
		r.began.complete(nil)
		close(r.forked)
		close(r.launched)
		for _, now := range []status.Status{status.Starting, status.Running, status.Stopping} {
			must(t, b.update("test", func(tx *tx) error {
				b.run, tx.run = r, r
				tx.Status, tx.Restarting = now, restarting
				return nil
			}))
		}
		b.ended(r, reaper.Exit{Outcome: reaper.Reaped, Code: 137, Signal: unix.SIGKILL, At: time.Now()})
		rt.work.Wait()
		if kept := rt.Box("x") != nil; kept != restarting {
			t.Errorf("restarting %t: the box is kept: %t", restarting, kept)
		}
		// The kernel may be told only when a chmod has ended that it waits for.
		if !restarting && (o.told != 1 || !o.saved) {
			t.Errorf("the removal was told %d times; the state could be saved meanwhile: %t", o.told, o.saved)
		}
		if b.record.Remove == restarting {
			t.Errorf("restarting %t: the record says that it is to be removed: %t", restarting, b.record.Remove)
		}
	}
}

package runtime

import (
	"errors"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/runtime/atomicfile"
	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/shim/wire"
)

func TestBackoffDoublesUpToItsBound(t *testing.T) {
	want := []time.Duration{100, 200, 400, 800, 1600, 3200, 6400, 12800, 25600, 30000, 30000}
	for n, d := range want {
		if got := backoff(n); got != d*time.Millisecond {
			t.Errorf("after %d in a row: %s, not %s", n, got, d*time.Millisecond)
		}
	}
	if got := backoff(1 << 30); got != backoffMost {
		t.Errorf("after very many: %s", got)
	}
}

func TestRestartPolicies(t *testing.T) {
	policy := func(p string) *config.Config { return &config.Config{Restart: config.Restart{Policy: p}} }
	most := func(n int) *config.Config {
		return &config.Config{Restart: config.Restart{Policy: config.RestartOnFailure, MaxRetries: n}}
	}
	bounces := &config.Config{Restart: config.Restart{Policy: config.RestartNo}, Health: config.HealthCheck{OnUnhealthy: "restart"}}
	fine, failed := ending{status: status.Stopped}, ending{status: status.Stopped, code: 3}
	unseen, crashed := ending{status: status.Stopped, code: -1}, ending{status: status.Failed, code: 0}
	by := func(who string) *wire.ExitRecord { return &wire.ExitRecord{StoppedBy: who} }
	for i, c := range []struct {
		cfg              *config.Config
		r                *run
		v                ending
		rec              *wire.ExitRecord
		retries          int
		again, exhausted bool
	}{
		{cfg: policy(config.RestartNo), v: failed},
		{cfg: policy(config.RestartAlways), v: fine, again: true},
		{cfg: policy(config.RestartAlways), v: failed, retries: 1 << 20, again: true},
		{cfg: policy(config.RestartUnlessStopped), v: fine, again: true},
		{cfg: policy(config.RestartOnFailure), v: fine},
		{cfg: policy(config.RestartOnFailure), v: failed, again: true},
		{cfg: policy(config.RestartOnFailure), v: unseen, again: true},
		{cfg: policy(config.RestartOnFailure), v: crashed, again: true},
		{cfg: policy(config.RestartOnFailure), v: unseen, r: &run{rebooted: true}},
		{cfg: policy(config.RestartAlways), v: unseen, r: &run{rebooted: true}, again: true},
		{cfg: most(2), v: failed, retries: 1, again: true},
		{cfg: most(2), v: failed, retries: 2, exhausted: true},
		{cfg: most(2), v: fine, retries: 2},
		// A person wins, and a SIGTERM to the shim is one.
		{cfg: policy(config.RestartAlways), v: failed, r: &run{final: true}},
		{cfg: policy(config.RestartAlways), v: failed, rec: by(wire.StoppedByTerm)},
		{cfg: bounces, v: failed, r: &run{final: true, bounced: true}},
		{cfg: policy(config.RestartAlways), v: failed, rec: by(wire.StoppedByDaemonDied), again: true},
		// Unhealthy, as this daemon knows or as one before it must have said.
		{cfg: bounces, v: fine, r: &run{bounced: true}, again: true},
		{cfg: bounces, v: fine, rec: by(wire.StoppedByStop), again: true},
		{cfg: bounces, v: failed},
		// Who asked for a start is told that it failed; nobody is told of the others.
		{cfg: policy(config.RestartAlways), v: crashed, r: &run{failure: ErrStart}},
		{cfg: policy(config.RestartAlways), v: crashed, r: &run{failure: ErrStart, again: true}, again: true},
		{cfg: most(1), v: crashed, r: &run{failure: ErrStart, again: true}, retries: 1, exhausted: true},
	} {
		r := c.r
		if r == nil {
			r = &run{}
		}
		r.cfg = c.cfg
		again, exhausted := r.wantsAgain(c.v, c.rec, c.retries)
		if again != c.again || exhausted != c.exhausted {
			t.Errorf("case %d (%+v, %+v): again %t, exhausted %t", i, c.cfg.Restart, c.v, again, exhausted)
		}
	}
}

func TestTenSecondsOfHealthEndARowOfRestarts(t *testing.T) {
	now := bootTime()
	at := func(s float64) moment { return now.add(time.Duration(s * float64(time.Second))) }
	type change struct {
		at   float64
		well bool
	}
	for i, c := range []struct {
		changes []change
		end     float64
		calm    bool
	}{
		{nil, 100, false}, // it never was healthy
		{[]change{{0, true}}, 9.9, false},
		{[]change{{0, true}}, 10, true},
		{[]change{{0, true}, {5, true}}, 10, true},
		{[]change{{0, true}, {6, false}, {7, true}}, 16.9, false},
		{[]change{{0, true}, {6, false}, {7, true}}, 17, true},
		{[]change{{0, true}, {11, false}}, 100, true}, // it has been
		{[]change{{0, false}}, 100, false},
	} {
		r := &run{}
		for _, ch := range c.changes {
			r.setWell(ch.well, at(ch.at))
		}
		if got := r.calm(at(c.end)); got != c.calm {
			t.Errorf("case %d: calm is %t", i, got)
		}
	}
}

func TestEndAfterACalmRunBeginsANewRow(t *testing.T) {
	rt := testRuntime(t)
	for _, calm := range []bool{true, false} {
		b := newBox(rt, "b")
		b.retries = 5
		r := newRun(1, "id", &config.Config{Restart: config.Restart{Policy: config.RestartAlways}}, nil)
		r.wasCalm = calm
		v := ending{status: status.Stopped, message: "ok"}
		tx := &tx{}
		now := time.Now()
		tx.afterwards(b, r, &v, nil, now)
		want := 6
		if calm {
			want = 1
		}
		if b.retries != want || !tx.RestartAt.Equal(now.Add(backoff(want-1))) || v.status != status.Restarting {
			t.Errorf("calm %t: %d in a row, %s, status %s", calm, b.retries, tx.RestartAt.Sub(now), v.status)
		}
	}
}

func TestStopInABackoffIsNotUndoneByTheRecordOfTheEnd(t *testing.T) {
	b, r := running(t, &config.Config{Restart: config.Restart{Policy: config.RestartAlways}})
	var err error
	b.rt.oom, err = cgroup.NewOOMWatch(false)
	must(t, err)
	t.Cleanup(func() { must(t, b.rt.oom.Close()) })
	busy, told, ended := make(chan struct{}), make(chan struct{}), make(chan struct{})
	go b.rt.ends.Later(func() { close(told); <-busy })
	<-told
	go func() {
		b.ended(r, reaper.Exit{Code: 1, At: time.Now()})
		close(ended)
	}()
	<-r.done
	if s := b.Snapshot().Status; s != status.Restarting {
		t.Fatalf("status %s", s)
	}
	done, err := b.Do(By{}, Command{Verb: VerbKill})
	must(t, err)
	must(t, done.Wait(t.Context()))
	b.rt.work.Wait()
	close(busy)
	<-ended
	b.rt.work.Wait()
	rec, err := load(b.dir, stateFile, decodeState)
	must(t, err)
	if !rec.RestartAt.IsZero() || rec.Asked != r.id || rec.LastRun != r.id {
		t.Errorf("on record: %+v", rec)
	}
}

func TestKillOfARestartIsNotUndoneByTheBackoffBeforeIt(t *testing.T) {
	b, first := running(t, &config.Config{Restart: config.Restart{Policy: config.RestartAlways}})
	b.save.Lock()
	must(t, b.saveNow(atomicfile.BestEffort, func(s *stateRecord) {
		s.LastRun, s.Status, s.RestartAt = first.id, status.Stopped, time.Now()
	}))
	b.save.Unlock()
	// The daemon may die before the shim of this one is on record.
	second := newRun(2, "second", first.cfg, nil)
	second.final = true
	b.mu.Lock()
	b.run = second
	b.mu.Unlock()
	must(t, b.noteStop(second, false))
	b.rt.work.Wait()
	rec, err := load(b.dir, stateFile, decodeState)
	must(t, err)
	if !rec.RestartAt.IsZero() || rec.Asked != second.id {
		t.Errorf("on record: %+v", rec)
	}
}

func TestOnlyTheRunThatIsUnhealthyIsStopped(t *testing.T) {
	b, r := running(t, &config.Config{Restart: config.Restart{Policy: config.RestartAlways}, Health: config.HealthCheck{OnUnhealthy: "restart"}})
	becomes(t, b, status.Restarting, status.Unhealthy)
	b.bounce(r)
	if s := b.Snapshot().Status; s != status.Restarting {
		t.Errorf("a run that had ended when it was to be stopped for its health: the box is %s", s)
	}
}

func TestOnlyTheRunThatHasExpiredIsStopped(t *testing.T) {
	b, r := running(t, &config.Config{Restart: config.Restart{Policy: config.RestartAlways}})
	becomes(t, b, status.Restarting, status.Unhealthy)
	for _, run := range []*run{r, newRun(0, "earlier", r.cfg, nil)} {
		if _, _, err := b.stop("", Command{Verb: VerbStop, because: causeExpired, only: run}); !errors.Is(err, ErrCanceled) {
			t.Errorf("stop of run %d: %v", run.n, err)
		}
	}
	if s := b.Snapshot().Status; s != status.Restarting {
		t.Errorf("the box is %s", s)
	}
}

func TestUnhealthyRunDoesNotOvertakeAPersonsRestart(t *testing.T) {
	b, r := running(t, &config.Config{})
	must(t, b.update("test", func(x *tx) error {
		b.stops, x.Status, x.Restarting = 1, status.Stopping, true
		return nil
	}))
	b.bounce(r)
	if s := b.Snapshot(); b.stops != 1 || !s.Restarting {
		t.Errorf("stops: %d, restarting: %t", b.stops, s.Restarting)
	}
}

package runtime

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/status"
)

// running makes a box whose run goes on, without a shim.
func running(t *testing.T, cfg *config.Config) (*Box, *run) {
	t.Helper()
	b, err := testRuntime(t).Create("b")
	must(t, err)
	t.Cleanup(func() {
		b.rt.workMu.Lock()
		b.rt.closed = true
		b.rt.workMu.Unlock()
		b.rt.work.Wait()
	})
	r := newRun(1, "id", cfg, nil)
	close(r.forked)
	close(r.launched)
	r.began.complete(nil)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.run = r
	s := *b.Snapshot()
	s.Status, s.Health, s.run, s.Config, s.Started = status.Running, status.Healthy, r, cfg, time.Now()
	b.publish(&s, time.Now())
	return b, r
}

func becomes(t *testing.T, b *Box, now status.Status, health status.Health) {
	t.Helper()
	must(t, b.update("test", func(x *tx) error { x.Status, x.Health = now, health; return nil }))
}

func TestProbesOfALongStartPeriodKeepTheirInterval(t *testing.T) {
	b, r := running(t, &config.Config{Health: config.HealthCheck{Interval: time.Hour, StartPeriod: 24 * time.Hour, Retries: 3, Timeout: time.Second}})
	becomes(t, b, status.Running, status.HealthStarting)
	p := b.rt.prober
	p.watch(b, r, false)
	p.mu.Lock()
	defer p.mu.Unlock()
	for i := range 100 {
		p.outcome(p.checks[r], &ProbeReport{ExitCode: 1})
		if wait := time.Until(p.checks[r].due); wait <= 0 {
			t.Fatalf("after failure %d the next probe is due in %s", i+1, wait)
		}
	}
}

func TestProbeThatWasPausedDoesNotFail(t *testing.T) {
	b, r := running(t, &config.Config{Health: config.HealthCheck{Interval: time.Hour, Retries: 1, Timeout: time.Second}})
	p := b.rt.prober
	p.watch(b, r, false)
	p.mu.Lock()
	c := p.checks[r]
	c.phase = begun
	p.busy++
	p.mu.Unlock()
	p.soon(r)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.outcome(c, &ProbeReport{ExitCode: 1, TimedOut: true})
	if h := b.Snapshot().Health; h != status.Healthy {
		t.Errorf("health is %s", h)
	}
	c.phase, c.disturbed = begun, false // as begin does
	p.busy++
	p.outcome(c, &ProbeReport{ExitCode: 1})
	if h := b.Snapshot().Health; h != status.Unhealthy || p.busy != 0 {
		t.Errorf("after the next failure health is %s, %d under way", h, p.busy)
	}
}

func TestABoxThatIsStoppedWhileItIsRestartedForItsHealthHasNone(t *testing.T) {
	r := &run{cfg: &config.Config{}, bounced: true}
	if h := r.left(&ending{code: 143}, nil, true); h != status.Unhealthy {
		t.Errorf("restarted: %s", h)
	}
	r.final = true
	if h := r.left(&ending{code: 143}, nil, true); h != status.HealthNone {
		t.Errorf("stopped: %s", h)
	}
}

func TestFailuresCountOnlyInARow(t *testing.T) {
	b, r := running(t, &config.Config{Health: config.HealthCheck{Interval: time.Hour, Retries: 2, Timeout: time.Second}})
	p := b.rt.prober
	p.watch(b, r, false)
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, c := range []struct {
		healthy bool
		want    status.Health
	}{
		{false, status.Healthy}, {true, status.Healthy}, {false, status.Healthy}, {true, status.Healthy},
		{false, status.Healthy}, {false, status.Unhealthy}, {false, status.Unhealthy}, {true, status.Healthy}, {false, status.Healthy},
	} {
		p.outcome(p.checks[r], &ProbeReport{Healthy: c.healthy})
		if got := b.Snapshot().Health; got != c.want {
			t.Errorf("probe %d: %s, not %s", i, got, c.want)
		}
	}
}

func TestDaemonWithoutDescriptorsCallsNoBoxUnhealthy(t *testing.T) {
	b, r := running(t, &config.Config{Health: config.HealthCheck{Interval: time.Hour, Retries: 1, Timeout: time.Second}})
	p := b.rt.prober
	p.watch(b, r, false)
	probe := func() status.Health {
		p.mu.Lock()
		defer p.mu.Unlock()
		c := p.checks[r]
		p.begin(c)
		// The line to the shim is made beside the loop.
		for deadline := time.Now().Add(10 * time.Second); c.dialing || p.busy != 0; {
			if time.Now().After(deadline) {
				t.Fatalf("%d under way", p.busy)
			}
			p.mu.Unlock()
			time.Sleep(time.Millisecond)
			p.mu.Lock()
		}
		return b.Snapshot().Health
	}
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: 3, Max: old.Max}))
	h := probe()
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old))
	if h != status.Healthy {
		t.Errorf("health is %s", h)
	}
	if h := probe(); h != status.Unhealthy { // there is no shim
		t.Errorf("with descriptors, health is %s", h)
	}
}

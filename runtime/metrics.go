package runtime

import (
	"errors"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// Metrics counts what happens to the boxes of a Runtime. Its methods are named
// after what happened, and never block.
type Metrics struct {
	starts     prometheus.Counter
	stops      *prometheus.CounterVec
	kills      prometheus.Counter
	reaps      *prometheus.HistogramVec
	swept      prometheus.Counter
	probes     *prometheus.HistogramVec
	restarts   *prometheus.CounterVec
	oomKills   prometheus.Counter
	unreadable prometheus.Counter
}

// What ended a run, where it was no command; see run.cause.
const (
	causeExit        = "exit"         // its command ended by itself
	causeSignal      = "signal"       // its command was killed, and boxlite has not been asked to
	causeOOM         = "oom"          // its command was killed by the OOM killer
	causeTerm        = "term"         // its shim got a SIGTERM
	causeShimKilled  = "shim-killed"  // its shim got a SIGKILL
	causeShimFailed  = "shim-failed"  // its shim ended by its own fault
	causeDaemonDied  = "daemon-died"  // detach: false
	causeShutdown    = "shutdown"     // detach: false
	causeExpired     = "expired"      // its time was over: see expire
	causeUnhealthy   = "unhealthy"    // on_unhealthy: restart
	causeStartFailed = "start-failed" // its command never ran
	causeLost        = "lost"         // nobody saw it
)

// causes are all of which there are series from the beginning.
var causes = []string{
	string(VerbStop), string(VerbKill), string(VerbRestart), causeExit, causeSignal, causeOOM, causeTerm, causeShimKilled,
	causeShimFailed, causeDaemonDied, causeShutdown, causeExpired, causeUnhealthy, causeStartFailed, causeLost,
}

func newMetrics() *Metrics {
	m := &Metrics{
		starts: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "boxlite_starts_total", Help: "Runs of boxes that were begun.",
		}),
		stops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "boxlite_stops_total", Help: "Runs of boxes that ended, by cause.",
		}, []string{"cause"}),
		kills: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "boxlite_kills_total", Help: "Runs of boxes that were force-stopped: SIGKILL to the shim, and so to all of the box.",
		}),
		reaps: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "boxlite_reap_duration_seconds", Help: "Time from the SIGKILL of a force-stop to the proof that the box is gone, by outcome.",
			Buckets: []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2},
		}, []string{"outcome"}),
		swept: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "boxlite_zombies_swept_total", Help: "Orphans of others that the daemon got as its children and reaped.",
		}),
		probes: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "boxlite_health_probe_duration_seconds", Help: "Health probes and how long each took, by kind and outcome.",
			Buckets: []float64{0.0001, 0.00025, 0.001, 0.0025, 0.01, 0.1, 1, 10},
		}, []string{"kind", "outcome"}),
		restarts: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "boxlite_restarts_total", Help: "Starts that nobody asked for, by restart policy, or unhealthy.",
		}, []string{"policy"}),
		oomKills: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "boxlite_oom_kills_total", Help: "Processes of boxes that the OOM killer took.",
		}),
		unreadable: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "boxlite_box_stats_errors_total", Help: "Boxes that a scrape found no figures of, since their cgroup or /proc could not be read.",
		}),
	}
	// What has not happened yet is 0 and not absent, so that the first time shows as a
	// change.
	for _, cause := range causes {
		m.stops.WithLabelValues(cause)
	}
	for o := reaper.TimedOut; o <= reaper.NotOurChild; o++ {
		m.reaps.WithLabelValues(o.String())
	}
	for _, outcome := range []string{"healthy", "unhealthy", "timeout"} {
		m.probes.WithLabelValues("ping", outcome)
	}
	for _, policy := range []string{config.RestartAlways, config.RestartOnFailure, config.RestartUnlessStopped, causeUnhealthy} {
		m.restarts.WithLabelValues(policy)
	}
	return m
}

// register makes the metrics, and those of the boxes, known to reg, unless that is nil.
func (m *Metrics) register(reg prometheus.Registerer, rt *Runtime) error {
	if reg == nil {
		return nil
	}
	var errs []error
	for _, c := range []prometheus.Collector{m.starts, m.stops, m.kills, m.reaps, m.swept, m.probes, m.restarts, m.oomKills, m.unreadable, boxCollector{rt}} {
		errs = append(errs, reg.Register(c))
	}
	return errors.Join(errs...)
}

// changed counts what the change of a box from old to s says.
func (m *Metrics) changed(old, s *Snapshot) {
	if s.Status == status.Starting && old.Status != status.Starting {
		m.starts.Inc()
	}
	if s.Restarts > old.Restarts {
		policy := s.run.cfg.Restart.Policy
		if policy == config.RestartNo || old.run != nil && old.run.bounced {
			policy = causeUnhealthy
		}
		m.restarts.WithLabelValues(policy).Inc()
	}
	if s.OOMKills > old.OOMKills {
		m.oomKills.Add(float64(s.OOMKills - old.OOMKills))
	}
}

// killed counts the first SIGKILL of a run.
func (m *Metrics) killed(r *run) {
	now := time.Now()
	if r.struck.CompareAndSwap(nil, &now) {
		m.kills.Inc()
	}
}

// late counts a force-stop that was given up on after its bound.
func (m *Metrics) late(r *run) {
	if struck := r.struck.Load(); struck != nil {
		m.reaps.WithLabelValues(reaper.TimedOut.String()).Observe(time.Since(*struck).Seconds())
	}
}

// ended counts the end of a run.
func (m *Metrics) ended(r *run, e reaper.Exit, cause string) {
	m.stops.WithLabelValues(cause).Inc()
	// One that had ended before the SIGKILL did not need to be reaped for it.
	if struck := r.struck.Load(); struck != nil && e.At.After(*struck) && e.Outcome.Gone() {
		m.reaps.WithLabelValues(e.Outcome.String()).Observe(e.At.Sub(*struck).Seconds())
	}
}

// sweptSome counts zombies that the net has reaped.
func (m *Metrics) sweptSome(n int) { m.swept.Add(float64(n)) }

// probed counts a health probe.
func (m *Metrics) probed(r *ProbeReport) {
	outcome := "unhealthy"
	switch {
	case r.Healthy:
		outcome = "healthy"
	case r.TimedOut:
		outcome = "timeout"
	}
	m.probes.WithLabelValues(r.Kind, outcome).Observe(r.Took.Seconds())
}

// cause names what ended a run, as judge found it: the command that asked for its
// end, or what the exit record and the kernel say.
func (r *run) cause(v ending, rec *wire.ExitRecord, e reaper.Exit, used cgroup.Stats) string {
	switch {
	case v.supervisor:
		return causeShimFailed
	case r.asked != "":
		return r.asked
	case r.failure != nil || rec != nil && rec.Failed != "":
		return causeStartFailed
	case rec != nil && rec.StoppedBy != wire.StoppedByItself:
		return rec.StoppedBy // stop, term, daemon-died: asked for through another daemon, or none
	case rec != nil && rec.Signal == int(unix.SIGKILL) && used.OOMKills > 0:
		return causeOOM
	case rec != nil && rec.Signal != 0:
		return causeSignal
	case rec != nil:
		return causeExit
	case e.Signal == unix.SIGKILL:
		return causeShimKilled
	}
	return causeLost
}

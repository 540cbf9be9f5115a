package runtime

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/shim/wire"
)

func pairs(labels []*dto.LabelPair) string {
	var out []string
	for _, l := range labels {
		out = append(out, fmt.Sprintf("%s=%q", l.GetName(), l.GetValue()))
	}
	return strings.Join(out, ",")
}

// counted returns what has been counted, by series: counters, and how often histograms
// have observed. What is 0 is left out.
func counted(t *testing.T, m *Metrics) map[string]float64 {
	t.Helper()
	reg := prometheus.NewPedanticRegistry()
	for _, c := range []prometheus.Collector{m.starts, m.stops, m.kills, m.reaps, m.swept, m.probes, m.restarts, m.oomKills} {
		reg.MustRegister(c)
	}
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, s := range f.GetMetric() {
			v := s.GetCounter().GetValue() + float64(s.GetHistogram().GetSampleCount())
			if v != 0 {
				out[strings.TrimPrefix(f.GetName(), "boxlite_")+"{"+pairs(s.GetLabel())+"}"] = v
			}
		}
	}
	return out
}

func TestWhatIsCounted(t *testing.T) {
	struck := func(ago time.Duration) *run {
		r := newRun(1, "r", config.Default("x"), nil)
		at := time.Now().Add(-ago)
		r.struck.Store(&at)
		return r
	}
	for name, c := range map[string]struct {
		do   func(m *Metrics)
		want string
	}{
		"nothing": {func(*Metrics) {}, "map[]"},
		"a start": {func(m *Metrics) {
			m.changed(&Snapshot{Status: status.Stopped}, &Snapshot{Status: status.Starting})
			m.changed(&Snapshot{Status: status.Starting}, &Snapshot{Status: status.Starting})
			m.changed(&Snapshot{Status: status.Starting}, &Snapshot{Status: status.Running})
		}, "map[starts_total{}:1]"},
		"OOM kills": {func(m *Metrics) {
			m.changed(&Snapshot{}, &Snapshot{OOMKills: 2})
			m.changed(&Snapshot{OOMKills: 2}, &Snapshot{OOMKills: 3})
			m.changed(&Snapshot{OOMKills: 3}, &Snapshot{}) // the next run
		}, "map[oom_kills_total{}:3]"},
		"a run killed twice": {func(m *Metrics) {
			r := newRun(1, "r", config.Default("x"), nil)
			m.killed(r)
			m.killed(r)
			m.ended(r, reaper.Exit{Outcome: reaper.Reaped, At: time.Now()}, "kill")
		}, `map[kills_total{}:1 reap_duration_seconds{outcome="reaped"}:1 stops_total{cause="kill"}:1]`},
		"an end before the kill": {func(m *Metrics) {
			m.ended(struck(0), reaper.Exit{Outcome: reaper.Reaped, At: time.Now().Add(-time.Second)}, "exit")
		}, `map[stops_total{cause="exit"}:1]`},
		"a kill that comes late": {func(m *Metrics) {
			r := struck(KillBound)
			m.late(r)
			m.ended(r, reaper.Exit{Outcome: reaper.NotOurChild, At: time.Now()}, "kill")
		}, `map[reap_duration_seconds{outcome="not-our-child"}:1 reap_duration_seconds{outcome="timed-out"}:1 stops_total{cause="kill"}:1]`},
		"late before there was anything to kill": {func(m *Metrics) { m.late(newRun(1, "r", config.Default("x"), nil)) }, "map[]"},
		"zombies":                                {func(m *Metrics) { m.sweptSome(3) }, "map[zombies_swept_total{}:3]"},
		"a probe":                                {func(m *Metrics) { m.probed(&ProbeReport{Kind: "ping", Healthy: true}) }, `map[health_probe_duration_seconds{kind="ping",outcome="healthy"}:1]`},
		"a probe of another kind":                {func(m *Metrics) { m.probed(&ProbeReport{Kind: "tcp", TimedOut: true}) }, `map[health_probe_duration_seconds{kind="tcp",outcome="timeout"}:1]`},
		"a restart":                              {restarted(config.RestartAlways, false), `map[restarts_total{policy="always"}:1]`},
		"a restart of an unhealthy box":          {restarted(config.RestartAlways, true), `map[restarts_total{policy="unhealthy"}:1]`},
		"a restart that no policy asked for":     {restarted(config.RestartNo, false), `map[restarts_total{policy="unhealthy"}:1]`},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMetrics()
			c.do(m)
			if got := fmt.Sprint(counted(t, m)); got != c.want {
				t.Errorf("counted %s, not %s", got, c.want)
			}
		})
	}
}

func TestReapTakesFromTheKillToTheProof(t *testing.T) {
	m := newMetrics()
	r := newRun(1, "r", config.Default("x"), nil)
	m.killed(r)
	first := *r.struck.Load()
	m.killed(r) // once more, since the first was not enough
	m.ended(r, reaper.Exit{Outcome: reaper.Reaped, At: first.Add(3 * time.Second)}, "kill")
	var out dto.Metric
	h, ok := m.reaps.WithLabelValues("reaped").(prometheus.Histogram)
	if !ok {
		t.Fatal("no histogram")
	}
	if err := h.Write(&out); err != nil {
		t.Fatal(err)
	}
	if sum := out.GetHistogram().GetSampleSum(); sum != 3 {
		t.Errorf("%v s, not 3", sum)
	}
}

func TestCauseOfAnEnd(t *testing.T) {
	killed := wire.ExitRecord{Run: "r", Code: 137, Signal: int(unix.SIGKILL)}
	by := func(who string) *wire.ExitRecord { return &wire.ExitRecord{Run: "r", StoppedBy: who} }
	for name, c := range map[string]struct {
		asked   string
		failure error
		rec     *wire.ExitRecord
		exit    reaper.Exit
		used    cgroup.Stats
		want    string
	}{
		"exit 0":                      {rec: &wire.ExitRecord{}, want: causeExit},
		"exit 3 beside an OOM kill":   {rec: &wire.ExitRecord{Code: 3}, used: cgroup.Stats{OOMKills: 1}, want: causeExit},
		"a signal":                    {rec: &killed, want: causeSignal},
		"a SIGTERM beside an OOM":     {rec: &wire.ExitRecord{Code: 143, Signal: 15}, used: cgroup.Stats{OOMKills: 1}, want: causeSignal},
		"OOM":                         {rec: &killed, used: cgroup.Stats{OOMKills: 1}, want: causeOOM},
		"stop":                        {asked: "stop", rec: by(wire.StoppedByStop), want: "stop"},
		"kill":                        {asked: "kill", exit: reaper.Exit{Code: 137, Signal: unix.SIGKILL}, want: "kill"},
		"kill of one that ran out":    {asked: "kill", rec: &killed, used: cgroup.Stats{OOMKills: 1}, want: "kill"},
		"stop by an earlier daemon":   {rec: by(wire.StoppedByStop), want: "stop"},
		"SIGTERM to the shim":         {rec: by(wire.StoppedByTerm), want: causeTerm},
		"SIGKILL to the shim":         {exit: reaper.Exit{Code: 137, Signal: unix.SIGKILL}, want: causeShimKilled},
		"the daemon died":             {rec: by(wire.StoppedByDaemonDied), want: causeDaemonDied},
		"the daemon shuts down":       {asked: causeShutdown, exit: reaper.Exit{Code: 137, Signal: unix.SIGKILL}, want: causeShutdown},
		"the shim's fault":            {exit: reaper.Exit{Code: 2}, want: causeShimFailed},
		"the shim's fault in a stop":  {asked: "stop", exit: reaper.Exit{Code: 2}, want: causeShimFailed},
		"a command that is not there": {rec: &wire.ExitRecord{Failed: "no such file"}, want: causeStartFailed},
		"no shim":                     {failure: errors.New("no memory"), exit: reaper.Exit{Code: -1}, want: causeStartFailed},
		"a start that a kill ended":   {asked: "kill", failure: ErrCanceled, exit: reaper.Exit{Code: -1}, want: "kill"},
		"nobody saw it":               {exit: reaper.Exit{Code: -1}, want: causeLost},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(1, "r", config.Default("x"), nil)
			r.failure, r.asked = c.failure, c.asked
			if got := r.cause(judge(r, c.rec, c.exit, c.used, "shim.log"), c.rec, c.exit, c.used); got != c.want {
				t.Errorf("%s, not %s", got, c.want)
			}
		})
	}
}

func TestMetricLabels(t *testing.T) {
	type labels = map[string]string
	for name, c := range map[string]struct {
		labels labels
		want   string
	}{
		"none":        {nil, ``},
		"plain":       {labels{"team": "a", "App": "b"}, `label_App="b",label_team="a"`},
		"odd":         {labels{"example.com/team-1": "a", "9": "b", "a__b": "c"}, `label_9="b",label_a__b="c",label_example_com_team_1="a"`},
		"empty":       {labels{"a": ""}, `label_a=""`},
		"quotes":      {labels{"a": `"\é`}, `label_a="\"\\é"`},
		"not UTF-8":   {labels{"a": "x\xff"}, `label_a="x` + "\uFFFD" + `"`},
		"two alike":   {labels{"a.b": "1", "a-b": "2"}, `label_a_b="2",label_a_b_2="1"`},
		"exact first": {labels{"a-b": "1", "a_b": "2", "a.b": "3"}, `label_a_b="2",label_a_b_2="1",label_a_b_3="3"`},
		"the number is taken": {
			labels{"a-b": "1", "a_b": "2", "a_b_2": "3", "a.b": "4", "a-b-3": "5"},
			`label_a_b="2",label_a_b_2="3",label_a_b_3="1",label_a_b_3_2="5",label_a_b_4="4"`,
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 { // maps have no order
				if got := pairs(metricLabels(c.labels)); got != c.want {
					t.Fatalf("%s, not %s", got, c.want)
				}
			}
		})
	}
}

// restarted is a restart of a box with a policy.
func restarted(policy string, unhealthy bool) func(*Metrics) {
	r := newRun(1, "r", &config.Config{Restart: config.Restart{Policy: policy}}, nil)
	r.bounced = unhealthy
	return func(m *Metrics) { m.changed(&Snapshot{run: r}, &Snapshot{Restarts: 1, run: r}) }
}

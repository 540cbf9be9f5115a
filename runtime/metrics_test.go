package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
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
		r := newRun(1, "r", defaultConfig("x"), nil)
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
			r := newRun(1, "r", defaultConfig("x"), nil)
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
		"late before there was anything to kill": {func(m *Metrics) { m.late(newRun(1, "r", defaultConfig("x"), nil)) }, "map[]"},
		"zombies":                                {func(m *Metrics) { m.sweptSome(3) }, "map[zombies_swept_total{}:3]"},
		"a probe":                                {func(m *Metrics) { m.probed(&ProbeReport{Kind: "ping", Healthy: true}) }, `map[health_probe_duration_seconds{kind="ping",outcome="healthy"}:1]`},
		"a probe of another kind":                {func(m *Metrics) { m.probed(&ProbeReport{Kind: "tcp", TimedOut: true}) }, `map[health_probe_duration_seconds{kind="tcp",outcome="timeout"}:1]`},
		"a restart":                              {restarted(RestartAlways, false), `map[restarts_total{policy="always"}:1]`},
		"a restart of an unhealthy box":          {restarted(RestartAlways, true), `map[restarts_total{policy="unhealthy"}:1]`},
		"a restart that no policy asked for":     {restarted(RestartNo, false), `map[restarts_total{policy="unhealthy"}:1]`},
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
	r := newRun(1, "r", defaultConfig("x"), nil)
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
		used    Stats
		want    string
	}{
		"exit 0":                      {rec: &wire.ExitRecord{}, want: causeExit},
		"exit 3 beside an OOM kill":   {rec: &wire.ExitRecord{Code: 3}, used: Stats{OOMKills: 1}, want: causeExit},
		"a signal":                    {rec: &killed, want: causeSignal},
		"a SIGTERM beside an OOM":     {rec: &wire.ExitRecord{Code: 143, Signal: 15}, used: Stats{OOMKills: 1}, want: causeSignal},
		"OOM":                         {rec: &killed, used: Stats{OOMKills: 1}, want: causeOOM},
		"stop":                        {asked: "stop", rec: by(wire.StoppedByStop), want: "stop"},
		"kill":                        {asked: "kill", exit: reaper.Exit{Code: 137, Signal: unix.SIGKILL}, want: "kill"},
		"kill of one that ran out":    {asked: "kill", rec: &killed, used: Stats{OOMKills: 1}, want: "kill"},
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
			r := newRun(1, "r", defaultConfig("x"), nil)
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

func TestCountsOfACgroup(t *testing.T) {
	files := map[string]string{
		"cpu.stat":       "usage_usec 1500000\nuser_usec 1\nsystem_usec 2\n",
		"memory.current": "4096\n", "pids.current": "3\n",
		"cpuacct.usage": "2500000000\n", "memory.usage_in_bytes": "8192\n",
	}
	for name, c := range map[string]struct {
		v2     bool
		change map[string]string // of the files; "-" is none
		lack   string            // a controller
		want   string
	}{
		"v1":                  {false, nil, "", "{2.5s 8192 3 0} true <nil>"},
		"v2":                  {true, nil, "", "{1.5s 4096 3 0} true <nil>"},
		"no memory":           {true, nil, "memory", "{1.5s 0 3 0} false <nil>"},
		"no pids":             {true, nil, "pids", "{1.5s 4096 0 0} false <nil>"},
		"no time":             {false, nil, "cpuacct", "{0s 8192 3 0} false <nil>"},
		"a later line":        {true, map[string]string{"cpu.stat": "core_sched.force_idle_usec 0\nusage_usec 7\n"}, "", "{7µs 4096 3 0} true <nil>"},
		"a file that is gone": {true, map[string]string{"memory.current": "-"}, "", "open DIR/memory.current: no such file or directory"},
		"an empty file":       {true, map[string]string{"pids.current": ""}, "", "DIR/pids.current: no \"\" in it"},
		"a broken file":       {true, map[string]string{"pids.current": "max\n"}, "", `DIR/pids.current: strconv.ParseInt: parsing "max": invalid syntax`},
		"a key that is gone":  {true, map[string]string{"cpu.stat": "user_usec 1\n"}, "", `DIR/cpu.stat: no "usage_usec " in it`},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			g := &group{V2: c.v2, Dirs: map[string]string{"cpuacct": dir, "memory": dir, "pids": dir}}
			delete(g.Dirs, c.lack)
			if err := g.open(nil); err != nil {
				t.Fatal(err)
			}
			for file, text := range files {
				if changed, ok := c.change[file]; ok {
					text = changed
				}
				if text == "-" {
					continue
				}
				if err := os.WriteFile(filepath.Join(dir, file), []byte(text), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			in := parents{}
			defer in.close()
			for _, in := range []parents{nil, in, in} {
				st, complete, err := g.counts(in)
				got := fmt.Sprint(st, complete, err)
				if err != nil {
					got = strings.ReplaceAll(err.Error(), dir, "DIR")
				}
				if got != c.want {
					t.Errorf("%s, not %s", got, c.want)
				}
			}
			if len(in) != 1 {
				t.Errorf("%d directories were opened for files of one", len(in))
			}
		})
	}
	if st, complete, err := (*group)(nil).counts(nil); st != (Stats{}) || complete || err != nil {
		t.Errorf("without a group: %v %v %v", st, complete, err)
	}
}

// restarted is a restart of a box with a policy.
func restarted(policy string, unhealthy bool) func(*Metrics) {
	r := newRun(1, "r", &Config{Restart: Restart{Policy: policy}}, nil)
	r.bounced = unhealthy
	return func(m *Metrics) { m.changed(&Snapshot{run: r}, &Snapshot{Restarts: 1, run: r}) }
}

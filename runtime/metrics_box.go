package runtime

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/fault"
	"github.com/boxlitefs/boxlite/runtime/status"
)

// boxCollector tells at each scrape how many boxes are in which state, and of each
// box what it uses.
//
// Each series of a box has the labels that the box was given, and no others: what a
// query asks for it can ask of the series itself. They add no series, since they are
// the same for all of a box.
type boxCollector struct{ rt *Runtime }

var (
	boxesDesc  = prometheus.NewDesc("boxlite_boxes", "Boxes by state.", []string{"status"}, nil)
	infoDesc   = prometheus.NewDesc("boxlite_box_info", "What a box is: 1, with its state, health and labels.", []string{"box", "health", "status"}, nil)
	cpuDesc    = prometheus.NewDesc("boxlite_box_cpu_seconds_total", "Processor time of a box in its present run, or in its last.", []string{"box"}, nil)
	memoryDesc = prometheus.NewDesc("boxlite_box_memory_bytes", "Memory of a box that has processes, as it counts against its limit.", []string{"box"}, nil)
	pidsDesc   = prometheus.NewDesc("boxlite_box_pids", "Threads of a box that has processes, without those of its shim.", []string{"box"}, nil)
	oomDesc    = prometheus.NewDesc("boxlite_box_oom_kills_total", "Processes of a box that the OOM killer took in its present run, or in its last.", []string{"box"}, nil)
)

// Describe names the metrics.
func (boxCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{boxesDesc, infoDesc, cpuDesc, memoryDesc, pidsDesc, oomDesc} {
		ch <- d
	}
}

// Collect looks at each box. One that ends meanwhile, or whose figures can't be read,
// has none, and spoils nothing.
func (c boxCollector) Collect(ch chan<- prometheus.Metric) {
	defer endOnPanic()
	count := map[status.Status]int{}
	boxes := c.rt.Boxes()
	fault.Point("metrics.collecting")
	in := cgroup.Parents{}
	defer in.Close()
	words := status.All()
	all := make([]series, 0, seriesPerBox*len(boxes)+len(words))
	for _, b := range boxes {
		s := b.Snapshot()
		count[s.Status]++
		all = c.collect(all, in, b, s)
	}
	for _, word := range words {
		all = append(all, series{desc: boxesDesc, labels: []*dto.LabelPair{pair("status", string(word))}, value: float64(count[word])})
	}
	// Told in one go: each by itself, between two reads, would wake the receiver.
	for i := range all {
		ch <- &all[i]
	}
}

// seriesPerBox is how many series a box has at most.
const seriesPerBox = 5

// collect appends the series of a box.
func (c boxCollector) collect(all []series, in cgroup.Parents, b *Box, s *Snapshot) []series {
	var own []*dto.LabelPair
	if s.Config != nil {
		own = metricLabels(s.Config.Labels)
	}
	labels := append([]*dto.LabelPair{pair("box", b.name)}, own...)
	// Sorted by name, or the registry does it once more.
	info := make([]*dto.LabelPair, 0, len(own)+3)
	info = append(append(append(info, labels[0], pair("health", string(s.Health))), own...), pair("status", string(s.Status)))
	all = append(all, series{desc: infoDesc, labels: info, value: 1})
	if s.Runs == 0 {
		return all
	}
	all = append(all, series{desc: oomDesc, labels: labels, counter: true, value: float64(s.OOMKills)})
	if s.PID <= 0 {
		// What it used after the last scrape of its run counts too.
		return append(all, series{desc: cpuDesc, labels: labels, counter: true, value: s.CPU.Seconds()})
	}
	st, err := s.usage(in)
	if err != nil {
		if !cgroup.Gone(err) {
			c.rt.metrics.unreadable.Inc()
			b.log("metrics").WithError(err).Debug("no figures")
		}
		return all
	}
	return append(all,
		series{desc: cpuDesc, labels: labels, counter: true, value: st.CPU.Seconds()},
		series{desc: memoryDesc, labels: labels, value: float64(st.Memory)},
		series{desc: pidsDesc, labels: labels, value: float64(st.Pids)})
}

// usage tells what the processes of a snapshot that has a pid use. It asks the
// kernel no more than a scrape needs: OOM kills are told by events.
func (s *Snapshot) usage(in cgroup.Parents) (cgroup.Stats, error) {
	st, complete, err := s.run.cgroup().Counts(in)
	if err == nil && !complete {
		st, err = cgroup.Walk(s.PID, st)
	}
	return st, err
}

// series is one value. The library's own kind makes its labels anew for each of a
// box's.
type series struct {
	desc    *prometheus.Desc
	labels  []*dto.LabelPair // sorted by name; shared, so never changed
	counter bool
	value   float64
}

// Desc returns what the series is.
func (s *series) Desc() *prometheus.Desc { return s.desc }

// Write tells the value.
func (s *series) Write(out *dto.Metric) error {
	out.Label = s.labels
	if s.counter {
		out.Counter = &dto.Counter{Value: &s.value}
	} else {
		out.Gauge = &dto.Gauge{Value: &s.value}
	}
	return nil
}

func pair(name, value string) *dto.LabelPair { return &dto.LabelPair{Name: &name, Value: &value} }

// labelPrefix keeps a box's labels apart from those of the metrics.
const labelPrefix = "label_"

// metricLabels turns the labels of a box into those of its metrics, sorted by name.
// Their names allow more than Prometheus does; of two that become the same, the one
// that needed no change has the name, else the first in the alphabet, and the other
// gets a number.
func metricLabels(labels map[string]string) []*dto.LabelPair {
	if len(labels) == 0 {
		return nil
	}
	taken := make(map[string]string, len(labels))
	var changed []string
	for _, name := range slices.Sorted(maps.Keys(labels)) {
		if as := metricLabel(name); as == name {
			taken[as] = labels[name]
		} else {
			changed = append(changed, name)
		}
	}
	for _, name := range changed {
		as := metricLabel(name)
		for n, base := 2, as; ; n++ {
			if _, is := taken[as]; !is {
				break
			}
			as = fmt.Sprintf("%s_%d", base, n)
		}
		taken[as] = labels[name]
	}
	pairs := make([]*dto.LabelPair, 0, len(labels))
	for _, name := range slices.Sorted(maps.Keys(taken)) {
		pairs = append(pairs, pair(labelPrefix+name, strings.ToValidUTF8(taken[name], "\uFFFD")))
	}
	return pairs
}

func metricLabel(name string) string {
	return strings.Map(func(c rune) rune {
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
			return c
		}
		return '_'
	}, name)
}

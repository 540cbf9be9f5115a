package fsapi

import (
	"bytes"
	"context"
	"errors"
	"path"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"

	"github.com/boxlitefs/boxlite/runtime"
)

// metrics counts what the facade does.
type metrics struct {
	requests  *prometheus.HistogramVec
	openFiles prometheus.Gauge
	refused   *prometheus.CounterVec
	waiting   *prometheus.GaugeVec
	lag       prometheus.Histogram

	// The metrics are gathered once at a time, and once for all requests that come meanwhile.
	families *shared[gathered]
	text     *shared[[]byte]
}

type gathered struct {
	families []*dto.MetricFamily
	err      error
}

func newMetrics(reg *prometheus.Registry, complain func(error)) *metrics {
	m := &metrics{
		requests: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "boxlite_fuse_request_duration_seconds",
			Help: "Requests to the control filesystem and the time until each was answered, by operation: " +
				"wait is a read in wait/, flush the close of ctl or config.yaml, which wait for what they are about.",
			Buckets: []float64{5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 2.5e-3, 0.01, 0.1, 1},
		}, []string{"operation"}),
		openFiles: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "boxlite_fuse_open_files", Help: "Files of the control filesystem that are open.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "boxlite_fuse_refused_total",
			Help: "Requests of other users than root that were refused since they hold too much already: open files (ENFILE), or bytes of memory (EDQUOT).",
		}, []string{"resource"}),
		waiting: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "boxlite_waiters", Help: "Reads that wait now, by the file in wait/.",
		}, []string{"file"}),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "boxlite_notifier_lag_seconds", Help: "Time from a change to its inotify event.",
			Buckets: []float64{0.0001, 0.00025, 0.001, 0.0025, 0.01, 0.1, 1},
		}),
	}
	reg.MustRegister(m.requests, m.openFiles, m.refused, m.waiting, m.lag)
	m.waiting.WithLabelValues("event")
	for _, f := range waitFiles {
		m.waiting.WithLabelValues(f.name)
	}
	m.families = share(func() gathered {
		families, err := reg.Gather()
		return gathered{families, err}
	})
	m.text = share(func() []byte {
		g := m.families.get()
		text, err := render(g.families)
		if err = errors.Join(g.err, err); err != nil {
			complain(err) // the others are given all the same
		}
		return text
	})
	return m
}

// notified counts how long after a change its watchers were told.
func (m *metrics) notified(lag time.Duration) { m.lag.Observe(lag.Seconds()) }

// waiter returns the gauge of the reads that wait in a file.
func (m *metrics) waiter(file string) prometheus.Gauge {
	return m.waiting.WithLabelValues(path.Base(file))
}

// render writes metrics in the text format.
func render(families []*dto.MetricFamily) ([]byte, error) {
	var out bytes.Buffer
	enc := expfmt.NewEncoder(&out, expfmt.NewFormat(expfmt.TypeTextPlain))
	for _, f := range families {
		if err := enc.Encode(f); err != nil {
			return out.Bytes(), err
		}
	}
	return out.Bytes(), nil
}

// Gather returns the metrics of this moment. Calls that come while others are being answered
// share one answer, which is begun after each of them came.
func (f *FS) Gather() ([]*dto.MetricFamily, error) {
	g := f.metrics.families.get()
	return g.families, g.err
}

// metricsFile is the file metrics. Its size is 0, as in procfs: the size is known only once
// the text has been made, and a stat must not make it.
type metricsFile struct{ node }

var (
	_ stater              = (*metricsFile)(nil)
	_ fs.NodeOpener       = (*metricsFile)(nil)
	_ prometheus.Gatherer = (*FS)(nil)
)

func (m *metricsFile) stat() (attr, syscall.Errno) {
	return m.own(attr{mtime: m.fs.began, timeout: cacheTime})
}

// Open gathers the metrics that all reads through the handle give.
func (m *metricsFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := readOnly(flags); errno != 0 {
		return nil, 0, errno
	}
	// Outside of the lane: a request that waited for its turn there could not share the text.
	turn := m.fs.lane.turn(ctx)
	defer turn.end()
	var text []byte
	errno := turn.await(func() syscall.Errno {
		text = m.fs.metrics.text.get()
		return 0
	})
	if errno != 0 {
		return nil, 0, errno
	}
	return m.show(ctx, &runtime.Text{Bytes: text})
}

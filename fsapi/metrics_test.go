package fsapi

import (
	"errors"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/prometheus/client_golang/prometheus"
)

func TestManyThatAskAtOnceShareOneAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		made, goOn := 0, make(chan struct{})
		s := share(func() int { made++; <-goOn; return made })
		var got [51]int
		var wg sync.WaitGroup
		ask := func(i int) { wg.Go(func() { got[i] = s.get() }) }
		ask(0)
		synctest.Wait()
		for i := 1; i < len(got); i++ {
			ask(i)
		}
		synctest.Wait()
		if made != 1 {
			t.Errorf("%d were made at once", made)
		}
		close(goOn)
		wg.Wait()
		for i, v := range got {
			if want := min(i, 1) + 1; v != want {
				t.Errorf("the one who asked as number %d got %d, not %d", i, v, want)
			}
		}
		if made != 2 {
			t.Errorf("made %d times", made)
		}
	})
}

func TestAnAnswerIsBegunAfterItWasAskedFor(t *testing.T) {
	var clock, making atomic.Int64
	s := share(func() int64 {
		if making.Add(1) != 1 {
			t.Error("two were made at a time")
		}
		defer making.Add(-1)
		return clock.Add(1)
	})
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 200 {
				asked := clock.Load()
				if begun := s.get(); begun <= asked {
					t.Errorf("asked at %d, begun at %d", asked, begun)
				}
			}
		})
	}
	wg.Wait()
}

// observed returns how often each operation was counted.
func observed(t *testing.T, reg *prometheus.Registry) map[string]uint64 {
	t.Helper()
	families, err := reg.Gather()
	must(t, err)
	out := map[string]uint64{}
	for _, f := range families {
		if f.GetName() != "boxlite_fuse_request_duration_seconds" {
			continue
		}
		for _, m := range f.GetMetric() {
			if n := m.GetHistogram().GetSampleCount(); n > 0 {
				out[m.GetLabel()[0].GetValue()] = n
			}
		}
	}
	return out
}

// readResults is a filesystem of one file, which gives what it is told to.
type readResults struct {
	fuse.RawFileSystem
	result fuse.ReadResult
}

func (r *readResults) Read(<-chan struct{}, *fuse.ReadIn, []byte) (fuse.ReadResult, fuse.Status) {
	return r.result, fuse.OK
}

func TestEachRequestIsCountedOnce(t *testing.T) {
	data := fuse.ReadResultData([]byte("text"))
	for operation, ask := range map[string]func(fs fuse.RawFileSystem, r *readResults){
		"lookup":  func(fs fuse.RawFileSystem, _ *readResults) { fs.Lookup(nil, &fuse.InHeader{}, "x", &fuse.EntryOut{}) },
		"getattr": func(fs fuse.RawFileSystem, _ *readResults) { fs.GetAttr(nil, &fuse.GetAttrIn{}, &fuse.AttrOut{}) },
		"setattr": func(fs fuse.RawFileSystem, _ *readResults) { fs.SetAttr(nil, &fuse.SetAttrIn{}, &fuse.AttrOut{}) },
		"mkdir":   func(fs fuse.RawFileSystem, _ *readResults) { fs.Mkdir(nil, &fuse.MkdirIn{}, "x", &fuse.EntryOut{}) },
		"rmdir":   func(fs fuse.RawFileSystem, _ *readResults) { fs.Rmdir(nil, &fuse.InHeader{}, "x") },
		"statfs":  func(fs fuse.RawFileSystem, _ *readResults) { fs.StatFs(nil, &fuse.InHeader{}, &fuse.StatfsOut{}) },
		"open":    func(fs fuse.RawFileSystem, _ *readResults) { fs.Open(nil, &fuse.OpenIn{}, &fuse.OpenOut{}) },
		"read": func(fs fuse.RawFileSystem, r *readResults) {
			r.result = data
			fs.Read(nil, &fuse.ReadIn{}, nil)
		},
		"wait": func(fs fuse.RawFileSystem, r *readResults) {
			r.result = waited{data}
			if got, _ := fs.Read(nil, &fuse.ReadIn{}, nil); got != data {
				t.Errorf("wait gives %T", got)
			}
		},
		"write": func(fs fuse.RawFileSystem, _ *readResults) {
			// As go-fuse asks: the second way, where the first is not offered.
			if _, status := fs.Writev(nil, &fuse.WriteIn{}, [][]byte{[]byte("x")}); status == fuse.ENOSYS {
				fs.Write(nil, &fuse.WriteIn{}, []byte("x"))
			}
		},
		"flush":       func(fs fuse.RawFileSystem, _ *readResults) { fs.Flush(nil, &fuse.FlushIn{}) },
		"fsync":       func(fs fuse.RawFileSystem, _ *readResults) { fs.Fsync(nil, &fuse.FsyncIn{}) },
		"release":     func(fs fuse.RawFileSystem, _ *readResults) { fs.Release(nil, &fuse.ReleaseIn{}) },
		"opendir":     func(fs fuse.RawFileSystem, _ *readResults) { fs.OpenDir(nil, &fuse.OpenIn{}, &fuse.OpenOut{}) },
		"readdir":     func(fs fuse.RawFileSystem, _ *readResults) { fs.ReadDir(nil, &fuse.ReadIn{}, nil) },
		"readdirplus": func(fs fuse.RawFileSystem, _ *readResults) { fs.ReadDirPlus(nil, &fuse.ReadIn{}, nil) },
		"releasedir":  func(fs fuse.RawFileSystem, _ *readResults) { fs.ReleaseDir(&fuse.ReleaseIn{}) },
		"lseek":       func(fs fuse.RawFileSystem, _ *readResults) { fs.Lseek(nil, &fuse.LseekIn{}, &fuse.LseekOut{}) },
		"ioctl": func(fs fuse.RawFileSystem, _ *readResults) {
			fs.Ioctl(nil, &fuse.IoctlIn{}, nil, &fuse.IoctlOut{}, nil)
		},
		"unlink": func(fs fuse.RawFileSystem, _ *readResults) { fs.Unlink(nil, &fuse.InHeader{}, "x") },
		"rename": func(fs fuse.RawFileSystem, _ *readResults) { fs.Rename(nil, &fuse.RenameIn{}, "x", "y") },
		"create": func(fs fuse.RawFileSystem, _ *readResults) { fs.Create(nil, &fuse.CreateIn{}, "x", &fuse.CreateOut{}) },
		"symlink": func(fs fuse.RawFileSystem, _ *readResults) {
			fs.Symlink(nil, &fuse.InHeader{}, "x", "y", &fuse.EntryOut{})
		},
		"link":  func(fs fuse.RawFileSystem, _ *readResults) { fs.Link(nil, &fuse.LinkIn{}, "x", &fuse.EntryOut{}) },
		"mknod": func(fs fuse.RawFileSystem, _ *readResults) { fs.Mknod(nil, &fuse.MknodIn{}, "x", &fuse.EntryOut{}) },
	} {
		t.Run(operation, func(t *testing.T) {
			reg := prometheus.NewRegistry()
			results := &readResults{RawFileSystem: fuse.NewDefaultRawFileSystem()}
			ask(count(results, newMetrics(reg, func(err error) { t.Error(err) }), newLane(), newTestBudget()), results)
			if got := observed(t, reg); len(got) != 1 || got[operation] != 1 {
				t.Errorf("counted %v", got)
			}
		})
	}
}

func TestLagOfTheNotifier(t *testing.T) {
	reg := prometheus.NewRegistry()
	m := newMetrics(reg, func(err error) { t.Error(err) })
	m.notified(2 * time.Millisecond)
	text := string(m.text.get())
	for _, line := range []string{"boxlite_notifier_lag_seconds_count 1\n", "boxlite_notifier_lag_seconds_sum 0.002\n"} {
		if !strings.Contains(text, "\n"+line) {
			t.Errorf("no %q", line)
		}
	}
}

// broken is a collector that has a figure, and fails to have another.
type broken struct{ good, bad *prometheus.Desc }

func (b broken) Describe(ch chan<- *prometheus.Desc) { ch <- b.good; ch <- b.bad }
func (b broken) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.NewInvalidMetric(b.bad, errors.New("no figure"))
	ch <- prometheus.MustNewConstMetric(b.good, prometheus.GaugeValue, 1)
}

func TestWhatCannotBeGatheredSpoilsNothing(t *testing.T) {
	reg := prometheus.NewRegistry()
	reg.MustRegister(broken{prometheus.NewDesc("good", "Good.", nil, nil), prometheus.NewDesc("bad", "Bad.", nil, nil)})
	var said error
	text := string(newMetrics(reg, func(err error) { said = err }).text.get())
	if !strings.Contains(text, "\ngood 1\n") || strings.Contains(text, "bad") {
		t.Errorf("gathered %s", text)
	}
	if said == nil || !strings.Contains(said.Error(), "no figure") {
		t.Errorf("said %v", said)
	}
}

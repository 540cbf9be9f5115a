package runtime

import (
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"time"

	"github.com/opencontainers/cgroups"
	"golang.org/x/sys/unix"
)

// oomWatch learns from the kernel that the OOM killer strikes in a group, also
// where it takes another process than the command. One descriptor and one
// goroutine serve all boxes.
type oomWatch struct {
	v2   bool
	fd   int
	file *os.File // of fd: an eventfd on v1, an inotify instance on v2

	mu   sync.Mutex
	runs map[*run]oomWatched
}

type oomWatched struct {
	// look counts the kills and reports whether there are more than before.
	look func() bool
	wd   int32 // inotify's name for the group, v2 only
}

func newOOMWatch(v2 bool) (*oomWatch, error) {
	var err error
	w := &oomWatch{v2: v2, runs: map[*run]oomWatched{}}
	if v2 {
		w.fd, err = unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	} else {
		w.fd, err = unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	}
	if err != nil {
		return nil, fmt.Errorf("OOM watch: %w", err)
	}
	w.file = os.NewFile(uintptr(w.fd), "OOM watch")
	go w.loop()
	return w, nil
}

// add begins to watch the memory group dir of a run.
func (w *oomWatch) add(r *run, dir string, look func() bool) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := oomWatched{look: look}
	if w.v2 {
		wd, err := unix.InotifyAddWatch(w.fd, filepath.Join(dir, "memory.events"), unix.IN_MODIFY)
		if err != nil {
			return fmt.Errorf("watch of memory.events: %w", err)
		}
		seen.wd = int32(wd)
	} else {
		f, err := cgroups.OpenFile(dir, "memory.oom_control", os.O_RDONLY)
		if err == nil {
			err = errors.Join(cgroups.WriteFile(dir, "cgroup.event_control", strconv.Itoa(w.fd)+" "+strconv.Itoa(int(f.Fd()))), f.Close())
		}
		if err != nil {
			return fmt.Errorf("watch of memory.oom_control: %w", err)
		}
	}
	w.runs[r] = seen
	return nil
}

// forget ends the watch. The kernel drops its part when the group is removed.
func (w *oomWatch) forget(r *run) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.runs, r)
}

func (w *oomWatch) close() error { return w.file.Close() }

func (w *oomWatch) loop() {
	buf := make([]byte, 4096)
	for {
		n, err := w.file.Read(buf)
		if err != nil {
			return // closed
		}
		if w.v2 {
			w.changed(buf[:n])
			continue
		}
		// v1 tells before it kills, and not which group of those that share the
		// descriptor. It does kill then, or the group was removed: the end of the
		// run looks once more in any case.
		for wait := time.Millisecond; !w.lookAtAll() && wait < 200*time.Millisecond; wait *= 2 {
			<-time.After(wait)
		}
	}
}

// changed looks at the groups that inotify names.
func (w *oomWatch) changed(events []byte) {
	for len(events) >= unix.SizeofInotifyEvent {
		wd := int32(binary.NativeEndian.Uint32(events))
		name := binary.NativeEndian.Uint32(events[12:])
		events = events[unix.SizeofInotifyEvent+name:]
		for _, s := range w.watched() {
			if s.wd == wd {
				s.look()
			}
		}
	}
}

func (w *oomWatch) lookAtAll() bool {
	more := false
	for _, s := range w.watched() {
		more = s.look() || more
	}
	return more
}

func (w *oomWatch) watched() []oomWatched {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]oomWatched, 0, len(w.runs))
	for _, s := range w.runs {
		all = append(all, s)
	}
	return all
}

// watchOOM makes an event of each time that the OOM killer strikes in the group of
// a run with a memory limit. Without one only the whole machine can run out of
// memory, which the end of the run tells.
func (b *Box) watchOOM(r *run, res Resources) error {
	if r.group == nil || res.Memory == 0 {
		return nil
	}
	return b.rt.oom.add(r, r.group.Dirs["memory"], func() bool {
		st, _, err := r.group.used()
		if err != nil {
			return false // the run is over, and its end counts
		}
		return b.oomKilled(r, st.OOMKills)
	})
}

// oomKilled notes how many processes of a run the OOM killer has taken so far, and
// reports whether that was news.
func (b *Box) oomKilled(r *run, kills uint64) bool {
	news := false
	if err := b.update("oom", func(t *tx) error {
		if b.run == r {
			news = t.countOOM(kills)
		}
		return nil
	}); err != nil && !errors.Is(err, ErrRemoved) {
		b.log("oom").WithError(err).Error("OOM kill not told")
	}
	return news
}

func (t *tx) countOOM(kills uint64) bool {
	if kills <= t.OOMKills {
		return false
	}
	t.OOMKills = kills
	t.event("oom", fmt.Sprintf("oom_kills=%d", kills))
	return true
}

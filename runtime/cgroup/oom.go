package cgroup

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

// OOMWatch learns from the kernel that the OOM killer strikes in a group, whichever process it
// takes. One descriptor and one goroutine serve all groups.
type OOMWatch struct {
	v2   bool
	fd   int
	file *os.File // of fd: an eventfd on v1, an inotify instance on v2

	mu     sync.Mutex // guards groups; held for what the kernel does at once
	groups map[*Group]watched
}

type watched struct {
	// look counts the kills and reports whether there are more than before.
	look func() bool
	wd   int32 // inotify's name for the group, v2 only
}

// NewOOMWatch begins to watch groups of cgroup v2, or of v1.
func NewOOMWatch(v2 bool) (*OOMWatch, error) {
	var err error
	w := &OOMWatch{v2: v2, groups: map[*Group]watched{}}
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

// Add begins to watch a group that has the controller memory, or watches it anew. look counts the
// kills, and reports whether there are more than before. It is called in the goroutine of all
// groups.
func (w *OOMWatch) Add(g *Group, look func() bool) error {
	dir := g.Dirs["memory"]
	w.mu.Lock()
	defer w.mu.Unlock()
	seen := watched{look: look}
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
	w.groups[g] = seen
	return nil
}

// Forget ends the watch of a group, if there is one. The kernel drops its part when the group is removed.
func (w *OOMWatch) Forget(g *Group) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.groups, g)
}

// Close ends the watch of all groups.
func (w *OOMWatch) Close() error { return w.file.Close() }

func (w *OOMWatch) loop() {
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
		// descriptor. It does kill then, or the group was removed: whoever sees
		// its end looks once more in any case.
		for wait := time.Millisecond; !w.lookAtAll() && wait < 200*time.Millisecond; wait *= 2 {
			<-time.After(wait)
		}
	}
}

// changed looks at the groups that inotify names.
func (w *OOMWatch) changed(events []byte) {
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

func (w *OOMWatch) lookAtAll() bool {
	more := false
	for _, s := range w.watched() {
		more = s.look() || more
	}
	return more
}

func (w *OOMWatch) watched() []watched {
	w.mu.Lock()
	defer w.mu.Unlock()
	all := make([]watched, 0, len(w.groups))
	for _, s := range w.groups {
		all = append(all, s)
	}
	return all
}

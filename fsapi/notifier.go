package fsapi

import (
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/boxlitefs/boxlite/fsapi/inotify"
	"github.com/boxlitefs/boxlite/runtime"
)

// The notifier touches the files that are dirty. Marks are merged until they are handed
// over, one batch at a time. What is marked meanwhile goes with the next batch. So a mark
// costs its maker nothing but a lock that nobody holds for long, and there is nothing to do
// while nothing changes. A mark is taken away before the file is touched, so that whoever
// reads a file at its last event reads its last state.

// pathsMax is how many files of a box's execs may be dirty while there is no notifier.
const pathsMax = 1024

// watched are the fields whose files are always touched, for watchers of the box's directory:
// the manual promises it. Another file is touched only if the kernel has it, since only then
// may somebody watch it.
const watched = runtime.FieldStatus | runtime.FieldHealth | runtime.FieldExitCode | runtime.FieldPID |
	runtime.FieldLastError | runtime.FieldEvents | runtime.FieldLog

// urgent are the fields that come before all others, of whatever box.
const urgent = runtime.FieldStatus | runtime.FieldHealth

// The daemon's own files, as fields of no box.
const (
	topEvents runtime.Field = 1 << iota
	topLastError
	topImages
	topImagesError
)

// marks are what is dirty of one box, or of the daemon's own files.
type marks struct {
	box    *runtime.Box // nil for the daemon's own
	fields runtime.Field
	paths  []string // files of the box's execs
	since  time.Time
}

// path returns the file of a field.
func (m *marks) path(f runtime.Field) string {
	if m.box == nil {
		switch f {
		case topEvents:
			return "events"
		case topImages:
			return "images"
		case topImagesError:
			return "images/last_error"
		}
		return "last_error"
	}
	for _, file := range boxFiles {
		if file.fields&f != 0 {
			return "boxes/" + m.box.Name() + "/" + file.name
		}
	}
	panic("no file has the field " + strconv.Itoa(int(f)))
}

// notifier hands what is dirty to a notifier process.
type notifier struct {
	fs    *FS
	spawn inotify.Spawn // nil: nobody is told of anything
	mount string
	// device is the mount's, as mountinfo shows it.
	device string

	process atomic.Pointer[inotify.Process]
	// unavailable says that it is no use to wait for the notifier.
	unavailable atomic.Bool

	mu    sync.Mutex // guards what follows, down to quit; only go-fuse's locks of inodes are taken under it
	dirty map[*runtime.Box]*marks
	order []*marks // of dirty, oldest first
	// deletions are the pending ones, by the name of the box.
	deletions map[string]*deletion
	queued    []*deletion // of deletions, those that the notifier was not asked for yet
	orphans   []*fs.Inode // files of removed boxes, of which watchers are to be told
	// unlinking are the orphans that the notifier was asked for, by inode number.
	unlinking map[string]*fs.Inode
	// dentries are the names that the kernel has looked up for the notifier, oldest first.
	dentries  []dentry
	refusedAt time.Time // time of the last_error at the top that was marked last
	busy      bool      // deliver runs
	closed    bool

	quit chan struct{} // closed by close
	work sync.WaitGroup

	// These are deliver's own: no notifier is started before notBefore, and that
	// none can be started is said once.
	notBefore  time.Time
	backoff    time.Duration
	complained bool

	merged, replaced atomic.Uint64
}

func newNotifier(f *FS) *notifier {
	return &notifier{
		fs: f, dirty: map[*runtime.Box]*marks{}, deletions: map[string]*deletion{}, unlinking: map[string]*fs.Inode{},
		closed: true, quit: make(chan struct{}),
	}
}

// NotifyBy sets how the notifier is started. Without it watchers see only what clients do. It
// comes before Serve.
func (f *FS) NotifyBy(spawn inotify.Spawn) { f.notifier.spawn = spawn }

// prepare starts the first notifier, before there is a mount. If it can't, deliver tries
// again.
func (n *notifier) prepare(mount string) {
	if n.spawn == nil {
		return
	}
	n.mount = mount
	if err := n.start(); err != nil {
		n.complain(err)
	}
}

// begin makes the notifier tell of changes. device is that of the mount.
func (n *notifier) begin(device string) {
	if n.spawn == nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.device = device
	n.closed = false
	n.wake()
}

// close ends the notifier. It must come before the unmount.
func (n *notifier) close() {
	n.mu.Lock()
	n.closed = true
	n.mu.Unlock()
	close(n.quit)
	n.work.Wait()
	if p := n.process.Load(); p != nil {
		p.Stop()
	}
}

// mark makes files of a box dirty, or the daemon's own if b is nil.
func (n *notifier) mark(b *runtime.Box, fields runtime.Field) {
	if fields == 0 {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return
	}
	m := n.marksOf(b)
	if m.fields&fields != 0 {
		n.merged.Add(1)
	}
	m.fields |= fields
	n.wake()
}

// markPaths makes files of a box's execs dirty.
func (n *notifier) markPaths(b *runtime.Box, paths []string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed || len(paths) == 0 {
		return
	}
	m := n.marksOf(b)
	for _, p := range paths {
		if slices.Contains(m.paths, p) {
			n.merged.Add(1)
		} else {
			m.paths = append(m.paths, p)
		}
	}
	if more := len(m.paths) - pathsMax; more > 0 && n.unavailable.Load() {
		m.paths = slices.Delete(m.paths, 0, more) // of execs that ended long ago
	}
	n.wake()
}

// marksOf returns the marks of a box. mu is held.
func (n *notifier) marksOf(b *runtime.Box) *marks {
	m := n.dirty[b]
	if m == nil {
		m = &marks{box: b, since: time.Now()}
		n.dirty[b] = m
		n.order = append(n.order, m)
	}
	return m
}

// markTop makes those of the daemon's own files dirty that the kernel has.
func (n *notifier) markTop(events, lastError *fs.Inode) {
	var fields runtime.Field
	if events != nil {
		fields |= topEvents
	}
	if lastError != nil {
		_, at := n.fs.rt.LastError()
		n.mu.Lock()
		if !at.Equal(n.refusedAt) {
			n.refusedAt = at
			fields |= topLastError
		}
		n.mu.Unlock()
	}
	n.mark(nil, fields)
}

// wake starts deliver unless it runs. mu is held.
func (n *notifier) wake() {
	if n.busy || n.closed {
		return
	}
	n.busy = true
	n.work.Go(n.deliver)
}

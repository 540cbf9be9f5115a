package fsapi

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/boxlitefs/boxlite/runtime"
)

// long is how long the kernel may keep names and attributes. They are dropped
// explicitly when they change.
const long = time.Hour

// FS is the control filesystem of one Runtime.
type FS struct {
	rt      *runtime.Runtime
	log     *logrus.Entry
	version string
	began   time.Time
	top     *topDir
	boxes   *boxesDir
	images  *imagesDir
	metrics *metrics
	lane    *lane
	private bool // see KeepPrivate
	budget  *budget
	// closing wakes every waiting reader when the daemon shuts down.
	closing chan struct{}
	// serving says that the kernel can be told of changes; see early.
	serving atomic.Bool
	earlyMu sync.Mutex
	rooted  bool     // under earlyMu: the tree has its root
	missed  []func() // under earlyMu: what is to be told once serving

	notifier *notifier
	end      func(value any, stack []byte) // see OnPanic
	// rootGen tells apart what is shown of the files of boxes, see rootNode.
	rootGen atomic.Uint64
}

// New returns the filesystem, which is not yet mounted. version is what the file
// of that name gives, and reg what the file metrics does, with what the filesystem
// adds of its own. The runtime it shows is given to Serve: that needs the
// filesystem first, as its observer.
func New(version string, log *logrus.Entry, reg *prometheus.Registry) *FS {
	f := &FS{log: log, version: version, began: time.Now(), closing: make(chan struct{}), lane: newLane()}
	f.metrics = newMetrics(reg, func(err error) {
		log.WithField("op", "metrics").WithError(err).Warn("not all metrics could be gathered")
	})
	f.budget = newBudget(f.metrics.refused)
	own := place{fs: f, of: ofDaemon{}, mode: 0o755}
	f.top = &topDir{dir{node{place: own}}}
	f.boxes = &boxesDir{dir: dir{node{place: own}}, changed: f.began}
	f.images = &imagesDir{dir: dir{node{place: own}}, changed: f.began, serials: map[imageID]uint64{}}
	f.notifier = newNotifier(f)
	return f
}

// Close wakes every waiting reader: its read fails with ESHUTDOWN. It ends the
// notifier, so that the mount can be taken away.
func (f *FS) Close() {
	close(f.closing)
	f.notifier.close()
}

// Inode numbers: the fixed files have small ones, a box has a range of its own,
// made from its serial, which is never used again. So a handle on a removed box
// never becomes one on its successor of the same name.
const (
	inoRoot = 1 + iota
	inoBoxes
	inoWait
	inoVersion
	inoFeatures
	inoEvents
	inoLastError
	inoWaitEvent
	inoMetrics
	inoOrphans
	inoImagesDir
	inoImagesCtl
	inoImagesError

	inoPerBox = 64 // more than a box has files
)

// What a box has besides boxFiles and waitFiles counts down from the end of its range.
const (
	boxInoExec = inoPerBox - 1 - iota
	boxInoRoot
)

func boxIno(b *runtime.Box, index int) uint64 {
	return (b.Serial()+1)*inoPerBox + uint64(index)
}

// invalidate makes the kernel forget the attributes of an inode it may know. It
// takes no lock that a request could hold, so it may be called from anywhere.
func invalidate(i *fs.Inode) {
	if i == nil {
		return
	}
	// ENOENT: the kernel has forgotten it already, which serves as well.
	_ = i.NotifyContent(-1, 0)
}

// drop makes the kernel forget a file of a box that is removed: see node.drop. b is nil for
// what is in no box.
func (f *FS) drop(b *runtime.Box, i *fs.Inode) {
	if b == nil || !b.Snapshot().Removed {
		return
	}
	for name, parent := i.Parent(); parent != nil && parent != f.boxes.EmbeddedInode(); name, parent = parent.Parent() {
		_ = parent.NotifyEntry(name) // ENOENT: it has been forgotten
	}
}

// early keeps a notification for later if the server cannot send it yet: until
// fs.Mount has returned it is not even safe to try.
func (f *FS) early(notify func()) bool {
	if f.serving.Load() {
		return false
	}
	f.earlyMu.Lock()
	defer f.earlyMu.Unlock()
	if f.serving.Load() {
		return false
	}
	if f.rooted { // before, there is nothing that the kernel could know
		f.missed = append(f.missed, notify)
	}
	return true
}

// serve makes good for what early has kept.
func (f *FS) serve() {
	f.earlyMu.Lock()
	f.serving.Store(true)
	missed := f.missed
	f.missed = nil
	f.earlyMu.Unlock()
	for _, notify := range missed {
		notify()
	}
}

// BoxChanged makes the kernel forget what it holds of the files that changed, and
// has watchers told of them.
func (f *FS) BoxChanged(b *runtime.Box, fields runtime.Field) {
	if f.early(func() { f.BoxChanged(b, fields) }) {
		return
	}
	d := f.boxes.GetChild(b.Name())
	if d == nil || d.StableAttr().Ino != boxIno(b, 0) {
		return
	}
	if fields&runtime.FieldOwner != 0 {
		invalidate(d)
		for _, c := range d.Children() {
			invalidate(c)
			for _, w := range c.Children() {
				invalidate(w)
			}
		}
		return
	}
	var dirty runtime.Field
	for _, file := range boxFiles {
		if file.fields&fields == 0 {
			continue
		}
		c := d.GetChild(file.name)
		if file.fields != runtime.FieldLog { // whose attributes are never cached
			invalidate(c)
		}
		if c != nil || file.fields&watched != 0 {
			dirty |= file.fields
		}
	}
	f.notifier.mark(b, dirty)
}

// BoxRemoved makes the kernel forget a box that is gone, and has watchers told. A
// removal that a client asked for needs no more than the latter: the kernel saw it.
func (f *FS) BoxRemoved(b *runtime.Box, asked bool) {
	f.boxes.touch()
	if f.early(func() { f.BoxRemoved(b, asked) }) {
		return
	}
	d := f.boxes.GetChild(b.Name())
	if d != nil && d.StableAttr().Ino != boxIno(b, 0) {
		d = nil
	}
	if !asked {
		invalidate(f.boxes.EmbeddedInode())
		_ = f.boxes.NotifyEntry(b.Name()) // ENOENT: it was not known
	}
	f.notifier.removed(b, d, asked)
}

// Changed makes the kernel forget the sizes of the daemon's own files.
func (f *FS) Changed() {
	if f.early(f.Changed) {
		return
	}
	events, lastError := f.top.GetChild("events"), f.top.GetChild("last_error")
	invalidate(events)
	invalidate(lastError)
	f.notifier.markTop(events, lastError)
}

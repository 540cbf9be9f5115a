package fsapi

import (
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/boxlitefs/boxlite/runtime"
)

// cacheTime is how long the kernel may keep names and attributes. It is made to forget them
// when they change.
const cacheTime = time.Hour

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
	// serving says that the kernel can be told of changes; see postpone.
	serving    atomic.Bool
	postponeMu sync.Mutex // guards what follows, down to postponed; nothing is waited for under it
	rooted     bool       // the tree has its root
	postponed  []func()

	notifier *notifier
	end      func(value any, stack []byte) // see OnPanic
	// rootGen is the last generation of a rootNode.
	rootGen atomic.Uint64
}

// New returns the filesystem, which is not yet mounted. version is the contents of the file
// of that name. The file metrics shows reg, to which the filesystem adds metrics of its own.
// The runtime is given to Serve: it needs the filesystem first, as its observer.
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

// Close wakes every reader that waits: its read fails with ESHUTDOWN. It also ends the
// notifier, so that the filesystem can be unmounted.
func (f *FS) Close() {
	close(f.closing)
	f.notifier.close()
}

// Inode numbers. The fixed files have small ones. A box or an exec has a range of its own,
// made from its serial, which is never used again. So a handle on a removed box never becomes
// one on a later box of the same name.
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

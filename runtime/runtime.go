package runtime

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/endqueue"
	"github.com/boxlitefs/boxlite/runtime/epoll"
	"github.com/boxlitefs/boxlite/runtime/event"
	"github.com/boxlitefs/boxlite/runtime/fault"
	"github.com/boxlitefs/boxlite/runtime/image"
	"github.com/boxlitefs/boxlite/runtime/oci"
	"github.com/boxlitefs/boxlite/runtime/status"
)

// Observer is told what changed, so that a facade can drop what its clients
// have cached. Its calls come after the change was published and before anybody
// who waits for it is woken, with no box's lock held; they must not block, but for
// BoxRemoved of a box that removed itself.
type Observer interface {
	// BoxChanged says which fields of a box differ now.
	BoxChanged(b *Box, f Field)
	// BoxRemoved says that a box is gone. asked is true when the removal came
	// through Remove, false when the box removed itself. That may take 100 ms: its
	// name is not free before, and no request waits for it.
	BoxRemoved(b *Box, asked bool)
	// ExecChanged says that an exec has begun or ended.
	ExecChanged(e *Exec)
	// RootClosed says that the files of a box's run, which were used, are there no more.
	RootClosed(b *Box)
	// Changed says that the daemon's own files (events, last_error) changed.
	Changed()
	// ImagesChanged says that an image came or went.
	ImagesChanged()
	// ImagesErrorChanged says that the last_error of the images changed.
	ImagesErrorChanged()
}

// Options say where a Runtime lives.
type Options struct {
	// State is the absolute path of the state directory.
	State string
	// Mask lists directories that no box may see besides State.
	Mask []string
	// CgroupParent is the cgroup below which boxes get theirs, as a path from the
	// root of each hierarchy.
	CgroupParent string
	// Shim is the path of the shim's binary.
	Shim string
	// FirstID is the first of the host's user and group ids that containers have, and
	// IDs their number; 0 is DefaultFirstID and DefaultIDs.
	FirstID, IDs uint32
	// RegistryConfig is the path of the file with credentials of registries, or empty.
	RegistryConfig string
	// MaxProbes is how many health probes are under way at once, of all boxes; 0 is
	// DefaultMaxProbes.
	MaxProbes int
	// OOMScore is the oom_score_adj of boxes, not negative.
	OOMScore int
	// Log takes the structured log.
	Log *logrus.Entry
	// Observer may be nil.
	Observer Observer
	// Metrics is where the metrics are registered; nil if nobody asks for them.
	Metrics prometheus.Registerer
}

// Runtime holds all boxes of one state directory.
type Runtime struct {
	opt     Options
	log     *logrus.Entry
	store   *store
	metrics *Metrics
	bootID  string
	// bounding is the set of capabilities that boxes can have at all.
	bounding uint64
	watcher  *reaper.Watcher
	groups   *cgroup.Tree
	images   *image.Store
	// imageTexts are what is shown of images.
	imageTexts imageTexts
	oom        *cgroup.OOMWatch
	net        *reaper.Net // nil where there can be none
	timers     *epoll.Timers
	prober     *prober
	poller     *epoll.Poller
	files      *descriptors
	// ready: boxes may be started that nobody asks for now.
	ready atomic.Bool
	// holdR is the read end of a pipe whose write end only this process has:
	// boxes with detach: false learn by it that the daemon is gone.
	holdR, holdW *os.File

	filters oci.Filters

	ids   sync.Mutex // one box at a time gets a range of ids
	mu    sync.Mutex // guards boxes; no I/O under it
	boxes map[string]*Box

	serial atomic.Uint64
	looks  chan struct{} // bounds how many boxes are looked at at once
	asks   chan struct{} // and how many of their shims are asked
	ends   endqueue.Queue
	seq    sync.Mutex // orders events between the daemon's ring and a box's
	seqNo  uint64
	events history

	lastError atomic.Pointer[string]
	errorTime atomic.Int64
	// imagesError is what images/last_error says.
	imagesError atomic.Pointer[imagesNote]

	// starved is why boxes could not be read back, if that was for want of descriptors.
	starved atomic.Pointer[error]

	closing chan struct{}
	// life ends with the runtime: what can as well be done by the next one stops then.
	life context.Context
	end  context.CancelFunc
	// work counts goroutines that write to the state directory; workMu keeps a
	// new one from being added while Close already waits for none.
	workMu sync.Mutex
	closed bool
	work   sync.WaitGroup
}

// Open locks the state directory, recovers every box in it and returns when
// that is done. It returns a *LockedError if another daemon has the directory, and
// ErrHost where no directory would do.
func Open(opt Options) (*Runtime, error) {
	rt := &Runtime{opt: opt, log: opt.Log, boxes: map[string]*Box{}, closing: make(chan struct{}), looks: make(chan struct{}, recoverers), asks: make(chan struct{}, askers)}
	rt.life, rt.end = context.WithCancel(context.Background())
	if opt.FirstID == 0 {
		rt.opt.FirstID, rt.opt.IDs = DefaultFirstID, DefaultIDs
	}
	rt.events.Max = eventHistory
	rt.setLastError("ok")
	rt.imagesError.Store(&imagesNote{"ok", time.Now()})
	rt.metrics = newMetrics()
	err := rt.metrics.register(opt.Metrics, rt)
	if err != nil {
		return nil, err
	}
	if rt.bootID, err = reaper.BootID(); err != nil {
		return nil, err
	}
	// A record with the start time of some other process would not be known again.
	if err = reaper.CheckProc(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrHost, err)
	}
	if rt.bounding, err = boundingSet(); err != nil {
		return nil, err
	}
	if rt.bounding&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		rt.log.WithField("op", "daemon").Warn("without CAP_SYS_RESOURCE the host's OOM killer may take a shim, and its box with it")
	}
	if rt.files, err = newDescriptors(); err != nil {
		return nil, err
	}
	if rt.store, err = openStore(opt.State); err != nil {
		return nil, err
	}
	if err = rt.openImages(); err != nil {
		return nil, errors.Join(err, rt.store.lock.Close())
	}
	if rt.holdR, rt.holdW, err = os.Pipe(); err != nil {
		return nil, errors.Join(err, rt.store.lock.Close())
	}
	if rt.watcher, err = reaper.NewWatcher(); err != nil {
		return nil, errors.Join(err, rt.store.lock.Close())
	}
	if rt.groups, err = cgroup.Open(opt.CgroupParent, opt.State); err == nil {
		if rt.groups.Unranked() != nil {
			rt.log.WithError(rt.groups.Unranked()).WithField("op", "daemon").Warn("boxes may have as much processor time as the daemon")
		}
		rt.oom, err = cgroup.NewOOMWatch(rt.groups.V2())
	}
	if err == nil {
		if opt.MaxProbes == 0 {
			opt.MaxProbes = DefaultMaxProbes
		}
		if rt.timers, err = epoll.NewTimers(); err == nil {
			rt.prober, err = newProber(rt, opt.MaxProbes)
		}
		if err == nil {
			rt.poller, err = epoll.NewPoller("streams of execs")
		}
	}
	if err != nil {
		return nil, errors.Join(err, rt.watcher.Close(), rt.store.lock.Close())
	}
	if rt.net, err = reaper.NewNet(rt.watcher, rt.sweptOrphans); err != nil {
		rt.log.WithField("op", "reap").WithError(err).Warn("orphans of others, should they become children of the daemon, will stay zombies")
	}
	rt.emit(nil, "daemon", fmt.Sprintf("pid=%d", os.Getpid()))
	if err := rt.recover(); err != nil {
		rt.closeNet()
		return nil, errors.Join(err, rt.prober.close(), rt.poller.Close(), rt.watcher.Close(), rt.store.lock.Close())
	}
	if err := rt.groups.Sweep(rt.usesGroup); err != nil {
		rt.log.WithField("op", "recover").WithError(err).Warn("cgroups of earlier boxes are left")
	}
	return rt, nil
}

// Close ends the boxes that must not outlive the daemon, waits (until ctx ends)
// for what is being written, and lets the state directory go. All other boxes
// live on.
func (rt *Runtime) Close(ctx context.Context) error {
	close(rt.closing)
	rt.end()
	rt.timers.Drop()
	var stops sync.WaitGroup
	for _, b := range rt.Boxes() {
		stops.Go(func() { b.shutdown(ctx) })
	}
	fault.Point("close.stopping")
	stops.Wait()
	fault.Point("close.stopped")
	for _, b := range rt.Boxes() {
		if r := b.Snapshot().run; r != nil {
			r.unguard()
		}
		b.activeRests.Store(false) // its timer fires no more
		b.saveActive()
		if b.savePause.Load() > 0 {
			b.saveAgain() // nor does that
		}
	}
	rt.workMu.Lock()
	rt.closed = true
	rt.workMu.Unlock()
	done := make(chan struct{})
	var images error
	go func() {
		images = rt.images.Close()
		rt.work.Wait()
		close(done)
	}()
	var late error
	select {
	case <-done:
		late = images
	case <-ctx.Done():
		late = errors.New("some state was still being written")
	}
	rt.closeNet() // before the watcher lets go of shims that live on
	rt.groups.Close()
	return errors.Join(late, rt.prober.close(), rt.poller.Close(), rt.oom.Close(), rt.watcher.Close(), rt.holdW.Close(), rt.holdR.Close(), rt.store.lock.Close())
}

// usesGroup reports whether a box of that name may have processes in its group.
func (rt *Runtime) usesGroup(name string) bool {
	b := rt.Box(name)
	return b != nil && b.Snapshot().Status.Active()
}

// BoxMode is the mode of a box's directory whose maker asks for none.
const BoxMode = 0o755

// Create makes an empty box.
func (rt *Runtime) Create(name string) (*Box, error) { return rt.CreateMode(name, BoxMode) }

// CreateMode makes an empty box whose directory has that mode.
func (rt *Runtime) CreateMode(name string, mode uint32) (*Box, error) {
	if !ValidName(name) {
		return nil, &Error{Box: name, Op: "create", Err: ErrName}
	}
	if rt.isClosing() {
		return nil, &Error{Box: name, Op: "create", Err: ErrClosed}
	}
	b := newBox(rt, name)
	now := time.Now()
	s := &Snapshot{Status: status.Empty, Health: status.HealthNone, PID: -1, ExitCode: -1, LastError: "ok", Created: now}
	if mode != BoxMode {
		s.owners = map[string]status.Owner{"": {Mode: mode}}
	}
	b.publish(s, now)
	// The box is in the map before its directory exists, and answers only after:
	// its lock is held between.
	b.mu.Lock()
	rt.mu.Lock()
	_, taken := rt.boxes[name]
	if !taken {
		rt.boxes[name] = b
	}
	rt.mu.Unlock()
	if taken {
		b.mu.Unlock()
		return nil, &Error{Box: name, Op: "create", Err: ErrExist}
	}
	fault.Point("create.mapped")
	err := os.Mkdir(b.dir, 0o700)
	fault.Point("create.made")
	if err == nil && s.owners != nil {
		// Before anybody can meet the box: it may be for few eyes.
		if err = b.keepMode(s); err != nil {
			err = errors.Join(err, os.RemoveAll(b.dir))
		}
	}
	if err != nil {
		b.removed = true
		rt.forget(b)
	} else {
		rt.record(b, event.Event{Name: "created"}, false) // nothing of the box comes before it
	}
	b.mu.Unlock()
	if err != nil {
		return nil, &Error{Box: name, Op: "create", Err: err}
	}
	rt.announce()
	if s.owners != nil {
		b.saveSoon()
	}
	fault.Point("create.told")
	return b, nil
}

func (rt *Runtime) isClosing() bool {
	select {
	case <-rt.closing:
		return true
	default:
		return false
	}
}

// forget takes a box out of the map.
func (rt *Runtime) forget(b *Box) {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	if rt.boxes[b.name] == b {
		delete(rt.boxes, b.name)
	}
}

// Box returns the box of that name, or nil.
func (rt *Runtime) Box(name string) *Box {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	return rt.boxes[name]
}

// Boxes returns all boxes by name. One that is removed, and still has its name
// because that is being told, is none: who asks after it was told would keep it.
func (rt *Runtime) Boxes() []*Box {
	rt.mu.Lock()
	out := make([]*Box, 0, len(rt.boxes))
	for _, b := range rt.boxes {
		if s := b.Snapshot(); s == nil || !s.Removed {
			out = append(out, b)
		}
	}
	rt.mu.Unlock()
	sort.Slice(out, func(i, j int) bool { return out[i].name < out[j].name })
	return out
}

// BoxCount returns how many Boxes there are.
func (rt *Runtime) BoxCount() int {
	rt.mu.Lock()
	defer rt.mu.Unlock()
	n := 0
	for _, b := range rt.boxes {
		if s := b.Snapshot(); s == nil || !s.Removed {
			n++
		}
	}
	return n
}

// ValidName reports whether name may be a box's.
func ValidName(name string) bool {
	if len(name) == 0 || len(name) > 64 {
		return false
	}
	for i := range len(name) {
		c := name[i]
		switch {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z', '0' <= c && c <= '9':
		case i > 0 && (c == '_' || c == '.' || c == '-'):
		default:
			return false
		}
	}
	return true
}

// Events returns the history of all boxes, oldest first.
func (rt *Runtime) Events() []event.Event { return rt.events.All() }

// EventsText returns the history of all boxes as lines, and when the last event came.
func (rt *Runtime) EventsText() (*Text, time.Time) { return rt.events.text() }

// Follow returns a cursor over the events of all boxes from now on.
func (rt *Runtime) Follow() *event.Cursor { return rt.events.Follow() }

// LastError returns the last refusal that has no box to say it in, or "ok", and
// when it was.
func (rt *Runtime) LastError() (string, time.Time) {
	return *rt.lastError.Load(), time.Unix(0, rt.errorTime.Load())
}

// Refuse notes a request that was refused and has no box to say it in.
func (rt *Runtime) Refuse(err error) {
	rt.setLastError(oneLine(err.Error()))
	rt.announce()
}

func (rt *Runtime) setLastError(s string) {
	rt.lastError.Store(&s)
	rt.errorTime.Store(time.Now().UnixNano())
}

// emit records an event of the daemon's own, or of a box that is not changed by
// update, and announces it.
func (rt *Runtime) emit(b *Box, name, detail string) {
	rt.record(b, event.Event{Name: name, Detail: detail}, false)
	rt.announce()
}

// record puts an event into the daemon's ring and the box's, in one order; b is
// nil for the daemon's own. With last, no more come from the box.
func (rt *Runtime) record(b *Box, e event.Event, last bool) {
	e.Box, e.Detail = "-", oneLine(e.Detail)
	if b != nil {
		e.Box = b.name
	}
	rt.seq.Lock()
	defer rt.seq.Unlock()
	rt.seqNo++
	e.Seq, e.Time = rt.seqNo, time.Now()
	rt.events.Add(e, false)
	if b != nil {
		b.events.Add(e, last)
	}
}

// announce tells the observer that the daemon's own files changed.
func (rt *Runtime) announce() {
	if rt.opt.Observer != nil {
		rt.opt.Observer.Changed()
	}
}

// background runs fn in a goroutine that Close waits for. Once Close has gone
// past that, what would still be begun is left to the next daemon's recovery.
func (rt *Runtime) background(fn func()) {
	rt.workMu.Lock()
	defer rt.workMu.Unlock()
	if rt.closed {
		return
	}
	rt.work.Go(fn)
}

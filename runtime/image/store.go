package image

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/deep"
)

// Options say how a Store works.
type Options struct {
	// RegistryConfig is the path of the file with credentials and the registries that
	// may be talked to without TLS. It is read at each pull. "" is none.
	RegistryConfig string
	// Log takes the structured log.
	Log *logrus.Entry
	// InUse says what the boxes that run have mounted, by their own records. Open asks for
	// it. It may be nil: nothing.
	InUse func() (Use, error)
	// Changed is called after an image came or went, with no lock held. It may be nil.
	Changed func()
}

// Use is what is in use, whatever the store's own records say.
type Use struct {
	Layers []uint64 // by the inode numbers of their directories
	// Unknown are digests of images that are in use by whom has no list of the layers.
	Unknown []string
	// All: there may be more than that.
	All bool
}

// Image is an image that is here, whole. It does not change.
type Image struct {
	Name       string   // unique, and fit for a file name
	Digest     string   // of its manifest, sha256:HEX
	Refs       []string // by which it is known
	Entrypoint []string
	Cmd        []string
	Env        []string // NAME=VALUE
	User       string
	WorkingDir string
	StopSignal string
	Labels     map[string]string
	// Layers are the absolute directories of its unpacked layers, the lowest first.
	Layers  []string
	Size    int64 // bytes of the files of all layers
	Created time.Time
	Pulled  time.Time

	ids   []string // of its layers
	moved int64    // see record.Moved
}

// Store keeps images in a directory. It is safe for concurrent use.
type Store struct {
	dir       string
	opt       Options
	log       *logrus.Entry
	limits    limits
	stall     time.Duration
	chunk     int64
	pause     time.Duration
	transport func(*reach) http.RoundTripper
	disk      func(sync func() error) error // a test may have a slow one
	ground    context.Context               // of all pulls
	end       context.CancelFunc
	serial    atomic.Uint64
	slots     chan struct{} // bounds the unpackers

	pulls  flights[*Image]
	blobs  flights[struct{}]
	layers flights[layerInfo]

	view atomic.Pointer[[]*Image] // sorted by name; what readers get

	sweeps  sync.WaitGroup // of the trash
	writing sync.Mutex     // orders who writes records; it comes before mu

	// mu guards what follows, and the names of layers. It is not held while the disk
	// is waited for: a removal must not be held up.
	mu     sync.Mutex
	images map[string]*Image
	refs   map[string]string // the digest of the image that a reference means, by key of Ref
	moves  int64             // how often a reference came to mean an image; see record.Moved
	leases map[string]int    // by digest
	ready  map[string]layerInfo
	pins   map[string]*pin      // layers that a pull needs
	told   map[string]*progress // of pulls, by key of Ref
	closed bool

	// naming guards held and the names of blobs. It is apart from mu because a rename waits
	// for the journal of a slow disk, and Close and who looks for an image wait for mu. It
	// comes after the mu of a registrySource. Who has it takes no other lock.
	naming sync.Mutex
	held   map[string]int // files of blobs that pulls have a use for
}

// Open opens the store in a directory, which is made if need be, and clears away what
// an interrupted pull left half done.
func Open(dir string, opt Options) (*Store, error) {
	if opt.Log == nil {
		l := logrus.New()
		l.SetOutput(io.Discard)
		opt.Log = logrus.NewEntry(l)
	}
	if opt.Changed == nil {
		opt.Changed = func() {}
	}
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("image store: %s is no absolute path", dir)
	}
	s := &Store{
		dir: filepath.Clean(dir), opt: opt, log: opt.Log.WithField("op", "image"), limits: defaultLimits, stall: stallBound, chunk: stallChunk, pause: fetchPause,
		transport: newTransport, disk: func(sync func() error) error { return sync() }, slots: make(chan struct{}, unpackers),
		images: map[string]*Image{}, refs: map[string]string{}, leases: map[string]int{}, ready: map[string]layerInfo{}, pins: map[string]*pin{}, held: map[string]int{},
		told: map[string]*progress{},
	}
	s.ground, s.end = context.WithCancel(context.Background())
	if err := s.recover(); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	return s, nil
}

// closeBound is how long Close waits at most.
const closeBound = 500 * time.Millisecond

// Close ends all pulls, and the deletion of what was removed, and waits for that, but not
// for a disk that takes long: who waits for it changes nothing any more when it answers. The
// next Open does what is left.
func (s *Store) Close() error {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.end()
	ended := make(chan struct{})
	go func() {
		s.pulls.work.Wait()
		s.layers.work.Wait()
		s.blobs.work.Wait()
		s.sweeps.Wait()
		close(ended)
	}()
	bound := time.NewTimer(closeBound)
	defer bound.Stop()
	select {
	case <-ended:
	case <-bound.C:
		s.log.Warn("the disk takes long: what was being pulled or deleted is left as it is")
	}
	return nil
}

// settle waits for the disk to have what sync is asked for. It fails if the store was closed
// meanwhile: the directory may be another's by now.
func (s *Store) settle(sync func() error) error { return cmp.Or(s.disk(sync), s.ground.Err()) }

// path is a place in the store.
func (s *Store) path(elem ...string) string {
	return filepath.Join(append([]string{s.dir}, elem...)...)
}

// aside returns a name in a directory that nothing has yet.
func (s *Store) aside(dir, name string) string {
	return s.path(dir, name+"."+strconv.FormatUint(s.serial.Add(1), 10)+"."+strconv.FormatInt(time.Now().UnixNano(), 36))
}

// recover makes the directories, reads the records, and clears away the rest.
func (s *Store) recover() error {
	for _, d := range []string{".", "images", "layers", "layers/sha256", "blobs", "partial", "held", "tmp", "trash"} {
		if err := os.MkdirAll(s.path(d), 0o700); err != nil {
			return err
		}
	}
	if err := s.load(); err != nil {
		return err
	}
	err := s.clearLayers()
	half, rerr := os.ReadDir(s.path("tmp"))
	err = errors.Join(err, rerr)
	for _, e := range half {
		err = errors.Join(err, os.Rename(s.path("tmp", e.Name()), s.aside("trash", e.Name())))
	}
	err = errors.Join(err, s.expire("blobs", keepInterrupted), s.expire("partial", keepInterrupted))
	s.show()
	trash, rerr := os.ReadDir(s.path("trash"))
	var paths []string
	for _, e := range trash {
		paths = append(paths, s.path("trash", e.Name()))
	}
	s.sweep(paths)
	return errors.Join(err, rerr)
}

// clearLayers puts layers that no image has into the trash: they may not be whole on the
// disk. One that a box has mounted is only moved out of the way, into held/: the mount goes
// with it, and the layer can be fetched anew meanwhile.
func (s *Store) clearLayers() error {
	use, err := s.inUse()
	if err != nil {
		return err
	}
	found, err := os.ReadDir(s.path("layers/sha256"))
	if err != nil {
		return err
	}
	held, err := os.ReadDir(s.path("held"))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range held {
		if id, _, _ := strings.Cut(e.Name(), "."); !use(e) {
			errs = append(errs, os.Rename(s.path("held", e.Name()), s.aside("trash", id)))
		}
	}
	for _, e := range found {
		id := e.Name()
		if _, known := s.ready[id]; known {
			continue
		}
		to := "trash"
		if use(e) {
			to = "held"
			s.log.WithField("layer", id).Warn("no image has a layer that a box runs on: it is kept until that has ended")
		}
		errs = append(errs, os.Rename(s.path("layers/sha256", id), s.aside(to, id)))
	}
	return errors.Join(errs...)
}

// inUse returns what tells whether a directory that no image has may be in use as a layer.
func (s *Store) inUse() (func(fs.DirEntry) bool, error) {
	if s.opt.InUse == nil {
		return func(fs.DirEntry) bool { return false }, nil
	}
	use, err := s.opt.InUse()
	if err != nil {
		return nil, err
	}
	all := use.All || slices.ContainsFunc(use.Unknown, func(digest string) bool { return s.images[digest] == nil })
	return func(e fs.DirEntry) bool {
		fi, err := e.Info()
		if all || err != nil {
			return true
		}
		st, ok := fi.Sys().(*syscall.Stat_t)
		return !ok || slices.Contains(use.Layers, st.Ino)
	}, nil
}

// sweep deletes what is in the trash, in the background: it may be large.
func (s *Store) sweep(paths []string) {
	if len(paths) == 0 {
		return
	}
	s.sweeps.Go(func() {
		// First it must last that nothing needs it.
		if err := s.disk(func() error { return syncDir(s.path("images")) }); err != nil {
			s.log.WithError(err).Warn("removed images are kept in the trash until the next start")
			return
		}
		for _, path := range paths {
			if err := deep.RemoveAll(s.ground, path); err != nil && s.ground.Err() == nil {
				s.log.WithError(err).Warn("a part of a removed image is left until the next start")
			}
		}
	})
}

// expire removes what is in a directory and has not changed for that long.
func (s *Store) expire(dir string, age time.Duration) error {
	found, err := os.ReadDir(s.path(dir))
	if err != nil {
		return err
	}
	var errs []error
	for _, e := range found {
		fi, err := e.Info()
		if err == nil && time.Since(fi.ModTime()) < 0 {
			// The clock was set back since. How old it is is not known, but it has a
			// bound from here on.
			errs = append(errs, os.Chtimes(s.path(dir, e.Name()), time.Time{}, time.Now()))
			continue
		}
		if err == nil && time.Since(fi.ModTime()) < age {
			continue
		}
		errs = append(errs, deep.RemoveAll(s.ground, s.path(dir, e.Name())))
	}
	return errors.Join(errs...)
}

// show publishes what List and its sisters give. mu is held, or nobody else is there.
func (s *Store) show() {
	all := make([]*Image, 0, len(s.images))
	for _, i := range s.images {
		all = append(all, i)
	}
	slices.SortFunc(all, func(a, b *Image) int { return strings.Compare(a.Name, b.Name) })
	s.view.Store(&all)
}

// List returns all images by name. The slice must not be changed.
func (s *Store) List() []*Image { return *s.view.Load() }

// Get returns the image of that name, or nil.
func (s *Store) Get(name string) *Image {
	for _, i := range s.List() {
		if i.Name == name {
			return i
		}
	}
	return nil
}

// ByDigest returns the image whose manifest has that digest, or nil.
func (s *Store) ByDigest(digest string) *Image {
	for _, i := range s.List() {
		if i.Digest == digest {
			return i
		}
	}
	return nil
}

// Ensure returns the image of a reference: the one that is here if the reference is
// known, whatever it means elsewhere by now (which Refresh asks), else it is pulled. progress, which may be
// nil, must not block; it is not called after Ensure has returned. Until release is
// called the image is not removed. Who wants what is pulled already joins in; when ctx
// ends the others go on, and the pull ends when all have left.
//
// The errors are sentences that name the reference; their kinds are those of this
// package, and those of the disk (ENOSPC, …).
func (s *Store) Ensure(ctx context.Context, ref Ref, tell func(Progress)) (img *Image, release func(), err error) {
	for {
		if img, release, err = s.known(ref); img != nil || err != nil {
			return img, release, err
		}
		p := s.progressOf(ref)
		img, release, err = s.leased(ctx, ref.key(), p, tell, func(ctx context.Context) (*Image, error) {
			defer s.forget(ref, p)
			return s.pull(ctx, ref, p)
		})
		// It may have been removed by now; then it is pulled again.
		if release != nil || err != nil {
			return img, release, err
		}
	}
}

// leased has the pull of a key done, or joins it, and returns what it has got with a
// lease; without one if that was removed meanwhile.
func (s *Store) leased(ctx context.Context, key string, p *progress, tell func(Progress), pull func(context.Context) (*Image, error)) (*Image, func(), error) {
	leave := p.join(tell)
	img, _, err := s.pulls.do(ctx, s.ground, key, pull)
	leave()
	if err != nil {
		if s.ground.Err() != nil {
			err = ErrClosed
		}
		return nil, nil, err
	}
	return img, s.lease(img.Digest), nil
}

// progressOf returns the progress of the pull that is under way, or is to be.
func (s *Store) progressOf(ref Ref) *progress {
	s.mu.Lock()
	defer s.mu.Unlock()
	p := s.told[ref.key()]
	if p == nil {
		p = &progress{}
		s.told[ref.key()] = p
	}
	return p
}

// forget lets the next pull begin at nothing.
func (s *Store) forget(ref Ref, p *progress) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.told[ref.key()] == p {
		delete(s.told, ref.key())
	}
}

// known returns the image of a reference that is known, with a lease.
func (s *Store) known(ref Ref) (*Image, func(), error) {
	s.mu.Lock()
	i, closed := s.images[s.refs[ref.key()]], s.closed
	same := s.images[ref.pinned()]
	if i != nil {
		s.leases[i.Digest]++
	}
	s.mu.Unlock()
	switch {
	case closed:
		return nil, nil, ErrClosed
	case i != nil:
		return i, s.releaser(i.Digest), nil
	case same == nil:
		return nil, nil, nil
	}
	// The image is here, by another name.
	release := s.lease(same.Digest)
	if release == nil {
		return nil, nil, nil
	}
	i, err := s.refer(ref, same.Digest)
	if err != nil {
		release()
		return nil, nil, fmt.Errorf("image %s: %w", ref, err)
	}
	s.opt.Changed()
	return i, release, nil
}

// lease protects an image, and returns nil if it is not there.
func (s *Store) lease(digest string) func() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.images[digest] == nil {
		return nil
	}
	s.leases[digest]++
	return s.releaser(digest)
}

func (s *Store) releaser(digest string) func() {
	return sync.OnceFunc(func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.leases[digest]--; s.leases[digest] == 0 {
			delete(s.leases, digest)
		}
	})
}

// Remove removes an image, and the layers that no other image has. It does not wait for
// their deletion. inUse says who else
// uses it besides those with a lease; it must not call the store. The errors are
// ErrNotFound, an *InUseError, and those of the disk.
func (s *Store) Remove(name string, inUse func(digest string) (by string, ok bool)) error {
	gone, err := s.remove(name, inUse)
	if err != nil {
		return err
	}
	s.opt.Changed()
	s.sweep(gone)
	return nil
}

func (s *Store) remove(name string, inUse func(string) (string, bool)) (gone []string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, ErrClosed
	}
	i := s.Get(name)
	if i == nil {
		return nil, errorf(ErrNotFound, "image %q: there is none of that name", name)
	}
	// In this order: who starts a box tells of it before the lease ends.
	if s.leases[i.Digest] > 0 {
		return nil, &InUseError{Name: name, By: "a box that is being started"}
	}
	if inUse != nil {
		if by, ok := inUse(i.Digest); ok {
			return nil, &InUseError{Name: name, By: by}
		}
	}
	// The record first: a layer without an image is cleared away, but an image without
	// a layer would be broken.
	to := s.aside("trash", "record")
	if err := os.Rename(s.recordPath(i.Digest), to); err != nil {
		return nil, fmt.Errorf("image %s: %w", name, err)
	}
	gone = append(gone, to)
	delete(s.images, i.Digest)
	maps.DeleteFunc(s.refs, func(_, of string) bool { return of == i.Digest })
	s.show()
	return append(gone, s.discard(i.ids)...), nil
}

// discard moves layers that nobody needs to the trash, and returns where they are now.
// mu is held.
func (s *Store) discard(ids []string) (gone []string) {
	for _, id := range ids {
		if _, ready := s.ready[id]; !ready || s.pins[id] != nil || s.needed(id) {
			continue
		}
		delete(s.ready, id)
		to := s.aside("trash", id)
		if err := os.Rename(s.path("layers/sha256", id), to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			s.log.WithError(err).Warn("a layer that is not needed is left until the next start")
			continue
		}
		gone = append(gone, to)
	}
	return gone
}

func (s *Store) needed(id string) bool {
	for _, i := range s.images {
		if slices.Contains(i.ids, id) {
			return true
		}
	}
	return false
}

// syncDir makes the names in a directory last.
func syncDir(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// syncFS makes everything on the file system of a directory last: that is quicker than
// each file of a layer by itself.
func syncFS(path string) error {
	d, err := os.Open(path)
	if err != nil {
		return err
	}
	err = unix.Syncfs(int(d.Fd()))
	return errors.Join(err, d.Close())
}

package runtime

import (
	"cmp"
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/boxlitefs/boxlite/shim"
)

// logPart is one file of a box's log: the bytes from base on.
type logPart struct {
	base, size int64
	mtime      time.Time
	name       string
}

// logParts lists what is kept of a log in a box's directory, oldest first.
func logParts(dir *os.Root) ([]logPart, error) {
	d, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var parts []logPart
	for _, name := range names {
		base, ok := shim.ParseLogName(name)
		if !ok {
			continue
		}
		fi, err := dir.Stat(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped by a rotation just now
		}
		if err != nil {
			return nil, err
		}
		parts = append(parts, logPart{base, fi.Size(), fi.ModTime(), name})
	}
	slices.SortFunc(parts, func(x, y logPart) int { return cmp.Compare(x.base, y.base) })
	return parts, nil
}

// LogSize returns how many bytes the box has ever written to its log. It never
// falls: what a rotation dropped still counts, as if it had been punched out of
// one long file, so that `tail -f` never sees a truncation. It also returns when
// the log was last written to.
func (b *Box) LogSize() (size int64, mtime time.Time) {
	var parts []logPart
	dir, err := b.pin()
	if err == nil {
		parts, err = logParts(dir)
		_ = dir.Close() // it was only read
	}
	if err != nil || len(parts) == 0 {
		return 0, b.Snapshot().Created
	}
	last := parts[len(parts)-1]
	return last.base + last.size, last.mtime
}

// LogReader reads a box's log by offset.
type LogReader struct {
	// dir gives the box's directory, to be closed after a read.
	dir func() (*os.Root, error)
	mu  sync.Mutex
	// shift is how far this reader was moved on past bytes that were dropped.
	shift int64
}

// OpenLog returns a reader of the whole log, which gives ErrRemoved when the box
// is gone.
func (b *Box) OpenLog() *LogReader { return &LogReader{dir: b.pin} }

// ReadAt reads at the offset in all that was ever written. A reader whose offset
// was dropped goes on at the oldest byte kept, and reads on from there without a
// gap. It returns io.EOF at the end of what is written so far.
func (r *LogReader) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		n, err := r.read(p, off)
		if !errors.Is(err, errRotated) {
			return n, err
		}
	}
}

// errRotated says that a rotation dropped a file between listing and opening it.
var errRotated = errors.New("rotated away")

func (r *LogReader) read(p []byte, off int64) (n int, err error) {
	dir, err := r.dir()
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	parts, err := logParts(dir)
	if err != nil {
		return 0, err
	}
	if len(parts) > 0 && off+r.shift < parts[0].base {
		r.shift = parts[0].base - off
	}
	at := off + r.shift
	for _, part := range parts {
		if at < part.base || at >= part.base+part.size || n == len(p) {
			continue
		}
		f, err := dir.Open(part.name)
		if err != nil {
			if n > 0 {
				break
			}
			if errors.Is(err, fs.ErrNotExist) {
				err = errRotated
			}
			return 0, err
		}
		m, err := f.ReadAt(p[n:min(len(p), n+int(part.base+part.size-at))], at-part.base)
		_ = f.Close() // it was only read
		n += m
		at += int64(m)
		if err != nil && !errors.Is(err, io.EOF) {
			return n, err
		}
	}
	if n == 0 {
		return 0, io.EOF
	}
	return n, nil
}

// logFeed tells any number of readers when the log of a run has grown, over one
// connection to its shim, which is there only while somebody reads.
type logFeed struct {
	mu      sync.Mutex
	readers int
	cancel  context.CancelFunc
	more    chan struct{} // closed at the next change
	over    bool          // nothing more will be told
}

// join adds a reader of the run's log.
func (r *run) join(b *Box) {
	f := &r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers++
	if f.readers > 1 {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.cancel, f.more, f.over = cancel, make(chan struct{}), false
	go func() {
		if err := r.feedLog(ctx, b); err != nil && ctx.Err() == nil {
			b.log("log").WithError(err).Warn("no news of the log: readers get it at the end of the run")
		}
		f.tell(ctx, true)
	}()
}

// leave takes a reader away.
func (r *run) leave() {
	f := &r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	f.readers--
	if f.readers == 0 {
		f.cancel()
	}
}

// tell wakes the readers, unless they have all left the connection of ctx.
func (f *logFeed) tell(ctx context.Context, over bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if ctx.Err() != nil || f.over {
		return
	}
	close(f.more)
	f.more, f.over = make(chan struct{}), over
}

// news returns a channel that is closed when the log has grown or the run ended.
func (r *run) news() <-chan struct{} {
	f := &r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over {
		return r.done
	}
	return f.more
}

// feedLog passes on what the shim tells of its log, until the run or ctx ends.
func (r *run) feedLog(ctx context.Context, b *Box) error {
	select {
	case <-r.forked:
	case <-ctx.Done():
		return nil
	}
	dir, err := os.Open(b.dir)
	if err != nil {
		return err
	}
	defer dir.Close()
	w, err := shim.WatchLog(ctx, dir)
	if err != nil {
		return err
	}
	defer w.Close()
	for {
		// The log may have grown before the watch began.
		r.feed.tell(ctx, false)
		if err := w.Next(ctx); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// logStream gives the log from the moment of open on, until the run ends. It
// keeps the box's directory, so that the last of a box that removes itself can
// still be read.
type logStream struct {
	b    *Box
	r    *LogReader
	dir  *os.Root
	at   int64
	run  *run // nil if none goes on
	once sync.Once
	mu   sync.Mutex
}

// WaitLog gives the box's log from now on, until the run that goes on has ended;
// without one it is at its end.
func (b *Box) WaitLog() Stream {
	s := &logStream{b: b}
	r, going := b.Snapshot().Run()
	if !going {
		return s
	}
	dir, err := b.hold()
	if err != nil {
		return s // it was removed just now, and the run had ended before
	}
	s.dir, s.run = dir, r.r
	s.r = &LogReader{dir: func() (*os.Root, error) { return dir.OpenRoot(".") }}
	s.run.join(b)
	s.at, _ = b.LogSize()
	return s
}

func (s *logStream) Poll(p []byte) (int, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return 0, nil, io.EOF
	}
	// Both are asked for before the log is read: a run that is over by then has
	// written all it will, and growth after the read closes news.
	news, over := s.run.news(), false
	select {
	case <-s.run.done:
		over = true
	default:
	}
	n, err := s.r.ReadAt(p, s.at)
	if errors.Is(err, io.EOF) && !over {
		return 0, news, nil
	}
	s.at += int64(n)
	return n, nil, err
}

func (s *logStream) Close() {
	s.once.Do(func() {
		if s.run != nil {
			s.run.leave()
			_ = s.dir.Close() // it was only read
			s.b.holders.Done()
		}
	})
}

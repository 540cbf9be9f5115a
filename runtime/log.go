package runtime

import (
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

// logParts lists what is kept of the log, oldest first.
func (b *Box) logParts() ([]logPart, error) {
	dir, err := b.openDir()
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrRemoved
	}
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var parts []logPart
	for _, name := range names {
		base, ok := shim.ParseLogName(name)
		if !ok {
			continue
		}
		fi, err := os.Stat(b.path(name))
		if errors.Is(err, fs.ErrNotExist) {
			continue // dropped by a rotation just now
		}
		if err != nil {
			return nil, err
		}
		parts = append(parts, logPart{base, fi.Size(), fi.ModTime(), name})
	}
	slices.SortFunc(parts, func(x, y logPart) int { return int(min(max(x.base-y.base, -1), 1)) })
	return parts, nil
}

// LogSize returns how many bytes the box has ever written to its log. It never
// falls: what a rotation dropped still counts, as if it had been punched out of
// one long file, so that `tail -f` never sees a truncation. It also returns when
// the log was last written to.
func (b *Box) LogSize() (size int64, mtime time.Time) {
	parts, err := b.logParts()
	if err != nil || len(parts) == 0 {
		return 0, b.Snapshot().Created
	}
	last := parts[len(parts)-1]
	return last.base + last.size, last.mtime
}

// LogReader reads a box's log by offset.
type LogReader struct {
	b  *Box
	mu sync.Mutex
	// shift is how far this reader was moved on past bytes that were dropped.
	shift int64
}

// OpenLog returns a reader of the whole log.
func (b *Box) OpenLog() *LogReader { return &LogReader{b: b} }

// ReadAt reads at the offset in all that was ever written. A reader whose offset
// was dropped goes on at the oldest byte kept, and reads on from there without a
// gap. It returns io.EOF at the end of what is written so far.
func (r *LogReader) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		n, err := r.read(p, off)
		if errors.Is(err, fs.ErrNotExist) {
			continue // a rotation dropped the file between listing and opening: list anew
		}
		return n, err
	}
}

func (r *LogReader) read(p []byte, off int64) (n int, err error) {
	parts, err := r.b.logParts()
	if err != nil {
		return 0, r.b.fail("log", err)
	}
	if len(parts) > 0 && off+r.shift < parts[0].base {
		r.shift = parts[0].base - off
	}
	at := off + r.shift
	for _, part := range parts {
		if at < part.base || at >= part.base+part.size || n == len(p) {
			continue
		}
		f, err := os.Open(r.b.path(part.name))
		if err != nil {
			if n > 0 {
				break
			}
			return 0, err
		}
		m, err := f.ReadAt(p[n:min(len(p), n+int(part.base+part.size-at))], at-part.base)
		_ = f.Close() // it was only read
		n += m
		at += int64(m)
		if err != nil && !errors.Is(err, io.EOF) {
			return n, r.b.fail("log", err)
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
	dir, err := b.openDir()
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

// logStream gives the log from the moment of open on, until the run ends.
type logStream struct {
	r    *LogReader
	at   int64
	run  *run // nil if none goes on
	once sync.Once
	mu   sync.Mutex
}

// WaitLog gives the box's log from now on, until the run that goes on has ended;
// without one it is at its end.
func (b *Box) WaitLog() Stream {
	s := &logStream{r: b.OpenLog()}
	if r, going := b.Snapshot().Run(); going {
		s.run = r.r
		s.run.join(b)
	}
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
		}
	})
}

package runtime

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/wire"
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
		base, ok := wire.ParseLogName(name)
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

// logEnd returns how many bytes the box has ever written to its log, and when it
// last did.
func (b *Box) logEnd() (size int64, mtime time.Time, err error) {
	dir, err := b.pin()
	if err != nil {
		return 0, time.Time{}, err
	}
	defer dir.Close()
	parts, err := logParts(dir)
	if err != nil || len(parts) == 0 {
		return 0, b.Snapshot().Created, err
	}
	last := parts[len(parts)-1]
	return last.base + last.size, last.mtime, nil
}

// LogSize returns how many bytes the box has ever written to its log. It never
// falls: what a rotation dropped still counts, as if it had been punched out of
// one long file, so that `tail -f` never sees a truncation. It also returns when
// the log was last written to.
func (b *Box) LogSize() (size int64, mtime time.Time) {
	size, mtime, err := b.logEnd()
	if err != nil {
		return 0, b.Snapshot().Created
	}
	return size, mtime
}

// LogReader reads a box's log by offset.
type LogReader struct {
	b  *Box
	mu sync.Mutex
	// shift is how far this reader was moved on past bytes that were dropped.
	shift int64
}

// OpenLog returns a reader of the whole log, which gives ErrRemoved when the box
// is gone.
func (b *Box) OpenLog() *LogReader { return &LogReader{b: b} }

// ReadAt reads at the offset in all that was ever written. A reader whose offset
// was dropped goes on at the oldest byte kept, and reads on from there without a
// gap. It returns io.EOF at the end of what is written so far.
func (r *LogReader) ReadAt(p []byte, off int64) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	dir, err := r.b.pin()
	if err != nil {
		return 0, err
	}
	defer dir.Close()
	n, from, err := readLog(dir, p, off+r.shift)
	r.shift = from - off
	return n, err
}

// readLog reads the log in a box's directory at an offset in all that was ever
// written, or from the oldest byte kept if that comes later: from says where.
func readLog(dir *os.Root, p []byte, at int64) (n int, from int64, err error) {
	err = visitors.do(func() error {
		for {
			n, from, err = readParts(dir, p, at)
			if !errors.Is(err, errRotated) {
				return err
			}
		}
	})
	return n, from, err
}

// errRotated says that a rotation dropped a file between listing and opening it.
var errRotated = errors.New("rotated away")

func readParts(dir *os.Root, p []byte, at int64) (n int, from int64, err error) {
	parts, err := logParts(dir)
	if err != nil {
		return 0, at, err
	}
	if len(parts) > 0 {
		at = max(at, parts[0].base)
	}
	from = at
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
			return 0, from, err
		}
		m, err := f.ReadAt(p[n:min(len(p), n+int(part.base+part.size-at))], at-part.base)
		_ = f.Close() // it was only read
		n += m
		at += int64(m)
		if err != nil && !errors.Is(err, io.EOF) {
			return n, from, err
		}
	}
	if n == 0 {
		return 0, from, io.EOF
	}
	return n, from, nil
}

// logFeed is what all readers of the log of a run share, while there are any: the box's
// directory, so that the last of a box that removes itself can still be read, and one
// connection to its shim, which tells when the log has grown.
type logFeed struct {
	mu      sync.Mutex
	readers int
	users   int      // of the readers, other users than root
	dir     *os.Root // of the box; while there are readers
	cancel  context.CancelFunc
	more    chan struct{} // closed at the next change
	over    bool          // nothing more will be told
	ended   bool          // the run will write no more
	end     int64         // where its log ends, if it has ended under readers; -1 if that is not known
}

// feedFiles is how many descriptors a logFeed has: the directory, once more while it
// connects, and the connection.
const feedFiles = 3

// join adds a reader of the run's log, and gives it the box's directory, or nil if the run
// has ended.
func (r *run) join(b *Box, user bool) (*os.Root, error) {
	f := &r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return nil, nil
	}
	if user && f.users == 0 {
		if err := b.rt.files.take(feedFiles); err != nil {
			return nil, b.fail("wait/log", err)
		}
	}
	if f.readers == 0 {
		if err := r.beginFeed(b); err != nil {
			if user {
				b.rt.files.give(feedFiles)
			}
			return nil, err
		}
	}
	f.readers++
	if user {
		f.users++
	}
	return f.dir, nil
}

// beginFeed is called with the feed's mu held.
func (r *run) beginFeed(b *Box) error {
	f := &r.feed
	dir, err := b.hold()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.dir, f.cancel, f.more, f.over = dir, cancel, make(chan struct{}), false
	go func() {
		if err := r.feedLog(ctx, dir); err != nil && ctx.Err() == nil {
			b.log("log").WithError(err).Warn("no news of the log: readers get it at the end of the run")
		}
		f.tell(ctx, true)
	}()
	return nil
}

// leave takes a reader away.
func (r *run) leave(b *Box, user bool) {
	f := &r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	if user {
		if f.users--; f.users == 0 {
			b.rt.files.give(feedFiles)
		}
	}
	if f.readers--; f.readers == 0 {
		f.cancel()
		_ = f.dir.Close() // it was only read
		f.dir = nil
		b.holders.Done()
	}
}

// endLog notes where the log of a run that is gone ends, before the next one can
// begin: a slow reader may come to read when that has written, too.
func (r *run) endLog(b *Box) {
	f := &r.feed
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended, f.end = true, -1
	if f.readers == 0 {
		return
	}
	end, _, err := b.logEnd()
	if err != nil {
		b.log("log").WithError(err).Warn("the end of the run's log is not known: a slow reader may get the next run's")
		return
	}
	f.end = end
}

// bound cuts what was read of the log, n bytes at from, at the end of the run.
func (f *logFeed) bound(n int, from int64) (int, int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.ended || f.end < 0 {
		return n, from
	}
	from = min(from, f.end)
	return min(n, int(f.end-from)), from
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
func (r *run) feedLog(ctx context.Context, root *os.Root) error {
	select {
	case <-r.forked:
	case <-ctx.Done():
		return nil
	}
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	w, err := client.WatchLog(ctx, dir)
	if err := errors.Join(err, dir.Close()); err != nil {
		return shimGone(err)
	}
	defer w.Close()
	for {
		// The log may have grown before the watch began.
		r.feed.tell(ctx, false)
		if err := w.Next(ctx); err != nil {
			return shimGone(err)
		}
	}
}

// shimGone makes no error of the end of the shim, after which there are no news.
func shimGone(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, unix.EPIPE) {
		return nil
	}
	return err
}

// logStream gives the log from the moment of open on, until the run ends.
type logStream struct {
	b    *Box
	run  *run     // nil if none goes on
	dir  *os.Root // the box's, that of the run's feed
	user bool     // its reader is not root
	once sync.Once

	mu   sync.Mutex
	at   int64
	mid  bool   // the last byte given is not the end of a line
	rest []byte // of what tells of a loss
}

// WaitLog gives the box's log from now on, until the run that goes on has ended;
// without one it is at its end. A reader of what a rotation has dropped gets the
// line "- - - lost count=N" for N bytes, and goes on at the oldest byte kept. A line
// that it was in the middle of is ended before.
//
// The error is ErrDescriptors, for other users than root, or that of the disk.
func (b *Box) WaitLog(by By) (Stream, error) {
	s := &logStream{b: b, user: by.UID != 0}
	r, going := b.Snapshot().Run()
	if !going {
		return s, nil
	}
	dir, err := r.r.join(b, s.user)
	if errors.Is(err, ErrRemoved) {
		return s, nil // just now, and the run had ended before
	}
	if err != nil || dir == nil {
		return s, err
	}
	s.run, s.dir = r.r, dir
	parts, err := logParts(dir)
	if err != nil {
		s.Close()
		return nil, b.fail("wait/log", err)
	}
	if n := len(parts); n > 0 {
		s.at = parts[n-1].base + parts[n-1].size
	}
	return s, nil
}

func (s *logStream) Poll(p []byte) (int, <-chan struct{}, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.run == nil {
		return 0, nil, io.EOF
	}
	if len(s.rest) == 0 {
		n, more, err := s.read(p)
		if len(s.rest) == 0 {
			return n, more, err
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil, nil
}

// read gives what is there of the log. If some is lost, it puts that into rest
// instead.
func (s *logStream) read(p []byte) (int, <-chan struct{}, error) {
	// Both are asked for before the log is read: a run that is over by then has
	// written all it will, and growth after the read closes news.
	news, over := s.run.news(), false
	select {
	case <-s.run.done:
		over = true
	default:
	}
	n, from, err := readLog(s.dir, p, s.at)
	n, from = s.run.feed.bound(n, from)
	switch {
	case from > s.at:
		if s.mid {
			s.rest = append(s.rest, '\n')
		}
		s.rest = fmt.Appendf(s.rest, lostLine, from-s.at)
		s.at, s.mid = from, false
		return 0, nil, nil
	case n > 0:
		s.at += int64(n)
		s.mid = p[n-1] != '\n'
		return n, nil, err
	case err != nil && !errors.Is(err, io.EOF):
		return 0, nil, err
	case !over:
		return 0, news, nil
	}
	return 0, nil, io.EOF
}

func (s *logStream) Close() {
	s.once.Do(func() {
		if s.run != nil {
			s.run.leave(s.b, s.user)
		}
	})
}

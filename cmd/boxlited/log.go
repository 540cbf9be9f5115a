package main

import (
	"bytes"
	"errors"
	"io"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

const (
	// logRoom is how much of the log may wait for whoever takes it, in bytes.
	logRoom = 256 << 10
	// logPatience is how long the end of the daemon waits for that, of the 2 s that its
	// shutdown may take.
	logPatience = 250 * time.Millisecond
)

// logQueue is between those who write to the log and the log. Whoever takes it (journald,
// `| logger`, a terminal after Ctrl-S) may stand still, and nothing here may stand still
// with it: what finds no room is dropped, counted, and told of in the next line that does.
type logQueue struct {
	out    io.Writer
	notice func(lost uint64) []byte // the line that tells of it

	mu      sync.Mutex
	queue   [][]byte
	size    int
	busy    bool          // the writer has taken something that is not written yet
	lost    uint64        // lines that were not told of yet
	dropped uint64        // lines, in all
	more    chan struct{} // there is something to write
	written chan struct{} // closed when nothing is, if somebody waits for that
}

func newLogQueue(out io.Writer) *logQueue {
	q := &logQueue{out: out, more: make(chan struct{}, 1)}
	go q.run()
	return q
}

// Write takes one or more lines. It never waits, and never fails: nobody could be told.
func (q *logQueue) Write(lines []byte) (int, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	// What is larger than all the room is taken when nothing else waits.
	if q.size > 0 && q.size+len(lines) > logRoom {
		n := uint64(max(bytes.Count(lines, []byte{'\n'}), 1))
		q.lost += n
		q.dropped += n
		return len(lines), nil
	}
	if q.lost > 0 && q.notice != nil {
		q.put(q.notice(q.lost))
		q.lost = 0
	}
	q.put(bytes.Clone(lines))
	return len(lines), nil
}

// put is called with mu held.
func (q *logQueue) put(lines []byte) {
	q.queue = append(q.queue, lines)
	q.size += len(lines)
	select {
	case q.more <- struct{}{}:
	default:
	}
}

// run writes. It has a thread for as long as nobody reads.
func (q *logQueue) run() {
	for range q.more {
		for lines := q.next(); lines != nil; lines = q.next() {
			// An error says that nobody will ever read it.
			_, _ = q.out.Write(lines)
		}
	}
}

func (q *logQueue) next() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.queue) == 0 {
		q.busy, q.queue = false, nil
		if q.written != nil {
			close(q.written)
			q.written = nil
		}
		return nil
	}
	lines := q.queue[0]
	q.queue = q.queue[1:]
	q.size -= len(lines)
	q.busy = true
	return lines
}

// flush waits until all is written, and not for longer than somebody needs who reads.
func (q *logQueue) flush() {
	q.mu.Lock()
	if !q.busy && len(q.queue) == 0 {
		q.mu.Unlock()
		return
	}
	if q.written == nil {
		q.written = make(chan struct{})
	}
	written := q.written
	q.mu.Unlock()
	select {
	case <-written:
	case <-time.After(logPatience):
	}
}

// Dropped is how many lines were dropped.
func (q *logQueue) Dropped() uint64 {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.dropped
}

// lostLine returns what makes the line that tells of lines that were dropped.
func lostLine(format logrus.Formatter) func(uint64) []byte {
	logger := logrus.New() // that of the log is locked while it writes
	logger.SetFormatter(format)
	return func(lost uint64) []byte {
		e := logger.WithField("op", "log")
		e.Time, e.Level = time.Now(), logrus.WarnLevel
		e.Message = "dropped " + strconv.FormatUint(lost, 10) + " lines: nobody has read the log"
		line, err := e.Bytes()
		if err != nil {
			return []byte(e.Message + "\n")
		}
		return line
	}
}

// crashBound is how long a crash waits for a reader of its report.
const crashBound = time.Second

// partStderr returns the standard error for the log, and makes that of the Go runtime (the
// report of a crash) and of the daemon's helpers one that does not wait when nobody reads. A
// daemon that hangs while it dies would keep its mount, and all who use it, hanging.
func partStderr() io.Writer {
	var st unix.Stat_t
	if err := unix.Fstat(unix.Stderr, &st); err != nil {
		return os.Stderr
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFSOCK: // as systemd gives it
		bound := unix.NsecToTimeval(crashBound.Nanoseconds())
		// Without it a crash waits, and nothing else is different.
		_ = unix.SetsockoptTimeval(unix.Stderr, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &bound)
		return patient(unix.Stderr)
	case unix.S_IFIFO, unix.S_IFCHR:
	default:
		return os.Stderr
	}
	// A file description of our own: others have the one that was inherited, too.
	own, err := unix.Open("/proc/self/fd/2", unix.O_WRONLY|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return os.Stderr
	}
	defer func() { _ = unix.Close(own) }()
	kept, err := unix.FcntlInt(uintptr(unix.Stderr), unix.F_DUPFD_CLOEXEC, 3)
	if err != nil {
		return os.Stderr
	}
	if err := unix.Dup3(own, unix.Stderr, 0); err != nil {
		_ = unix.Close(kept)
		return os.Stderr
	}
	return os.NewFile(uintptr(kept), "stderr")
}

// patient writes all to a descriptor, however often the time for that is up, and also where
// somebody has made it one that does not wait.
type patient int

func (p patient) Write(b []byte) (n int, err error) {
	for n < len(b) {
		var m int
		m, err = unix.Write(int(p), b[n:])
		n += max(m, 0)
		if errors.Is(err, unix.EAGAIN) {
			// A hang-up ends it too; the write says so.
			_, err = unix.Poll([]unix.PollFd{{Fd: int32(p), Events: unix.POLLOUT}}, -1)
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return n, err
		}
	}
	return n, nil
}

// isTerminal reports whether a person reads the log.
func isTerminal() bool {
	_, err := unix.IoctlGetTermios(unix.Stderr, unix.TCGETS)
	return err == nil
}

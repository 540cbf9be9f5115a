package shim

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// lineClient is a test's end of a line.
type lineClient struct {
	t   testing.TB
	fd  int
	seq uint32
}

// openLine opens a line that is not greeted yet, and closes it with the test.
func (b *box) openLine(run string) *lineClient {
	b.t.Helper()
	fd, err := client.OpenLine(b.dir, run)
	if err != nil {
		b.t.Fatal(err)
	}
	l := &lineClient{t: b.t, fd: fd}
	b.t.Cleanup(l.close)
	return l
}

// line opens a line and takes the greeting.
func (b *box) line() *lineClient {
	b.t.Helper()
	l := b.openLine(b.spec.Run)
	if a := l.next(); a.Op != wire.LineHello || a.Errno != 0 || !a.Alive {
		b.t.Fatalf("greeted with %+v", a)
	}
	return l
}

func (l *lineClient) close() {
	if l.fd >= 0 {
		sys.Close(l.fd)
		l.fd = -1
	}
}

func (l *lineClient) send(packet []byte) {
	l.t.Helper()
	if err := unix.Send(l.fd, packet, unix.MSG_NOSIGNAL); err != nil {
		l.t.Fatal(err)
	}
}

// call sends a call and returns its number.
func (l *lineClient) call(op wire.LineOp) uint32 {
	l.t.Helper()
	l.seq++
	l.send(wire.LineCall{Op: op, Seq: l.seq}.Append(nil))
	return l.seq
}

// read returns the next packet, or nil at the end of the line or when wait is over.
func (l *lineClient) read(wait time.Duration) (packet []byte, end bool) {
	l.t.Helper()
	fds := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLIN}}
	for deadline := time.Now().Add(wait); ; {
		n, err := unix.Poll(fds, max(0, int(time.Until(deadline).Milliseconds())))
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			l.t.Fatal(err)
		}
		if n == 0 {
			return nil, false
		}
		break
	}
	buf := make([]byte, wire.MaxLineAnswer+1)
	for range 2 { // see OpenLine
		n, err := unix.Read(l.fd, buf)
		if err != nil && !errors.Is(err, unix.ECONNRESET) {
			l.t.Fatal(err)
		}
		if n > 0 {
			return buf[:n], false
		}
	}
	return nil, true
}

func (l *lineClient) next() wire.LineAnswer {
	l.t.Helper()
	packet, end := l.read(patience)
	if packet == nil {
		l.t.Fatalf("no answer; the line has ended: %v", end)
	}
	a, err := wire.DecodeLineAnswer(packet)
	if err != nil {
		l.t.Fatal(err)
	}
	return a
}

// quiet says that nothing has come. What the shim had been asked before is done by
// the time it answers a ping.
func (l *lineClient) quiet() {
	l.t.Helper()
	seq := l.call(wire.LinePing)
	if a := l.next(); a.Op != wire.LinePing || a.Seq != seq {
		l.t.Fatalf("came unasked: %+v", a)
	}
}

// ended waits for the shim to close the line.
func (l *lineClient) ended() {
	l.t.Helper()
	for {
		packet, end := l.read(patience)
		if end {
			return
		}
		if packet == nil {
			l.t.Fatal("the line is not closed")
		}
	}
}

// begin begins a probe.
func (l *lineClient) begin() uint32 {
	l.t.Helper()
	seq := l.call(wire.LineProbe)
	if a := l.next(); a.Op != wire.LineProbe || a.Seq != seq || !a.Begun || a.Errno != 0 || !a.Alive {
		l.t.Fatalf("call %d: %+v", seq, a)
	}
	return seq
}

// result waits for the result of a probe.
func (l *lineClient) result(seq uint32) wire.ProbeResult {
	l.t.Helper()
	a := l.next()
	if a.Op != wire.LineProbe || a.Seq != seq || a.Begun || a.Errno != 0 {
		l.t.Fatalf("call %d: %+v", seq, a)
	}
	if a.Result.Duration <= 0 {
		l.t.Errorf("it took %v", a.Result.Duration)
	}
	return a.Result
}

func (l *lineClient) probe() wire.ProbeResult {
	l.t.Helper()
	return l.result(l.begin())
}

// refused asks for a probe that cannot be.
func (l *lineClient) refused(why syscall.Errno) {
	l.t.Helper()
	seq := l.call(wire.LineProbe)
	if a := l.next(); a.Op != wire.LineProbe || a.Seq != seq || a.Begun || a.Errno != why {
		l.t.Errorf("call %d: %+v, not %v", seq, a, why)
	}
}

func TestLinePing(t *testing.T) {
	b := sh(t, `trap 'echo term' TERM; echo ready; while :; do sleep 0.01; done`).mustStart()
	b.awaitLog("ready")
	l := b.line()
	ping := func(stopping, paused bool) {
		t.Helper()
		want := wire.LineAnswer{Op: wire.LinePing, Seq: l.call(wire.LinePing), Alive: true, Stopping: stopping, Paused: paused}
		if got := l.next(); fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %+v, want %+v", got, want)
		}
	}
	ping(false, false)
	b.ask(wire.Request{Op: wire.OpPause})
	ping(false, true)
	b.ask(wire.Request{Op: wire.OpResume})
	ping(false, false)
	b.ask(wire.Request{Op: wire.OpStop, Grace: time.Hour})
	ping(true, false)
	b.ask(wire.Request{Op: wire.OpStop})
	l.ended()
	b.wait()
}

func TestLineOfAnotherRun(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	l := b.line()
	other := b.openLine("another")
	if a := other.next(); a.Op != wire.LineHello || a.Errno != unix.ESTALE {
		t.Errorf("greeted with %+v", a)
	}
	other.ended()
	l.quiet() // and was not taken over
	whichever := b.openLine("")
	if a := whichever.next(); a.Op != wire.LineHello || a.Errno != 0 {
		t.Errorf("greeted with %+v", a)
	}
}

func TestLineToNobody(t *testing.T) {
	b := sh(t, "exit 0")
	if fd, err := client.OpenLine(b.dir, ""); fd != -1 || !errors.Is(err, unix.ENOENT) {
		t.Errorf("before: %d, %v", fd, err)
	}
	b.mustStart()
	b.wait()
	if fd, err := client.OpenLine(b.dir, ""); fd != -1 || !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("after: %d, %v", fd, err)
	}
}

// A shim that stands is connected to until too many wait, and nobody waits.
func TestLineToOneThatStands(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	b.stands()
	before := openFiles(t)
	var lines []*lineClient
	for {
		fd, err := client.OpenLine(b.dir, b.spec.Run)
		if errors.Is(err, unix.EAGAIN) {
			break
		}
		if err != nil || len(lines) > 1000 {
			t.Fatalf("line %d: %v", len(lines), err)
		}
		l := &lineClient{t: t, fd: fd}
		defer l.close()
		lines = append(lines, l)
	}
	if after := openFiles(t); after != before+len(lines) {
		t.Errorf("%d descriptors, %d before, %d lines", after, before, len(lines))
	}
	last := lines[len(lines)-1]
	flags, err := unix.FcntlInt(uintptr(last.fd), unix.F_GETFL, 0)
	if cloexec, err2 := unix.FcntlInt(uintptr(last.fd), unix.F_GETFD, 0); errors.Join(err, err2) != nil || flags&unix.O_NONBLOCK == 0 || cloexec&unix.FD_CLOEXEC == 0 {
		t.Errorf("flags %#x, %#x", flags, cloexec)
	}
	b.signal(unix.SIGCONT)
	if a := last.next(); a.Op != wire.LineHello || a.Errno != 0 {
		t.Errorf("greeted with %+v", a)
	}
	last.quiet()
	for _, l := range lines[:len(lines)-1] {
		l.ended()
	}
	last.quiet()
}

func TestLineIsTakenOver(t *testing.T) {
	b := probed(t, "/bin/sleep", "1000").mustStart()
	old := b.line()
	old.begin()
	old.call(wire.LineLog)
	l := b.line()
	old.ended()
	// The probe of the old line is gone, and so is what it started.
	until(t, "the probe is gone", func() bool { return len(processesWith(t, b.tag)) == 1 })
	l.begin()
	l.refused(unix.EBUSY)
	old.close()
	l.refused(unix.EBUSY)
}

func TestLineIsNotEvicted(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	l := b.line()
	var silent *os.File
	for range 2 * wire.MaxConns {
		silent = rawConn(t, b)
		defer closeFile(silent)
	}
	l.quiet()
	// The line has no deadline, unlike those.
	if err := silent.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := silent.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("%d, %v", n, err)
	}
	l.quiet()
}

func TestLineThatIsHungUpEndsItsProbe(t *testing.T) {
	b := probed(t, "/bin/sh", "-c", "sleep 1000 & sleep 1000").mustStart()
	l := b.line()
	l.begin()
	until(t, "the probe runs", func() bool { return len(processesWith(t, b.tag)) == 4 })
	l.close()
	until(t, "the probe is gone", func() bool { return len(processesWith(t, b.tag)) == 1 })
	b.line().begin()
}

func TestLineMalformedCalls(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	ping := wire.LineCall{Op: wire.LinePing, Seq: 1}.Append(nil)
	for name, packet := range map[string][]byte{
		"one byte":      {wire.Version},
		"short":         ping[:len(ping)-1],
		"long":          append(ping[:len(ping):len(ping)], 0),
		"huge":          append(ping[:len(ping):len(ping)], make([]byte, 10_000)...),
		"other version": append([]byte{wire.Version + 1}, ping[1:]...),
		"hello":         wire.LineCall{Op: wire.LineHello}.Append(nil),
		"a request":     wire.Request{Op: wire.OpState}.Append(nil),
		"a line":        wire.Request{Op: wire.OpLine}.Append(nil),
	} {
		t.Run(name, func(t *testing.T) {
			l := b.line()
			l.send(packet)
			l.ended()
		})
	}
	l := b.line()
	for _, op := range []wire.LineOp{wire.LineEnd + 1, 255} { // of a daemon that is newer
		seq := l.call(op)
		if a := l.next(); a.Op != op || a.Seq != seq || a.Errno != unix.ENOSYS || !a.Alive {
			t.Errorf("%+v", a)
		}
	}
	l.quiet()
}

// A client that asks and does not listen loses its line, and nobody else notices.
func TestLineWhoseAnswersAreNotRead(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	l := b.line()
	packet := wire.LineCall{Op: wire.LinePing, Seq: 1}.Append(nil)
	// Nothing else asks the shim meanwhile: it goes the shortest way.
	for n := 0; ; n++ {
		// It waits while the shim is behind.
		out := []unix.PollFd{{Fd: int32(l.fd), Events: unix.POLLOUT}}
		if ready := must(sys.Retry(func() (int, error) { return unix.Poll(out, int(patience.Milliseconds())) })); ready == 0 || n > 100_000 {
			t.Fatalf("call %d: there is room for %d more", n, ready)
		}
		if err := unix.Send(l.fd, packet, unix.MSG_NOSIGNAL|unix.MSG_DONTWAIT); errors.Is(err, unix.EPIPE) || errors.Is(err, unix.ECONNRESET) {
			break
		} else if err != nil && !errors.Is(err, unix.EAGAIN) {
			t.Fatalf("call %d: %v", n, err)
		}
	}
	b.line().quiet()
}

func TestLineFloodOfPings(t *testing.T) {
	b := sh(t, "exec sleep 1000").mustStart()
	l := b.line()
	const pings, window = 20_000, 50
	for sent, got := uint32(0), uint32(0); got < pings; {
		for sent < pings && sent < got+window {
			l.call(wire.LinePing)
			sent++
		}
		if a := l.next(); a.Op != wire.LinePing || a.Seq != got+1 {
			t.Fatalf("answer %d: %+v", got, a)
		}
		got++
		if got%5000 == 0 {
			if r := b.ask(wire.Request{Op: wire.OpState}); !r.State.Alive {
				t.Errorf("%+v", r)
			}
		}
	}
}

// What is due comes in time, however many pings there are.
func TestLinePingsDelayNothing(t *testing.T) {
	b := sh(t, `trap 'echo term' TERM; echo ready; while :; do sleep 0.01; done`).mustStart()
	b.awaitLog("ready")
	l := b.line()
	began := time.Now()
	b.ask(wire.Request{Op: wire.OpStop, Grace: 200 * time.Millisecond})
	for {
		// EPIPE: the next read tells.
		if err := unix.Send(l.fd, wire.LineCall{Op: wire.LinePing}.Append(nil), unix.MSG_NOSIGNAL); err != nil && !errors.Is(err, unix.EPIPE) {
			t.Fatal(err)
		}
		packet, end := l.read(patience)
		if end {
			break
		}
		if packet == nil || time.Since(began) > patience {
			t.Fatal("the box is not killed when its grace is over")
		}
		time.Sleep(10 * time.Millisecond)
	}
	if r := b.wait(); r.ExitStatus() != 137 {
		t.Errorf("status %#x", r)
	}
}

func TestLineLogIsToldOnce(t *testing.T) {
	b := newBox(t, "/bin/sh", "-c", `trap 'echo said' USR1; echo ready; while :; do sleep 0.01; done`).mustStart()
	b.awaitLog("ready")
	l := b.line()
	say := func(n int) {
		t.Helper()
		b.ask(wire.Request{Op: wire.OpSignal, Signal: unix.SIGUSR1})
		until(t, "it is in the log", func() bool { return strings.Count(b.log(), "said\n") == n })
	}
	told := func(seq uint32) {
		t.Helper()
		if a := l.next(); a.Op != wire.LineLog || a.Seq != seq || a.Errno != 0 || !a.Alive {
			t.Errorf("%+v, not the answer to %d", a, seq)
		}
	}
	say(1)
	l.quiet() // not asked
	seq := l.call(wire.LineLog)
	l.quiet() // not since then
	say(2)
	told(seq)
	say(3)
	l.quiet() // told already
	l.call(wire.LineLog)
	seq = l.call(wire.LineLog) // in place of the one before
	say(4)
	told(seq)
	say(5)
	l.quiet()
}

// A flood of output costs no more answers than there are calls.
func TestLineLogOfAFlood(t *testing.T) {
	b := newBox(t, "/usr/bin/yes")
	b.spec.LogMax = wire.MinLogMax * 16
	b.mustStart()
	l := b.line()
	for range 100 {
		seq := l.call(wire.LineLog)
		if a := l.next(); a.Op != wire.LineLog || a.Seq != seq {
			t.Fatalf("%+v, not the answer to %d", a, seq)
		}
	}
	l.quiet()
}

func TestLineAndWatchers(t *testing.T) {
	b := newBox(t, "/bin/sh", "-c", `trap 'echo said' USR1; echo ready; while :; do sleep 0.01; done`).mustStart()
	b.awaitLog("ready")
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w := must(client.WatchLog(ctx, b.dir))
	l := b.line()
	seq := l.call(wire.LineLog)
	l.quiet()
	b.ask(wire.Request{Op: wire.OpSignal, Signal: unix.SIGUSR1})
	if err := w.Next(ctx); err != nil {
		t.Error(err)
	}
	if a := l.next(); a.Op != wire.LineLog || a.Seq != seq {
		t.Errorf("%+v", a)
	}
	// One goes, the other stays.
	files := func() int { return len(must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.h.PID)))) }
	before := files()
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	until(t, "the shim has closed its end", func() bool { return files() < before })
	l.quiet()
}

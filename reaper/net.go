package reaper

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper/procfs"
)

// Net finds and reaps the zombies that nobody owns: orphans that were handed to
// this process because it is the init of a pid namespace or a subreaper, and
// children that it had before its exec.
//
// A child is owned while this process holds a pidfd for it. Go's os package and
// this one both get that pidfd from clone(2) itself and keep it until the status
// has been taken, and the kernel installs it before it lets the child run: so
// there is no moment at which a child that somebody will wait for is a zombie
// without one. Where Go can't work so, there is no net; see NewNet.
//
// It costs nothing while no child ends.
type Net struct {
	w     *Watcher
	swept func([]Swept)
	count atomic.Uint64

	children      chan os.Signal
	quit, stopped chan struct{}
	first         time.Duration

	// For tests: called at each look, and between the decision on the unowned and
	// the reaping of them.
	lookedAt, decided func()
}

// Swept is a zombie that was reaped because nobody owned it.
type Swept struct {
	PID int
	// Name is its command's name, as in /proc/PID/comm.
	Name string
	// Code is the exit status, or 128+N for death by signal N.
	Code int
	// Signal is the signal that killed it, or 0.
	Signal unix.Signal
}

const (
	// firstLook is the time between the first death and the look at what is left.
	// All deaths in it cost one look, and most owners have reaped theirs by then.
	firstLook = 100 * time.Millisecond
	// sweepMax bounds the descriptors that a look holds.
	sweepMax = 128
)

// ErrNoNet says that owned children can't be told from unowned ones here. A
// zombie may then stay, but no status is lost.
var ErrNoNet = errors.New("no net for zombies that nobody waits for")

// NewNet spreads a net. swept is told of what it reaped, some at a time; it must
// not block. The error is ErrNoNet, with the reason, where the net could take a
// status that somebody waits for.
func NewNet(w *Watcher, swept func([]Swept)) (*Net, error) {
	if err := canTellOwned(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNoNet, err)
	}
	n := newNet(w, swept)
	go n.run()
	return n, nil
}

func newNet(w *Watcher, swept func([]Swept)) *Net {
	n := &Net{
		w: w, swept: swept, first: firstLook, lookedAt: func() {}, decided: func() {},
		children: make(chan os.Signal, 1), quit: make(chan struct{}), stopped: make(chan struct{}),
	}
	signal.Notify(n.children, unix.SIGCHLD)
	return n
}

// Count returns how many zombies were swept so far.
func (n *Net) Count() uint64 { return n.count.Load() }

// Close takes the net in. It must come before that of the Watcher, whose
// processes nobody owns from then on.
func (n *Net) Close() {
	signal.Stop(n.children)
	close(n.quit)
	<-n.stopped
}

// run looks for zombies some time after a child has ended, and for as long as any
// is left at doubling distances: its owner may take its time, or give it up.
func (n *Net) run() {
	defer close(n.stopped)
	timer := time.NewTimer(n.first) // a zombie may have been there before
	defer timer.Stop()
	wait := n.first
	soon := true // the timer is set to the first distance, or less
	for {
		select {
		case <-n.quit:
			return
		case <-n.children:
			if !soon {
				wait, soon = n.first, true
				timer.Reset(wait)
			}
		case <-timer.C:
			soon = false
			if n.look() {
				wait *= 2
				timer.Reset(wait)
			}
		}
	}
}

// looking keeps two nets of one process from taking each other for owners.
var looking sync.Mutex

// look sweeps what nobody owns and reports whether any zombie is left.
func (n *Net) look() bool {
	n.lookedAt()
	looking.Lock()
	defer looking.Unlock()
	// One question, without /proc, is all that a look costs in most cases.
	for zombie(unix.P_ALL, 0) {
		if n.sweepSome() < sweepMax {
			return zombie(unix.P_ALL, 0)
		}
	}
	return false
}

// sweepSome sweeps at most sweepMax zombies and returns how many it did.
func (n *Net) sweepSome() int {
	var pins []pin
	defer func() {
		for _, p := range pins {
			_ = unix.Close(p.fd)
		}
	}()
	watched := n.w.pids()
	for _, pid := range children(os.Getpid()) {
		if watched[pid] || !zombie(unix.P_PID, pid) {
			continue
		}
		// The pidfd pins the process: whoever gets its pid, were it reaped now, is
		// neither looked at nor waited for in its stead.
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if !zombie(unix.P_PIDFD, fd) {
			_ = unix.Close(fd)
			continue
		}
		if pins = append(pins, pin{pid: pid, fd: fd}); len(pins) == sweepMax {
			break
		}
	}
	if len(pins) == 0 {
		return 0
	}
	return n.sweep(pins)
}

// pin is a zombie that is held by a pidfd.
type pin struct{ pid, fd int }

// sweep reaps those of the pinned zombies that nobody owns. They were zombies when
// they were pinned, so the pidfd of an owner was there before and stays until it
// has reaped; who is reaped meanwhile has no status any more.
func (n *Net) sweep(pins []pin) int {
	owned, err := owned(pins)
	if err != nil {
		return 0 // out of descriptors, say: the next look does it
	}
	n.decided()
	var out []Swept
	for _, p := range pins {
		if owned[p.pid] {
			continue
		}
		name := comm(p.pid)
		var info siginfo
		if err := waitid(unix.P_PIDFD, p.fd, &info, unix.WEXITED, nil); err != nil || info.pid == 0 {
			continue
		}
		s := Swept{PID: p.pid, Name: name}
		s.Code, s.Signal = decode(info.code, info.status)
		out = append(out, s)
	}
	if len(out) > 0 {
		n.count.Add(uint64(len(out)))
		n.swept(out)
	}
	return len(out)
}

// zombie reports whether a child has ended and not been reaped: any, that of a
// pid, or that of a pidfd. It takes nothing.
func zombie(idType, id int) bool {
	var info siginfo
	return waitid(idType, id, &info, unix.WEXITED|unix.WNOWAIT, nil) == nil && info.pid != 0
}

// owned returns the pids for which this process holds a pidfd besides the pins.
// A descriptor that is open throughout is certainly seen.
func owned(pins []pin) (map[int]bool, error) {
	dir, err := os.Open("/proc/self/fdinfo")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	pinned := make(map[int]bool, len(pins))
	for _, p := range pins {
		pinned[p.fd] = true
	}
	pids := map[int]bool{}
	for _, name := range names {
		fd, err := strconv.Atoi(name)
		if err != nil {
			return nil, err
		}
		if pinned[fd] {
			continue
		}
		pid, err := procfs.PidfdPID(fd)
		if err != nil && !errors.Is(err, unix.ENOENT) { // closed meanwhile
			return nil, err
		}
		if pid > 0 {
			pids[pid] = true
		}
	}
	return pids, nil
}

// comm returns the name of a process, "" if that can't be had.
func comm(pid int) string {
	name, err := procfs.Of(pid).Comm()
	if err != nil {
		return ""
	}
	return strings.TrimSpace(name)
}

// canTellOwned returns why children that somebody will wait for can't be told from
// others here.
func canTellOwned() error {
	if err := CheckProc(); err != nil {
		return err
	}
	if _, err := os.Stat("/proc/thread-self/children"); err != nil {
		return fmt.Errorf("the kernel does not list children: %w", err)
	}
	// Whether os/exec holds its children by pidfd is decided once, by package os.
	self, err := os.FindProcess(os.Getpid())
	if err != nil {
		return err
	}
	pid := 0
	herr := self.WithHandle(func(fd uintptr) { pid, err = procfs.PidfdPID(int(fd)) })
	if err := errors.Join(herr, err, self.Release()); err != nil {
		return fmt.Errorf("os/exec has no pidfds: %w", err)
	}
	if pid != os.Getpid() {
		return errors.New("/proc/self/fdinfo does not say what a pidfd stands for")
	}
	return nil
}

// CheckProc returns an error if /proc shows the pids of another namespace: nothing
// can be told from it then of a process that this one knows by pid.
func CheckProc() error {
	self, err := os.Readlink("/proc/self")
	if err != nil {
		return err
	}
	if self != strconv.Itoa(os.Getpid()) {
		return fmt.Errorf("/proc belongs to another pid namespace: it has this process as %s, not %d (mount -t proc proc /proc)", self, os.Getpid())
	}
	return nil
}

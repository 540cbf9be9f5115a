package reaper

import (
	"errors"
	"fmt"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Watcher waits for the end of any number of processes, of all origins, in one
// epoll over their pidfds.
type Watcher struct {
	epfd, wake int

	mu     sync.Mutex
	procs  map[int32]*Process    // by the descriptor that is waited for
	blind  map[*Process]struct{} // those without a pidfd, until they end
	closed bool

	followers     sync.WaitGroup
	quit, stopped chan struct{}
}

// NewWatcher starts a watcher. Close ends it.
func NewWatcher() (*Watcher, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC|unix.EFD_NONBLOCK)
	if err == nil {
		err = unix.EpollCtl(epfd, unix.EPOLL_CTL_ADD, wake, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(wake)})
	}
	if err != nil {
		_ = unix.Close(epfd)
		return nil, fmt.Errorf("watcher: %w", err)
	}
	w := &Watcher{
		epfd: epfd, wake: wake, procs: map[int32]*Process{}, blind: map[*Process]struct{}{},
		quit: make(chan struct{}), stopped: make(chan struct{}),
	}
	go w.loop()
	return w, nil
}

// Watch begins the watch over p and calls end, once, when p has ended; end must
// not block. It must be called once for each process, at once after
// NewChild or Find.
func (w *Watcher) Watch(p *Process, end func(Exit)) error {
	p.end = end
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return errors.New("watcher is closed")
	}
	fd, events := p.fd, uint32(unix.EPOLLIN)
	if p.blind {
		fd, events = p.hint, unix.EPOLLRDHUP // not what the other end may say
	}
	if fd >= 0 {
		w.procs[int32(fd)] = p
		if err := unix.EpollCtl(w.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: events, Fd: int32(fd)}); err != nil {
			delete(w.procs, int32(fd))
			return fmt.Errorf("watch process %d: %w", p.id.PID, err)
		}
	}
	if p.blind {
		w.blind[p] = struct{}{}
		p.lookAt()
		w.followers.Go(func() { w.follow(p) })
	}
	return nil
}

// Close ends the watch and releases every descriptor. Processes live on.
func (w *Watcher) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	close(w.quit)
	w.mu.Unlock()
	if _, err := unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return fmt.Errorf("wake the watcher: %w", err)
	}
	<-w.stopped
	w.followers.Wait()
	for _, p := range w.procs {
		p.close()
	}
	for p := range w.blind {
		p.close()
	}
	return errors.Join(unix.Close(w.epfd), unix.Close(w.wake))
}

// pids returns the pids of the processes under watch that are children for certain.
func (w *Watcher) pids() map[int]bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	out := make(map[int]bool, len(w.procs))
	for _, p := range w.procs {
		if p.child {
			out[p.id.PID] = true
		}
	}
	return out
}

func (w *Watcher) loop() {
	defer close(w.stopped)
	events := make([]unix.EpollEvent, 64)
	ended := make([]*Process, 0, len(events))
	for {
		n, err := unix.EpollWait(w.epfd, events, -1)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			// EBADF, EFAULT or EINVAL: a bug here, not a state of the machine,
			// and without the watch every promise of the product is void.
			panic("epoll_wait: " + err.Error())
		}
		w.mu.Lock()
		if w.closed {
			w.mu.Unlock()
			return
		}
		ended = ended[:0]
		for _, ev := range events[:n] {
			if p := w.procs[ev.Fd]; p != nil {
				ended = append(ended, p)
			}
		}
		w.mu.Unlock()
		for _, p := range ended {
			switch {
			case p.child:
				w.reap(p)
			case p.blind:
				w.forget(p, p.hint)
				p.lookAt()
			default:
				w.forget(p, p.fd)
				go func() { // it may wait for another parent to reap
					e := p.collect()
					p.tellEnd(e)
					if e.late != nil {
						p.witness(e.late)
					}
					p.close()
				}()
			}
		}
	}
}

// forget takes a descriptor out of the watch, if it is there, before it is closed: its number may
// be in use again at once.
func (w *Watcher) forget(p *Process, fd int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.procs[int32(fd)] != p {
		return
	}
	if err := unix.EpollCtl(w.epfd, unix.EPOLL_CTL_DEL, fd, nil); err != nil {
		panic("epoll_ctl: " + err.Error())
	}
	delete(w.procs, int32(fd))
}

// reap takes the status of a child that has ended. One that a tracer holds stays
// under watch, for an edge: the kernel tells its parent of it again when the tracer
// lets go. Its end, which is certain, is told before, if that takes too long.
func (w *Watcher) reap(p *Process) {
	e, ok := p.collectChild()
	if !ok {
		if !p.traced {
			p.traced = true
			// An edge that came before this is reported all the same.
			if err := unix.EpollCtl(w.epfd, unix.EPOLL_CTL_MOD, p.fd, &unix.EpollEvent{Events: unix.EPOLLIN | unix.EPOLLET, Fd: int32(p.fd)}); err != nil {
				panic("epoll_ctl: " + err.Error())
			}
			e := p.held()
			time.AfterFunc(witnessBound, func() { p.tellEnd(e) })
		}
		return
	}
	w.forget(p, p.fd)
	p.close()
	p.tellEnd(e)
	// There may be a thousand more, and others may have to answer somebody.
	runtime.Gosched()
}

// A blind process that may have ended is looked at from blindFirst on at doubling
// distances, until blindLast. It takes a short time to end after its hint, unless
// something in it can't die; then no event tells when it can.
const (
	blindFirst = time.Millisecond
	blindLast  = 20 * time.Minute
)

// follow looks at a blind process when there is a reason to: at first, when it is
// killed, and when its hint has hung up. Without a hint that still holds it looks
// again.
func (w *Watcher) follow(p *Process) {
	timer := time.NewTimer(blindLast)
	timer.Stop()
	defer timer.Stop()
	wait := blindFirst
	for {
		select {
		case <-w.quit:
			return
		case <-p.kick:
			wait = blindFirst
		case <-timer.C:
		}
		if e, ended := p.look(); ended {
			if w.drop(p) {
				p.close()
				p.tellEnd(e)
			}
			return
		}
		if !w.waitsFor(p, p.hint) && wait <= blindLast {
			timer.Reset(wait)
			wait *= 2
		}
	}
}

// drop ends the watch over a blind process. It reports false if Close does it.
func (w *Watcher) drop(p *Process) bool {
	w.mu.Lock()
	if !w.closed {
		delete(w.blind, p)
	}
	closed := w.closed
	w.mu.Unlock()
	w.forget(p, p.hint)
	return !closed
}

// waitsFor reports whether a descriptor of p is under watch.
func (w *Watcher) waitsFor(p *Process, fd int) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.procs[int32(fd)] == p
}

func (p *Process) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, fd := range []*int{&p.fd, &p.hint} {
		if *fd >= 0 {
			_ = unix.Close(*fd)
			*fd = -1
		}
	}
}

package reaper

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// Watcher waits for the end of any number of processes, of all origins, in one
// epoll over their pidfds.
type Watcher struct {
	epfd, wake int

	mu     sync.Mutex
	procs  map[int32]*Process // by pidfd
	closed bool

	stopped chan struct{}
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
	w := &Watcher{epfd: epfd, wake: wake, procs: map[int32]*Process{}, stopped: make(chan struct{})}
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
	w.procs[int32(p.fd)] = p
	if err := unix.EpollCtl(w.epfd, unix.EPOLL_CTL_ADD, p.fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(p.fd)}); err != nil {
		delete(w.procs, int32(p.fd))
		return fmt.Errorf("watch process %d: %w", p.id.PID, err)
	}
	return nil
}

// Close ends the watch and releases every pidfd. Processes live on.
func (w *Watcher) Close() error {
	w.mu.Lock()
	if w.closed {
		w.mu.Unlock()
		return nil
	}
	w.closed = true
	w.mu.Unlock()
	if _, err := unix.Write(w.wake, []byte{1, 0, 0, 0, 0, 0, 0, 0}); err != nil {
		return fmt.Errorf("wake the watcher: %w", err)
	}
	<-w.stopped
	for _, p := range w.procs {
		p.close()
	}
	return errors.Join(unix.Close(w.epfd), unix.Close(w.wake))
}

func (w *Watcher) loop() {
	defer close(w.stopped)
	events := make([]unix.EpollEvent, 64)
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
		ended := make([]*Process, 0, n)
		for _, ev := range events[:n] {
			p := w.procs[ev.Fd]
			if p == nil {
				continue
			}
			// Before the fd is closed: its number may be in use again at once.
			if err := unix.EpollCtl(w.epfd, unix.EPOLL_CTL_DEL, p.fd, nil); err != nil {
				panic("epoll_ctl: " + err.Error())
			}
			delete(w.procs, ev.Fd)
			ended = append(ended, p)
		}
		w.mu.Unlock()
		for _, p := range ended {
			if p.child {
				p.finish()
			} else {
				go p.finish() // it may wait for another parent to reap
			}
		}
	}
}

func (p *Process) finish() {
	p.exit = p.collect()
	p.close()
	close(p.done)
	p.end(p.exit)
}

func (p *Process) close() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fd >= 0 {
		_ = unix.Close(p.fd)
		p.fd = -1
	}
}

package epoll

import (
	"sync"

	"golang.org/x/sys/unix"
)

// Poller tells when descriptors are ready, of each once when it is asked.
type Poller struct {
	loop *Loop

	mu   sync.Mutex // guards wake; held for epoll_ctl, which does not wait
	wake map[int32]func()
}

// NewPoller returns a poller. name is that of its descriptor in errors.
func NewPoller(name string) (*Poller, error) {
	p := &Poller{wake: map[int32]func(){}}
	var err error
	p.loop, err = NewLoop(name, p.take)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// Close ends the poller; nobody is woken any more. A nil Poller has nothing to end.
func (p *Poller) Close() error {
	if p == nil {
		return nil
	}
	return p.loop.Close()
}

func (p *Poller) take(events []unix.EpollEvent) (over bool) {
	for _, ev := range events {
		p.mu.Lock()
		wake := p.wake[ev.Fd]
		delete(p.wake, ev.Fd)
		p.mu.Unlock()
		if wake != nil {
			wake()
		}
	}
	return false
}

// Add makes fd known. It is waited for only after Arm.
func (p *Poller) Add(fd int) error {
	return unix.EpollCtl(p.loop.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLONESHOT, Fd: int32(fd)})
}

// Arm has wake called once when one of the events (unix.EPOLLIN, EPOLLOUT) comes, or is there.
// wake must not block: all streams wait for its end.
func (p *Poller) Arm(fd int, events uint32, wake func()) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.wake[int32(fd)] = wake
	return unix.EpollCtl(p.loop.epfd, unix.EPOLL_CTL_MOD, fd, &unix.EpollEvent{Events: events | unix.EPOLLONESHOT, Fd: int32(fd)})
}

// Remove forgets fd, and closes it.
func (p *Poller) Remove(fd int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.wake, int32(fd))
	// The close alone would leave one in the epoll that the shim has as well.
	_ = unix.EpollCtl(p.loop.epfd, unix.EPOLL_CTL_DEL, fd, nil)
	_ = unix.Close(fd)
}

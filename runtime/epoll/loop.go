// Package epoll waits for descriptors and for due times, of all boxes with few goroutines: what is
// idle has neither a goroutine nor a thread.
//
// A daemon has two loops. That of the timers and of the lines to shims gives the shims time to
// answer together, and fires timers; what streams of execs wait for must not wait for that. So
// they have a loop of their own, which is the Poller's.
package epoll

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Loop waits for descriptors, in one goroutine that waits in the poller of the Go runtime.
type Loop struct {
	epfd int
	file *os.File // of epfd
	done chan struct{}
}

// NewLoop returns a loop that gives take the events as they come, in one goroutine, and ends when
// take reports that these were the last. name is that of its descriptor in errors.
func NewLoop(name string, take func(events []unix.EpollEvent) (over bool)) (*Loop, error) {
	epfd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll_create1: %w", err)
	}
	if err := unix.SetNonblock(epfd, true); err != nil { // else a thread would wait in it
		return nil, errors.Join(err, unix.Close(epfd))
	}
	l := &Loop{epfd: epfd, file: os.NewFile(uintptr(epfd), name), done: make(chan struct{})}
	go l.run(take)
	return l, nil
}

func (l *Loop) run(take func([]unix.EpollEvent) bool) {
	defer close(l.done)
	raw, err := l.file.SyscallConn()
	if err != nil {
		return // it cannot be closed before
	}
	events := make([]unix.EpollEvent, 64)
	// It ends when take says so, or the file is closed.
	_ = raw.Read(func(uintptr) bool {
		for {
			n, errno := wait(l.epfd, events)
			switch {
			case errno == unix.EINTR:
			case errno != 0:
				panic("epoll_wait: " + errno.Error()) // a bug here, as in reaper.Watcher
			case n == 0:
				return false
			case take(events[:n]):
				return true
			}
		}
	})
}

// Listen has the loop wait for fd to be readable, each time that it is, until it is closed.
func (l *Loop) Listen(fd int) error {
	return unix.EpollCtl(l.epfd, unix.EPOLL_CTL_ADD, fd, &unix.EpollEvent{Events: unix.EPOLLIN, Fd: int32(fd)})
}

// Close ends the loop wherever it is, and returns when it has ended. take must not call it.
func (l *Loop) Close() error {
	err := l.file.Close()
	<-l.done
	return err
}

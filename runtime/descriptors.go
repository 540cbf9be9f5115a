package runtime

import (
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sys/unix"
)

// descriptors bounds how many of the daemon's descriptors other users than root have it
// keep open: a quarter of all. The rest is for what boxes need. Root's own readers have no
// bound, and what is open only during a call is bounded by how many calls there are at once.
type descriptors struct {
	mu         sync.Mutex
	taken, max int
}

// ErrDescriptors says that other users than root have the daemon keep as many descriptors
// open as they may.
var ErrDescriptors = errors.New("other users than root have as many of the daemon's descriptors in use as they may")

// newDescriptors looks at the limit of the process, which the Go runtime has raised as far
// as that may be.
func newDescriptors() (*descriptors, error) {
	var l unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &l); err != nil {
		return nil, fmt.Errorf("getrlimit: %w", err)
	}
	return &descriptors{max: int(min(l.Cur, 1<<20)) / 4}, nil
}

// take gives n of them, or ErrDescriptors.
func (d *descriptors) take(n int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.taken+n > d.max {
		return ErrDescriptors
	}
	d.taken += n
	return nil
}

// give gives back n of them.
func (d *descriptors) give(n int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.taken -= n
}

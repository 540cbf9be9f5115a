package runtime

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// overlayHold keeps the overlay of a run from being unmounted by the end of its shim.
//
// When an overlay goes, the kernel writes back all that is dirty of the file system that
// has its changes, of whomever (ovl_sync_fs). The end of a shim would wait for that, and
// so would a kill: 23 ms on a disk at rest, and seconds on a busy one. As long as the
// daemon has a descriptor in it the overlay stays, and goes, a moment after the end was
// told, when that is closed.
type overlayHold struct {
	fd       int
	released chan struct{}
}

// holdOverlay takes hold of the overlay of a run whose command runs. Without it the end
// takes longer, and nothing else is different.
func (b *Box) holdOverlay(r *run) {
	if r.cfg.Engine != config.EngineContainer || r.cfg.Image == "" && !r.cfg.Overlay {
		return
	}
	path := fmt.Sprintf("/proc/%d/root%s", r.proc.PID(), wire.ContainerRoot)
	fd, err := unix.Open(path, unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err == nil && r.proc.Ended() { // the pid may be another's
		err = errors.Join(unix.ESRCH, unix.Close(fd))
	}
	if err != nil {
		b.log("start").WithError(err).Debug("the end of the container waits for the disk")
		return
	}
	r.overlay = overlayHold{fd, make(chan struct{})}
}

// releaseOverlay lets the overlay of a run go that is proven gone.
func (b *Box) releaseOverlay(r *run) {
	h := r.overlay
	if h.released == nil {
		return
	}
	// It waits for the disk: nobody who has something to tell may wait with it.
	go func() {
		_ = releases.do(func() error { _ = unix.Close(h.fd); return nil })
		close(h.released)
	}()
}

// awaitRelease waits until the overlay of the run before is gone, since two must not
// have the same changes, or until the run is given up.
func (b *Box) awaitRelease(r *run) {
	before := r.before
	r.before = nil
	if before == nil || before.overlay.released == nil {
		return
	}
	select {
	case <-before.overlay.released:
	case <-r.prepare.Done():
	case <-b.rt.closing:
		r.giveUp()
	}
}

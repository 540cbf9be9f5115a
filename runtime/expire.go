package runtime

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/status"
)

// activePause is the least time from one writing down of signs of life to the next.
const activePause = time.Second

// keepAlive notes that somebody wants the box: a command does, and so do an exec, from
// its begin to its end, and Touch.
func (b *Box) keepAlive() {
	b.active.Store(int64(bootTime()))
	s := b.Snapshot()
	c := s.Config
	if r, going := s.Run(); going {
		c = r.r.cfg
	}
	if c == nil || c.Expire.Idle == 0 {
		return
	}
	b.activeUnsaved.Store(true) // for the next daemon
	b.saveActive()
}

// saveActive writes down signs of life that are not yet, or sees to it that they will
// be: they may come in any number.
func (b *Box) saveActive() {
	if !b.activeUnsaved.Load() || !b.activeRests.CompareAndSwap(false, true) {
		return
	}
	b.activeUnsaved.Store(false)
	b.saveSoon()
	b.rt.timers.Set(&b.activeTimer, time.Now().Add(activePause))
}

// Touch keeps a box alive that expires when it is idle.
func (b *Box) Touch() error {
	if b.Snapshot().Removed {
		return b.fail("touch", ErrRemoved)
	}
	b.keepAlive()
	return nil
}

// limitLife sees to it that a run ends when its time is over.
func (b *Box) limitLife(r *run) {
	if e := r.cfg.Expire; e.After == 0 && e.Idle == 0 {
		return
	}
	r.expiry.Fire = func() { b.lookAtLife(r) }
	at, _ := b.expires(r)
	b.rt.timers.SetSinceBoot(&r.expiry, time.Duration(at))
}

// expires is when a run has expired, as things are, and by which key.
func (b *Box) expires(r *run) (at moment, key string) {
	e := r.cfg.Expire
	if e.After > 0 {
		at, key = r.since.add(e.After), "expire.after"
	}
	if e.Idle > 0 {
		if idle := b.lastActive(r).add(e.Idle); key == "" || idle < at {
			at, key = idle, "expire.idle"
		}
	}
	return at, key
}

// lastActive is when somebody last showed that the box is wanted. A restart by its
// policy is no such sign. Where none is known, the begin of the last run stands for it.
func (b *Box) lastActive(r *run) moment {
	if running, _ := b.execsActive(); running > 0 {
		return bootTime()
	}
	if at := b.active.Load(); at != 0 {
		return moment(at)
	}
	if r != nil {
		return r.since
	}
	return recall(0, false, b.Snapshot().Started)
}

// idle reports whether a box has expired that waits to be started again.
func (b *Box) idle(e config.Expire) bool {
	return e.Idle > 0 && b.lastActive(b.Snapshot().run).elapsed() >= e.Idle
}

// expireWaiting ends the backoff of a box that has expired.
func (b *Box) expireWaiting(e config.Expire) {
	_, _, err := b.stop(fmt.Sprintf("by=0:%d stop reason=expire.idle", os.Getpid()), Command{Verb: VerbStop, waiting: true, said: idleSaid(e)})
	if err != nil && !errors.Is(err, ErrCanceled) { // somebody was faster
		b.log("expire").WithError(err).Error("expired, and cannot be said to be stopped")
	}
}

func idleSaid(e config.Expire) string {
	return fmt.Sprintf("expired: nothing was asked of it for %s (expire.idle)", e.Idle)
}

// lookAtLife stops a run that has expired; one that was used meanwhile has more time.
func (b *Box) lookAtLife(r *run) {
	at, key := b.expires(r)
	if bootTime() < at {
		b.rt.timers.SetSinceBoot(&r.expiry, time.Duration(at))
		return
	}
	go b.expire(r, key)
}

func (b *Box) expire(r *run, key string) {
	said := fmt.Sprintf("expired: it ran for %s (expire.after)", r.cfg.Expire.After)
	if key == "expire.idle" {
		said = idleSaid(r.cfg.Expire)
	}
	b.mu.Lock()
	s := b.snap.Load()
	over := b.run != r || !s.Status.Active() || s.Status == status.Stopping
	if !over {
		r.expired = said
	}
	b.mu.Unlock()
	if over {
		return
	}
	if _, _, err := b.stop(fmt.Sprintf("by=0:%d stop reason=%s", os.Getpid(), key), Command{Verb: VerbStop, because: causeExpired, only: r}); err != nil && !errors.Is(err, ErrCanceled) {
		b.log("expire").WithError(err).Error("expired, and cannot be stopped")
	}
}

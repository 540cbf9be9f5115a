package runtime

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/epoll"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// DefaultMaxProbes is how many probes are under way at once unless Options say
// otherwise.
const DefaultMaxProbes = 64

const (
	// lineDelay is how long a run goes on before there is a line to its shim: many
	// are over by then.
	lineDelay = 50 * time.Millisecond
	// logPause is the least time from one word of a log's growth to the next.
	logPause = 100 * time.Millisecond
	// firstInterval is the time after the first probe of a box that is starting; it
	// doubles up to the configured interval until one succeeds.
	firstInterval = 100 * time.Millisecond
	// probeMargin is what the shim has, besides the timeout, to say that a probe has
	// timed out.
	probeMargin = time.Second
)

// ProbeReport is what came of a probe.
type ProbeReport struct {
	Kind     string    // ping, command, tcp or http
	At       time.Time // when it was over
	Healthy  bool
	ExitCode int // of a command, 128+N for a signal; 0 or 1 for the others
	TimedOut bool
	Took     time.Duration
	Reason   string // why it failed, where the exit code does not say it
	Output   []byte // at most wire.MaxProbeOutput bytes
}

// left is the health that the end of a run leaves behind. Under the box's mu.
func (r *run) left(v *ending, rec *wire.ExitRecord, stopping bool) status.Health {
	switch {
	case r.cfg.Health.Disabled:
		return status.HealthNone
	case r.bounced && !r.final:
		return status.Unhealthy
	case stopping, v.code == 0, r.failure != nil && !r.again, rec != nil && rec.StoppedBy != "":
		return status.HealthNone
	}
	return status.Unhealthy
}

// prober makes the probes of all boxes. It keeps one connection to each running
// shim (its line), on which the shim also says that the log has grown. No box has a
// goroutine or a ticker: what is due comes from the one timer queue, what is answered
// from the lines, and one goroutine waits for both in one epoll, which the Go runtime
// waits for.
type prober struct {
	rt   *Runtime
	most int // probes under way at once

	loop *epoll.Loop // of the timers and the lines

	mu     sync.Mutex
	checks map[*run]*check
	lines  map[int32]*check
	busy   int      // probes under way
	pings  int      // sent in this turn of the loop
	queue  []*check // due, and waiting for one of those to be over
	closed bool
}

// phase is where a probe of a check is.
type phase int

const (
	idle   phase = iota // the next one is not due
	queued              // due
	asked               // the shim was asked for it
	begun               // the shim has begun it
)

// check is what the prober knows of a run. Under the prober's mu.
type check struct {
	b *Box
	r *run

	timer epoll.Timer // for the next probe, or for when the one under way is late
	log   epoll.Timer // for the next word of the log
	due   time.Time
	line  int // descriptor, or -1
	// greeted: the shim has said that it knows lines. old: it does not.
	greeted, old bool
	dialing      bool // a line is being made
	phase        phase
	call         *wire.LineCall // for the shim, as long as there is no line
	seq          uint32
	at           time.Time // when the shim was asked
	late         time.Time // when its answer is
	disturbed    bool      // there was a pause in the middle of the one under way

	began    moment        // when failures began to be forgiven
	soon     time.Duration // the interval while it is starting
	failures int           // in a row
}

func newProber(rt *Runtime, most int) (*prober, error) {
	p := &prober{rt: rt, most: most, checks: map[*run]*check{}, lines: map[int32]*check{}}
	buf := make([]byte, wire.MaxLineAnswer)
	var err error
	p.loop, err = epoll.NewLoop("lines to shims", func(events []unix.EpollEvent) (over bool) {
		if p.take(events, buf) {
			return true
		}
		if sent := p.sent(); sent > 1 {
			epoll.Sleep(min(time.Duration(sent)*answerTime, mostAnswerTime))
		}
		return false
	})
	if err != nil {
		return nil, err
	}
	if err = p.loop.Listen(rt.timers.FD()); err != nil {
		return nil, errors.Join(fmt.Errorf("prober: %w", err), p.loop.Close())
	}
	return p, nil
}

// close ends all probing and the timers, gives up the lines, and ends the loop.
func (p *prober) close() error {
	p.mu.Lock()
	p.closed = true
	for r := range p.checks {
		p.drop(r)
	}
	p.mu.Unlock()
	p.rt.timers.Drop()
	// This ends the loop wherever it is: a wake-up by the timerfd could be taken for
	// one of before.
	return errors.Join(p.loop.Close(), p.rt.timers.Close())
}

// answerTime is what the loop gives the shims for each of several pings, to find their
// answers together: to be woken by each costs more than the rest of a ping.
const (
	answerTime     = 20 * time.Microsecond
	mostAnswerTime = 500 * time.Microsecond
)

// sent returns how many pings were sent in this turn.
func (p *prober) sent() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	n := p.pings
	p.pings = 0
	return n
}

// take does what the events ask for, and reports whether that was the last.
func (p *prober) take(events []unix.EpollEvent, buf []byte) (over bool) {
	due := false
	p.mu.Lock()
	for _, ev := range events {
		if int(ev.Fd) == p.rt.timers.FD() {
			due = true
		} else if c := p.lines[ev.Fd]; c != nil {
			p.hear(c, buf)
		}
	}
	over = p.closed
	p.mu.Unlock()
	if due && !over {
		p.rt.timers.Run()
	}
	return over
}

// watch begins to look after a run. With adopted it has been going on for long.
func (p *prober) watch(b *Box, r *run, adopted bool) {
	s := b.Snapshot()
	h := &r.cfg.Health
	c := &check{b: b, r: r, line: -1, began: r.since, soon: min(firstInterval, h.Interval)}
	c.timer.Fire = func() { p.turn(c) }
	c.log.Fire = func() { p.askLog(c) }
	now := time.Now()
	switch {
	case h.Disabled:
	case h.Pings() && s.Health == status.Healthy:
		// It has just been asked. Those that begin together are spread.
		c.due = together(now.Add(time.Duration(rand.Int64N(int64(h.Interval)))), h.Interval)
	case adopted:
		c.due = now.Add(time.Duration(rand.Int64N(int64(min(h.Interval, probeMargin)))))
	default:
		c.due = now
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return
	}
	p.checks[r] = c
	p.rt.timers.Set(&c.timer, c.next(now.Add(lineDelay)))
}

// next is when something is to be done for an idle check, at the latest at most.
func (c *check) next(most time.Time) time.Time {
	if !c.due.IsZero() && c.due.Before(most) {
		return c.due
	}
	return most
}

// forget ends the looking after a run.
func (p *prober) forget(r *run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.drop(r)
}

// drop is called with mu held.
func (p *prober) drop(r *run) {
	c := p.checks[r]
	if c == nil {
		return
	}
	delete(p.checks, r)
	p.rt.timers.Stop(&c.log)
	p.hangUp(c)
	p.over(c)
	p.rt.timers.Stop(&c.timer)
}

// soon makes the next probe of a run due that was paused: its health is that of
// before. One that is under way may have failed of the pause.
func (p *prober) soon(r *run) {
	p.mu.Lock()
	defer p.mu.Unlock()
	c := p.checks[r]
	switch {
	case c == nil || c.due.IsZero():
	case c.phase == idle:
		c.due = time.Now()
		p.rt.timers.Set(&c.timer, c.due)
	default:
		c.disturbed = true
	}
}

// turn is called when the timer of a check has fired.
func (p *prober) turn(c *check) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.checks[c.r] != c {
		return
	}
	now := time.Now()
	switch {
	case (c.phase == asked || c.phase == begun) && now.Before(c.late):
		p.rt.timers.Set(&c.timer, c.late)
	case c.dialing && c.phase == asked:
		c.b.log("health").Warn("not probed: the disk with its directory takes too long, which says nothing of the box")
		p.skip(c)
	case c.phase == asked || c.phase == begun:
		p.hangUp(c)
		p.outcome(c, &ProbeReport{TimedOut: true, ExitCode: 1, Took: now.Sub(c.at), Reason: "the shim does not answer"})
	case c.due.IsZero() || now.Before(c.due):
		p.connect(c)
		if !c.due.IsZero() {
			p.rt.timers.Set(&c.timer, c.due)
		}
	case c.phase == idle:
		p.begin(c)
	}
}

// begin makes a probe, or has it wait for its turn.
func (p *prober) begin(c *check) {
	if p.busy >= p.most {
		c.phase = queued
		p.queue = append(p.queue, c)
		return
	}
	if c.b.Snapshot().Status != status.Running {
		p.skip(c)
		return
	}
	p.busy++
	c.phase, c.at, c.disturbed = asked, time.Now(), false
	c.seq++
	h := &c.r.cfg.Health
	call := wire.LineCall{Op: wire.LinePing, Seq: c.seq}
	c.late = c.at.Add(h.Timeout)
	if h.Kind() != "ping" {
		call.Op, c.late = wire.LineProbe, c.late.Add(probeMargin)
	}
	// An answer comes before the next one is due: then the timer is right already, and
	// to set one costs more than all the rest.
	c.due = together(c.at.Add(h.Interval), h.Interval)
	p.rt.timers.Set(&c.timer, c.next(c.late))
	if c.old {
		go p.askOld(c, c.seq)
		return
	}
	c.call = &call
	if p.connect(c); c.line >= 0 {
		p.pings++
		p.send(c)
	}
}

// send puts the call that waits to the shim, which it does not wait for.
func (p *prober) send(c *check) {
	call := c.call
	c.call = nil
	if errno := epoll.Send(c.line, call.Append(nil)); errno != 0 {
		p.notAsked(c, errno)
	}
}

// notAsked says what is to be said of a probe that did not get to the shim.
func (p *prober) notAsked(c *check, err error) {
	if errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) || errors.Is(err, unix.ENOMEM) || errors.Is(err, unix.ENOSPC) {
		c.b.log("health").WithError(err).Warn("not probed: that is the daemon's want, and says nothing of the box")
		p.skip(c)
		return
	}
	p.hangUp(c)
	p.outcome(c, &ProbeReport{ExitCode: 1, Reason: "the shim cannot be asked: " + err.Error()})
}

// connect makes sure that there is a line, or will be one. It takes a look at a directory,
// and so as long as the disk does; the loop, which all boxes have together, must not wait
// for that.
func (p *prober) connect(c *check) {
	if c.line < 0 && !c.old && !c.dialing {
		c.dialing = true
		go p.dial(c)
	}
}

func (p *prober) dial(c *check) {
	fd, err := c.b.openLine(c.r)
	p.mu.Lock()
	defer p.mu.Unlock()
	c.dialing = false
	if p.checks[c.r] != c { // it was forgotten meanwhile
		if err == nil {
			_ = unix.Close(fd) // nothing was written that could be lost
		}
		return
	}
	if err == nil {
		if err = p.loop.Listen(fd); err != nil {
			err = errors.Join(err, unix.Close(fd))
		}
	}
	switch {
	case err == nil:
		c.line = fd
		p.lines[int32(fd)] = c
		p.tellLog(c) // what was written before is news, too
		if c.call != nil && c.phase == asked {
			p.send(c)
		}
	case c.phase == asked:
		p.notAsked(c, err)
	case c.phase == idle:
		p.rt.timers.Set(&c.timer, c.next(time.Now().Add(probeMargin)))
	}
}

// openLine makes a line to the shim of a run.
func (b *Box) openLine(r *run) (int, error) {
	dir, err := b.rt.store.openDir(b.dir)
	if err != nil {
		return -1, err
	}
	defer dir.Close()
	return client.OpenLine(dir, r.id)
}

// hangUp gives up the line of a check.
func (p *prober) hangUp(c *check) {
	if c.line < 0 {
		return
	}
	delete(p.lines, int32(c.line))
	_ = unix.Close(c.line) // this also takes it out of the epoll; nothing was written that could be lost
	c.line = -1
}

// askOld pings a shim that is of a version without lines.
func (p *prober) askOld(c *check, seq uint32) {
	reply, err := c.b.askShim(c.r, wire.Request{Op: wire.OpState}, c.r.cfg.Health.Timeout)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.checks[c.r] != c || c.phase != asked || c.seq != seq {
		return
	}
	report := &ProbeReport{Healthy: err == nil, Took: time.Since(c.at)}
	if err != nil {
		report.ExitCode, report.Reason = 1, "the shim does not answer: "+err.Error()
	} else if !reply.State.Alive {
		p.skip(c)
		return
	}
	p.outcome(c, report)
}

// hear takes one answer that has come on a line; where there are more, the epoll says
// so again.
func (p *prober) hear(c *check, buf []byte) {
	n, errno := epoll.Read(c.line, buf)
	if n == 0 && errno == 0 {
		n, errno = epoll.Read(c.line, buf) // see OpenLine
	}
	if errno == unix.EINTR || errno == unix.EAGAIN {
		return
	}
	var a wire.LineAnswer
	var err error
	if errno == 0 && n > 0 {
		a, err = wire.DecodeLineAnswer(buf[:n])
	}
	if errno != 0 || err != nil || n == 0 || a.Op == wire.LineHello && a.Errno != 0 {
		// It has ended, or it is of a version that has no lines.
		p.hangUp(c)
		c.old = c.old || !c.greeted
		if c.phase == asked || c.phase == begun {
			p.skip(c)
		}
		return
	}
	p.answered(c, &a)
}

func (p *prober) answered(c *check, a *wire.LineAnswer) {
	switch {
	case a.Op == wire.LineHello, a.Op == wire.LineEnd:
		c.greeted = true
		if !a.Alive {
			go c.b.takeEnd(c.r)
		}
	case a.Op == wire.LineLog:
		p.tellLog(c)
	case a.Seq != c.seq || c.phase != asked && c.phase != begun:
		// Of a probe that was given up.
	case a.Op == wire.LinePing && !a.Alive, a.Errno == unix.EBUSY, a.Errno == unix.ESRCH:
		// It has just ended, or it is paused or asked to end; or the last probe is not
		// gone yet.
		p.skip(c)
	case a.Errno != 0:
		p.outcome(c, &ProbeReport{ExitCode: 1, Reason: "the shim cannot do it: " + a.Errno.Error()})
	case a.Op == wire.LinePing:
		p.outcome(c, &ProbeReport{Healthy: true, Took: time.Since(c.at)})
	case a.Begun:
		c.phase = begun
	default:
		r := a.Result
		p.outcome(c, &ProbeReport{
			Healthy: !r.TimedOut && r.Code == 0, ExitCode: r.Code, TimedOut: r.TimedOut, Took: r.Duration, Reason: r.Reason, Output: r.Output,
		})
	}
}

// over ends the probe that is under way or waits for its turn.
func (p *prober) over(c *check) {
	switch c.phase {
	case asked, begun:
		p.busy--
	case queued:
		for i, q := range p.queue {
			if q == c {
				p.queue = append(p.queue[:i], p.queue[i+1:]...)
				break
			}
		}
	}
	c.phase = idle
	for p.busy < p.most && len(p.queue) > 0 {
		next := p.queue[0]
		p.queue = p.queue[1:]
		next.phase = idle
		p.begin(next)
	}
}

// skip gives up a probe of which nothing can be concluded.
func (p *prober) skip(c *check) {
	p.over(c)
	if c.b.Snapshot().Health == status.HealthStarting {
		p.again(c, c.sooner())
		return
	}
	p.again(c, c.r.cfg.Health.Interval)
}

// sooner is the time to the next probe while the box is starting.
func (c *check) sooner() time.Duration {
	d := c.soon
	c.soon = min(2*d, c.r.cfg.Health.Interval)
	return d
}

// together moves a time so that what is due at nearly the same time, at an interval, is
// due at once: each wake-up costs more than a ping.
func together(at time.Time, interval time.Duration) time.Time {
	slack := max(interval/32, 1)
	// Truncate takes the reading of the monotonic clock away, Add keeps it.
	return at.Add(at.Truncate(slack).Sub(at) + slack)
}

// again sets the next probe so long after the last.
func (p *prober) again(c *check, after time.Duration) {
	c.due = together(time.Now().Add(after), after)
	p.rt.timers.Set(&c.timer, c.due)
}

// outcome takes what came of a probe.
func (p *prober) outcome(c *check, report *ProbeReport) {
	h := &c.r.cfg.Health
	p.over(c)
	snap := c.b.Snapshot()
	if snap.Status != status.Running || c.disturbed && !report.Healthy {
		p.again(c, h.Interval)
		return // it is paused or asked to end, or was paused meanwhile
	}
	report.Kind, report.At = h.Kind(), time.Now()
	switch {
	case report.Healthy || report.Reason != "":
	case report.TimedOut:
		report.Reason = fmt.Sprintf("timed out after %s", h.Timeout)
	default:
		report.Reason = fmt.Sprintf("exit status %d", report.ExitCode)
	}
	p.rt.metrics.probed(report)
	c.nameListener(report)
	c.r.probe.Store(report)
	now, after := snap.Health, h.Interval
	if report.Healthy {
		c.failures, now = 0, status.Healthy
	} else if snap.Health == status.HealthStarting && c.began.elapsed() < h.StartPeriod {
		after = c.sooner()
	} else if c.failures++; c.failures >= h.Retries {
		now = status.Unhealthy
	}
	if now != snap.Health {
		c.b.healthIs(c.r, now, report)
	}
	if after == h.Interval && h.Pings() && report.At.Before(c.due) {
		p.rt.timers.Set(&c.timer, c.due)
		return
	}
	p.again(c, after)
}

// tellLog says that a log has grown, and asks to be told of it again.
func (p *prober) tellLog(c *check) {
	if o := p.rt.opt.Observer; o != nil {
		o.BoxChanged(c.b, FieldLog)
	}
	p.rt.timers.Set(&c.log, time.Now().Add(logPause))
}

func (p *prober) askLog(c *check) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.checks[c.r] != c || c.line < 0 {
		return
	}
	if errno := epoll.Send(c.line, wire.LineCall{Op: wire.LineLog}.Append(nil)); errno != 0 && errno != unix.EPIPE {
		p.rt.timers.Set(&c.log, time.Now().Add(probeMargin)) // it has more to read than it can take
	}
}

// healthIs says how a running box is.
func (b *Box) healthIs(r *run, h status.Health, report *ProbeReport) {
	changed := false
	if err := b.update("health", func(t *tx) error {
		if b.run != r || t.Status != status.Running || t.Health == h {
			return nil
		}
		changed = true
		t.Health = h
		r.setWell(h == status.Healthy, momentOf(report.At))
		if h == status.Unhealthy {
			t.why = " " + report.words()
		}
		return nil
	}); err != nil && !errors.Is(err, ErrRemoved) {
		b.log("health").WithError(err).Error("health not told")
	}
	if !changed {
		return
	}
	b.log("health").WithField("health", h).Info("health changed")
	b.saveSoon()
	if h == status.Unhealthy && r.cfg.Health.OnUnhealthy == "restart" {
		go b.bounce(r)
	}
}

// words tells a failed probe in the form of an event's detail.
func (r *ProbeReport) words() string {
	if r.TimedOut {
		return "probe=" + r.Kind + " timeout"
	}
	return "probe=" + r.Kind + " exit_code=" + strconv.Itoa(r.ExitCode)
}

// lookAfter begins what a running box needs besides the watch over its shim.
func (b *Box) lookAfter(r *run, adopted bool) {
	b.rt.prober.watch(b, r, adopted)
	b.limitLife(r)
}

// neglect ends what lookAfter began.
func (b *Box) neglect(r *run) {
	b.rt.prober.forget(r)
	b.rt.timers.Stop(&r.expiry)
	b.rt.timers.Stop(&r.adoption)
}

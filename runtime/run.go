package runtime

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/reaper/procfs"
	"github.com/boxlitefs/boxlite/runtime/atomicfile"
	"github.com/boxlitefs/boxlite/runtime/cgroup"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/epoll"
	"github.com/boxlitefs/boxlite/runtime/fault"
	"github.com/boxlitefs/boxlite/runtime/oci"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// run is one run of a box: from the start command to the proof that nothing of
// it is left.
type run struct {
	n     int
	id    string
	cfg   *config.Config
	text  []byte // of cfg
	since moment // when it was asked for

	proc     *reaper.Process // the shim; set under the box's mu, nil before the fork
	forked   chan struct{}   // closed when proc is set or will never be
	launched chan struct{}   // closed when it is decided whether the command runs
	failure  error           // why it does not; valid once launched is closed
	began    *Completion     // of the start command
	said     string          // what its recovery complained of

	group *cgroup.Group // nil on a host without cgroups
	// firstID is the host's id that is 0 in the container of the run; 0 for none.
	firstID uint32
	// layers are those of its image, by the inode numbers of their directories.
	layers []uint64
	filter *oci.FilterKey // of a seccomp filter that is to be learnt
	// effective is what its container is made of; set before the fork.
	effective *Effective
	// overlay is what is held of the container's root; set before ended can be called.
	overlay overlayHold
	before  *run // the run before, as long as this one has not begun; nil if there was none
	// prepare ends with the run's preparations, and giveUp ends them.
	prepare context.Context
	giveUp  context.CancelFunc
	// guard ends the goroutine of guardFrozen, if there is one.
	guard atomic.Pointer[context.CancelFunc]

	feed logFeed
	// asking makes one step of a request to the shim and of saying what came of
	// it: else the last of two may be done first.
	asking sync.Mutex

	// Under the box's mu.
	killed    bool   // it must not be let go any more
	final     bool   // it is to end, and not to be started again
	asked     string // what asked last for its end; see Command.cause
	bounced   bool   // it is to end because it is unhealthy
	again     bool   // nobody but its restart policy asked for it
	rebooted  bool   // the machine was booted since it began
	resumed   bool   // an earlier daemon was asked to restart the box
	wellSince moment // since when it has been healthy; 0: it is not
	wasCalm   bool   // it has been for long enough

	expired string // why its time is over, once it is

	struck   atomic.Pointer[time.Time] // when it was force-stopped
	expiry   epoll.Timer
	adoption epoll.Timer // of an adopted run whose shim is to be asked for its execs again
	// taking is held by who takes the end of the run from its shim, which sets told.
	taking sync.Mutex
	told   atomic.Pointer[wire.ExitRecord]
	probe  atomic.Pointer[ProbeReport] // of the last probe
	// listener is who was found to listen where this box should.
	listener atomic.Pointer[listener]

	over sync.Once // the end of the run is told
	// accounted is closed when the end was told, and written as far as it could be.
	accounted chan struct{}
	gone      chan struct{} // closed when the shim is proven gone
	done      chan struct{} // closed when the end of the run was published
	code      int           // exit code; valid once done is closed
}

func newRun(n int, id string, cfg *config.Config, text []byte) *run {
	r := &run{
		n: n, id: id, cfg: cfg, text: text, since: bootTime(),
		forked: make(chan struct{}), launched: make(chan struct{}),
		began: newCompletion(), accounted: make(chan struct{}), gone: make(chan struct{}), done: make(chan struct{}), code: -1,
	}
	r.prepare, r.giveUp = context.WithCancel(context.Background())
	return r
}

// cgroup returns the run's group; a nil run has none.
func (r *run) cgroup() *cgroup.Group {
	if r == nil {
		return nil
	}
	return r.group
}

// Run is a handle on one run of a box, as the waiting files need it.
type Run struct{ r *run }

// Run returns the run that goes on in the snapshot; ok is false if none does.
func (s *Snapshot) Run() (Run, bool) {
	return Run{s.run}, s.Status.Active() && s.run != nil
}

// Done is closed when the run has ended.
func (r Run) Done() <-chan struct{} { return r.r.done }

// ExitCode returns the exit code of a run that is done.
func (r Run) ExitCode() int { return r.r.code }

// launch carries out a start that was accepted.
func (b *Box) launch(r *run) {
	began := time.Now()
	h, err := b.fork(r)
	close(r.forked)
	if err == nil && h != nil {
		err = h.Begin()
		fault.Point("start.begun")
		if err == nil || errors.Is(err, syscall.EPIPE) {
			// A shim that takes no orders is dead, which WaitStarted has words for.
			err = h.WaitStarted(context.Background())
		}
		h.Close()
	}
	if err == nil && h != nil {
		b.holdOverlay(r)
		fault.Point("start.executed")
		b.learnFilter(r)
		err := b.update("start", func(t *tx) error {
			if t.Status == status.Starting {
				t.Status = status.Running
				if r.cfg.Health.Pings() {
					t.Health = status.Healthy // the shim has just said that the command is alive
				}
				r.setWell(t.Health != status.HealthStarting, bootTime())
			}
			return nil
		})
		if err != nil {
			b.log("start").WithError(err).Error("started, but cannot be said to run")
		}
		fault.Point("start.running")
		took := time.Since(began)
		b.lookAfter(r, false)
		r.began.complete(nil)
		close(r.launched)
		b.log("start").WithField("took", took.String()).Info("running")
		return
	}
	if err == nil {
		err = fmt.Errorf("%w by a stop or kill", ErrCanceled)
	}
	r.failure = explainTasks(ExplainFiles(err))
	if r.proc == nil {
		close(r.launched)
		b.ended(r, reaper.Exit{Outcome: reaper.AlreadyGone, Code: -1, At: time.Now()})
		return
	}
	// The shim ends by itself after a failed start; one that hangs must not.
	if kerr := r.proc.Kill(); kerr != nil {
		b.log("start").WithError(kerr).Error("shim of a failed start not killed")
	}
	close(r.launched)
}

// fork starts the run's shim, which runs nothing before Begin, and puts it on
// record and under watch. It returns no handle and no error if the run was
// killed meanwhile.
func (b *Box) fork(r *run) (*client.Handle, error) {
	if err := b.dismissKeeper(r); err != nil {
		return nil, err
	}
	b.awaitRelease(r)
	spec, err := b.spec(r)
	if r.prepare.Err() != nil {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	root, err := b.pin()
	if err != nil {
		return nil, err
	}
	defer root.Close()
	dir, err := root.Open(".")
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	opt := client.LaunchOptions{Path: b.rt.opt.Shim, Dir: dir, Spec: *spec}
	if spec.DieWithDaemon {
		opt.Hold = b.rt.holdR
	}
	// The cgroup is made while the shim boots, which takes longer. The shim opens
	// it when it gets its orders.
	enclosed := make(chan error, 1)
	go func() { enclosed <- b.enclose(r) }()
	var h *client.Handle
	err = starters.do(func() (err error) {
		h, err = client.Launch(opt)
		return err
	})
	if gerr := <-enclosed; gerr != nil {
		if err == nil {
			err = b.abandon(h, nil)
		}
		return nil, errors.Join(gerr, err)
	}
	if err != nil {
		return nil, err
	}
	fault.Point("start.forked")
	proc, err := reaper.NewChild(b.rt.bootID, h.PID, h.PIDFD)
	if err != nil {
		return nil, b.abandon(h, err)
	}
	if err := b.rt.watcher.Watch(proc, func(e reaper.Exit) { b.rt.background(func() { b.ended(r, e) }) }); err != nil {
		return nil, b.abandon(h, err)
	}
	if err := b.update("start", func(t *tx) error {
		r.proc = proc
		t.PID = h.PID
		if r.effective != nil {
			t.effective = r.effective
		}
		return nil
	}); err != nil {
		h.Close()
		return nil, err
	}
	fault.Point("start.pid")
	b.mu.Lock()
	image := b.record.Image
	b.mu.Unlock()
	err = b.putOnRecord(&shimRecord{
		Version: recordVersion, Run: r.id, Number: r.n, Identity: proc.Identity(), Started: b.Snapshot().Started, Since: r.since, Config: string(r.text), Cgroup: r.group, FirstID: r.firstID, Image: image, Layers: r.layers,
	})
	fault.Point("start.recorded")
	if err != nil {
		h.Close()
		return nil, fmt.Errorf("the run cannot be put on record: %w", err)
	}
	b.mu.Lock()
	killed := r.killed
	b.mu.Unlock()
	if killed {
		h.Close()
		return nil, nil
	}
	return h, nil
}

// enclose makes the cgroup of a run, with the limits of the latest configuration.
func (b *Box) enclose(r *run) error {
	b.config.Lock()
	defer b.config.Unlock()
	res := cgroup.Limits(b.Snapshot().Config.Resources)
	err := b.rt.groups.Missing(res)
	if err == nil {
		err = starters.do(func() error { return b.rt.groups.Create(r.group, res) })
	}
	if err == nil {
		err = b.watchOOM(r, res)
	}
	if err != nil {
		return &wire.StartError{Step: wire.StepCgroup, Detail: err.Error()}
	}
	return nil
}

// relimit makes res hold for what runs of the box, and returns what puts the old
// limits back. The caller holds config.
func (b *Box) relimit(res cgroup.Limits) (undo func(), err error) {
	s := b.Snapshot()
	nothing := func() {}
	if _, going := s.Run(); !going || s.Config == nil || cgroup.Limits(s.Config.Resources) == res {
		return nothing, nil
	}
	r, old := s.run, cgroup.Limits(s.Config.Resources)
	b.mu.Lock()
	killed := r.killed
	b.mu.Unlock()
	if killed {
		return nothing, nil // it is to end, and gets all that it takes
	}
	if err := b.rt.groups.Missing(res); err != nil {
		return nil, err
	}
	switch {
	case r.group == nil && res.Asked() != (cgroup.Limits{}):
		return nil, errors.New("resources: what runs has no cgroup: they can be set once it is stopped")
	case !r.group.Made():
		return nothing, nil // it is being started, and waits for this commit
	}
	set := func(res cgroup.Limits) error {
		err := r.group.Limit(res)
		if cgroup.Gone(err) {
			return nil // the run is over
		}
		return err
	}
	back := func() {
		if err := set(old); err != nil {
			b.log("config").WithError(err).Error("the old limits cannot be put back")
		}
	}
	if err := set(res); err != nil {
		back()
		return nil, fmt.Errorf("resources: %w", err)
	}
	fault.Point("group.relimited")
	if old.Memory == 0 {
		if err := b.watchOOM(r, res); err != nil && !cgroup.Gone(err) {
			b.log("config").WithError(err).Warn("OOM kills will be told at the end of the run only")
		}
	}
	return back, nil
}

// putOnRecord writes shim.json.
func (b *Box) putOnRecord(live *shimRecord) error {
	text, err := json.Marshal(live)
	if err != nil {
		return err
	}
	dir, err := b.pin()
	if err != nil {
		return err
	}
	return errors.Join(atomicfile.Replace(dir, shimFile, append(text, '\n'), atomicfile.Atomic), dir.Close())
}

// abandon ends a shim that could not be put under watch. It was not let go, so
// nothing ran.
func (b *Box) abandon(h *client.Handle, err error) error {
	h.Close()
	return errors.Join(err, reaper.Abandon(h.PID, h.PIDFD))
}

// spec turns the run's configuration into what its shim needs. Names are looked
// up here, once a start.
func (b *Box) spec(r *run) (*wire.Spec, error) {
	c := r.cfg
	s := &wire.Spec{
		Box: b.name, Run: r.id,
		Mask:       append([]string{b.rt.opt.State}, b.rt.opt.Mask...),
		StopSignal: c.Stop.SignalFor(""), StopGraceNs: c.Stop.Timeout.Nanoseconds(),
		LogMax: c.Log.MaxSize, DieWithDaemon: !c.Detach, OOMScore: b.rt.opt.OOMScore,
	}
	var err error
	if s.Probe, err = c.Health.Probe(); err != nil {
		return nil, err
	}
	s.Cgroups = r.group.JoinFiles()
	s.Freezer, s.Thaw = r.group.ThawFile()
	if c.Engine == config.EngineContainer {
		return s, b.container(r.prepare, r, s)
	}
	s.Argv, s.Workdir = c.Command, c.Workdir
	s.Hostname, s.PrivateNet = c.Hostname, c.Network == "none"
	s.ReadonlyRoot, s.NoNewPrivs = c.Security.ReadonlyRootfs, c.Security.NoNewPrivileges
	// The host's name services may take longer than the daemon has when it ends.
	ctx, cancel := context.WithCancel(r.prepare)
	defer cancel()
	defer context.AfterFunc(b.rt.life, cancel)()
	who, err := hostUser(ctx, c.User)
	if errors.Is(err, context.Canceled) {
		r.giveUp()
	}
	if err != nil {
		return nil, err
	}
	s.UID, s.GID, s.Groups = who.UID, who.GID, who.Groups
	env := map[string]string{"PATH": oci.DefaultPath, "HOME": who.Home}
	for k, v := range c.Env {
		env[k] = v
	}
	s.Env = oci.Environ(env)
	for _, m := range c.Mounts {
		s.Mounts = append(s.Mounts, wire.Mount{Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly})
	}
	s.Rlimits, err = shimRlimits(c.Rlimits)
	if err != nil {
		return nil, err
	}
	s.Capabilities, s.CapAmbient = c.Security.Capabilities.Mask(b.rt.bounding, s.UID == 0)
	return s, nil
}

// shimRlimits turns limits by name into what setrlimit(2) takes.
func shimRlimits(limits map[string]config.Rlimit) ([]wire.Rlimit, error) {
	var out []wire.Rlimit
	for _, name := range slices.Sorted(maps.Keys(limits)) {
		n, ok := config.RlimitNumber(name)
		if !ok {
			return nil, fmt.Errorf("unknown rlimit %q", name)
		}
		out = append(out, wire.Rlimit{Resource: n, Soft: limits[name].Soft, Hard: limits[name].Hard})
	}
	return out, nil
}

// boundingSet returns the capabilities that the daemon can give at all.
func boundingSet() (uint64, error) {
	status, err := procfs.Self.Status()
	if err != nil {
		return 0, err
	}
	return strconv.ParseUint(status.Field("CapBnd"), 16, 64)
}

// ended is called once a run, when its shim is proven gone. It finds out how the
// run ended, puts that on record, and only then says so; unless the shim has told it
// before, and has stayed for the sake of that.
func (b *Box) ended(r *run, e reaper.Exit) {
	<-r.launched
	b.releaseOverlay(r)
	close(r.gone)
	fault.Point("end.reaped")
	told := true
	r.over.Do(func() {
		told = false
		b.witness(r, e)
	})
	if told {
		b.keeperGone(r, e)
	}
}

// witness finds out how a run has ended whose shim is gone.
func (b *Box) witness(r *run, e reaper.Exit) {
	rec, broken := load(b.dir, wire.RecordName, decodeExit)
	if rec != nil && rec.Run != r.id {
		rec = nil // of an earlier run
	}
	if rec == nil {
		rec = r.told.Load()
	}
	if rec == nil && e.Code == -1 && r.proc != nil {
		b.mu.Lock()
		killed := r.killed
		b.mu.Unlock()
		// The status of an adopted shim is its parent's first. But if it was this
		// daemon that sent the SIGKILL, that need not be waited for.
		if killed {
			e.Code, e.Signal = 128+int(unix.SIGKILL), unix.SIGKILL
		} else {
			e = e.Witness()
		}
	}
	b.account(r, e, rec, broken)
}

// account tells how a run ended, and writes it down.
func (b *Box) account(r *run, e reaper.Exit, rec *wire.ExitRecord, broken error) {
	defer close(r.accounted)
	var done stateRecord
	b.rt.ends.Urgent(func() { done = b.tellEnd(r, e, rec, broken) })
	fault.Point("end.told")
	b.rt.ends.Later(func() {
		if e.Outcome.Gone() {
			b.ungroup(r)
		}
		b.save.Lock()
		defer b.save.Unlock()
		// The next run may have begun: what is written is how this one ended, unless
		// that one has ended too.
		if err := b.writeAll(func(s *stateRecord) {
			if r.n < b.kept {
				return
			}
			b.kept = r.n
			s.Status, s.ExitCode, s.Started, s.Ended, s.LastRun, s.LastNumber = done.Status, done.ExitCode, done.Started, done.Ended, r.id, r.n
			s.CPUUsec, s.OOMKills, s.Remove, s.RestartAt = done.CPUUsec, done.OOMKills, done.Remove, done.RestartAt
			if r.final {
				s.Asked = r.id // also where no policy would have started it again: one may be configured
			}
			if b.run.final {
				s.RestartAt = time.Time{} // a person has cut the backoff short, or ends what came after it
			}
		}); err != nil {
			b.log("reap").WithError(err).Error("end of the run not written down")
			b.saveLater()
		}
	})
	fault.Point("end.saved")
	log := b.log("reap").WithFields(logrus.Fields{"exit_code": done.ExitCode, "outcome": e.Outcome.String()})
	if !e.Outcome.Gone() {
		log = log.WithField("outcome", "told by its shim")
	}
	if done.Status == status.Failed {
		log.WithError(errors.New(done.LastError)).Warn("failed")
	} else {
		log.Info("ended")
	}
	if done.Remove {
		b.removeItself()
	}
}

// tellEnd finds out how a run ended from its exit record, if it left one that is
// not broken, and from what the kernel says of its shim; puts that on record, and
// says so.
func (b *Box) tellEnd(r *run, e reaper.Exit, rec *wire.ExitRecord, broken error) stateRecord {
	used, _, err := r.group.Used()
	if err != nil && !cgroup.Gone(err) {
		b.log("reap").WithError(err).Warn("what the run used is not known")
	}
	v := judge(r, rec, e, used, filepath.Join(b.dir, client.LogFile))
	s := b.Snapshot()
	stopping := s.Status == status.Stopping
	if stopping && !v.supervisor {
		// It was asked to end: that it did is no failure, however it did.
		v.status = status.Stopped
		if r.failure == nil || errors.Is(r.failure, ErrCanceled) {
			v.message = "ok"
		}
	}
	b.mu.Lock()
	if r.expired != "" && v.message == "ok" {
		v.message = r.expired
	}
	b.mu.Unlock()
	if broken != nil {
		v.message = strings.TrimPrefix(v.message+"; "+broken.Error(), "ok; ")
	}
	if r.said != "" && r.said == s.LastError {
		v.message = strings.TrimSuffix(r.said+"; "+v.message, "; ok")
	}
	if rec == nil && v.code >= 0 && !v.supervisor {
		// What the kernel said of the shim is known to this daemon alone. It is
		// put on record before anybody is told, so that no later daemon
		// contradicts it, but not synced: state.json will be, and a power loss in
		// between takes the whole machine's boxes with it.
		if err := b.testify(wire.ExitRecord{Run: r.id, Code: v.code, Signal: int(e.Signal), EndedNs: e.At.UnixNano()}); err != nil {
			b.log("reap").WithError(err).Error("end of the run not put on record")
		}
	}
	fault.Point("end.recorded")
	b.neglect(r)
	b.endExecs()
	done := stateRecord{ExitCode: v.code, Started: s.Started, Ended: e.At, CPUUsec: v.cpu.Microseconds(), OOMKills: used.OOMKills}
	b.mu.Lock()
	cause := r.cause(v, rec, e, used)
	b.mu.Unlock()
	b.rt.metrics.ended(r, e, cause)
	r.endLog(b)
	if err := b.update("reap", func(t *tx) error {
		t.Health = r.left(&v, rec, stopping)
		t.afterwards(b, r, &v, rec, e.At)
		done.Status, done.LastError, done.RestartAt, done.Health = recordedStatus(v.status), oneLine(v.message), t.RestartAt, t.Health
		t.Status, t.ExitCode, t.LastError, t.PID = v.status, done.ExitCode, done.LastError, -1
		t.Ended, t.CPU, t.Pending = done.Ended, v.cpu, false
		t.countOOM(used.OOMKills)
		done.Remove = r.cfg.RemoveOnExit && v.status == status.Stopped && !t.Restarting
		if r.proc != nil && e.Outcome.Gone() {
			t.event("reaped", fmt.Sprintf("pid=%d outcome=%s", r.proc.PID(), e.Outcome))
		}
		return nil
	}); err != nil {
		b.log("reap").WithError(err).Error("ended, but cannot be said to have")
	}
	fault.Point("end.published")
	b.awaitRestart()
	r.code = done.ExitCode
	close(r.done)
	select {
	case <-r.began.done:
	default:
		r.began.complete(b.fail("start", fmt.Errorf("%w: %w", ErrStart, r.failure)))
	}
	return done
}

// ungroup removes the cgroup of a run that is proven gone.
func (b *Box) ungroup(r *run) {
	r.unguard()
	b.rt.oom.Forget(r.group)
	if err := b.rt.groups.Remove(r.group); err != nil {
		b.log("reap").WithError(err).Error("cgroup left: the next start of the box or of the daemon tries again")
	}
}

// testify writes the exit record that a shim could not write.
func (b *Box) testify(rec wire.ExitRecord) error {
	dir, err := b.pin()
	if err != nil {
		return err
	}
	return errors.Join(atomicfile.Replace(dir, wire.RecordName, rec.AppendJSON(nil), atomicfile.None), dir.Close())
}

// removeItself carries out remove_on_exit. A start that came first wins.
func (b *Box) removeItself() {
	err := b.remove(false)
	if err != nil && !errors.Is(err, ErrRemoved) && !errors.Is(err, ErrBusy) {
		b.log("remove_on_exit").WithError(err).Error("not removed")
	}
}

// ending is how a run ended.
type ending struct {
	status  status.Status
	code    int
	message string // for last_error
	cpu     time.Duration
	// supervisor: it ended by its supervisor's own fault.
	supervisor bool
}

// judge finds out how a run ended. The exit record is the one source of the
// code; without one it is what the kernel says of the shim, which has not run
// the command to its end then.
func judge(r *run, rec *wire.ExitRecord, e reaper.Exit, used cgroup.Stats, shimLog string) ending {
	v := ending{status: status.Stopped, code: -1, message: "ok", cpu: e.CPU}
	switch {
	case r.failure != nil:
		v.status, v.message = status.Failed, "start: "+r.failure.Error()
		if failed := new(wire.StartError); errors.As(r.failure, &failed) && failed.Step == wire.StepLaunch && e.Code >= 0 {
			v.message += ", it " + howEnded(e)
		}
		if r.proc != nil && !errors.Is(r.failure, ErrCanceled) {
			v.message += "; its shim's log is " + shimLog
		}
	case rec != nil && rec.Failed != "":
		v.status, v.message = status.Failed, "start: "+rec.Failed+"; its shim's log is "+shimLog
	case rec != nil:
		v.code = rec.Code
		switch {
		case rec.Signal == int(unix.SIGKILL) && used.OOMKills > 0:
			v.message = "the command was killed by the OOM killer: it needed more memory than there was for it (see resources.memory)"
		case rec.Signal != 0:
			v.message = "the command was killed by " + config.SignalName(syscall.Signal(rec.Signal))
			if rec.CoreDumped {
				v.message += " (core dumped)"
			}
		case rec.Code != 0:
			v.message = fmt.Sprintf("the command exited with status %d", rec.Code)
			if used.OOMKills > 0 {
				v.message += fmt.Sprintf("; the OOM killer had killed %d of its processes", used.OOMKills)
			}
		}
		if rec.StoppedBy != "" {
			v.message = "ok"
		}
		v.cpu = time.Duration(rec.CPUUsec) * time.Microsecond
	case e.Signal == unix.SIGKILL:
		v.code, v.message = e.Code, "its shim was killed by SIGKILL, and the whole box with it"
	case e.Code >= 0:
		// It ended without a record, and nobody killed it: its own fault. The
		// exit status of a shim is its command's where it got so far.
		v.status, v.code, v.supervisor = status.Failed, e.Code, true
		v.message = "its shim " + howEnded(e) + " by itself and left no exit record; its log is " + shimLog
	default:
		v.message = "it ended while nobody watched, and left no exit record"
	}
	if used.CPU > 0 {
		v.cpu = used.CPU
	}
	return v
}

// howEnded says in words what the kernel said of a shim.
func howEnded(e reaper.Exit) string {
	if e.Signal != 0 {
		return "was killed by " + config.SignalName(e.Signal)
	}
	return fmt.Sprintf("exited with status %d", e.Code)
}

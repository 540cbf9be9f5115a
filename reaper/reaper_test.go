package reaper

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func bootID(t *testing.T) string {
	t.Helper()
	id, err := BootID()
	must(t, err)
	return id
}

// child starts a command as the daemon starts a shim: with its pidfd, and not to
// be waited for by anybody but a watcher.
func child(t *testing.T, args ...string) *Process {
	t.Helper()
	fd := -1
	path, err := exec.LookPath(args[0])
	must(t, err)
	pid, err := syscall.ForkExec(path, args, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{PidFD: &fd}})
	must(t, err)
	p, err := NewChild(bootID(t), pid, fd)
	must(t, err)
	return p
}

func watcher(t *testing.T) *Watcher {
	t.Helper()
	w, err := NewWatcher()
	must(t, err)
	t.Cleanup(func() { must(t, w.Close()) })
	return w
}

func watch(t *testing.T, w *Watcher, p *Process) <-chan Exit {
	t.Helper()
	ended := make(chan Exit, 1)
	must(t, w.Watch(p, func(e Exit) { ended <- e }))
	return ended
}

func get(t *testing.T, c <-chan Exit) Exit {
	t.Helper()
	select {
	case e := <-c:
		return e
	case <-time.After(10 * time.Second):
		t.Fatal("its end was not noticed")
	}
	return Exit{}
}

func gone(pid int) bool {
	_, err := os.Stat("/proc/" + strconv.Itoa(pid))
	return errors.Is(err, os.ErrNotExist)
}

func TestChildIsReapedWithItsStatus(t *testing.T) {
	w := watcher(t)
	for _, c := range []struct {
		script string
		code   int
		signal unix.Signal
	}{{"exit 0", 0, 0}, {"exit 7", 7, 0}, {"kill -SEGV $$", 139, unix.SIGSEGV}, {"exit 255", 255, 0}} {
		p := child(t, "sh", "-c", c.script)
		e := get(t, watch(t, w, p))
		if e.Outcome != Reaped || e.Code != c.code || e.Signal != c.signal {
			t.Errorf("%q: %+v", c.script, e)
		}
		if !gone(p.PID()) {
			t.Errorf("%q: process %d is still there in state %s", c.script, p.PID(), State(p.PID()))
		}
	}
}

func TestKillAndReapWithinTheDeadline(t *testing.T) {
	w := watcher(t)
	p := child(t, "sleep", "1000")
	ended := watch(t, w, p)
	if e := p.Reap(context.Background(), time.Now()); e.Outcome != TimedOut || e.Outcome.Gone() {
		t.Fatalf("of a living process: %+v", e)
	}
	must(t, p.Kill())
	e := p.Reap(context.Background(), time.Now().Add(5*time.Second))
	if e.Outcome != Reaped || e.Code != 137 || e.Signal != unix.SIGKILL {
		t.Fatalf("%+v", e)
	}
	if get(t, ended).Outcome != Reaped {
		t.Fatal("the callback was told otherwise")
	}
	must(t, p.Kill()) // of one that is gone: nothing
}

func TestReapEndsWithItsContext(t *testing.T) {
	w := watcher(t)
	p := child(t, "sleep", "1000")
	ended := watch(t, w, p)
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if e := p.Reap(ctx, time.Now().Add(time.Hour)); e.Outcome != TimedOut {
		t.Fatalf("%+v", e)
	}
	must(t, p.Kill())
	get(t, ended)
}

// A stopped process is not reaped before its deadline: it stands for one that
// cannot die. The watch goes on after the time-out.
func TestTimedOutIsStillWatched(t *testing.T) {
	w := watcher(t)
	p := child(t, "sleep", "1000")
	ended := watch(t, w, p)
	must(t, syscall.Kill(p.PID(), syscall.SIGSTOP))
	for deadline := time.Now().Add(5 * time.Second); State(p.PID()) != "T"; {
		if time.Now().After(deadline) {
			t.Fatal("it does not stop")
		}
	}
	must(t, syscall.Kill(p.PID(), syscall.SIGTERM)) // stays pending
	if e := p.Reap(context.Background(), time.Now().Add(50*time.Millisecond)); e.Outcome != TimedOut {
		t.Fatalf("%+v", e)
	}
	must(t, syscall.Kill(p.PID(), syscall.SIGCONT))
	if e := get(t, ended); e.Outcome != Reaped || e.Code != 143 {
		t.Fatalf("%+v", e)
	}
}

func TestFindKnowsTheProcessAgain(t *testing.T) {
	w := watcher(t)
	p := child(t, "sleep", "1000")
	ended := watch(t, w, p)
	id := p.Identity()
	q, err := Find(bootID(t), id)
	must(t, err)
	if q.Identity() != id {
		t.Fatalf("%+v is not %+v", q.Identity(), id)
	}
	q.close()
	for name, wrong := range map[string]Identity{
		"another boot":       {BootID: "x", PID: id.PID, Inode: id.Inode, StartTicks: id.StartTicks},
		"another inode":      {BootID: id.BootID, PID: id.PID, Inode: id.Inode + 1, StartTicks: id.StartTicks},
		"another start time": {BootID: id.BootID, PID: id.PID, Inode: id.Inode, StartTicks: id.StartTicks + 1},
		"another pid":        {BootID: id.BootID, PID: os.Getpid(), Inode: id.Inode, StartTicks: id.StartTicks},
		"no pid":             {BootID: id.BootID},
	} {
		if _, err := Find(bootID(t), wrong); !errors.Is(err, ErrGone) {
			t.Errorf("%s: %v", name, err)
		}
	}
	must(t, p.Kill())
	get(t, ended)
	if _, err := Find(bootID(t), id); !errors.Is(err, ErrGone) {
		t.Errorf("after its end: %v", err)
	}
}

// A process that another parent reaps: its end is noticed, and its status is
// witnessed where the kernel tells it.
func TestStrangersEndIsNoticed(t *testing.T) {
	w := watcher(t)
	// The shell stays the parent of the sleep and reaps it.
	cmd := exec.Command("sh", "-c", "sleep 1000 & echo $!; wait")
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	buf := make([]byte, 32)
	n, err := out.Read(buf)
	must(t, err)
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	must(t, err)
	fd, err := unix.PidfdOpen(pid, 0)
	must(t, err)
	id, err := identify(bootID(t), pid, fd)
	must(t, err)
	must(t, unix.Close(fd))
	p, err := Find(bootID(t), id)
	must(t, err)
	ended := watch(t, w, p)
	must(t, p.Kill())
	e := get(t, ended)
	if e.Code != -1 {
		t.Errorf("told before it was asked for: %+v", e)
	}
	e = e.Witness()
	must(t, cmd.Wait())
	if e.Outcome != NotOurChild && e.Outcome != AlreadyGone {
		t.Fatalf("%+v", e)
	}
	told := strings.Contains(strings.Join(Features(), " "), "pidfd.info")
	if told && e.Code != 137 || !told && e.Code != -1 {
		t.Fatalf("the kernel tells: %v; %+v", told, e)
	}
}

// The end is told when the kernel tells it, though the parent takes its time: who
// needs the status waits for that, and not for ever.
func TestStrangersEndIsToldBeforeItIsReaped(t *testing.T) {
	w := watcher(t)
	pid, hint, reap := stranger(t, "exec sleep 1000")
	must(t, unix.Close(hint))
	p := found(t, pid)
	if p.Ended() {
		t.Fatal("a living process has ended")
	}
	again := found(t, pid)
	defer again.close()
	ended := watch(t, w, p)
	began := time.Now()
	must(t, p.Kill())
	e := get(t, ended)
	if took := time.Since(began); took > witnessBound/2 {
		t.Errorf("told after %s", took)
	}
	if e.Outcome != NotOurChild || e.Code != -1 {
		t.Errorf("%+v", e)
	}
	if !again.Ended() {
		t.Error("a zombie has not ended")
	}
	if e = e.Witness(); e.Code != -1 {
		t.Errorf("the status of a zombie is its parent's: %+v", e)
	}
	if took := time.Since(began); took < witnessBound/2 || took > witnessBound+2*time.Second {
		t.Errorf("given up after %s", took)
	}
	reap()
}

func TestManyDeathsCostNoThreads(t *testing.T) {
	w := watcher(t)
	const n = 300
	var procs []*Process
	var ends []<-chan Exit
	for range n {
		p := child(t, "sleep", "1000")
		procs = append(procs, p)
		ends = append(ends, watch(t, w, p))
	}
	threads, err := os.ReadDir("/proc/self/task")
	must(t, err)
	if len(threads) > 50 {
		t.Errorf("%d threads watch %d processes", len(threads), n)
	}
	for _, p := range procs {
		must(t, p.Kill())
	}
	for i, c := range ends {
		if e := get(t, c); e.Outcome != Reaped || e.Code != 137 {
			t.Fatalf("process %d: %+v", i, e)
		}
	}
}

func TestWatcherLetsProcessesLive(t *testing.T) {
	w, err := NewWatcher()
	must(t, err)
	p := child(t, "sleep", "1000")
	must(t, w.Watch(p, func(Exit) { t.Error("told of an end that was none") }))
	must(t, w.Close())
	if gone(p.PID()) {
		t.Fatal("closing the watcher ended the process")
	}
	must(t, syscall.Kill(p.PID(), syscall.SIGKILL))
	_, err = syscall.Wait4(p.PID(), nil, 0, nil)
	must(t, err)
}

func TestAbandonedChildIsGone(t *testing.T) {
	p := child(t, "sleep", "1000")
	must(t, Abandon(p.PID(), p.fd))
	if !gone(p.PID()) {
		t.Fatalf("process %d is in state %s", p.PID(), State(p.PID()))
	}
}

func TestPidOfAThreadIsNoProcess(t *testing.T) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	tids, err := os.ReadDir("/proc/self/task")
	must(t, err)
	for _, e := range tids {
		tid, err := strconv.Atoi(e.Name())
		must(t, err)
		if tid == os.Getpid() {
			continue
		}
		if _, err := Identify(bootID(t), tid); !errors.Is(err, ErrGone) {
			t.Fatalf("thread %d: %v", tid, err)
		}
		return
	}
	t.Fatal("a Go program with one thread")
}

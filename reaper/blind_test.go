package reaper

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// without makes pidfd_open, and pidfd_send_signal too if asked, fail as a seccomp
// filter or an old kernel has them fail.
func without(t *testing.T, errno unix.Errno, signals bool) {
	t.Helper()
	open, send := pidfdOpen, pidfdSendSignal
	t.Cleanup(func() { pidfdOpen, pidfdSendSignal = open, send })
	pidfdOpen = func(int) (int, error) { return -1, errno }
	if signals {
		pidfdSendSignal = func(int, unix.Signal) error { return errno }
	}
}

// stranger starts a process that is no child of this one, with a pipe that hangs
// up when it ends. reap has its parent reap it.
func stranger(t *testing.T, script string) (pid, hint int, reap func()) {
	t.Helper()
	ours, theirs, err := os.Pipe()
	must(t, err)
	// A parent that does not wait before it is told to.
	cmd := exec.Command("python3", "-c", `import os, sys
pid = os.fork()
if pid == 0:
    os.dup2(3, 9); os.set_inheritable(9, True)
    os.execvp("sh", ["sh", "-c", sys.argv[1]])
os.close(3)
print(pid, flush=True)
sys.stdin.readline()
os.waitpid(pid, 0)
`, script)
	cmd.ExtraFiles = []*os.File{theirs}
	in, err := cmd.StdinPipe()
	must(t, err)
	out, err := cmd.StdoutPipe()
	must(t, err)
	must(t, cmd.Start())
	must(t, theirs.Close())
	_, err = fmt.Fscan(out, &pid)
	must(t, err)
	hint, err = unix.FcntlInt(ours.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	must(t, errors.Join(err, ours.Close()))
	reaped := false
	reap = func() {
		t.Helper()
		if !reaped {
			reaped = true
			must(t, in.Close())
			must(t, cmd.Wait())
		}
	}
	t.Cleanup(func() {
		if !reaped {
			_ = unix.Kill(pid, unix.SIGKILL)
			reap()
		}
	})
	return pid, hint, reap
}

func found(t *testing.T, pid int) *Process {
	t.Helper()
	id, err := Identify(bootID(t), pid)
	must(t, err)
	p, err := Find(bootID(t), id)
	must(t, err)
	return p
}

// Without pidfd_open, and without pidfd_send_signal, for any of the errnos.
func everyRefusal(t *testing.T, fn func(t *testing.T)) {
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EPERM} {
		for _, signals := range []bool{false, true} {
			t.Run(fmt.Sprintf("%v signals too: %v", errno, signals), func(t *testing.T) {
				without(t, errno, signals)
				fn(t)
			})
		}
	}
}

func TestBlindIsKilledAndItsEndNoticed(t *testing.T) {
	everyRefusal(t, func(t *testing.T) {
		w := watcher(t)
		pid, hint, reap := stranger(t, "exec sleep 1000")
		p := found(t, pid)
		if !p.Blind() {
			t.Fatal("it sees")
		}
		p.Hint(hint)
		ended := watch(t, w, p)
		if e := p.Reap(context.Background(), time.Now().Add(50*time.Millisecond)); e.Outcome != TimedOut {
			t.Fatalf("while it lives: %+v", e)
		}
		must(t, p.Kill())
		// Its parent does not reap it: it has ended all the same.
		if e := get(t, ended); e.Outcome != NotOurChild || e.Code != -1 {
			t.Fatalf("%+v", e)
		}
		reap()
		must(t, p.Kill())
		if _, err := Find(bootID(t), p.Identity()); !errors.Is(err, ErrGone) {
			t.Fatalf("after its end: %v", err)
		}
	})
}

// Nobody but the hint tells the end of a process that was not killed from here.
func TestHintIsNoticed(t *testing.T) {
	without(t, unix.ENOSYS, true)
	w := watcher(t)
	pid, hint, _ := stranger(t, "exec sleep 1000")
	p := found(t, pid)
	p.Hint(hint)
	ended := watch(t, w, p)
	time.Sleep(100 * time.Millisecond) // the look at the beginning is over
	began := time.Now()
	must(t, unix.Kill(pid, unix.SIGKILL))
	if e := get(t, ended); e.Outcome != NotOurChild {
		t.Fatalf("%+v", e)
	}
	t.Logf("noticed after %s", time.Since(began))
}

// A hint that hangs up before the process has ended proves nothing.
func TestHintProvesNothing(t *testing.T) {
	without(t, unix.ENOSYS, true)
	w := watcher(t)
	pid, hint, reap := stranger(t, "exec 9>&-; exec sleep 1000")
	p := found(t, pid)
	p.Hint(hint)
	ended := watch(t, w, p)
	if e := p.Reap(context.Background(), time.Now().Add(300*time.Millisecond)); e.Outcome != TimedOut {
		t.Fatalf("while it lives: %+v", e)
	}
	must(t, unix.Kill(pid, unix.SIGKILL))
	reap()
	// A look may come between the two.
	if e := get(t, ended); e.Outcome != AlreadyGone && e.Outcome != NotOurChild {
		t.Fatalf("%+v", e)
	}
}

// A blind process that its parent reaped before the watch began.
func TestBlindIsAlreadyGone(t *testing.T) {
	without(t, unix.ENOSYS, true)
	w := watcher(t)
	pid, hint, reap := stranger(t, "exec sleep 1000")
	p := found(t, pid)
	p.Hint(hint)
	must(t, unix.Kill(pid, unix.SIGKILL))
	reap()
	if e := get(t, watch(t, w, p)); e.Outcome != AlreadyGone || e.Code != -1 {
		t.Fatalf("%+v", e)
	}
}

// Without a hint the process is looked at, and at once when it is killed.
func TestBlindWithoutHint(t *testing.T) {
	without(t, unix.EPERM, true)
	w := watcher(t)
	pid, hint, _ := stranger(t, "exec sleep 1000")
	must(t, unix.Close(hint))
	p := found(t, pid)
	ended := watch(t, w, p)
	time.Sleep(300 * time.Millisecond)
	must(t, p.Kill())
	began := time.Now()
	get(t, ended)
	if took := time.Since(began); took > 200*time.Millisecond {
		t.Errorf("its end was noticed after %s", took)
	}
}

// What a hint's other end says wakes nobody.
func TestHintMaySpeak(t *testing.T) {
	without(t, unix.ENOSYS, false)
	w := watcher(t)
	pid, hint, _ := stranger(t, "echo said >&9; exec sleep 1000")
	p := found(t, pid)
	p.Hint(hint)
	ended := watch(t, w, p)
	before := cpuTime(t)
	time.Sleep(300 * time.Millisecond)
	if used := cpuTime(t) - before; used > 150*time.Millisecond {
		t.Errorf("%s of processor time in 300 ms", used)
	}
	must(t, p.Kill())
	get(t, ended)
}

func cpuTime(t *testing.T) time.Duration {
	t.Helper()
	var ru unix.Rusage
	must(t, unix.Getrusage(unix.RUSAGE_SELF, &ru))
	return time.Duration(ru.Utime.Nano() + ru.Stime.Nano())
}

// A leader that has exited is a zombie while its threads live on: the process has
// not ended.
func TestZombieLeaderHasNotEnded(t *testing.T) {
	without(t, unix.ENOSYS, true)
	w := watcher(t)
	pid, hint, _ := stranger(t, `exec python3 -c "
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).syscall(60, 0)"`)
	await(t, "the leader to exit", func() bool { return State(pid) == "Z" })
	p := found(t, pid)
	p.Hint(hint)
	ended := watch(t, w, p)
	if e := p.Reap(context.Background(), time.Now().Add(200*time.Millisecond)); e.Outcome != TimedOut {
		t.Fatalf("while a thread lives: %+v", e)
	}
	must(t, p.Kill())
	get(t, ended)
}

// A child keeps its pidfd from clone(2), which no filter has refused: it is killed
// and reaped with its status.
func TestChildNeedsNoPidfdOpen(t *testing.T) {
	everyRefusal(t, func(t *testing.T) {
		w := watcher(t)
		p := child(t, "sleep", "1000")
		if p.Blind() {
			t.Fatal("a child is blind")
		}
		ended := watch(t, w, p)
		must(t, p.Kill())
		if e := get(t, ended); e.Outcome != Reaped || e.Code != 137 {
			t.Fatalf("%+v", e)
		}
		must(t, p.Kill())
		q := child(t, "sleep", "1000")
		must(t, Abandon(q.PID(), q.fd))
		if !gone(q.PID()) {
			t.Fatal("the abandoned child is there")
		}
	})
}

// A child that is found blind, because this process has replaced its own image, has
// its status taken.
func TestBlindChildIsReaped(t *testing.T) {
	without(t, unix.ENOSYS, true)
	w := watcher(t)
	c := child(t, "sh", "-c", "sleep 0.2; exit 7")
	defer c.close()
	e := get(t, watch(t, w, found(t, c.PID())))
	if e.Outcome != Reaped || e.Code != 7 || !gone(c.PID()) {
		t.Fatalf("%+v", e)
	}
}

// pidfd_open is there, pidfd_send_signal is not.
func TestKillWithoutPidfdSendSignal(t *testing.T) {
	send := pidfdSendSignal
	t.Cleanup(func() { pidfdSendSignal = send })
	pidfdSendSignal = func(int, unix.Signal) error { return unix.ENOSYS }
	w := watcher(t)
	pid, hint, reap := stranger(t, "exec sleep 1000")
	must(t, unix.Close(hint))
	p := found(t, pid)
	if p.Blind() {
		t.Fatal("it is blind")
	}
	again := found(t, pid)
	defer again.close()
	ended := watch(t, w, p)
	must(t, p.Kill())
	if e := get(t, ended); e.Outcome != NotOurChild {
		t.Fatalf("%+v", e)
	}
	reap()
	heir := childWithPid(t, pid, "sleep 0.1; exit 9")
	must(t, again.Kill()) // of the one that is gone
	spared(t, heir)
	if slices.Contains(Features(), "pidfd") {
		t.Error("pidfd is a feature")
	}
}

// spared checks that nobody has killed a shell that exits with 9.
func spared(t *testing.T, heir *exec.Cmd) {
	t.Helper()
	err := heir.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 9 {
		t.Errorf("the heir of the pid was signalled: %v", err)
	}
}

// A blind process that is gone is not signalled when its pid is another's, by
// whichever road the signal goes.
func TestBlindKillSparesTheHeir(t *testing.T) {
	everyRefusal(t, func(t *testing.T) {
		pid, hint, reap := stranger(t, "exec sleep 1000")
		must(t, unix.Close(hint))
		p := found(t, pid)
		defer p.close()
		must(t, unix.Kill(pid, unix.SIGKILL))
		reap()
		heir := childWithPid(t, pid, "sleep 0.1; exit 9")
		must(t, p.Kill())
		spared(t, heir)
	})
}

func TestBlindIdentity(t *testing.T) {
	pid, hint, _ := stranger(t, "exec sleep 1000")
	must(t, unix.Close(hint))
	seen, err := Identify(bootID(t), pid) // with all there is
	must(t, err)
	without(t, unix.EPERM, true)
	id, err := Identify(bootID(t), pid)
	must(t, err)
	if id.Inode != 0 || id.StartTicks != seen.StartTicks {
		t.Fatalf("%+v, not %+v", id, seen)
	}
	// What a daemon with pidfds has put on record is found by one without.
	p, err := Find(bootID(t), seen)
	must(t, err)
	if p.Identity() != seen {
		t.Errorf("%+v, not %+v", p.Identity(), seen)
	}
	p.close()
	wrong := seen
	wrong.StartTicks++
	if _, err := Find(bootID(t), wrong); !errors.Is(err, ErrGone) {
		t.Errorf("another start time: %v", err)
	}
	tids, err := os.ReadDir("/proc/self/task")
	must(t, err)
	for _, e := range tids {
		tid := 0
		_, err := fmt.Sscan(e.Name(), &tid)
		must(t, err)
		if _, err := Identify(bootID(t), tid); tid != os.Getpid() && !errors.Is(err, ErrGone) {
			t.Errorf("thread %d: %v", tid, err)
		}
	}
	if got := Features(); len(got) != 0 {
		t.Errorf("features %v", got)
	}
}

// And the other way round.
func TestBlindRecordIsFoundByPidfd(t *testing.T) {
	pid, hint, _ := stranger(t, "exec sleep 1000")
	must(t, unix.Close(hint))
	id, err := Identify(bootID(t), pid)
	must(t, err)
	id.Inode = 0
	p, err := Find(bootID(t), id)
	must(t, err)
	defer p.close()
	if p.Blind() || p.Identity().StartTicks != id.StartTicks {
		t.Errorf("%+v", p.Identity())
	}
}

// Other errors of pidfd_open are no refusal: the machine is out of something, and
// nothing is known of the process.
func TestOutOfDescriptorsIsNoRefusal(t *testing.T) {
	without(t, unix.EMFILE, false)
	id := Identity{BootID: bootID(t), PID: os.Getpid()}
	if _, err := Find(id.BootID, id); !errors.Is(err, unix.EMFILE) {
		t.Errorf("find: %v", err)
	}
	if _, err := Identify(id.BootID, id.PID); !errors.Is(err, unix.EMFILE) {
		t.Errorf("identify: %v", err)
	}
}

func TestClosedWatcherLetsTheBlindLive(t *testing.T) {
	without(t, unix.ENOSYS, true)
	for _, hinted := range []bool{true, false} {
		w, err := NewWatcher()
		must(t, err)
		pid, hint, _ := stranger(t, "exec sleep 1000")
		p := found(t, pid)
		if hinted {
			p.Hint(hint)
		} else {
			must(t, unix.Close(hint))
		}
		must(t, w.Watch(p, func(Exit) { t.Error("told of an end that was none") }))
		must(t, w.Close())
		if gone(pid) || State(pid) == "Z" {
			t.Errorf("it is %s", State(pid))
		}
		if p.fd != -1 || p.hint != -1 {
			t.Errorf("descriptors %d, %d are left", p.fd, p.hint)
		}
	}
}

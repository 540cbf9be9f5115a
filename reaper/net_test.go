package reaper

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// spread spreads a net whose looks are close to each other, which makes every race
// likelier, and returns what it sweeps.
func spread(t *testing.T, w *Watcher, first time.Duration) (*Net, func() map[int]Swept) {
	t.Helper()
	must(t, canTellOwned())
	var mu sync.Mutex
	got := map[int]Swept{}
	n := newNet(w, func(all []Swept) {
		mu.Lock()
		defer mu.Unlock()
		for _, s := range all {
			if _, twice := got[s.PID]; twice {
				t.Logf("pid %d was swept twice", s.PID)
			}
			got[s.PID] = s
		}
	})
	n.first = first
	go n.run()
	t.Cleanup(n.Close)
	return n, func() map[int]Swept {
		mu.Lock()
		defer mu.Unlock()
		out := make(map[int]Swept, len(got))
		for k, v := range got {
			out[k] = v
		}
		return out
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("gave up waiting for %s", what)
		}
	}
}

// orphans makes orphans of this process that end as the script says, and returns
// their pids. They end only when their parent has.
func orphans(t *testing.T, n int, script string) []int {
	t.Helper()
	hold, let, err := os.Pipe()
	must(t, err)
	cmd := exec.Command("sh", "-c", fmt.Sprintf("i=0; while [ $i -lt %d ]; do sh -c 'read x <&3; %s' >&- 2>&- & echo $!; i=$((i+1)); done", n, script))
	cmd.ExtraFiles = []*os.File{hold}
	out, err := cmd.Output()
	must(t, errors.Join(err, hold.Close(), let.Close()))
	var pids []int
	for word := range strings.FieldsSeq(string(out)) {
		pid, err := strconv.Atoi(word)
		must(t, err)
		pids = append(pids, pid)
	}
	if len(pids) != n {
		t.Fatalf("%d orphans, not %d", len(pids), n)
	}
	return pids
}

func orphan(t *testing.T, script string) int {
	t.Helper()
	return orphans(t, 1, script)[0]
}

func TestOrphansAreSwept(t *testing.T) {
	_, swept := spread(t, watcher(t), firstLook)
	for _, c := range []struct {
		script string
		code   int
		signal unix.Signal
	}{{"exit 0", 0, 0}, {"exit 7", 7, 0}, {"kill -KILL $$", 137, unix.SIGKILL}, {"sleep 0.3; exit 5", 5, 0}} {
		pid := orphan(t, c.script)
		await(t, "the orphan of "+c.script+" to go", func() bool { return gone(pid) })
		await(t, "it to be told", func() bool { _, ok := swept()[pid]; return ok })
		if s := swept()[pid]; s.Code != c.code || s.Signal != c.signal || s.PID != pid || s.Name != "sh" {
			t.Errorf("%q: %+v", c.script, s)
		}
	}
}

// A zombie that was there before the net.
func TestOldZombieIsSwept(t *testing.T) {
	pid := orphan(t, "exit 3")
	await(t, "a zombie", func() bool { return State(pid) == "Z" })
	n, swept := spread(t, watcher(t), firstLook)
	await(t, "the zombie to go", func() bool { return gone(pid) })
	await(t, "it to be told", func() bool { return n.Count() == 1 })
	if s := swept()[pid]; s.Code != 3 {
		t.Errorf("%+v", s)
	}
}

// More zombies than one look holds.
func TestManyOrphansAreSwept(t *testing.T) {
	const many = 2*sweepMax + 7
	n, swept := spread(t, watcher(t), firstLook)
	pids := orphans(t, many, "exit 4")
	await(t, "all to be swept", func() bool { return n.Count() == many })
	for _, pid := range pids {
		if s := swept()[pid]; s.Code != 4 || !gone(pid) {
			t.Errorf("%d: %+v, in state %s", pid, s, State(pid))
		}
	}
}

// The net takes no status of os/exec, whether that waits early or late, and none
// of a child that was born with a pidfd and is not under watch yet, while orphans
// come in between.
func TestNetStealsNothing(t *testing.T) {
	w := watcher(t)
	n, swept := spread(t, w, time.Millisecond)
	const each = 150
	var wg sync.WaitGroup
	slots := make(chan struct{}, 40)
	run := func(fn func()) {
		slots <- struct{}{}
		wg.Go(func() { fn(); <-slots })
	}
	left := map[int]int{}
	for i := range each {
		code := i%200 + 1
		run(func() { // waited for at once
			err := exec.Command("sh", "-c", fmt.Sprint("exit ", code)).Run()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != code {
				t.Errorf("early: %v, not %d", err, code)
			}
		})
		run(func() { // waited for when it has long been a zombie
			cmd := exec.Command("sh", "-c", fmt.Sprint("exit ", code))
			if err := cmd.Start(); err != nil {
				t.Error(err)
				return
			}
			await(t, "a zombie", func() bool { return zombie(unix.P_PID, cmd.Process.Pid) })
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
			err := cmd.Wait()
			var exit *exec.ExitError
			if !errors.As(err, &exit) || exit.ExitCode() != code {
				t.Errorf("late: %v, not %d", err, code)
			}
		})
		run(func() { // as client.Launch does
			fd := -1
			pid, err := syscall.ForkExec("/bin/sh", []string{"sh", "-c", fmt.Sprint("exit ", code)}, &syscall.ProcAttr{Sys: &syscall.SysProcAttr{PidFD: &fd}})
			if err != nil {
				t.Error(err)
				return
			}
			await(t, "a zombie", func() bool { return zombie(unix.P_PID, pid) })
			time.Sleep(time.Duration(rand.IntN(30)) * time.Millisecond)
			p, err := NewChild("", pid, fd)
			if err != nil {
				t.Error(err)
				return
			}
			if e := get(t, watch(t, w, p)); e.Outcome != Reaped || e.Code != code {
				t.Errorf("between fork and watch: %+v, not %d", e, code)
			}
		})
		if i%3 == 0 {
			left[orphan(t, fmt.Sprint("exit ", code))] = code
		}
	}
	wg.Wait()
	for pid, code := range left {
		await(t, "an orphan to be told", func() bool { return swept()[pid].PID != 0 })
		if s := swept()[pid]; s.Code != code {
			t.Errorf("orphan: %+v, not %d", s, code)
		}
	}
	if got := n.Count(); got != uint64(len(left)) {
		t.Errorf("%d swept, of %d orphans", got, len(left))
	}
}

// A child whose owner gives it up after it has ended is swept: no signal tells of
// that.
func TestGivenUpIsSwept(t *testing.T) {
	n, swept := spread(t, watcher(t), 10*time.Millisecond)
	cmd := exec.Command("sh", "-c", "exit 6")
	must(t, cmd.Start())
	pid := cmd.Process.Pid
	await(t, "a zombie", func() bool { return State(pid) == "Z" })
	time.Sleep(100 * time.Millisecond) // it is left alone for several looks
	if n.Count() != 0 || State(pid) != "Z" {
		t.Fatalf("%d swept; %s", n.Count(), State(pid))
	}
	must(t, cmd.Process.Release())
	await(t, "it to go", func() bool { return gone(pid) })
	await(t, "it to be told", func() bool { return swept()[pid].Code == 6 })
}

// Between the decision and the reaping the zombie is reaped by another, and its pid
// given to a child that has ended too: that one's status stays.
func TestReusedPidIsNotSwept(t *testing.T) {
	w := watcher(t)
	must(t, canTellOwned())
	n := newNet(w, func(all []Swept) { t.Errorf("swept %+v", all) })
	close(n.stopped)
	t.Cleanup(n.Close)
	pid := orphan(t, "exit 3")
	await(t, "a zombie", func() bool { return State(pid) == "Z" })
	var heir *exec.Cmd
	n.decided = func() {
		must(t, unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED, nil))
		heir = childWithPid(t, pid, "exit 9")
		await(t, "the heir of the pid to end", func() bool { return zombie(unix.P_PID, pid) })
	}
	n.look()
	if heir == nil {
		t.Fatal("the orphan was not about to be swept")
	}
	err := heir.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != 9 {
		t.Errorf("the status of the heir: %v", err)
	}
}

// childWithPid starts a shell with a certain pid that is free.
func childWithPid(t *testing.T, pid int, script string) *exec.Cmd {
	t.Helper()
	for range 1000 {
		must(t, os.WriteFile("/proc/sys/kernel/ns_last_pid", []byte(strconv.Itoa(pid-1)), 0))
		cmd := exec.Command("sh", "-c", script)
		must(t, cmd.Start())
		if cmd.Process.Pid == pid {
			return cmd
		}
		_ = cmd.Process.Kill() // somebody else on the machine forked in between
		_ = cmd.Wait()
	}
	t.Fatal("the pid can't be had")
	return nil
}

// However many die, that costs a look or two; and nothing while none does.
func TestNetLooksSeldom(t *testing.T) {
	w := watcher(t)
	n := newNet(w, func(all []Swept) { t.Errorf("swept %+v", all) })
	n.first = 300 * time.Millisecond
	var looks atomic.Int32
	n.lookedAt = func() { looks.Add(1) }
	go n.run()
	t.Cleanup(n.Close)
	await(t, "the look at the beginning", func() bool { return looks.Load() == 1 })
	const many = 200
	var procs []*Process
	var ends []<-chan Exit
	for range many {
		p := child(t, "sleep", "1000")
		procs = append(procs, p)
		ends = append(ends, watch(t, w, p))
	}
	if got := looks.Load(); got != 1 {
		t.Errorf("%d looks, and no child has ended", got)
	}
	began := time.Now()
	for _, p := range procs {
		must(t, p.Kill())
	}
	for _, c := range ends {
		get(t, c)
	}
	await(t, "a look at what is left", func() bool { return looks.Load() > 1 })
	took := time.Since(began)
	time.Sleep(3 * n.first)
	if got, most := looks.Load()-1, int32(took/n.first)+2; got > most {
		t.Errorf("%d deaths in %s cost %d looks, more than %d", many, took, got, most)
	}
}

// Where package os has no pidfds, what it waits for can't be told from an orphan:
// there is no net then. The tests' own process has pidfds, a child of it has a
// filter that refuses pidfd_open.
func TestNoNetWithoutPidfds(t *testing.T) {
	self, err := os.Executable()
	must(t, err)
	for _, errno := range []unix.Errno{unix.ENOSYS, unix.EPERM, 0} {
		cmd := exec.Command(self)
		cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d", refuseEnv, errno))
		out, err := cmd.CombinedOutput()
		must(t, err)
		if want := map[bool]string{true: "a net\n", false: ErrNoNet.Error()}[errno == 0]; !strings.HasPrefix(string(out), want) {
			t.Errorf("pidfd_open gives %v: %q, not %q", errno, out, want)
		}
	}
}

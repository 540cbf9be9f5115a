package functional

import (
	"os"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/test/daemon"
)

var faultCases = []testCase{
	{"a shim that is missing", shimMissing},
	{"a shim that exits at once", shimExits},
	{"a shim that says nothing", shimHangs},
	{"a shim that is frozen", shimFrozen},
	{"a start that hangs does not hold up the daemon's end", hungStartAtEnd},
}

// fake gives the daemon a shim that is a shell script for the box "odd" and the
// real one for all others.
func fake(t *testing.T, s subject, odd string) {
	t.Helper()
	h := s.home()
	_, real := daemon.Binaries(t)
	s.shut()
	h.Shim = h.File("shim", "#!/bin/sh\nif [ \"$1\" = odd ]; then\n"+odd+"\nfi\nexec "+real+" \"$@\"\n")
	s.open()
}

// undisturbed checks that another box lives a whole life meanwhile, fast.
func undisturbed(t *testing.T, s subject) {
	t.Helper()
	began := time.Now()
	up(t, s, "other", sleeper)
	do(t, s, "other", "stop")
	must(t, "remove", s.remove("other"))
	if took := time.Since(began); took > 3*time.Second {
		t.Errorf("another box took %s", took)
	}
}

func shimMissing(t *testing.T, s subject) {
	fake(t, s, "exit 0")
	box(t, s, "x", sleeper)
	shim := s.home().Shim
	if err := os.Rename(shim, shim+".away"); err != nil {
		t.Fatal(err)
	}
	want(t, "start", try(t, s, "x", "start"), startFailed)
	is(t, s, "x", "status", "failed", "pid", "-1", "exit_code", "-1")
	has(t, s, "x", "last_error", "start", shim)
	if err := os.Rename(shim+".away", shim); err != nil {
		t.Fatal(err)
	}
	do(t, s, "x", "start")
	is(t, s, "x", "status", "running", "last_error", "ok")
	do(t, s, "x", "kill")
}

func shimExits(t *testing.T, s subject) {
	for _, line := range []string{"exit 0", "exit 3", "kill -KILL $$; exit 1", "exec >&-; exit 0"} {
		fake(t, s, line)
		box(t, s, "odd", sleeper)
		want(t, line+": start", try(t, s, "odd", "start"), startFailed)
		is(t, s, "odd", "status", "failed", "pid", "-1", "exit_code", "-1")
		has(t, s, "odd", "last_error", "start", "shim")
		must(t, "remove", s.remove("odd"))
		undisturbed(t, s)
	}
}

func shimHangs(t *testing.T, s subject) {
	fake(t, s, "exec sleep infinity")
	box(t, s, "odd", sleeper)
	for _, line := range []string{"kill", "stop 0s", "stop 200ms", "restart"} {
		t.Log(line)
		started := start(t, s, "odd", "start")
		is(t, s, "odd", "status", "starting")
		daemon.Await(t, "a pid", func() bool { return read(t, s, "odd", "pid") != "-1" })
		pid, ns := pidOf(t, s, "odd"), namespace(t, s, "odd")
		undisturbed(t, s)
		pending(t, "start", started)
		want(t, "remove", s.remove("odd"), busy)
		if line == "restart" {
			end := start(t, s, "odd", "restart 100ms")
			daemon.Await(t, "another pid", func() bool {
				got := read(t, s, "odd", "pid")
				return got != "-1" && pidOf(t, s, "odd") != pid
			})
			vanished(t, pid, ns)
			pid, ns = pidOf(t, s, "odd"), namespace(t, s, "odd")
			do(t, s, "odd", "kill")
			want(t, "restart", ending(t, "restart", end), startFailed)
		} else {
			do(t, s, "odd", line)
		}
		want(t, "start", ending(t, "start", started), startFailed)
		vanished(t, pid, ns)
		is(t, s, "odd", "status", "stopped", "pid", "-1", "exit_code", "-1")
	}
}

func shimFrozen(t *testing.T, s subject) {
	up(t, s, "x", sleeper)
	pid, ns := pidOf(t, s, "x"), namespace(t, s, "x")
	kill(t, pid, unix.SIGSTOP)
	undisturbed(t, s)
	if got := try(t, s, "x", "pause"); got == fine {
		t.Error("pause of a box whose shim does not answer succeeded")
	}
	is(t, s, "x", "status", "running")
	has(t, s, "x", "last_error", "pause")
	s.crash()
	began := time.Now()
	s.open()
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("recovery took %s beside a shim that does not answer", took)
	}
	is(t, s, "x", "status", "running", "pid", read(t, s, "x", "pid"))
	// Its grace is over by the daemon's clock too.
	began = time.Now()
	do(t, s, "x", "stop 100ms")
	if took := time.Since(began); took > 4*time.Second {
		t.Errorf("stop took %s", took)
	}
	ended(t, pid, ns)
	is(t, s, "x", "status", "stopped", "exit_code", "137", "pid", "-1")
}

func hungStartAtEnd(t *testing.T, s subject) {
	fake(t, s, "exec sleep infinity")
	box(t, s, "odd", sleeper)
	up(t, s, "other", sleeper)
	pid := pidOf(t, s, "other")
	start(t, s, "odd", "start")
	daemon.Await(t, "a pid", func() bool { return read(t, s, "odd", "pid") != "-1" })
	s.shut() // fails the test if it is not in order and in time
	s.open()
	is(t, s, "other", "status", "running", "pid", strconv.Itoa(pid))
	do(t, s, "odd", "kill")
	is(t, s, "odd", "pid", "-1")
	do(t, s, "other", "kill")
}

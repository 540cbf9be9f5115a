package functional

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/test/daemon"
)

var lifecycleCases = []testCase{
	{"a box lives, dies and is gone", wholeLife},
	{"names", names},
	{"refusals", refusals},
	{"repeating a command is harmless", repeats},
	{"exit codes", exitCodes},
	{"signals reach the command", signals},
	{"stop has the configured signal and grace", stopRoad},
	{"stop ends by force when its grace is over", stopGrace},
	{"kill cuts a stop short", killCutsStop},
	{"a shorter stop shortens a longer one", stopShortens},
	{"restart", restarts},
	{"a stop wins over a restart", stopWins},
	{"pause and resume", pauses},
	{"a paused box can be stopped and killed", pausedEnds},
	{"start failures", startFailures},
	{"a box with a process is not removed", removeBusy},
	{"a removed name can be used again", recreate},
	{"remove_on_exit", removeOnExit},
	{"owners last", owners},
	{"a shim killed from outside", shimKilled},
	{"a shim asked to end from outside", shimTerminated},
}

func pidOf(t *testing.T, s subject, name string) int {
	t.Helper()
	pid, err := strconv.Atoi(read(t, s, name, "pid"))
	if err != nil {
		t.Fatal(err)
	}
	return pid
}

// namespace returns the pid namespace of a running box.
func namespace(t *testing.T, s subject, name string) string {
	t.Helper()
	pid := pidOf(t, s, name)
	ns, own := daemon.Namespace(t, pid), daemon.Namespace(t, os.Getpid())
	if ns == own {
		t.Fatalf("the shim %d of %s is in the pid namespace of the tests", pid, name)
	}
	return ns
}

// vanished checks that nothing is left of a run, not even a zombie.
func vanished(t *testing.T, pid int, ns string) {
	t.Helper()
	if state := daemon.State(pid); state != "" {
		t.Errorf("the shim %d is still there, in state %s", pid, state)
	}
	if left := daemon.InNamespace(ns); len(left) > 0 {
		t.Errorf("processes of the box are still there: %v", left)
	}
}

func wholeLife(t *testing.T, s subject) {
	must(t, "create", s.create("web"))
	is(t, s, "web", "status", "empty", "health", "none", "pid", "-1", "exit_code", "-1", "last_error", "ok", "config.yaml", "", "log", "")
	text := `command: [sh, -c, "echo hello; exec sleep infinity"]`
	must(t, "configure", s.configure("web", text+"\n"))
	is(t, s, "web", "status", "configured", "pid", "-1", "config.yaml", text)

	do(t, s, "web", "start")
	is(t, s, "web", "status", "running", "health", "healthy", "exit_code", "-1", "last_error", "ok")
	pid, ns := pidOf(t, s, "web"), namespace(t, s, "web")
	if comm := daemon.Comm(pid); comm != "boxlite-shim" {
		t.Errorf("pid %d is %q, not the shim", pid, comm)
	}
	awaitLog(t, s, "web", "hello")

	do(t, s, "web", "stop")
	vanished(t, pid, ns)
	is(t, s, "web", "status", "stopped", "pid", "-1", "exit_code", "143", "last_error", "ok", "log", "hello")

	do(t, s, "web", "start")
	pid, ns = pidOf(t, s, "web"), namespace(t, s, "web")
	do(t, s, "web", "kill")
	vanished(t, pid, ns)
	is(t, s, "web", "status", "stopped", "pid", "-1", "exit_code", "137", "last_error", "ok", "health", "none")
	has(t, s, "web", "info.json", runs(t, s, 2), "sleep infinity")

	var told []string
	for line := range strings.Lines(read(t, s, "web", "events")) {
		f := strings.Fields(line)
		if len(f) < 4 || f[2] != "web" {
			t.Fatalf("event %q", line)
		}
		word := f[3]
		switch word {
		case "status":
			word = strings.TrimPrefix(f[5], "to=")
		case "command":
			word = "!" + f[5]
		}
		told = append(told, word)
	}
	expected := strings.Fields("created configured configured !start starting health running health !stop stopping reaped stopped health " +
		"!start starting health running health !kill stopping reaped stopped health")
	if !slices.Equal(told, expected) {
		t.Errorf("events:\n got %v\nwant %v", told, expected)
	}
	must(t, "remove", s.remove("web"))
	if left := s.names(); len(left) > 0 {
		t.Errorf("boxes after the removal: %v", left)
	}
	_, k := s.read("web", "status")
	want(t, "read of a removed box", k, absent)
	if _, err := os.Lstat(filepath.Join(s.home().State, "boxes", "web")); !os.IsNotExist(err) {
		t.Errorf("directory of the removed box: %v", err)
	}
}

func names(t *testing.T, s subject) {
	long := strings.Repeat("a", 64)
	good := []string{"a", "0", "Z9", "a.b", "a..", "a-b_c.D", long}
	for _, name := range good {
		must(t, "create "+name, s.create(name))
	}
	for _, name := range []string{"-a", "_a", ".a", "a b", "a\nb", "a:b", "ä", "a\x01", long + "a", "a*", "~", "a\\b"} {
		if got := s.create(name); got != invalid {
			t.Errorf("create %q: %s, not %s", name, got, invalid)
		}
		if got := s.lastError(); !strings.Contains(got, "create") || strings.Contains(got, "\n") {
			t.Errorf("last_error after create %q: %q", name, got)
		}
	}
	slices.Sort(good)
	if got := s.names(); !slices.Equal(got, good) {
		t.Errorf("boxes: %q, not %q", got, good)
	}
}

func refusals(t *testing.T, s subject) {
	must(t, "create", s.create("x"))
	want(t, "create again", s.create("x"), exists)
	want(t, "remove of what is not there", s.remove("nosuch"), absent)
	want(t, "configure of what is not there", s.configure("nosuch", sleeper), absent)
	want(t, "start of what is not there", try(t, s, "nosuch", "start"), absent)

	refused := func(line string, k kind, words ...string) {
		t.Helper()
		status := read(t, s, "x", "status")
		want(t, line, try(t, s, "x", line), k)
		has(t, s, "x", "last_error", append(words, `box "x"`, strings.Fields(line)[0])...)
		is(t, s, "x", "status", status)
	}
	refused("start", unconfigured, "config.yaml")
	refused("restart", unconfigured)
	refused("pause", noProcess)
	refused("resume", noProcess)
	refused("signal TERM", noProcess)
	want(t, "an unknown command", try(t, s, "x", "frobnicate"), invalid)
	has(t, s, "x", "last_error", `box "x"`)

	// What is accepted clears the complaint.
	must(t, "configure", s.configure("x", stubborn))
	is(t, s, "x", "last_error", "ok")
	refused("pause", noProcess)
	do(t, s, "x", "start")
	is(t, s, "x", "last_error", "ok")
	awaitLog(t, s, "x", "ready")
	end := start(t, s, "x", "stop 1h")
	is(t, s, "x", "status", "stopping")
	refused("start", busy, "stopping")
	refused("pause", busy)
	do(t, s, "x", "kill")
	must(t, "the stop that was cut short", ending(t, "stop", end))
}

func repeats(t *testing.T, s subject) {
	box(t, s, "x", sleeper)
	for _, line := range []string{"stop", "kill", "stop 0s"} {
		do(t, s, "x", line)
		is(t, s, "x", "status", "configured", "exit_code", "-1")
	}
	do(t, s, "x", "start")
	pid := read(t, s, "x", "pid")
	do(t, s, "x", "start")
	do(t, s, "x", "start")
	is(t, s, "x", "status", "running", "pid", pid)
	if got := count(t, s, "x", "from=configured to=starting"); got != 1 {
		t.Errorf("started %d times, not once", got)
	}
	do(t, s, "x", "pause")
	do(t, s, "x", "pause")
	is(t, s, "x", "status", "paused", "pid", pid)
	do(t, s, "x", "resume")
	do(t, s, "x", "resume")
	is(t, s, "x", "status", "running", "pid", pid)
	do(t, s, "x", "kill")
	events := strings.Count(read(t, s, "x", "events"), " status ")
	for _, line := range []string{"kill", "stop", "stop 1s", "kill"} {
		do(t, s, "x", line)
		is(t, s, "x", "status", "stopped", "exit_code", "137", "pid", "-1", "last_error", "ok")
	}
	if got := strings.Count(read(t, s, "x", "events"), " status "); got != events {
		t.Errorf("commands without effect made %d status events", got-events)
	}
	has(t, s, "x", "info.json", runs(t, s, 1))
}

// runs is how info.json says how often a box was started.
func runs(t *testing.T, s subject, n int) string {
	t.Helper()
	if _, ok := s.(*mount); ok {
		return fmt.Sprintf(`"runs": %d,`, n)
	}
	return fmt.Sprintf(`"runs":%d,`, n)
}

func count(t *testing.T, s subject, name, text string) int {
	t.Helper()
	return strings.Count(read(t, s, name, "events"), text)
}

func exitCodes(t *testing.T, s subject) {
	for _, c := range []struct{ name, script, code, told string }{
		{"zero", "exit 0", "0", "ok"},
		{"three", "exit 3", "3", "the command exited with status 3"},
		{"most", "exit 255", "255", "the command exited with status 255"},
		{"killed", "kill -KILL $$", "137", "the command was killed by SIGKILL"},
		{"termed", "kill -TERM $$", "143", "the command was killed by SIGTERM"},
		{"segv", "ulimit -c 0; kill -SEGV $$", "139", "the command was killed by SIGSEGV"},
	} {
		up(t, s, c.name, script(c.script))
		if got := waits(t, s, c.name, "stopped"); got != c.code {
			t.Errorf("%s: wait/stopped gives %q, not %q", c.name, got, c.code)
		}
		is(t, s, c.name, "status", "stopped", "exit_code", c.code, "last_error", c.told, "pid", "-1")
	}
}

func signals(t *testing.T, s subject) {
	upReady(t, s, "x", script("trap 'echo got' USR1; echo ready; while :; do sleep 0.02; done"))
	for n, line := range []string{"signal USR1", "signal SIGUSR1", "signal 10"} {
		do(t, s, "x", line)
		awaitLog(t, s, "x", strings.Repeat("got\n", n)+"got")
	}
	has(t, s, "x", "events", "signal SIGUSR1")
	do(t, s, "x", "signal KILL")
	if got := waits(t, s, "x", "stopped"); got != "137" {
		t.Errorf("exit code %q after SIGKILL of the command", got)
	}
}

func stopRoad(t *testing.T, s subject) {
	upReady(t, s, "x", script("trap 'exit 7' INT; trap '' TERM; echo ready; while :; do sleep 0.02; done", "stop: {signal: SIGINT, timeout: 10s}\n"))
	do(t, s, "x", "stop")
	is(t, s, "x", "status", "stopped", "exit_code", "7", "last_error", "ok")
}

func stopGrace(t *testing.T, s subject) {
	upReady(t, s, "x", stubborn+"stop: {timeout: 300ms}\n")
	graceful := func(line string, grace time.Duration) {
		t.Helper()
		pid, ns := pidOf(t, s, "x"), namespace(t, s, "x")
		began := time.Now()
		end := start(t, s, "x", line)
		is(t, s, "x", "status", "stopping", "pid", strconv.Itoa(pid))
		must(t, line, ending(t, line, end))
		if took := time.Since(began); took < grace || took > grace+3*time.Second {
			t.Errorf("%s took %s", line, took)
		}
		vanished(t, pid, ns)
		is(t, s, "x", "status", "stopped", "exit_code", "137", "last_error", "ok")
	}
	graceful("stop", 300*time.Millisecond)
	do(t, s, "x", "start")
	awaitLog(t, s, "x", "ready\nready")
	graceful("stop 100ms", 100*time.Millisecond)
}

func killCutsStop(t *testing.T, s subject) {
	upReady(t, s, "x", stubborn)
	pid, ns := pidOf(t, s, "x"), namespace(t, s, "x")
	end := start(t, s, "x", "stop 1h")
	is(t, s, "x", "status", "stopping")
	pending(t, "stop", end)
	began := time.Now()
	do(t, s, "x", "kill")
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("kill took %s beside a stop", took)
	}
	must(t, "the stop", ending(t, "stop", end))
	vanished(t, pid, ns)
	is(t, s, "x", "status", "stopped", "exit_code", "137")
}

func stopShortens(t *testing.T, s subject) {
	upReady(t, s, "x", stubborn)
	long := start(t, s, "x", "stop 1h")
	do(t, s, "x", "stop 50ms")
	must(t, "the longer stop", ending(t, "stop 1h", long))
	is(t, s, "x", "status", "stopped", "exit_code", "137")
}

func restarts(t *testing.T, s subject) {
	up(t, s, "x", sleeper)
	for n, line := range []string{"restart", "restart 0s", "restart 1s"} {
		pid, ns := pidOf(t, s, "x"), namespace(t, s, "x")
		do(t, s, "x", line)
		vanished(t, pid, ns)
		if now := pidOf(t, s, "x"); now == pid || now <= 1 {
			t.Errorf("pid is %d after %s of %d", now, line, pid)
		}
		is(t, s, "x", "status", "running", "last_error", "ok")
		has(t, s, "x", "info.json", runs(t, s, n+2))
	}
	do(t, s, "x", "kill")
	do(t, s, "x", "restart")
	is(t, s, "x", "status", "running")
	do(t, s, "x", "kill")
}

func stopWins(t *testing.T, s subject) {
	for _, line := range []string{"kill", "stop 0s"} {
		upReady(t, s, "x", stubborn)
		restart := start(t, s, "x", "restart 1h")
		do(t, s, "x", line)
		want(t, "the restart that "+line+" overtook", ending(t, "restart", restart), canceled)
		is(t, s, "x", "status", "stopped", "exit_code", "137")
		has(t, s, "x", "info.json", runs(t, s, 1))
		must(t, "remove", s.remove("x"))
	}
}

// states returns the states of a box's processes but its shim.
func states(t *testing.T, s subject, name string) string {
	t.Helper()
	out := ""
	for _, pid := range daemon.InNamespace(namespace(t, s, name)) {
		if pid != pidOf(t, s, name) {
			out += daemon.State(pid)
		}
	}
	return out
}

func pauses(t *testing.T, s subject) {
	upReady(t, s, "x", script("echo ready; sleep infinity & exec sleep infinity"))
	daemon.Await(t, "two processes", func() bool { return states(t, s, "x") == "SS" })
	do(t, s, "x", "pause")
	is(t, s, "x", "status", "paused", "last_error", "ok")
	frozen := func(want bool) {
		t.Helper()
		for _, pid := range daemon.InNamespace(namespace(t, s, "x")) {
			if pid != pidOf(t, s, "x") && daemon.Frozen(t, pid) != want {
				t.Errorf("process %d: frozen is not %v", pid, want)
			}
		}
	}
	frozen(true)
	do(t, s, "x", "resume")
	is(t, s, "x", "status", "running")
	frozen(false)
	do(t, s, "x", "kill")
}

func pausedEnds(t *testing.T, s subject) {
	for _, c := range []struct{ line, code string }{{"kill", "137"}, {"stop", "143"}, {"stop 0s", "137"}} {
		up(t, s, "x", sleeper)
		pid, ns := pidOf(t, s, "x"), namespace(t, s, "x")
		do(t, s, "x", "pause")
		do(t, s, "x", c.line)
		vanished(t, pid, ns)
		is(t, s, "x", "status", "stopped", "exit_code", c.code)
		must(t, "remove", s.remove("x"))
	}
	up(t, s, "x", sleeper)
	do(t, s, "x", "pause")
	do(t, s, "x", "restart")
	is(t, s, "x", "status", "running")
	do(t, s, "x", "kill")
}

func startFailures(t *testing.T, s subject) {
	plain := s.home().File("plain", "text")
	if err := os.Chmod(plain, 0o644); err != nil {
		t.Fatal(err)
	}
	garbage := s.home().File("garbage", "\x00\x01\x02\x03")
	for _, c := range []struct {
		name, config string
		words        []string
	}{
		{"unknown", "command: [no-such-command]\n", []string{"no-such-command", "not found"}},
		{"missing", "command: [/no/such/file]\n", []string{"/no/such/file"}},
		{"directory", "command: [/tmp]\n", []string{"/tmp"}},
		{"plain", "command: [" + plain + "]\n", []string{plain}},
		{"garbage", "command: [" + garbage + "]\n", []string{garbage}},
		{"workdir", sleeper + "workdir: /no/such/dir\n", []string{"/no/such/dir", "no such file"}},
		{"user", sleeper + "user: no-such-user\n", []string{"no-such-user"}},
		{"group", sleeper + "user: root:no-such-group\n", []string{"no-such-group"}},
		{"source", sleeper + "mounts: [{source: /no/such/source, target: /mnt}]\n", []string{"/no/such/source"}},
		{"target", sleeper + "mounts: [{source: /tmp, target: /no/such/target}]\n", []string{"/no/such/target"}},
	} {
		box(t, s, c.name, c.config)
		want(t, c.name+": start", try(t, s, c.name, "start"), startFailed)
		is(t, s, c.name, "status", "failed", "pid", "-1", "exit_code", "-1")
		has(t, s, c.name, "last_error", append(c.words, "start")...)
		if got := waits(t, s, c.name, "stopped"); got != "-1" {
			t.Errorf("%s: wait/stopped gives %q", c.name, got)
		}
		// It can be put right.
		must(t, c.name+": configure", s.configure(c.name, sleeper))
		is(t, s, c.name, "status", "configured", "last_error", "ok")
		do(t, s, c.name, "start")
		do(t, s, c.name, "kill")
		must(t, "remove", s.remove(c.name))
	}
}

func removeBusy(t *testing.T, s subject) {
	upReady(t, s, "x", stubborn)
	refused := func() {
		t.Helper()
		want(t, "remove", s.remove("x"), busy)
		has(t, s, "x", "last_error", "remove", "kill it first")
	}
	refused()
	do(t, s, "x", "pause")
	refused()
	do(t, s, "x", "resume")
	end := start(t, s, "x", "stop 1h")
	refused()
	is(t, s, "x", "status", "stopping")
	do(t, s, "x", "kill")
	must(t, "the stop", ending(t, "stop", end))
	must(t, "remove", s.remove("x"))
}

func recreate(t *testing.T, s subject) {
	up(t, s, "x", script("echo old; exit 4"))
	waits(t, s, "x", "stopped")
	must(t, "remove", s.remove("x"))
	must(t, "create again", s.create("x"))
	is(t, s, "x", "status", "empty", "pid", "-1", "exit_code", "-1", "last_error", "ok", "config.yaml", "", "log", "", "health", "none")
	if got := read(t, s, "x", "events"); strings.Count(got, "\n") != 0 || !strings.Contains(got, "created") {
		t.Errorf("events of the new box:\n%s", got)
	}
	want(t, "start", try(t, s, "x", "start"), unconfigured)
	must(t, "configure", s.configure("x", script("echo new")))
	do(t, s, "x", "start")
	waits(t, s, "x", "stopped")
	is(t, s, "x", "log", "new", "exit_code", "0")
	trash := filepath.Join(s.home().State, "trash")
	daemon.Await(t, "an empty trash", func() bool {
		left, err := os.ReadDir(trash)
		return err == nil && len(left) == 0
	})
}

func removeOnExit(t *testing.T, s subject) {
	box(t, s, "x", sleeper+"remove_on_exit: true\n")
	do(t, s, "x", "start")
	pid, ns := pidOf(t, s, "x"), namespace(t, s, "x")
	stopped, exit, event := watch(t, s, "x", "stopped"), watch(t, s, "x", "exit"), watch(t, s, "x", "event")
	do(t, s, "x", "kill")
	daemon.Await(t, "the box to be gone", func() bool { return len(s.names()) == 0 })
	for what, w := range map[string]waiter{"stopped": stopped, "exit": exit} {
		// Opened while it ran, read after it is gone: the answer has not changed.
		if text, k := result(t, what, w); k != fine || text != "137" {
			t.Errorf("wait/%s of a box that removes itself: %q, %s", what, text, k)
		}
	}
	if text, k := result(t, "event", event); k != fine || !strings.Contains(text, "x removed") {
		t.Errorf("wait/event of a box that removes itself: %q, %s", text, k)
	}
	vanished(t, pid, ns)
	must(t, "create again", s.create("x"))

	// One that never ran stays, for its last_error to be read.
	must(t, "configure", s.configure("x", "command: [no-such-command]\nremove_on_exit: true\n"))
	want(t, "start", try(t, s, "x", "start"), startFailed)
	is(t, s, "x", "status", "failed")
}

func owners(t *testing.T, s subject) {
	must(t, "create", s.create("x"))
	for _, file := range []string{"", "ctl", "status", "log"} {
		must(t, "chown "+file, s.chown("x", file, 65534, 65533, 0o640))
	}
	if _, ok := s.(*mount); ok { // the core knows no files: that this one stays is the facade's rule
		want(t, "chown of config.yaml, whose writer decides what runs as root", s.chown("x", "config.yaml", 65534, 65534, 0o666), denied)
	}
	s.shut()
	state := filepath.Join(s.home().State, "boxes", "x", "state.json")
	text, err := os.ReadFile(state)
	if err != nil || strings.Count(string(text), "65534") != 4 {
		t.Errorf("owners on disk: %s (%v)", text, err)
	}
	s.open()
	is(t, s, "x", "status", "empty")
}

func shimKilled(t *testing.T, s subject) {
	up(t, s, "x", sleeper)
	pid, ns := pidOf(t, s, "x"), namespace(t, s, "x")
	w := watch(t, s, "x", "stopped")
	kill(t, pid, 9)
	if text, k := result(t, "wait/stopped", w); k != fine || text != "137" {
		t.Errorf("wait/stopped: %q, %s", text, k)
	}
	vanished(t, pid, ns)
	is(t, s, "x", "status", "stopped", "exit_code", "137", "pid", "-1")
	has(t, s, "x", "last_error", "SIGKILL")
	do(t, s, "x", "start")
	do(t, s, "x", "kill")
}

func shimTerminated(t *testing.T, s subject) {
	up(t, s, "x", sleeper)
	pid, ns := pidOf(t, s, "x"), namespace(t, s, "x")
	w := watch(t, s, "x", "stopped")
	kill(t, pid, 15)
	if text, k := result(t, "wait/stopped", w); k != fine || text != "143" {
		t.Errorf("wait/stopped: %q, %s", text, k)
	}
	vanished(t, pid, ns)
	is(t, s, "x", "status", "stopped", "exit_code", "143", "last_error", "ok")
}

package functional

import (
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
	"github.com/boxlitefs/boxlite/test/daemon"
)

var recoveryCases = []testCase{
	{"a live box is adopted", adopted},
	{"a box that ended meanwhile has its exit code", endedMeanwhile},
	{"a box killed meanwhile", killedMeanwhile},
	{"stopping and paused boxes are adopted as such", adoptedStates},
	{"what is known of a box lasts", lasts},
	{"an old complaint does not come back", oldComplaint},
	{"a shim that answers late", lateAnswer},
	{"an unusable state.json is kept aside", corruptState},
	{"an unusable state.json of a box that ended meanwhile", corruptStateOfEnded},
	{"a complaint of recovery that was answered", oldRecovery},
	{"an unusable shim.json is kept aside", corruptShim},
	{"a lost shim.json of a live box", lostShim},
	{"a lost shim.json of a box that does not answer", lostAndFrozen},
	{"an unusable exit.json is kept aside", corruptExit},
	{"a reused pid is not signalled", reusedPID},
	{"after a reboot every box is stopped", rebooted},
	{"half-made directories", halfMade},
	{"what is no box is left alone", foreign},
	{"an unreadable config.yaml", unreadableConfig},
	{"a box whose directory is gone", vanishedDirectory},
	{"detach: false ends with the daemon", attached},
}

func kill(t *testing.T, pid int, sig unix.Signal) {
	t.Helper()
	if pid <= 1 {
		t.Fatalf("no pid to signal: %d", pid)
	}
	if err := unix.Kill(pid, sig); err != nil {
		t.Fatalf("kill %d: %v", pid, err)
	}
}

// bury waits until a shim that ended while no daemon watched is reaped, by this
// process if it is its parent.
func bury(t *testing.T, pid int) {
	t.Helper()
	daemon.Await(t, "the shim to be reaped", func() bool {
		err := daemon.Retry(func() error { return unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG, nil) })
		if err != nil && !errors.Is(err, unix.ECHILD) {
			t.Fatalf("waitid %d: %v", pid, err)
		}
		return daemon.State(pid) == ""
	})
}

func boxFile(s subject, name, file string) string {
	return filepath.Join(s.home().State, "boxes", name, file)
}

// spoil overwrites a record.
func spoil(t *testing.T, s subject, name, file, text string) {
	t.Helper()
	if err := os.WriteFile(boxFile(s, name, file), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// edit changes the identity in shim.json.
func edit(t *testing.T, s subject, name string, change func(id map[string]any)) {
	t.Helper()
	path := boxFile(s, name, "shim.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var record map[string]any
	dec := json.NewDecoder(strings.NewReader(string(text)))
	dec.UseNumber() // an inode has more digits than a float
	if err := dec.Decode(&record); err != nil {
		t.Fatal(err)
	}
	id, ok := record["identity"].(map[string]any)
	if !ok {
		t.Fatalf("no identity in %s", text)
	}
	change(id)
	if text, err = json.Marshal(record); err != nil {
		t.Fatal(err)
	}
	spoil(t, s, name, "shim.json", string(text))
}

// bystander starts a process that nobody may signal.
func bystander(t *testing.T) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if s := daemon.State(cmd.Process.Pid); s != "S" {
			t.Errorf("the bystander is in state %q: it was signalled", s)
		}
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Error("the bystander ended by itself")
		}
	})
	return cmd
}

func keptAside(t *testing.T, s subject, name, file, text string) {
	t.Helper()
	got, err := os.ReadFile(boxFile(s, name, file+".bad"))
	if err != nil || string(got) != text {
		t.Errorf("%s.bad has %q (%v), not %q", file, got, err, text)
	}
	has(t, s, name, "last_error", "recovery", file)
}

// reopened runs fn twice, after an orderly end of the daemon and after a crash.
func reopened(t *testing.T, s subject, fn func(end func())) {
	t.Helper()
	fn(s.shut)
	fn(s.crash)
}

func adopted(t *testing.T, s subject) {
	up(t, s, "x", script("trap 'exit 9' TERM; i=0; while :; do echo line $((i=i+1)); sleep 0.02; done"))
	awaitLog(t, s, "x", "line 2")
	pid, ns := pidOf(t, s, "x"), namespace(t, s, "x")
	reopened(t, s, func(end func()) {
		end()
		s.open()
		is(t, s, "x", "status", "running", "pid", strconv.Itoa(pid), "health", "healthy", "exit_code", "-1")
		if n := strings.Count(read(t, s, "x", "log"), "\n"); n < 1 {
			t.Errorf("the log has %d lines", n)
		}
		seen := strings.Count(read(t, s, "x", "log"), "line")
		awaitLog(t, s, "x", "line "+strconv.Itoa(seen+2))
		do(t, s, "x", "start") // a no-op
		is(t, s, "x", "pid", strconv.Itoa(pid))
		do(t, s, "x", "pause")
		is(t, s, "x", "status", "paused")
		do(t, s, "x", "resume")
		do(t, s, "x", "signal WINCH")
		want(t, "remove", s.remove("x"), busy)
	})
	w := watch(t, s, "x", "exit")
	do(t, s, "x", "stop")
	if text, k := result(t, "wait/exit", w); k != fine || text != "9" {
		t.Errorf("wait/exit of an adopted box: %q, %s", text, k)
	}
	ended(t, pid, ns)
	is(t, s, "x", "status", "stopped", "exit_code", "9", "pid", "-1", "last_error", "ok")
	has(t, s, "x", "info.json", runs(t, s, 1))
	do(t, s, "x", "start")
	pid, ns = pidOf(t, s, "x"), namespace(t, s, "x")
	s.crash()
	s.open()
	do(t, s, "x", "kill")
	ended(t, pid, ns)
	is(t, s, "x", "status", "stopped", "exit_code", "137")
}

// ended checks that nothing of a run lives. The shim of an adopted run is not the
// daemon's to reap: for how long it is a zombie is its parent's business.
func ended(t *testing.T, pid int, ns string) {
	t.Helper()
	if daemon.Alive(pid) || slices.ContainsFunc(daemon.InNamespace(ns), daemon.Alive) {
		t.Errorf("the shim %d, or a process of its box, is still alive", pid)
	}
}

func endedMeanwhile(t *testing.T, s subject) {
	box(t, s, "x", script("echo began; exec cat "+filepath.Join(s.home().Dir, "gate")+"; exit 1"))
	for code, end := range map[string]func(){"5": s.shut, "0": s.crash} {
		gate := filepath.Join(s.home().Dir, "gate")
		if err := unix.Mkfifo(gate, 0o600); err != nil {
			t.Fatal(err)
		}
		must(t, "configure", s.configure("x", script("echo began "+code+"; read -r line < "+gate+"; echo $line; exit "+code)))
		do(t, s, "x", "start")
		awaitLog(t, s, "x", "began "+code)
		pid := pidOf(t, s, "x")
		end()
		if err := os.WriteFile(gate, []byte("said while nobody watched "+code+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		daemon.Await(t, "the box to end", func() bool { return !daemon.Alive(pid) })
		bury(t, pid)
		s.open()
		is(t, s, "x", "status", "stopped", "exit_code", code, "pid", "-1")
		has(t, s, "x", "log", "said while nobody watched "+code)
		if got := waits(t, s, "x", "exit"); got != code {
			t.Errorf("wait/exit: %q, not %q", got, code)
		}
		if err := os.Remove(gate); err != nil {
			t.Fatal(err)
		}
	}
}

func killedMeanwhile(t *testing.T, s subject) {
	up(t, s, "x", sleeper)
	reopened(t, s, func(end func()) {
		pid := pidOf(t, s, "x")
		end()
		kill(t, pid, unix.SIGKILL)
		bury(t, pid)
		s.open()
		is(t, s, "x", "status", "stopped", "exit_code", "-1", "pid", "-1")
		has(t, s, "x", "last_error", "nobody watched")
		do(t, s, "x", "start")
		is(t, s, "x", "status", "running", "last_error", "ok")
	})
	do(t, s, "x", "kill")
}

func adoptedStates(t *testing.T, s subject) {
	upReady(t, s, "stopping", script("trap 'echo asked' TERM; echo ready; while :; do sleep 0.02; done"))
	up(t, s, "paused", sleeper)
	up(t, s, "other", sleeper)
	start(t, s, "stopping", "stop 1h")
	is(t, s, "stopping", "status", "stopping")
	awaitLog(t, s, "stopping", "asked")
	do(t, s, "paused", "pause")
	reopened(t, s, func(end func()) {
		end()
		s.open()
		is(t, s, "paused", "status", "paused")
		is(t, s, "stopping", "status", "stopping")
		is(t, s, "other", "status", "running")
	})
	do(t, s, "paused", "resume")
	is(t, s, "paused", "status", "running")
	for _, name := range []string{"paused", "stopping", "other"} {
		do(t, s, name, "kill")
		is(t, s, name, "status", "stopped", "exit_code", "137")
	}
}

func lasts(t *testing.T, s subject) {
	must(t, "create", s.create("empty"))
	box(t, s, "configured", sleeper)
	up(t, s, "stopped", script("echo bye; exit 8"))
	waits(t, s, "stopped", "stopped")
	box(t, s, "failed", "command: [no-such-command]\n")
	want(t, "start", try(t, s, "failed", "start"), startFailed)
	failure := read(t, s, "failed", "last_error")
	want(t, "configure", s.configure("configured", "comand: 1\n"), invalid)
	refusal := read(t, s, "configured", "last_error")
	must(t, "create", s.create("removed"))
	must(t, "remove", s.remove("removed"))
	info := read(t, s, "stopped", "info.json")
	reopened(t, s, func(end func()) {
		// state.json is written in the background: a crash may lose a refusal,
		// which is why only an orderly end comes first.
		end()
		s.open()
		if got, all := s.names(), []string{"configured", "empty", "failed", "stopped"}; !slices.Equal(got, all) {
			t.Errorf("boxes: %v, not %v", got, all)
		}
		is(t, s, "empty", "status", "empty", "config.yaml", "", "exit_code", "-1")
		is(t, s, "configured", "status", "configured", "config.yaml", strings.TrimSpace(sleeper), "last_error", refusal)
		is(t, s, "stopped", "status", "stopped", "exit_code", "8", "log", "bye", "last_error", "the command exited with status 8")
		is(t, s, "failed", "status", "failed", "exit_code", "-1", "last_error", failure)
		is(t, s, "stopped", "info.json", info)
	})
}

func oldComplaint(t *testing.T, s subject) {
	up(t, s, "x", sleeper)
	want(t, "remove", s.remove("x"), busy)
	s.shut()
	s.open()
	has(t, s, "x", "last_error", "remove")
	for _, line := range []string{"start", "signal WINCH", "pause", "resume"} {
		want(t, "remove", s.remove("x"), busy)
		do(t, s, "x", line)
		s.shut()
		s.open()
		is(t, s, "x", "last_error", "ok")
	}
	do(t, s, "x", "kill")
}

func corruptState(t *testing.T, s subject) {
	texts := []string{"", "{", "null", "[]", `{"version":99}`, `{"version":1,"status":"dancing"}`, "\x00\x00\x00"}
	for i := range texts {
		box(t, s, "b"+strconv.Itoa(i), sleeper)
		box(t, s, "r"+strconv.Itoa(i), sleeper)
		do(t, s, "r"+strconv.Itoa(i), "start")
	}
	pids := map[string]string{}
	for _, name := range s.names() {
		pids[name] = read(t, s, name, "pid")
	}
	s.shut()
	for i, text := range texts {
		spoil(t, s, "b"+strconv.Itoa(i), "state.json", text)
		spoil(t, s, "r"+strconv.Itoa(i), "state.json", text)
	}
	s.open()
	for i, text := range texts {
		b, r := "b"+strconv.Itoa(i), "r"+strconv.Itoa(i)
		keptAside(t, s, b, "state.json", text)
		keptAside(t, s, r, "state.json", text)
		is(t, s, b, "status", "configured", "exit_code", "-1", "config.yaml", strings.TrimSpace(sleeper))
		is(t, s, r, "status", "running", "pid", pids[r])
		do(t, s, r, "kill")
		do(t, s, b, "start")
		do(t, s, b, "kill")
	}
}

// The daemon's start waits for no shim that takes its time; what that says then still
// counts.
func lateAnswer(t *testing.T, s subject) {
	upReady(t, s, "x", script("trap 'echo asked' TERM; echo ready; while :; do sleep 0.02; done"))
	start(t, s, "x", "stop 1h")
	awaitLog(t, s, "x", "asked")
	pid, ns := pidOf(t, s, "x"), namespace(t, s, "x")
	s.crash()
	kill(t, pid, unix.SIGSTOP)
	s.open()
	is(t, s, "x", "status", "running", "pid", strconv.Itoa(pid))
	kill(t, pid, unix.SIGCONT)
	await(t, s, "x", "status", "stopping")
	do(t, s, "x", "kill")
	ended(t, pid, ns)
	is(t, s, "x", "status", "stopped", "exit_code", "137")
}

func corruptStateOfEnded(t *testing.T, s subject) {
	up(t, s, "x", sleeper)
	pid := pidOf(t, s, "x")
	s.crash()
	kill(t, pid, unix.SIGKILL)
	bury(t, pid)
	spoil(t, s, "x", "state.json", "{")
	s.open()
	keptAside(t, s, "x", "state.json", "{")
	has(t, s, "x", "last_error", "nobody watched")
	is(t, s, "x", "status", "stopped", "exit_code", "-1", "pid", "-1")
	do(t, s, "x", "start")
	is(t, s, "x", "last_error", "ok")
	do(t, s, "x", "kill")
	is(t, s, "x", "last_error", "ok")
}

// What a command has taken off last_error does not come back at the end of the run.
func oldRecovery(t *testing.T, s subject) {
	up(t, s, "x", script("trap 'exit 0' USR1; echo ready; while :; do sleep 0.02; done"))
	awaitLog(t, s, "x", "ready")
	s.crash()
	spoil(t, s, "x", "state.json", "{")
	s.open()
	keptAside(t, s, "x", "state.json", "{")
	do(t, s, "x", "signal USR1")
	if got := waits(t, s, "x", "stopped"); got != "0" {
		t.Errorf("wait/stopped: %q", got)
	}
	is(t, s, "x", "last_error", "ok")
}

func corruptShim(t *testing.T, s subject) {
	up(t, s, "x", sleeper)
	for _, text := range []string{"", "{", "null", `{"version":1,"run":"x","identity":{"pid":1}}`, `{"version":2}`} {
		pid := pidOf(t, s, "x")
		s.crash()
		kill(t, pid, unix.SIGKILL)
		bury(t, pid)
		spoil(t, s, "x", "shim.json", text)
		s.open()
		keptAside(t, s, "x", "shim.json", text)
		if got := read(t, s, "x", "status"); got != "stopped" && got != "configured" {
			t.Errorf("status %q", got)
		}
		is(t, s, "x", "pid", "-1", "exit_code", "-1")
		do(t, s, "x", "start")
		is(t, s, "x", "last_error", "ok", "status", "running")
	}
	do(t, s, "x", "kill")
}

func lostShim(t *testing.T, s subject) {
	up(t, s, "x", sleeper)
	pid := pidOf(t, s, "x")
	reopened(t, s, func(end func()) {
		end()
		if err := os.Remove(boxFile(s, "x", "shim.json")); err != nil {
			t.Fatal(err)
		}
		s.open()
		is(t, s, "x", "status", "running", "pid", strconv.Itoa(pid))
	})
	do(t, s, "x", "kill")
	is(t, s, "x", "status", "stopped", "exit_code", "137")
}

func lostAndFrozen(t *testing.T, s subject) {
	up(t, s, "x", sleeper)
	up(t, s, "other", sleeper)
	pid, ns := pidOf(t, s, "x"), namespace(t, s, "x")
	s.crash()
	spoil(t, s, "x", "shim.json", "")
	kill(t, pid, unix.SIGSTOP)
	s.open()
	// Nothing may be concluded from its silence.
	is(t, s, "x", "status", "unknown")
	has(t, s, "x", "last_error", "does not answer")
	want(t, "start", try(t, s, "x", "start"), busy)
	want(t, "remove", s.remove("x"), busy)
	is(t, s, "other", "status", "running")
	exit := async(watch(t, s, "x", "exit"))
	kill(t, pid, unix.SIGCONT)
	daemon.Await(t, "the box to be found", func() bool { return try(t, s, "x", "start") == fine })
	is(t, s, "x", "status", "running", "pid", strconv.Itoa(pid))
	do(t, s, "x", "kill")
	if a := <-exit; a != [2]string{"137", "fine"} {
		t.Errorf("wait/exit of a run that was not known at the open: %q", a)
	}
	ended(t, pid, ns)
	do(t, s, "other", "kill")
}

func corruptExit(t *testing.T, s subject) {
	gate := filepath.Join(s.home().Dir, "gate")
	if err := unix.Mkfifo(gate, 0o600); err != nil {
		t.Fatal(err)
	}
	box(t, s, "x", script("read -r line < "+gate+"; exit 5"))
	for _, text := range []string{"", "{", `{"run":"","code":5}`, `{"run":"x","code":999}`} {
		do(t, s, "x", "start")
		pid := pidOf(t, s, "x")
		s.crash()
		if err := os.WriteFile(gate, []byte("\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		daemon.Await(t, "the box to end", func() bool { return !daemon.Alive(pid) })
		bury(t, pid)
		spoil(t, s, "x", "exit.json", text)
		s.open()
		is(t, s, "x", "status", "stopped", "exit_code", "-1", "pid", "-1")
		got, err := os.ReadFile(boxFile(s, "x", "exit.json.bad"))
		if err != nil || string(got) != text {
			t.Errorf("exit.json.bad has %q (%v), not %q", got, err, text)
		}
		has(t, s, "x", "last_error", "exit.json")
	}
	// One of an earlier run is not taken for this one's.
	do(t, s, "x", "start")
	pid := pidOf(t, s, "x")
	s.crash()
	kill(t, pid, unix.SIGKILL)
	bury(t, pid)
	spoil(t, s, "x", "exit.json", `{"run":"another","code":5}`)
	s.open()
	is(t, s, "x", "status", "stopped", "exit_code", "-1")
}

func reusedPID(t *testing.T, s subject) {
	other := bystander(t)
	up(t, s, "x", sleeper)
	for what, change := range map[string]func(id map[string]any){
		"the pid alone":       func(id map[string]any) { id["pid"] = other.Process.Pid },
		"no inode":            func(id map[string]any) { id["pid"] = other.Process.Pid; delete(id, "pidfd_inode") },
		"the pid of a thread": func(id map[string]any) { id["pid"] = thread(t) },
	} {
		pid := pidOf(t, s, "x")
		s.crash()
		kill(t, pid, unix.SIGKILL)
		bury(t, pid)
		edit(t, s, "x", change)
		s.open()
		is(t, s, "x", "status", "stopped", "pid", "-1", "exit_code", "-1")
		do(t, s, "x", "kill")
		do(t, s, "x", "stop")
		do(t, s, "x", "start")
		if got := pidOf(t, s, "x"); got == other.Process.Pid {
			t.Errorf("%s: the bystander was adopted", what)
		}
	}
	do(t, s, "x", "kill")
}

// thread returns the id of a thread of this process that is not its first.
func thread(t *testing.T) int {
	t.Helper()
	tasks, err := os.ReadDir("/proc/self/task")
	if err != nil || len(tasks) < 2 {
		t.Fatalf("threads: %v, %v", tasks, err)
	}
	tid, err := strconv.Atoi(tasks[1].Name())
	if err != nil {
		t.Fatal(err)
	}
	return tid
}

func rebooted(t *testing.T, s subject) {
	boot, err := reaper.BootID()
	if err != nil {
		t.Fatal(err)
	}
	other := bystander(t)
	fd, err := unix.PidfdOpen(other.Process.Pid, 0)
	if err != nil {
		t.Fatal(err)
	}
	proc, err := reaper.NewChild(boot, other.Process.Pid, fd)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Close(fd); err != nil {
			t.Error(err)
		}
	}()
	id := proc.Identity()

	up(t, s, "plain", sleeper)
	box(t, s, "auto", sleeper+"autostart: true\n")
	await(t, s, "auto", "status", "running")
	pids := []int{pidOf(t, s, "plain"), pidOf(t, s, "auto")}
	s.crash()
	for i, name := range []string{"plain", "auto"} {
		kill(t, pids[i], unix.SIGKILL)
		bury(t, pids[i])
		// All but the boot is that of a process that lives.
		edit(t, s, name, func(m map[string]any) {
			m["boot_id"], m["pid"] = "00000000-0000-0000-0000-000000000000", id.PID
			m["pidfd_inode"], m["start_ticks"] = id.Inode, id.StartTicks
		})
	}
	s.open()
	is(t, s, "plain", "status", "stopped", "pid", "-1", "exit_code", "-1")
	await(t, s, "auto", "status", "running")
	if got := pidOf(t, s, "auto"); got == id.PID {
		t.Error("a process of this boot was taken for one of the last")
	}
	do(t, s, "plain", "kill")
	do(t, s, "auto", "kill")
}

func halfMade(t *testing.T, s subject) {
	s.shut()
	boxes := filepath.Join(s.home().State, "boxes")
	for dir, files := range map[string]map[string]string{
		"empty":   {},
		"config":  {"config.yaml": sleeper},
		"temps":   {".config.yaml.tmp": "comm", ".state.json.tmp": "{", "exit.json.tmp": "{"},
		"sockets": {"config.yaml": sleeper, "shim.sock": "", "shim.log": "", "log.00000000000000000000": "old\n"},
	} {
		if err := os.Mkdir(filepath.Join(boxes, dir), 0o700); err != nil {
			t.Fatal(err)
		}
		for file, text := range files {
			if err := os.WriteFile(filepath.Join(boxes, dir, file), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	trash := filepath.Join(s.home().State, "trash", "old.1.abc")
	if err := os.MkdirAll(filepath.Join(trash, "deep"), 0o700); err != nil {
		t.Fatal(err)
	}
	s.open()
	if got, all := s.names(), []string{"config", "empty", "sockets", "temps"}; !slices.Equal(got, all) {
		t.Errorf("boxes: %v, not %v", got, all)
	}
	is(t, s, "empty", "status", "empty", "last_error", "ok", "exit_code", "-1")
	is(t, s, "temps", "status", "empty", "last_error", "ok", "config.yaml", "")
	is(t, s, "config", "status", "configured", "last_error", "ok")
	for _, name := range s.names() {
		must(t, "configure", s.configure(name, sleeper))
		do(t, s, name, "start")
		do(t, s, name, "kill")
		must(t, "remove", s.remove(name))
	}
	daemon.Await(t, "an empty trash", func() bool {
		left, err := os.ReadDir(filepath.Dir(trash))
		return err == nil && len(left) == 0
	})
}

func foreign(t *testing.T, s subject) {
	box(t, s, "x", sleeper)
	s.shut()
	boxes := filepath.Join(s.home().State, "boxes")
	for _, name := range []string{"README", "y.swp"} {
		if err := os.WriteFile(filepath.Join(boxes, name), []byte("mine"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(boxes, ".hidden"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc", filepath.Join(boxes, "link")); err != nil {
		t.Fatal(err)
	}
	s.open()
	if got := s.names(); !slices.Equal(got, []string{"x"}) {
		t.Errorf("boxes: %v", got)
	}
	do(t, s, "x", "start")
	do(t, s, "x", "kill")
	for _, name := range []string{"README", "y.swp", ".hidden", "link"} {
		if _, err := os.Lstat(filepath.Join(boxes, name)); err != nil {
			t.Errorf("what is no box was touched: %v", err)
		}
	}
}

func unreadableConfig(t *testing.T, s subject) {
	box(t, s, "garbage", sleeper)
	box(t, s, "directory", sleeper)
	up(t, s, "live", sleeper)
	pid := read(t, s, "live", "pid")
	s.shut()
	spoil(t, s, "garbage", "config.yaml", "comand: [x]\n")
	spoil(t, s, "live", "config.yaml", "comand: [x]\n")
	path := boxFile(s, "directory", "config.yaml")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		t.Fatal(err)
	}
	s.open()
	has(t, s, "garbage", "last_error", "recovery", "config.yaml", "line 1", "comand")
	has(t, s, "directory", "last_error", "recovery", "config.yaml")
	has(t, s, "live", "last_error", "recovery", "config.yaml")
	is(t, s, "garbage", "config.yaml", "comand: [x]", "pid", "-1")
	is(t, s, "live", "status", "running", "pid", pid)
	want(t, "start", try(t, s, "garbage", "start"), unconfigured)
	want(t, "start", try(t, s, "directory", "start"), unconfigured)
	do(t, s, "live", "kill")
	must(t, "configure", s.configure("garbage", sleeper))
	do(t, s, "garbage", "start")
	do(t, s, "garbage", "kill")
	must(t, "remove", s.remove("directory"))
}

func vanishedDirectory(t *testing.T, s subject) {
	box(t, s, "kept", sleeper)
	box(t, s, "gone", sleeper)
	box(t, s, "down", sleeper)
	remove := func(name string) {
		t.Helper()
		if err := os.RemoveAll(filepath.Join(s.home().State, "boxes", name)); err != nil {
			t.Fatal(err)
		}
	}
	s.shut()
	remove("down")
	s.open()
	if got := s.names(); !slices.Equal(got, []string{"gone", "kept"}) {
		t.Errorf("boxes: %v", got)
	}
	remove("gone")
	want(t, "start", try(t, s, "gone", "start"), startFailed)
	is(t, s, "gone", "status", "failed", "pid", "-1")
	must(t, "remove", s.remove("gone"))
	do(t, s, "kept", "start")
	do(t, s, "kept", "kill")
}

func attached(t *testing.T, s subject) {
	box(t, s, "with", sleeper+"detach: false\n")
	box(t, s, "without", sleeper)
	ends := []func(){s.shut}
	if _, ok := s.(*mount); ok {
		ends = append(ends, s.crash) // a core here has no process of its own to die
	}
	for _, end := range ends {
		do(t, s, "with", "start")
		do(t, s, "without", "start")
		with, without, ns := pidOf(t, s, "with"), pidOf(t, s, "without"), namespace(t, s, "with")
		end()
		daemon.Await(t, "the box to die with the daemon", func() bool { return !daemon.Alive(with) })
		ended(t, with, ns)
		if !daemon.Alive(without) {
			t.Error("a detached box died with the daemon")
		}
		s.open()
		is(t, s, "with", "status", "stopped", "exit_code", "137", "pid", "-1")
		is(t, s, "without", "status", "running", "pid", strconv.Itoa(without))
		do(t, s, "without", "kill")
	}
}

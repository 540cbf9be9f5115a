package functional

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/test/daemon"
)

var restartCases = []testCase{
	{"a box that ends is started again, ever later", restartsAlways},
	{"on-failure asks for a failure, and gives up", restartsOnFailure},
	{"a person's stop wins over the restart policy", personWins},
	{"a backoff goes on across a restart of the daemon", backoffLasts},
	{"what ended while no daemon looked is restarted", restartedMeanwhile},
	{"after a boot of the machine", restartedAtBoot},
	{"after a boot that was a shutdown first", restartedAfterShutdown},
	{"a backoff ends with a boot, but for what comes back then", backoffAtBoot},
	{"a box that has no configuration any more is not restarted", restartOfNothing},
	{"a box that cannot be started again is tried again", restartFails},
	{"an unhealthy box is restarted", restartsUnhealthy},
	{"an unhealthy box is restarted by the next daemon", restartsUnhealthyLater},
	{"a box that ends with the daemon comes back with it", comesBack},
	{"waits and removal in a backoff", waitsInBackoff},
	{"a restart goes on with the next daemon", restartGoesOn},
}

var expireCases = []testCase{
	{"a run has its time", expiresAfter},
	{"a box that nobody asks for anything ends", expiresIdle},
	{"a crash loop that nobody asks for ends", expiresCrashing},
}

const always = "restart: {policy: always}\n"

// restarts returns how often the box was restarted.
func restartsOf(t *testing.T, s subject, name string) int {
	t.Helper()
	n, _ := info(t, s, name)["restarts"].(float64)
	return int(n)
}

// atRest brings a box whose command exits with 3 into a backoff that is as long as
// any.
func atRest(t *testing.T, s subject, name, config string) {
	t.Helper()
	up(t, s, name, config)
	if got := waits(t, s, name, "stopped"); got != "3" {
		t.Fatalf("the first run of %s ended with %s", name, got)
	}
	must(t, "configure", s.configure(name, config+always))
	s.shut()
	editState(t, s, name, func(m map[string]any) { m["restart_at"] = time.Now().Add(time.Hour).Format(time.RFC3339Nano) })
	s.open()
	is(t, s, name, "status", "restarting")
}

// editState changes state.json.
func editState(t *testing.T, s subject, name string, change func(m map[string]any)) {
	t.Helper()
	var m map[string]any
	text, err := os.ReadFile(boxFile(s, name, "state.json"))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	change(m)
	if text, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	spoil(t, s, name, "state.json", string(text))
}

// moment is when an event of a box's was.
func moment(t *testing.T, line string) time.Time {
	t.Helper()
	at, err := time.Parse(time.RFC3339Nano, strings.Fields(line)[1])
	if err != nil {
		t.Fatal(err)
	}
	return at
}

func restartsAlways(t *testing.T, s subject) {
	up(t, s, "x", script("exit 0")+always)
	daemon.Await(t, "three restarts", func() bool { return restartsOf(t, s, "x") >= 3 })
	do(t, s, "x", "kill")
	await(t, s, "x", "status", "stopped")
	wait, waits := 100*time.Millisecond, 0
	var since time.Time
	for line := range strings.Lines(read(t, s, "x", "events")) {
		switch {
		case strings.Contains(line, " to=restarting"):
			since = moment(t, line)
		case strings.Contains(line, "from=restarting to=starting"):
			// It counts from the end, which is told a little later.
			if got := moment(t, line).Sub(since); got < wait*3/4 {
				t.Errorf("restart %d after %s, not %s", waits+1, got, wait)
			}
			wait *= 2
			waits++
		}
	}
	if waits < 3 {
		t.Errorf("%d restarts in the events", waits)
	}
	n := restartsOf(t, s, "x")
	must(t, "configure", s.configure("x", sleeper+always))
	do(t, s, "x", "start")
	// However it ends, if nobody asked for it.
	for _, sig := range []unix.Signal{unix.SIGKILL} {
		kill(t, pidOf(t, s, "x"), sig)
		n++
		daemon.Await(t, "a restart", func() bool { return restartsOf(t, s, "x") == n && read(t, s, "x", "status") == "running" })
	}
	is(t, s, "x", "last_error", "ok", "health", "healthy")
	do(t, s, "x", "stop")
	is(t, s, "x", "status", "stopped")
}

func restartsOnFailure(t *testing.T, s subject) {
	const policy = "restart: {policy: on-failure, max_retries: 2}\n"
	up(t, s, "fine", script("exit 0")+policy)
	waits(t, s, "fine", "stopped")
	is(t, s, "fine", "status", "stopped", "exit_code", "0", "last_error", "ok")
	up(t, s, "x", script("exit 3")+policy)
	if got := waits(t, s, "x", "stopped"); got != "3" {
		t.Errorf("exit code %s", got)
	}
	is(t, s, "x", "status", "stopped", "exit_code", "3", "health", "unhealthy")
	has(t, s, "x", "last_error", "exited with status 3", "not restarted again (max_retries: 2)")
	if n := restartsOf(t, s, "x"); n != 2 {
		t.Errorf("%d restarts", n)
	}
	// A start by a person begins a new row.
	do(t, s, "x", "start")
	waits(t, s, "x", "stopped")
	if n := restartsOf(t, s, "x"); n != 4 {
		t.Errorf("%d restarts after another start", n)
	}
}

func personWins(t *testing.T, s subject) {
	for _, line := range []string{"stop", "stop 0s", "kill"} {
		up(t, s, "x", sleeper+always)
		do(t, s, "x", line)
		is(t, s, "x", "status", "stopped", "last_error", "ok")
		reopened(t, s, func(end func()) {
			end()
			s.open()
			is(t, s, "x", "status", "stopped")
		})
		must(t, "remove", s.remove("x"))
		atRest(t, s, "y", script("exit 3"))
		do(t, s, "y", line)
		is(t, s, "y", "status", "stopped", "exit_code", "3", "last_error", "ok")
		reopened(t, s, func(end func()) {
			end()
			s.open()
			is(t, s, "y", "status", "stopped", "exit_code", "3")
		})
		if got := waits(t, s, "y", "stopped"); got != "3" {
			t.Errorf("wait/stopped: %s", got)
		}
		must(t, "remove", s.remove("y"))
	}
	// A SIGTERM to the shim is the same as a stop.
	up(t, s, "x", sleeper+always)
	kill(t, pidOf(t, s, "x"), unix.SIGTERM)
	waits(t, s, "x", "stopped")
	is(t, s, "x", "status", "stopped", "exit_code", "143")
}

func backoffLasts(t *testing.T, s subject) {
	atRest(t, s, "x", script("exit 3"))
	is(t, s, "x", "exit_code", "3", "health", "unhealthy", "pid", "-1")
	n := restartsOf(t, s, "x")
	reopened(t, s, func(end func()) {
		end()
		s.open()
		is(t, s, "x", "status", "restarting")
	})
	// No longer than the longest, whatever the clock says.
	at, err := time.Parse(time.RFC3339Nano, fmt.Sprint(info(t, s, "x")["restart_at"]))
	if err != nil || time.Until(at) < 0 {
		t.Errorf("restart_at: %v %v", at, err)
	}
	do(t, s, "x", "start") // a person need not wait
	await(t, s, "x", "status", "restarting")
	s.shut()
	editState(t, s, "x", func(m map[string]any) { m["restart_at"] = time.Now().Add(-time.Hour).Format(time.RFC3339Nano) })
	s.open()
	daemon.Await(t, "the restart that is due", func() bool { return restartsOf(t, s, "x") > n })
	do(t, s, "x", "kill")
}

func restartedMeanwhile(t *testing.T, s subject) {
	up(t, s, "a", sleeper+always)
	up(t, s, "f", sleeper+"restart: {policy: on-failure}\n")
	up(t, s, "no", sleeper)
	s.crash()
	for _, name := range []string{"a", "f", "no"} {
		var m struct {
			Identity struct {
				PID int `json:"pid"`
			} `json:"identity"`
		}
		text, err := os.ReadFile(boxFile(s, name, "shim.json"))
		if err == nil {
			err = json.Unmarshal(text, &m)
		}
		if err != nil {
			t.Fatal(err)
		}
		kill(t, m.Identity.PID, unix.SIGKILL)
		bury(t, m.Identity.PID)
	}
	s.open()
	for _, name := range []string{"a", "f"} {
		await(t, s, name, "status", "running")
		if n := restartsOf(t, s, name); n != 1 {
			t.Errorf("%s: %d restarts", name, n)
		}
		do(t, s, name, "kill")
	}
	is(t, s, "no", "status", "stopped", "health", "unhealthy")
}

func restartedAtBoot(t *testing.T, s subject) {
	const unlessStopped = "restart: {policy: unless-stopped}\n"
	names := map[string]string{ // what they are after the boot
		"always": "running", "always-stopped": "running", "unless": "running", "unless-stopped": "stopped", "unless-later": "stopped", "failure": "stopped", "never-started": "configured",
	}
	up(t, s, "always", sleeper+always)
	up(t, s, "always-stopped", sleeper+always)
	up(t, s, "unless", sleeper+unlessStopped)
	up(t, s, "unless-stopped", sleeper+unlessStopped)
	up(t, s, "failure", sleeper+"restart: {policy: on-failure}\n")
	up(t, s, "unless-later", sleeper)
	box(t, s, "never-started", sleeper+always)
	do(t, s, "always-stopped", "kill")
	do(t, s, "unless-stopped", "stop")
	do(t, s, "unless-later", "stop")
	must(t, "configure", s.configure("unless-later", sleeper+unlessStopped))
	var pids []int
	for _, name := range []string{"always", "unless", "failure"} {
		pids = append(pids, pidOf(t, s, name))
	}
	s.crash()
	for _, pid := range pids {
		kill(t, pid, unix.SIGKILL)
		bury(t, pid)
	}
	for name := range names {
		if name != "never-started" {
			bootedSince(t, s, name)
		}
	}
	s.open()
	for name, status := range names {
		await(t, s, name, "status", status)
	}
	for name := range names {
		do(t, s, name, "kill")
	}
}

// bootedSince makes the last run of a box one of before a boot of the machine.
func bootedSince(t *testing.T, s subject, name string) {
	t.Helper()
	edit(t, s, name, func(m map[string]any) { m["boot_id"] = "00000000-0000-0000-0000-000000000000" })
}

func restartedAfterShutdown(t *testing.T, s subject) {
	const unlessStopped = "restart: {policy: unless-stopped}\n"
	names := map[string]string{"always": "running", "unless": "running", "failure": "stopped", "no": "stopped"}
	up(t, s, "always", sleeper+always)
	up(t, s, "unless", sleeper+unlessStopped)
	up(t, s, "failure", sleeper+"restart: {policy: on-failure}\n")
	up(t, s, "no", sleeper)
	pids := map[string]int{}
	for name := range names {
		pids[name] = pidOf(t, s, name)
	}
	s.shut()
	for name, pid := range pids { // as init does, with the daemon gone
		kill(t, pid, unix.SIGTERM)
		bury(t, pid)
		bootedSince(t, s, name)
	}
	s.open()
	for name, status := range names {
		await(t, s, name, "status", status)
		do(t, s, name, "kill")
	}
}

func backoffAtBoot(t *testing.T, s subject) {
	names := map[string]string{"always": "running", "failure": "stopped", "health": "stopped"}
	policies := map[string]string{"always": always, "failure": "restart: {policy: on-failure}\n", "health": "health_check: {on_unhealthy: restart}\n"}
	for name, policy := range policies {
		box(t, s, name, script("exit 3")+policy)
		do(t, s, name, "start")
		waits(t, s, name, "exit")
		do(t, s, name, "kill")
		must(t, "configure", s.configure(name, sleeper+policy))
	}
	s.shut()
	for name := range names {
		editState(t, s, name, func(m map[string]any) { m["restart_at"] = time.Now().Format(time.RFC3339Nano) })
		bootedSince(t, s, name)
	}
	s.open()
	for name, status := range names {
		await(t, s, name, "status", status)
		do(t, s, name, "kill")
	}
}

func restartOfNothing(t *testing.T, s subject) {
	up(t, s, "x", sleeper+always)
	pid := pidOf(t, s, "x")
	s.crash()
	kill(t, pid, unix.SIGKILL)
	bury(t, pid)
	spoil(t, s, "x", "config.yaml", "comand: x\n")
	s.open()
	waits(t, s, "x", "stopped")
	is(t, s, "x", "status", "stopped")
	has(t, s, "x", "last_error", "not restarted", "configuration")
}

func restartsUnhealthyLater(t *testing.T, s subject) {
	up(t, s, "x", sleeper+"health_check: {interval: 1h, on_unhealthy: restart}\n")
	pid := pidOf(t, s, "x")
	s.crash()
	id := shimRun(t, s, "x")
	// It died when it had said so, and before it had asked the shim.
	editState(t, s, "x", func(m map[string]any) { m["health"], m["health_run"] = "unhealthy", id })
	s.open()
	daemon.Await(t, "another run", func() bool { return restartsOf(t, s, "x") == 1 && pidOrNone(t, s, "x") != pid })
	do(t, s, "x", "kill")
}

// shimRun returns the id of the last run.
func shimRun(t *testing.T, s subject, name string) string {
	t.Helper()
	var m struct{ Run string }
	text, err := os.ReadFile(boxFile(s, name, "shim.json"))
	if err == nil {
		err = json.Unmarshal(text, &m)
	}
	if err != nil {
		t.Fatal(err)
	}
	return m.Run
}

func restartFails(t *testing.T, s subject) {
	dir := s.home().Dir + "/work"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	up(t, s, "x", sleeper+always+"workdir: "+dir+"\n")
	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	kill(t, pidOf(t, s, "x"), unix.SIGKILL)
	daemon.Await(t, "a restart that failed", func() bool {
		return restartsOf(t, s, "x") >= 1 && strings.Contains(read(t, s, "x", "last_error"), "workdir")
	})
	if err := os.Rename(dir+".away", dir); err != nil {
		t.Fatal(err)
	}
	await(t, s, "x", "status", "running")
	do(t, s, "x", "kill")
	// But a person is told, and nobody tries again.
	must(t, "configure", s.configure("x", sleeper+always+"workdir: "+dir+"/none\n"))
	want(t, "start", try(t, s, "x", "start"), startFailed)
	is(t, s, "x", "status", "failed", "health", "none")
}

func restartsUnhealthy(t *testing.T, s subject) {
	path, set := flag(t, s)
	set(true)
	check := func(more string) string {
		return fmt.Sprintf("health_check: {interval: 30ms, retries: 2, command: [test, -e, %s], on_unhealthy: restart}\n", path) + more
	}
	up(t, s, "x", sleeper+check(""))
	await(t, s, "x", "health", "healthy")
	pid := pidOf(t, s, "x")
	set(false)
	daemon.Await(t, "another run", func() bool { return restartsOf(t, s, "x") == 1 && pidOrNone(t, s, "x") != pid })
	set(true)
	await(t, s, "x", "health", "healthy")
	is(t, s, "x", "status", "running")
	has(t, s, "x", "events", "reason=unhealthy", "to=unhealthy", "from=stopping to=restarting")
	do(t, s, "x", "stop")
	is(t, s, "x", "status", "stopped")

	// A kill in the middle of it wins.
	must(t, "configure", s.configure("x", `command: [sh, -c, "trap '' TERM; exec sleep infinity"]`+"\n"+check("stop: {timeout: 1h}\n")))
	do(t, s, "x", "start")
	await(t, s, "x", "health", "healthy")
	set(false)
	await(t, s, "x", "status", "stopping")
	do(t, s, "x", "kill")
	is(t, s, "x", "status", "stopped")
}

func pidOrNone(t *testing.T, s subject, name string) int {
	t.Helper()
	if read(t, s, name, "pid") == "-1" {
		return -1
	}
	pid, _ := info(t, s, name)["pid"].(float64)
	return int(pid)
}

func comesBack(t *testing.T, s subject) {
	up(t, s, "x", sleeper+always+"detach: false\n")
	pid, ns := pidOf(t, s, "x"), namespace(t, s, "x")
	s.shut()
	vanished(t, pid, ns)
	s.open()
	await(t, s, "x", "status", "running")
	do(t, s, "x", "kill")
}

func waitsInBackoff(t *testing.T, s subject) {
	atRest(t, s, "x", script("exit 3"))
	running, stopped := async(watch(t, s, "x", "running")), async(watch(t, s, "x", "stopped"))
	if got := waits(t, s, "x", "exit"); got != "3" {
		t.Errorf("wait/exit: %s", got)
	}
	want(t, "remove", s.remove("x"), busy)
	has(t, s, "x", "last_error", "restarting", "kill it first")
	must(t, "configure", s.configure("x", sleeper+"remove_on_exit: true\n"))
	select {
	case a := <-running:
		t.Fatalf("wait/running in a backoff: %q", a)
	case a := <-stopped:
		t.Fatalf("wait/stopped in a backoff: %q", a)
	default:
	}
	do(t, s, "x", "start")
	if a := <-running; a != [2]string{"running", "fine"} {
		t.Errorf("wait/running: %q", a)
	}
	do(t, s, "x", "kill")
	if a := <-stopped; a != [2]string{"137", "fine"} {
		t.Errorf("wait/stopped: %q", a)
	}
	daemon.Await(t, "the box to remove itself", func() bool { return len(s.names()) == 0 })

	atRest(t, s, "y", script("exit 3"))
	must(t, "configure", s.configure("y", script("exit 3")+always+"remove_on_exit: true\n"))
	do(t, s, "y", "stop")
	daemon.Await(t, "the box to remove itself", func() bool { return len(s.names()) == 0 })
}

func expiresAfter(t *testing.T, s subject) {
	up(t, s, "x", sleeper+always+"expire: {after: 150ms}\n")
	waits(t, s, "x", "stopped")
	is(t, s, "x", "status", "stopped", "exit_code", "143", "health", "none")
	has(t, s, "x", "last_error", "expired", "150ms", "expire.after")
	has(t, s, "x", "events", "stop reason=expire.after")

	must(t, "configure", s.configure("x", sleeper+"expire: {after: 1h}\n"))
	do(t, s, "x", "start")
	s.shut()
	record := boxFile(s, "x", "shim.json")
	text, err := os.ReadFile(record)
	if err != nil {
		t.Fatal(err)
	}
	var m map[string]any
	dec := json.NewDecoder(strings.NewReader(string(text)))
	dec.UseNumber()
	if err := dec.Decode(&m); err != nil {
		t.Fatal(err)
	}
	m["started"] = time.Now().Add(-time.Hour).Format(time.RFC3339Nano)
	// What counts is the clock of the boot.
	since, ok := m["since_ns"].(json.Number)
	if !ok {
		t.Fatalf("no since_ns in %s", text)
	}
	ns, err := since.Int64()
	if err != nil {
		t.Fatal(err)
	}
	m["since_ns"] = ns - time.Hour.Nanoseconds()
	if text, err = json.Marshal(m); err != nil {
		t.Fatal(err)
	}
	spoil(t, s, "x", "shim.json", string(text))
	s.open()
	waits(t, s, "x", "stopped")
	has(t, s, "x", "last_error", "expired")
}

// A restart by the policy is no sign that anybody wants the box.
func expiresCrashing(t *testing.T, s subject) {
	up(t, s, "x", script("exit 3")+always+"expire: {idle: 1s}\n")
	if got := waits(t, s, "x", "stopped"); got != "3" && got != "143" {
		t.Errorf("exit code %s", got)
	}
	has(t, s, "x", "last_error", "expired", "expire.idle")
	if n := restartsOf(t, s, "x"); n < 1 {
		t.Errorf("%d restarts", n)
	}
	reopened(t, s, func(end func()) {
		end()
		s.open()
		is(t, s, "x", "status", "stopped")
	})
	// In the backoff, too.
	atRest(t, s, "y", script("exit 3"))
	must(t, "configure", s.configure("y", sleeper+always+"expire: {idle: 1h}\n"))
	s.shut()
	editState(t, s, "y", func(m map[string]any) {
		m["restart_at"], m["active"] = time.Now().Format(time.RFC3339Nano), time.Now().Add(-2*time.Hour).Format(time.RFC3339Nano)
		for _, key := range []string{"restart_due_ns", "active_at_ns"} {
			delete(m, key) // as an older daemon has it: then the time of day counts
		}
	})
	s.open()
	if got := waits(t, s, "y", "stopped"); got != "3" {
		t.Errorf("exit code %s", got)
	}
	has(t, s, "y", "last_error", "expired", "expire.idle")
	if got := read(t, s, "y", "events"); strings.Contains(got, "to=starting") {
		t.Errorf("started again: %s", got)
	}
}

// A restart that the daemon did not live to see is done by the next.
func restartGoesOn(t *testing.T, s subject) {
	upReady(t, s, "x", stubborn+"stop: {timeout: 500ms}\n")
	reopened(t, s, func(end func()) {
		pid := pidOf(t, s, "x")
		start(t, s, "x", "restart")
		daemon.Await(t, "that on record", func() bool {
			text, err := os.ReadFile(boxFile(s, "x", "state.json"))
			return err == nil && strings.Contains(string(text), `"again":"`+shimRun(t, s, "x")+`"`)
		})
		end()
		s.open()
		daemon.Await(t, "another run", func() bool { return read(t, s, "x", "status") == "running" && pidOrNone(t, s, "x") != pid })
		is(t, s, "x", "last_error", "ok")
	})
	// A stop that comes later wins.
	start(t, s, "x", "restart")
	daemon.Await(t, "that on record", func() bool {
		text, err := os.ReadFile(boxFile(s, "x", "state.json"))
		return err == nil && strings.Contains(string(text), `"again":"`+shimRun(t, s, "x")+`"`)
	})
	s.crash()
	s.open()
	do(t, s, "x", "kill")
	await(t, s, "x", "status", "stopped")
	s.shut()
	s.open()
	is(t, s, "x", "status", "stopped")
	// The daemon may have died between the two halves.
	s.shut()
	editState(t, s, "x", func(m map[string]any) { m["again"] = m["last_run"] })
	s.open()
	await(t, s, "x", "status", "running")
	do(t, s, "x", "kill")
}

func expiresIdle(t *testing.T, s subject) {
	up(t, s, "x", sleeper+"expire: {idle: 400ms}\n")
	began := time.Now()
	for time.Since(began) < time.Second {
		must(t, "touch", s.touch("x"))
	}
	is(t, s, "x", "status", "running")
	for time.Since(began) < 2*time.Second {
		do(t, s, "x", "signal WINCH")
	}
	is(t, s, "x", "status", "running")
	waits(t, s, "x", "stopped")
	has(t, s, "x", "last_error", "expired", "400ms", "expire.idle")
	has(t, s, "x", "events", "stop reason=expire.idle")

	// The last sign counts across a restart of the daemon.
	must(t, "configure", s.configure("x", sleeper+"expire: {idle: 1h}\n"))
	do(t, s, "x", "start")
	s.shut()
	editState(t, s, "x", func(m map[string]any) {
		if m["active"] == nil {
			t.Error("the last command is not on record")
		}
	})
	s.open()
	is(t, s, "x", "status", "running")
	do(t, s, "x", "kill")
}

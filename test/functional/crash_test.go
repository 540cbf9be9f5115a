package functional

import (
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/test/daemon"
)

// crash is one death of the daemon, as by kill -9, at a point that is marked in
// its source (see package runtime/fault).
type crash struct {
	point string // NAME[:N] of BOXLITE_FAULT
	name  string // of the case, where there are several of one point

	// ready brings about, with a daemon that has no faults, what the point needs;
	// spoil changes the state directory while no daemon runs.
	ready, spoil func(c *crashed)
	// meanwhile is what happens between the death and the next daemon.
	meanwhile func(c *crashed)
	// act makes the daemon pass the point. What it is told does not matter. It is
	// nil where the daemon passes the point on its way up.
	act func(c *crashed)

	// want is what the box x may be said to be then, as STATUS/EXIT_CODE; "gone"
	// says that it may be gone.
	want []string
	// then checks what only this point promises.
	then func(c *crashed)
}

// crashed is the world of one case: a box keep that runs, a box old that has
// ended, and the box x.
type crashed struct {
	*testing.T
	m    *mount
	gate string
	text string // config.yaml of x
	next string // what rewrite makes of it, without the mark
	keep int    // pid
}

// other is a second configuration.
const other = "command: [sleep, infinity]\nhostname: other\n"

// Limits that a box has at first, and that it gets.
const (
	limits  = "resources: {cpus: 0.5, memory: 64MiB, pids: 20}\n"
	limits2 = "resources: {cpus: 0.75, memory: 96MiB, pids: 30}\n"
)

func (c *crashed) h() *daemon.Home { return c.m.h }

// marked is the configuration of a box whose processes can be told from any
// other's by their environment.
func (c *crashed) marked(name, config string) string {
	return config + "env: {BOXLITE_CRASH: " + filepath.Join(c.h().Dir, name) + "}\n"
}

// ran makes x with one run behind it, which exited with 3; from now on it would
// stay.
func (c *crashed) ran() { c.ranWith("") }

func (c *crashed) ranWith(more string) {
	c.Helper()
	c.config("x", script("[ -e "+c.gate+" ] || exit 3; echo up; trap 'exit 9' TERM; while :; do sleep 0.02; done", more))
	do(c.T, c.m, "x", "start")
	if got := waits(c.T, c.m, "x", "stopped"); got != "3" {
		c.Fatalf("the first run ended with %s", got)
	}
	if err := os.WriteFile(c.gate, nil, 0o600); err != nil {
		c.Fatal(err)
	}
}

// runs makes x with a second run, that goes on.
func (c *crashed) runs() { c.runsWith("") }

func (c *crashed) runsWith(more string) {
	c.Helper()
	c.ranWith(more)
	do(c.T, c.m, "x", "start")
	awaitLog(c.T, c.m, "x", "up")
}

// relimits makes x run with the limits of more, and has rewrite give it others.
func relimits(more, next string) func(c *crashed) {
	return func(c *crashed) {
		c.runsWith(more)
		c.next = other + next
	}
}

func (c *crashed) config(name, text string) {
	c.Helper()
	if name == "x" {
		text = c.marked(name, text)
		c.text = strings.TrimSuffix(text, "\n")
	}
	box(c.T, c.m, name, text)
}

// tell gives a command line to x, whatever comes of it.
func tell(line string) func(c *crashed) {
	return func(c *crashed) { _, _ = c.h().Put("x", "ctl", line+"\n") }
}

// rewrite gives x another configuration.
func rewrite(c *crashed) { _, _ = c.h().Put("x", "config.yaml", c.marked("x", c.next)) }

func (c *crashed) rewritten() string { return strings.TrimSuffix(c.marked("x", c.next), "\n") }

// end has the daemon asked to end in order, once the box holding runs.
func end(c *crashed) {
	await(c.T, c.m, "holding", "status", "running")
	c.m.d.Signal(unix.SIGTERM)
}

func anew(c *crashed) { _ = c.h().Mkdir("x") }

func scrape(c *crashed) { _, _ = c.h().Read("metrics") }

func discard(c *crashed) { _ = c.h().Rmdir("x") }

var (
	ran    = (*crashed).ran
	runs2  = (*crashed).runs
	stays  = []string{"stopped/3"}                 // the second run never was
	killed = []string{"stopped/-1", "stopped/137"} // -1 where nobody saw it
	seen   = []string{"stopped/137"}
	goesOn = []string{"running/3"}
	// neverRan: a shim that lost its daemon before it was given a command ends with
	// 125, which may be seen or not.
	neverRan = []string{"stopped/-1", "failed/125"}
)

var crashes = []crash{
	{point: "start.accepted", ready: ran, act: tell("start"), want: stays},
	{point: "start.forked", ready: ran, act: tell("start"), want: stays},
	{point: "start.pid", ready: ran, act: tell("start"), want: stays},
	{point: "start.recorded", ready: ran, act: tell("start"), want: neverRan},
	{point: "start.begun", ready: ran, act: tell("start"), want: goesOn},
	{point: "start.executed", ready: ran, act: tell("start"), want: goesOn},
	{point: "start.running", ready: ran, act: tell("start"), want: goesOn},
	{point: "start.begun", name: "a command that does not exist", ready: func(c *crashed) {
		c.config("x", "command: [no-such-command]\n")
	}, act: tell("start"), want: []string{"failed/-1"}},
	{point: "group.cleared", ready: ran, act: tell("start"), want: stays},
	{point: "group.limited", ready: func(c *crashed) { c.ranWith(limits) }, act: tell("start"), want: stays},
	{point: "replace.begun/shim.json", ready: ran, act: tell("start"), want: stays},
	{point: "replace.opened/shim.json", ready: ran, act: tell("start"), want: stays},
	{point: "replace.written/shim.json", ready: ran, act: tell("start"), want: stays},
	{point: "replace.synced/shim.json", ready: ran, act: tell("start"), want: stays},
	{point: "replace.renamed/shim.json", ready: ran, act: tell("start"), want: neverRan},

	{point: "stop.accepted", ready: runs2, act: tell("stop"), want: goesOn},
	{point: "stop.asked", ready: runs2, act: tell("stop"), want: []string{"stopped/9"}},
	{point: "stop.accepted", name: "kill", ready: runs2, act: tell("kill"), want: goesOn},
	{point: "kill.sent", ready: runs2, act: tell("kill"), want: killed},
	{point: "end.reaped", ready: runs2, act: tell("kill"), want: killed},
	{point: "end.reaped", name: "own child", ready: ran, act: startAndKill, want: []string{"stopped/-1"}},
	{point: "end.reaped", name: "after a stop", ready: runs2, act: tell("stop"), want: []string{"stopped/9"}},
	{point: "replace.begun/exit.json", ready: ran, act: startAndKill, want: []string{"stopped/-1"}},
	{point: "replace.opened/exit.json", ready: ran, act: startAndKill, want: []string{"stopped/-1"}},
	{point: "replace.written/exit.json", ready: ran, act: startAndKill, want: []string{"stopped/-1"}},
	{point: "replace.synced/exit.json", ready: ran, act: startAndKill, want: []string{"stopped/-1"}},
	{point: "replace.renamed/exit.json", ready: ran, act: startAndKill, want: seen},
	{point: "end.recorded", ready: ran, act: startAndKill, want: seen},
	{point: "end.recorded", name: "adopted", ready: runs2, act: tell("kill"), want: seen},
	{point: "end.published", ready: ran, act: startAndKill, want: seen},
	{point: "group.removed", ready: runs2, act: tell("kill"), want: seen},
	{point: "end.told", ready: ran, act: startAndKill, want: seen},
	{point: "end.saved", ready: ran, act: startAndKill, want: seen},
	{point: "end.told", name: "of itself", ready: ends, act: tell("signal USR1"), want: []string{"stopped/4"}},
	{point: "end.reaped", name: "remove_on_exit", ready: removes, act: tell("signal USR1"), want: []string{"gone"}},
	{point: "end.told", name: "remove_on_exit", ready: removes, act: tell("signal USR1"), want: []string{"gone"}},
	{point: "end.saved", name: "remove_on_exit", ready: removes, act: tell("signal USR1"), want: []string{"gone"}},
	{point: "replace.begun/state.json", ready: runs2, act: tell("kill"), want: seen},
	{point: "replace.opened/state.json", ready: runs2, act: tell("kill"), want: seen},
	{point: "replace.written/state.json", ready: runs2, act: tell("kill"), want: seen},
	{point: "replace.synced/state.json", ready: runs2, act: tell("kill"), want: seen},
	{point: "replace.renamed/state.json", ready: runs2, act: tell("kill"), want: seen},
	{point: "replace.synced/state.json", name: "beside a start", ready: ran, act: tell("start"), want: slices.Concat(stays, neverRan, goesOn)},
	{point: "restart.stopped", ready: runs2, act: tell("restart"), want: []string{"running/9"}},
	{point: "stop.asked", name: "of a restart", ready: runs2, act: tell("restart"), want: []string{"running/9"}},
	{point: "kill.sent", name: "of a restart", ready: runs2, act: tell("restart 0s"), want: []string{"running/-1", "running/137"}},
	{point: "start.begun", name: "restart", ready: runs2, act: tell("restart 0s"), want: []string{"running/137"}},
	{point: "ask.accepted", ready: runs2, act: tell("pause"), want: goesOn},
	{point: "ask.answered", ready: runs2, act: tell("pause"), want: []string{"paused/3"}},
	{point: "ask.answered", name: "resume", ready: func(c *crashed) {
		c.runs()
		do(c.T, c.m, "x", "pause")
	}, act: tell("resume"), want: goesOn},
	{point: "ask.answered", name: "pause, and the shim is killed", ready: runs2, act: tell("pause"), meanwhile: func(c *crashed) {
		kill(c.T, c.h().Records()["x"].Identity.PID, unix.SIGKILL)
	}, want: killed},

	{point: "stop.noted", ready: returns, act: tell("stop"), want: []string{"stopped/143"}},
	{point: "stop.noted", name: "of a restart", ready: runs2, act: tell("restart"), want: []string{"running/9"}},
	{point: "kill.sent", name: "of a box that would come back", ready: returns, act: tell("kill"), want: killed},
	{point: "end.reaped", name: "of a box that would come back", ready: returns, act: tell("kill"), want: killed},
	{point: "end.reaped", name: "to come back", ready: returns, act: strike, want: cameBack},
	{point: "end.recorded", name: "to come back", ready: returns, act: strike, want: cameBack},
	{point: "end.published", name: "to come back", ready: returns, act: strike, want: cameBack},
	{point: "end.told", name: "to come back", ready: returns, act: strike, want: cameBack},
	{point: "end.saved", name: "to come back", ready: returns, act: strike, want: cameBack},
	{point: "restart.due", ready: returns, act: strike, want: cameBack},
	{point: "start.accepted", name: "after a backoff", ready: returns, act: strike, want: cameBack},
	{point: "start.pid", name: "after a backoff", ready: returns, act: strike, want: cameBack},
	{point: "start.recorded", name: "after a backoff", ready: returns, act: strike, want: []string{"running/-1", "running/125"}},
	{point: "start.running", name: "after a backoff", ready: returns, act: strike, want: cameBack},
	{point: "stop.waited", ready: waits30, act: tell("stop"), want: []string{"restarting/3", "stopped/3"}},
	{point: "replace.renamed/state.json", name: "of a stop in a backoff", ready: waits30, act: tell("kill"), want: []string{"stopped/3"}},

	{point: "config.part", ready: ran, act: rewrite, want: stays},
	{point: "config.closed", ready: ran, act: rewrite, want: stays},
	{point: "config.accepted", ready: ran, act: rewrite, want: stays},
	{point: "replace.begun/config.yaml", ready: ran, act: rewrite, want: stays},
	{point: "replace.opened/config.yaml", ready: ran, act: rewrite, want: stays},
	{point: "replace.written/config.yaml", ready: ran, act: rewrite, want: stays},
	{point: "replace.synced/config.yaml", ready: ran, act: rewrite, want: stays},
	{point: "replace.renamed/config.yaml", ready: ran, act: rewrite, want: stays, then: hasNew},
	{point: "config.written", ready: ran, act: rewrite, want: stays, then: hasNew},
	{point: "config.published", ready: ran, act: rewrite, want: stays, then: hasNew},
	{point: "config.written", name: "the first", ready: func(c *crashed) { must(c.T, "create", c.m.create("x")) },
		act: rewrite, want: []string{"configured/-1"}, then: hasNew},
	{point: "replace.synced/config.yaml", name: "the first", ready: func(c *crashed) { must(c.T, "create", c.m.create("x")) },
		act: rewrite, want: []string{"empty/-1"}},
	{point: "config.written", name: "of a running box", ready: runs2, act: rewrite, want: goesOn, then: hasNew},
	{point: "group.relimited", ready: relimits(limits, limits2), act: rewrite, want: goesOn, then: hasLimits(limits)},
	{point: "group.relimited", name: "of a box that had none", ready: relimits("", limits2), act: rewrite, want: goesOn, then: hasLimits("")},
	{point: "group.relimited", name: "to none", ready: relimits(limits, ""), act: rewrite, want: goesOn, then: hasLimits(limits)},
	{point: "config.written", name: "of new limits", ready: relimits(limits, limits2), act: rewrite, want: goesOn, then: hasLimits(limits2)},
	{point: "config.written", name: "of no limits any more", ready: relimits(limits, ""), act: rewrite, want: goesOn, then: hasLimits("")},
	{point: "chown.saved", ready: ran, act: func(c *crashed) { c.m.chown("x", "ctl", 65534, 65534, 0o200) }, want: stays},

	{point: "create.mapped", act: anew, want: []string{"gone"}},
	{point: "create.made", act: anew, want: []string{"empty/-1"}},
	{point: "create.told", act: anew, want: []string{"empty/-1"}},

	{point: "remove.accepted", ready: ran, act: discard, want: stays},
	{point: "remove.renamed", ready: ran, act: discard, want: []string{"gone"}},
	{point: "remove.told", ready: ran, act: discard, want: []string{"gone"}},
	{point: "remove.deleting", ready: ran, act: discard, want: []string{"gone"}},

	{point: "exec.made", ready: runs2, act: execute, want: goesOn, then: execIs("")},
	{point: "replace.begun/exec.json", ready: runs2, act: execute, want: goesOn, then: execIs("")},
	{point: "replace.opened/exec.json", ready: runs2, act: execute, want: goesOn, then: execIs("")},
	{point: "replace.written/exec.json", ready: runs2, act: execute, want: goesOn, then: execIs("")},
	{point: "replace.synced/exec.json", ready: runs2, act: execute, want: goesOn, then: execIs("")},
	{point: "replace.renamed/exec.json", ready: runs2, act: execute, want: goesOn, then: execIs("empty/-1")},
	{point: "replace.synced/exec.json:2", ready: runs2, act: execute, want: goesOn, then: execIs("empty/-1")},
	{point: "replace.renamed/exec.json:2", ready: runs2, act: execute, want: goesOn, then: execIs("failed/125")},
	{point: "load.unusable/exec.json", ready: executes, spoil: noExec, want: goesOn, then: execIs("")},
	{point: "load.aside/exec.json", ready: executes, spoil: noExec, want: goesOn, then: execIs("")},
	{point: "exec.recorded", ready: runs2, act: execute, want: goesOn, then: execIs("failed/125")},
	{point: "exec.asked", ready: runs2, act: execute, want: goesOn, then: execIs("running/-1")},
	{point: "exec.asked", name: "and the shim is killed", ready: runs2, act: execute, meanwhile: killShim, want: killed, then: execIs("stopped/137")},
	{point: "end.recorded", name: "with an exec", ready: executes, act: tell("kill"), want: seen, then: execIs("stopped/137")},
	{point: "exec.discarded", ready: runs2, act: func(c *crashed) {
		_ = os.Mkdir(c.h().Box("x", "exec", "e1"), 0o755)
		_ = os.Remove(c.h().Box("x", "exec", "e1"))
	}, want: goesOn, then: execIs("")},

	{point: "metrics.collecting", ready: ran, act: scrape, want: stays},

	{point: "close.stopping", ready: withHolding, act: end, want: goesOn, then: holdingDied},
	{point: "close.stopped", ready: withHolding, act: end, want: goesOn, then: holdingDied},

	{point: "recover.locked", ready: runs2, want: goesOn},
	{point: "recover.box", ready: runs2, want: goesOn},
	{point: "recover.box:2", ready: runs2, want: goesOn},
	{point: "recover.box:3", ready: runs2, want: goesOn},
	{point: "recover.adopted", ready: runs2, want: goesOn},
	{point: "recover.adopted:2", ready: runs2, want: goesOn},
	{point: "recover.watched", ready: runs2, want: goesOn},
	{point: "recover.watched:2", ready: runs2, want: goesOn},
	{point: "recover.done", ready: runs2, want: goesOn},
	{point: "recover.found", ready: runs2, spoil: noShimRecord, want: goesOn},
	{point: "load.unusable/shim.json", ready: runs2, spoil: noShimRecord, want: goesOn},
	{point: "load.aside/shim.json", ready: runs2, spoil: noShimRecord, want: goesOn},
	{point: "load.unusable/state.json", ready: runs2, spoil: noState, want: []string{"running/-1"}},
	{point: "load.aside/state.json", ready: runs2, spoil: noState, want: []string{"running/-1"}},
	{point: "end.recorded", name: "at recovery", ready: runs2, spoil: killShim, want: []string{"stopped/-1"}},
	{point: "end.told", name: "at recovery", ready: runs2, spoil: killShim, want: []string{"stopped/-1"}},
	{point: "group.removed", name: "at recovery", ready: runs2, spoil: killShim, want: []string{"stopped/-1"}},
	{point: "load.unusable/exit.json", ready: runs2, spoil: noExit, want: []string{"stopped/-1"}},
	{point: "load.aside/exit.json", ready: runs2, spoil: noExit, want: []string{"stopped/-1"}},
	{point: "trash.emptying", ready: ran, spoil: fullTrash, want: stays},
	{point: "trash.emptying:2", ready: ran, spoil: fullTrash, want: stays},
	{point: "recover.autostart", ready: func(c *crashed) {
		c.config("x", sleeper+"autostart: true\n")
		await(c.T, c.m, "x", "status", "running")
		do(c.T, c.m, "x", "kill")
	}, want: []string{"running/137"}},
}

// returns makes x run, to be started again when it ends unasked.
func returns(c *crashed) {
	c.Helper()
	c.config("x", script("echo up; exec sleep infinity", always))
	do(c.T, c.m, "x", "start")
	awaitLog(c.T, c.m, "x", "up")
}

// waits30 has x wait out a backoff of half a minute.
func waits30(c *crashed) {
	c.Helper()
	text := c.marked("x", script("exit 3"))
	c.text = strings.TrimSuffix(text+always, "\n")
	atRest(c.T, c.m, "x", text)
}

// strike kills the shim of x.
func strike(c *crashed) { kill(c.T, c.h().Records()["x"].Identity.PID, unix.SIGKILL) }

var cameBack = []string{"running/-1", "running/137"} // -1 where nobody saw it

// ends makes x run, to exit with 4 when it is told to.
func ends(c *crashed) { c.endsWith("") }

// removes is ends of a box that is to be removed then.
func removes(c *crashed) { c.endsWith("remove_on_exit: true\n") }

func (c *crashed) endsWith(more string) {
	c.Helper()
	c.config("x", script("trap 'exit 4' USR1; echo up; while :; do sleep 0.02; done", more))
	do(c.T, c.m, "x", "start")
	awaitLog(c.T, c.m, "x", "up")
}

func startAndKill(c *crashed) {
	if _, closed := c.h().Put("x", "ctl", "start\n"); closed != nil {
		c.Errorf("start: %v", closed)
	}
	_, _ = c.h().Put("x", "ctl", "kill\n")
}

func hasNew(c *crashed) {
	if got := read(c.T, c.m, "x", "config.yaml"); got != c.rewritten() {
		c.Errorf("config.yaml was in place when the daemon died, and is %q", got)
	}
}

// execute runs a command in x.
func execute(c *crashed) {
	_ = os.Mkdir(c.h().Box("x", "exec", "e1"), 0o755)
	_, _ = c.h().Put("x", "exec/e1/cmd", "sleep infinity\n")
}

// executes makes x run with an exec that runs.
func executes(c *crashed) {
	c.Helper()
	c.runs()
	execute(c)
	await(c.T, c.m, "x", "exec/e1/status", "running")
}

func noExec(c *crashed) { spoil(c.T, c.m, "x", "exec/e1/exec.json", "{") }

// execIs checks what has become of that, as STATUS/EXIT_CODE, and that another can be
// run; "" says that there is none.
func execIs(want string) func(c *crashed) {
	return func(c *crashed) {
		got := ""
		if status, k := c.m.read("x", "exec/e1/status"); k == fine {
			got = status + "/" + read(c.T, c.m, "x", "exec/e1/exit_code")
		}
		if got != want {
			c.Errorf("the exec is %q, not %q", got, want)
		}
		if want != "" {
			_, _ = c.h().Put("x", "exec/e1/ctl", "kill\n")
			if err := os.Remove(c.h().Box("x", "exec", "e1")); err != nil {
				c.Errorf("rmdir: %v", err)
			}
		}
		if status := read(c.T, c.m, "x", "status"); status != "running" {
			return
		}
		if err := os.Mkdir(c.h().Box("x", "exec", "e1"), 0o755); err != nil {
			c.Errorf("mkdir: %v", err)
		}
		if _, err := c.h().Put("x", "exec/e1/cmd", "true\n"); err != nil {
			c.Errorf("cmd: %v", err)
		}
		if code := read(c.T, c.m, "x", "exec/e1/wait/stopped"); code != "0" {
			c.Errorf("true exits with %s", code)
		}
	}
}

// hasLimits checks that x has the limits, which those of its config.yaml have to be,
// and that the kernel has them too. The box keep has none.
func hasLimits(text string) func(c *crashed) {
	return func(c *crashed) {
		if got := read(c.T, c.m, "x", "config.yaml"); !strings.Contains(got, text) || text == "" && strings.Contains(got, "resources:") {
			c.Errorf("config.yaml has other limits than %q: %q", text, got)
		}
		want := map[string]string{
			limits:  "cpu.cfs_quota_us 50000, memory.limit_in_bytes 67108864, pids.max 20",
			limits2: "cpu.cfs_quota_us 75000, memory.limit_in_bytes 100663296, pids.max 30",
			"":      c.limits("keep"),
		}[text]
		if got := c.limits("x"); got != want {
			c.Errorf("the kernel has the limits %s, not %s", got, want)
		}
	}
}

// limits returns the limits of a box as the kernel has them, in the words of v1.
func (c *crashed) limits(name string) string {
	c.Helper()
	var out []string
	for _, f := range []struct{ v1, v2 string }{
		{"cpu.cfs_quota_us", "cpu.max"}, {"memory.limit_in_bytes", "memory.max"}, {"pids.max", "pids.max"},
	} {
		text, ok := c.groupFile(name, f.v1)
		if !ok {
			text, ok = c.groupFile(name, f.v2)
			text, _, _ = strings.Cut(text, " ") // cpu.max has the period, too
		}
		if !ok {
			c.Fatalf("%s has no %s", name, f.v1)
		}
		out = append(out, f.v1+" "+text)
	}
	return strings.Join(out, ", ")
}

// groupFile reads a file of the cgroup of a box, in whichever hierarchy it is.
func (c *crashed) groupFile(box, file string) (string, bool) {
	c.Helper()
	for _, dir := range c.h().Groups()[box] {
		text, err := os.ReadFile(filepath.Join(dir, file))
		if err == nil {
			return strings.TrimSpace(string(text)), true
		}
		if !errors.Is(err, os.ErrNotExist) {
			c.Fatal(err)
		}
	}
	return "", false
}

// withHolding adds a box that must not outlive the daemon.
func withHolding(c *crashed) {
	c.runs()
	c.config("holding", c.marked("holding", sleeper+"detach: false\nautostart: true\n"))
	await(c.T, c.m, "holding", "status", "running")
}

func holdingDied(c *crashed) {
	// It starts again by itself: what died is the run that went on.
	await(c.T, c.m, "holding", "status", "running")
	has(c.T, c.m, "holding", "info.json", `"exit_code": 137`)
	do(c.T, c.m, "holding", "kill")
}

func noShimRecord(c *crashed) { spoil(c.T, c.m, "x", "shim.json", "{") }

func noState(c *crashed) { spoil(c.T, c.m, "x", "state.json", "") }

func noExit(c *crashed) {
	killShim(c)
	spoil(c.T, c.m, "x", "exit.json", "{")
}

func killShim(c *crashed) {
	pid := c.h().Records()["x"].Identity.PID
	kill(c.T, pid, unix.SIGKILL)
	bury(c.T, pid)
}

func fullTrash(c *crashed) {
	for _, name := range []string{"a", "b", "c"} {
		dir := filepath.Join(c.h().State, "trash", name)
		if err := os.MkdirAll(filepath.Join(dir, "deep"), 0o700); err != nil {
			c.Fatal(err)
		}
		for _, file := range []string{"config.yaml", "state.json"} {
			if err := os.WriteFile(filepath.Join(dir, file), nil, 0o600); err != nil {
				c.Fatal(err)
			}
		}
	}
}

func TestCrash(t *testing.T) {
	for _, f := range crashes {
		name := f.point
		if f.name != "" {
			name += ", " + f.name
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f.run(t)
		})
	}
}

func (f *crash) run(t *testing.T) {
	m := newMount(t)
	c := &crashed{T: t, m: m, gate: filepath.Join(m.h.Dir, "gate"), next: other}
	m.open()
	c.config("keep", c.marked("keep", script("while :; do echo tick; sleep 0.05; done")))
	do(t, m, "keep", "start")
	c.keep = pidOf(t, m, "keep")
	c.config("old", script("exit 7"))
	do(t, m, "old", "start")
	if got := waits(t, m, "old", "stopped"); got != "7" {
		t.Fatalf("the box old ended with %s", got)
	}
	if f.ready != nil {
		f.ready(c)
	}
	m.shut()
	if f.spoil != nil {
		f.spoil(c)
	}
	c.daemonDiesAt(f.point, f.act)
	if f.meanwhile != nil {
		f.meanwhile(c)
	}
	m.open()
	c.sound(f.want, []string{c.text, c.rewritten()})
	if f.then != nil && !t.Failed() {
		f.then(c)
	}
	c.usable()
}

// daemonDiesAt runs a daemon that has to kill itself at the point.
func (c *crashed) daemonDiesAt(point string, act func(c *crashed)) {
	c.Helper()
	h := c.h()
	h.Boxlited = daemon.Variant(c.T, "boxlited-faults", "-tags", "faults")
	h.Env = []string{"BOXLITE_FAULT=" + point}
	if act == nil {
		c.m.d = h.StartAnyhow()
	} else {
		c.m.d = h.Start()
		act(c)
	}
	c.m.d.AwaitKilled()
	h.Boxlited, h.Env = "", nil
}

// sound checks from outside that what the daemon says is so, and whole.
func (c *crashed) sound(want, configs []string) {
	c.Helper()
	t, m := c.T, c.m
	if text, err := m.h.Read("version"); err != nil || text == "" {
		t.Fatalf("the mount does not answer: %q, %v", text, err)
	}
	says := func(name string) string {
		status, k := m.read(name, "status")
		if k != fine {
			return "gone"
		}
		code, k := m.read(name, "exit_code")
		if k != fine {
			return "gone"
		}
		return status + "/" + code
	}
	last := ""
	daemon.Await(t, "x to be one of "+strings.Join(want, " "), func() bool {
		if got := says("x"); got != last {
			t.Logf("x is %s", got)
			last = got
		}
		return slices.Contains(want, last)
	})
	is(t, m, "keep", "status", "running", "pid", strconv.Itoa(c.keep))
	ticks := strings.Count(read(t, m, "keep", "log"), "\n")
	daemon.Await(t, "the log of keep to grow", func() bool { return strings.Count(read(t, m, "keep", "log"), "\n") > ticks })
	is(t, m, "old", "status", "stopped", "exit_code", "7", "pid", "-1", "last_error", "the command exited with status 7")
	c.honest()
	names := m.names()
	if slices.Contains(names, "x") == (last == "gone") {
		t.Errorf("x is %s, and the boxes are %v", last, names)
	}
	disk, err := os.ReadDir(filepath.Join(m.h.State, "boxes"))
	if err != nil || len(disk) != len(names) {
		t.Errorf("the boxes are %v, the state directory has %v (%v)", names, disk, err)
	}
	if last != "gone" {
		if got := read(t, m, "x", "config.yaml"); !slices.Contains(configs, got) {
			t.Errorf("config.yaml is %q, none of %q", got, configs)
		}
	}
	daemon.Await(t, "an empty trash", func() bool {
		left, err := os.ReadDir(filepath.Join(m.h.State, "trash"))
		return err == nil && len(left) == 0
	})
}

// honest awaits that the pids of all boxes are those of shims that live, that no
// other process of a box lives, that nothing the daemon has to reap is left, and no
// cgroup that no box uses, and that what is frozen is said to be paused.
func (c *crashed) honest() {
	c.Helper()
	t, m := c.T, c.m
	lie := ""
	complain := func(text string) bool {
		if text != lie {
			t.Log(text)
			lie = text
		}
		return false
	}
	daemon.Await(t, "what is said to fit /proc", func() bool {
		var told []int
		for _, name := range m.names() {
			status, pid := read(t, m, name, "status"), read(t, m, name, "pid")
			n, err := strconv.Atoi(pid)
			active := status == "running" || status == "paused"
			if err != nil || active != (n > 1) || active && !daemon.Alive(n) {
				return complain(name + " is " + status + " and has the pid " + pid)
			}
			procs := daemon.WithEnv("BOXLITE_CRASH=" + filepath.Join(m.h.Dir, name))
			if active {
				told = append(told, n)
				if len(procs) == 0 && name != "old" {
					return complain(name + " is " + status + " without a process")
				}
				ns := daemon.NamespaceOf(n)
				for _, p := range procs {
					if got := daemon.NamespaceOf(p); got != ns && daemon.Alive(p) {
						return complain(name + " has a process of another run: " + strconv.Itoa(p))
					}
				}
			} else if len(procs) > 0 {
				return complain(name + " is " + status + " and has a process")
			}
			frozen, _ := c.groupFile(name, "freezer.self_freezing")
			if v2, ok := c.groupFile(name, "cgroup.freeze"); ok {
				frozen = v2
			}
			if (status == "paused") != (frozen == "1") {
				return complain(name + " is " + status + ", and its freezer says " + strconv.Quote(frozen))
			}
		}
		groups := m.h.Groups()
		for name, dirs := range groups {
			if !slices.Contains(m.names(), name) || read(t, m, name, "pid") == "-1" {
				return complain("there are cgroups that no box uses: " + strings.Join(dirs, " "))
			}
		}
		shims := slices.DeleteFunc(m.h.Users(), func(pid int) bool { return pid == m.d.PID })
		slices.Sort(told)
		slices.Sort(shims)
		if !slices.Equal(told, shims) {
			return complain("there are the shims " + strconv.Quote(join(shims)) + ", not " + strconv.Quote(join(told)))
		}
		children, err := daemon.Children(m.d.PID)
		if err != nil {
			t.Fatal(err)
		}
		for _, pid := range children {
			if daemon.State(pid) == "Z" {
				return complain("zombie " + strconv.Itoa(pid))
			}
		}
		return true
	})
}

func join(pids []int) string {
	var out []string
	for _, pid := range pids {
		out = append(out, strconv.Itoa(pid))
	}
	return strings.Join(out, " ")
}

// usable lives a whole life with x.
func (c *crashed) usable() {
	c.Helper()
	t, m := c.T, c.m
	if slices.Contains(m.names(), "x") {
		do(t, m, "x", "kill")
		must(t, "configure", m.configure("x", c.marked("x", other)))
	} else {
		box(t, m, "x", c.marked("x", other))
	}
	do(t, m, "x", "start")
	is(t, m, "x", "status", "running", "last_error", "ok")
	c.honest()
	pid, ns := pidOf(t, m, "x"), namespace(t, m, "x")
	do(t, m, "x", "kill")
	vanished(t, pid, ns)
	is(t, m, "x", "status", "stopped", "exit_code", "137", "pid", "-1")
	must(t, "remove", m.remove("x"))
	if _, err := os.Stat(filepath.Join(m.h.State, "boxes", "x")); !os.IsNotExist(err) {
		t.Errorf("x is removed, and its directory is there: %v", err)
	}
	do(t, m, "keep", "kill")
	c.honest()
}

// replaced are the files that go through the points of atomicfile.Replace and of load.
var replaced = map[string][]string{
	"replace.begun":   {"config.yaml", "state.json", "shim.json", "exit.json", "exec.json"},
	"replace.opened":  {"config.yaml", "state.json", "shim.json", "exit.json", "exec.json"},
	"replace.written": {"config.yaml", "state.json", "shim.json", "exit.json", "exec.json"},
	"replace.synced":  {"config.yaml", "state.json", "shim.json", "exit.json", "exec.json"},
	"replace.renamed": {"config.yaml", "state.json", "shim.json", "exit.json", "exec.json"},
	"load.unusable":   {"state.json", "shim.json", "exit.json", "exec.json"},
	"load.aside":      {"state.json", "shim.json", "exit.json", "exec.json"},
}

// TestEveryPointHasACrash compares the points of the source with the table, and
// sees that none of them is in the daemon that people run.
func TestEveryPointHasACrash(t *testing.T) {
	tested := map[string]bool{}
	for _, f := range crashes {
		point, _, _ := strings.Cut(f.point, ":")
		tested[point] = true
	}
	points := faultPoints(t)
	if len(points) < 40 {
		t.Errorf("only %d points were found: %v", len(points), points)
	}
	boxlited, _ := daemon.Binaries(t)
	text, err := os.ReadFile(boxlited)
	if err != nil {
		t.Fatal(err)
	}
	for _, point := range points {
		names := []string{point}
		if files := replaced[point]; files != nil {
			names = nil
			for _, file := range files {
				names = append(names, point+"/"+file)
			}
		}
		for _, name := range names {
			if !tested[name] {
				t.Errorf("no crash is tested at %s", name)
			}
			delete(tested, name)
		}
		if strings.Contains(string(text), point) {
			t.Errorf("boxlited has the point %s without the tag faults", point)
		}
	}
	for point := range tested {
		t.Errorf("there is no point %s", point)
	}
}

// faultPoints returns the names in the calls of package fault.
func faultPoints(t *testing.T) []string {
	t.Helper()
	var out []string
	for _, dir := range []string{"runtime", "fsapi", "cmd"} {
		err := filepath.WalkDir(filepath.Join("..", "..", dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() || filepath.Ext(path) != ".go" {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, 0)
			if err != nil {
				return err
			}
			for _, point := range pointsOf(file) {
				if slices.Contains(out, point) {
					t.Errorf("%s: the point %s is there twice", path, point)
				}
				out = append(out, point)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}

// pointsOf returns the names in the calls of fault.Point and fault.PointIn of a file.
func pointsOf(file *ast.File) []string {
	var out []string
	ast.Inspect(file, func(n ast.Node) bool {
		call, ok := n.(*ast.CallExpr)
		if !ok || len(call.Args) == 0 {
			return true
		}
		fn, ok := call.Fun.(*ast.SelectorExpr)
		if !ok || fn.Sel.Name != "Point" && fn.Sel.Name != "PointIn" {
			return true
		}
		lit, ok := call.Args[0].(*ast.BasicLit)
		if pkg, of := fn.X.(*ast.Ident); !ok || !of || pkg.Name != "fault" {
			return true
		}
		if point, err := strconv.Unquote(lit.Value); err == nil {
			out = append(out, point)
		}
		return true
	})
	return out
}

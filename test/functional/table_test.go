package functional

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/test/daemon"
)

var tableCases = []testCase{{"every command in every state", everyCommand}}

// cell is what a command does in a state: its result, and the state after.
type cell struct {
	result kind
	after  string
}

// under is the result of a command that is accepted and does not end by itself.
const under kind = "under way"

// table is the whole of the state table as commands meet it, by state. "configure"
// and "remove" stand for a write of config.yaml and a rmdir. A box that is asked
// to stop or hangs in its start has a grace of an hour.
var table = map[string]map[string]cell{
	"empty": {
		"start": {unconfigured, "empty"}, "restart": {unconfigured, "empty"},
		"stop": {fine, "empty"}, "stop 0s": {fine, "empty"}, "kill": {fine, "empty"},
		"pause": {noProcess, "empty"}, "resume": {noProcess, "empty"}, "signal WINCH": {noProcess, "empty"},
		"configure": {fine, "configured"}, "remove": {fine, ""},
	},
	"configured": {
		"start": {fine, "running"}, "restart": {fine, "running"},
		"stop": {fine, "configured"}, "stop 0s": {fine, "configured"}, "kill": {fine, "configured"},
		"pause": {noProcess, "configured"}, "resume": {noProcess, "configured"}, "signal WINCH": {noProcess, "configured"},
		"configure": {fine, "configured"}, "remove": {fine, ""},
	},
	"starting": {
		"start": {under, "starting"}, "restart": {under, "stopping"},
		"stop": {under, "stopping"}, "stop 0s": {fine, "stopped"}, "kill": {fine, "stopped"},
		"pause": {busy, "starting"}, "resume": {busy, "starting"}, "signal WINCH": {busy, "starting"},
		"configure": {fine, "starting"}, "remove": {busy, "starting"},
	},
	"running": {
		"start": {fine, "running"}, "restart": {under, "stopping"}, "restart 0s": {fine, "running"},
		"stop": {under, "stopping"}, "stop 0s": {fine, "stopped"}, "kill": {fine, "stopped"},
		"pause": {fine, "paused"}, "resume": {fine, "running"}, "signal WINCH": {fine, "running"},
		"configure": {fine, "running"}, "remove": {busy, "running"},
	},
	"paused": {
		"start": {fine, "paused"}, "restart": {under, "stopping"}, "restart 0s": {fine, "running"},
		"stop": {under, "stopping"}, "stop 0s": {fine, "stopped"}, "kill": {fine, "stopped"},
		"pause": {fine, "paused"}, "resume": {fine, "running"}, "signal WINCH": {fine, "paused"},
		"configure": {fine, "paused"}, "remove": {busy, "paused"},
	},
	"stopping": {
		"start": {busy, "stopping"}, "restart": {under, "stopping"}, "restart 0s": {fine, "running"},
		"stop": {under, "stopping"}, "stop 0s": {fine, "stopped"}, "kill": {fine, "stopped"},
		"pause": {busy, "stopping"}, "resume": {busy, "stopping"}, "signal WINCH": {fine, "stopping"},
		"configure": {fine, "stopping"}, "remove": {busy, "stopping"},
	},
	"stopped": {
		"start": {fine, "running"}, "restart": {fine, "running"},
		"stop": {fine, "stopped"}, "stop 0s": {fine, "stopped"}, "kill": {fine, "stopped"},
		"pause": {noProcess, "stopped"}, "resume": {noProcess, "stopped"}, "signal WINCH": {noProcess, "stopped"},
		"configure": {fine, "stopped"}, "remove": {fine, ""},
	},
	"restarting": {
		"start": {fine, "running"}, "restart": {fine, "running"},
		"stop": {fine, "stopped"}, "stop 0s": {fine, "stopped"}, "kill": {fine, "stopped"},
		"pause": {noProcess, "restarting"}, "resume": {noProcess, "restarting"}, "signal WINCH": {noProcess, "restarting"},
		"configure": {fine, "restarting"}, "remove": {busy, "restarting"},
	},
	"failed": {
		"start": {startFailed, "failed"}, "restart": {startFailed, "failed"},
		"stop": {fine, "failed"}, "stop 0s": {fine, "failed"}, "kill": {fine, "failed"},
		"pause": {noProcess, "failed"}, "resume": {noProcess, "failed"}, "signal WINCH": {noProcess, "failed"},
		"configure": {fine, "configured"}, "remove": {fine, ""},
	},
	// A box whose process could not be looked at: nothing may be concluded, and
	// nothing touched.
	"unknown": {
		"start": {busy, "unknown"}, "restart": {busy, "unknown"},
		"stop": {busy, "unknown"}, "stop 0s": {busy, "unknown"}, "kill": {busy, "unknown"},
		"pause": {busy, "unknown"}, "resume": {busy, "unknown"}, "signal WINCH": {busy, "unknown"},
		"configure": {fine, "unknown"}, "remove": {busy, "unknown"},
	},
}

const patient = "stop: {timeout: 1h}\n"

// reach brings a new box into a state, by the road that people take.
func reach(t *testing.T, s subject, name, state string) {
	t.Helper()
	switch state {
	case "empty":
		must(t, "create", s.create(name))
	case "configured":
		box(t, s, name, stubborn+patient)
	case "starting":
		box(t, s, name, stubborn+patient)
		start(t, s, name, "start")
		daemon.Await(t, "a pid", func() bool { return read(t, s, name, "pid") != "-1" })
	case "running":
		upReady(t, s, name, stubborn+patient)
	case "paused":
		upReady(t, s, name, stubborn+patient)
		do(t, s, name, "pause")
	case "stopping":
		upReady(t, s, name, stubborn+patient)
		start(t, s, name, "stop")
	case "stopped":
		upReady(t, s, name, stubborn+patient)
		do(t, s, name, "kill")
	case "restarting":
		again := filepath.Join(s.home().Dir, "again")
		if err := os.RemoveAll(again); err != nil {
			t.Fatal(err)
		}
		atRest(t, s, name, script("[ -e "+again+" ] && exec sleep infinity; touch "+again+"; exit 3"))
	case "failed":
		box(t, s, name, "command: [no-such-command]\n")
		want(t, "start", try(t, s, name, "start"), startFailed)
	case "unknown":
		upReady(t, s, name, stubborn+patient)
		m, ok := s.(*mount)
		if !ok {
			t.Fatal("only a daemon of its own can be refused a system call")
		}
		m.shut()
		m.h.RefuseCall(unix.SYS_PIDFD_OPEN)
		m.open()
	}
	is(t, s, name, "status", state)
}

// give gives a command, or what stands for one, and returns what came of it. One
// that is still under way once the state is as expected is not waited for.
func give(t *testing.T, s subject, name, line string, expected cell) kind {
	t.Helper()
	switch line {
	case "configure":
		return s.configure(name, sleeper+patient)
	case "remove":
		return s.remove(name)
	}
	if expected.result != under {
		return try(t, s, name, line)
	}
	k, end := s.begin(name, line)
	if k != fine {
		return k
	}
	await(t, s, name, "status", expected.after)
	select {
	case k = <-end:
		return k
	default:
		return under
	}
}

func everyCommand(t *testing.T, s subject) {
	for state, row := range table {
		if _, ok := s.(*mount); !ok && state == "unknown" {
			continue // it cannot be had without a process of its own
		}
		if state == "starting" {
			continue // below, with another shim
		}
		for line, expected := range row {
			walkCell(t, s, state, line, expected)
		}
	}
	fake(t, s, "exec sleep infinity")
	for line, expected := range table["starting"] {
		walkCell(t, s, "starting", line, expected)
	}
	for state, row := range table {
		for _, line := range []string{"start", "restart", "stop", "stop 0s", "kill", "pause", "resume", "signal WINCH", "configure", "remove"} {
			if _, ok := row[line]; !ok {
				t.Errorf("the table has nothing for %s in state %s", line, state)
			}
		}
	}
}

func walkCell(t *testing.T, s subject, state, line string, expected cell) {
	t.Helper()
	const name = "odd"
	reach(t, s, name, state)
	got := give(t, s, name, line, expected)
	if got != expected.result {
		said, _ := s.read(name, "last_error")
		t.Errorf("%s, %s: %s, not %s (%s)", state, line, got, expected.result, said)
	}
	after, k := s.read(name, "status")
	if expected.after == "" {
		if k != absent {
			t.Errorf("%s, %s: the box is still there (%q, %s)", state, line, after, k)
		}
		return
	}
	if after != expected.after {
		t.Errorf("%s, %s: the box is %q then, not %q", state, line, after, expected.after)
	}
	refused := got != fine && got != under
	if said := read(t, s, name, "last_error"); refused && said == "ok" {
		t.Errorf("%s, %s: refused, and last_error says ok", state, line)
	}
	if m, ok := s.(*mount); ok && state == "unknown" {
		m.shut()
		m.h.AllowCalls()
		m.open()
		is(t, s, name, "status", "running")
	}
	do(t, s, name, "kill")
	must(t, "remove", s.remove(name))
}

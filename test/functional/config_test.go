package functional

import (
	"strings"
	"testing"
)

var configCases = []testCase{
	{"a refused config keeps the old one", refusedConfig},
	{"what is not there yet is refused", unsupported},
	{"a config for the next start is pending", pendingConfig},
	{"autostart", autostart},
}

func refusedConfig(t *testing.T, s subject) {
	box(t, s, "x", sleeper)
	old := strings.TrimSuffix(sleeper, "\n")
	for _, c := range []struct {
		text  string
		kind  kind
		words []string
	}{
		{"command: [true]\ncomand: [false]\n", invalid, []string{"line 2", "comand", "command"}},
		{"command: [true]\ncommand: [false]\n", invalid, []string{"line 2", "command"}},
		{"command: 7\n", invalid, []string{"line 1", "command"}},
		{"command: []\n", invalid, []string{"command"}},
		{"command: [true\n", invalid, []string{"line"}},
		{"command: [true]\nstop: {timeout: soon}\n", invalid, []string{"line 2", "timeout"}},
		{"command: [true]\nworkdir: rel\n", invalid, []string{"line 2", "workdir"}},
		{"hostname: x\n", invalid, []string{"command"}},
		{"command: [true]\nlabels: {a: " + strings.Repeat("x", 64<<10) + "}\n", tooBig, []string{"64 KiB"}},
	} {
		want(t, "configure "+c.text[:min(40, len(c.text))], s.configure("x", c.text), c.kind)
		has(t, s, "x", "last_error", append(c.words, `box "x"`)...)
		is(t, s, "x", "status", "configured", "config.yaml", old)
	}
	do(t, s, "x", "start")
	is(t, s, "x", "status", "running", "last_error", "ok")
	want(t, "configure", s.configure("x", "comand: []\n"), invalid)
	is(t, s, "x", "status", "running", "config.yaml", old)
	do(t, s, "x", "kill")

	// A secret is in config.yaml alone.
	want(t, "configure", s.configure("x", sleeper+"env: {TOKEN: [hunter2]}\n"), invalid)
	must(t, "configure", s.configure("x", sleeper+"env: {TOKEN: hunter2}\n"))
	for _, file := range []string{"last_error", "info.json", "events"} {
		if strings.Contains(read(t, s, "x", file), "hunter2") {
			t.Errorf("%s tells a secret", file)
		}
	}
	has(t, s, "x", "config.yaml", "hunter2")
}

func unsupported(t *testing.T, s subject) {
	must(t, "create", s.create("x"))
	for _, line := range []string{"engine: vm"} {
		want(t, line, s.configure("x", sleeper+line+"\n"), invalid)
		has(t, s, "x", "last_error", "line 2", strings.Split(line, ":")[0], "not supported yet")
		is(t, s, "x", "status", "empty")
	}
}

func pendingConfig(t *testing.T, s subject) {
	pending := func(yes bool) {
		t.Helper()
		info := strings.ReplaceAll(read(t, s, "x", "info.json"), " ", "")
		if !strings.Contains(info, map[bool]string{true: `"config_pending":true`, false: `"config_pending":false`}[yes]) {
			t.Errorf("config_pending should be %t: %s", yes, info)
		}
	}
	upReady(t, s, "x", script("echo ready one; exec sleep infinity"))
	pending(false)
	next := script("echo two; exec sleep infinity", "labels: {a: b}\n")
	must(t, "configure", s.configure("x", next))
	pending(true)
	is(t, s, "x", "status", "running", "config.yaml", strings.TrimSuffix(next, "\n"))
	has(t, s, "x", "info.json", "one")
	s.shut()
	s.open()
	pending(true)
	do(t, s, "x", "restart")
	pending(false)
	awaitLog(t, s, "x", "two")
	must(t, "configure", s.configure("x", sleeper))
	pending(true)
	do(t, s, "x", "kill")
	pending(false)
}

func autostart(t *testing.T, s subject) {
	box(t, s, "x", sleeper+"autostart: true\n")
	await(t, s, "x", "status", "running")
	do(t, s, "x", "kill")
	// The first commit only.
	must(t, "configure", s.configure("x", sleeper+"autostart: true\nhostname: y\n"))
	is(t, s, "x", "status", "stopped")
	s.shut()
	s.open()
	await(t, s, "x", "status", "running")
	pid := read(t, s, "x", "pid")
	s.shut()
	s.open()
	is(t, s, "x", "status", "running", "pid", pid)
	do(t, s, "x", "kill")
}

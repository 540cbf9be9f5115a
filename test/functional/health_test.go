package functional

import (
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/test/daemon"
)

var healthCases = []testCase{
	{"a box is pinged unless told otherwise", pinged},
	{"health follows a command", probedByCommand},
	{"failures of the start period do not count", startPeriod},
	{"a hung probe is killed with its group", hungProbe},
	{"a tcp port is probed", probedByTCP},
	{"a URL is probed", probedByHTTP},
	{"a death unasked is unhealthy, an asked one is not", deaths},
	{"disabled checks probe nothing", optedOut},
	{"a paused box is not probed", pausedUnprobed},
	{"an adopted box goes on being probed", adoptedProbed},
	{"wait/healthy", waitHealthy},
	{"probes that hang delay no other", hungBeside},
}

// fast are settings with which a test need not wait.
func fast(more string) string {
	return "health_check: {interval: 30ms, timeout: 2s, retries: 2, " + more + "}\n"
}

// info returns info.json.
func info(t *testing.T, s subject, name string) map[string]any {
	t.Helper()
	var m map[string]any
	if err := json.Unmarshal([]byte(read(t, s, name, "info.json")), &m); err != nil {
		t.Fatal(err)
	}
	return m
}

// probe returns what info.json says of the last probe, or nil.
func probe(t *testing.T, s subject, name string) map[string]any {
	t.Helper()
	p, _ := info(t, s, name)["probe"].(map[string]any)
	return p
}

// events returns the details of the box's events of a name.
func events(t *testing.T, s subject, box, name string) []string {
	t.Helper()
	var out []string
	for line := range strings.Lines(read(t, s, box, "events")) {
		f := strings.SplitN(strings.TrimSpace(line), " ", 5)
		if len(f) == 5 && f[3] == name {
			out = append(out, f[4])
		}
	}
	return out
}

func pinged(t *testing.T, s subject) {
	up(t, s, "x", sleeper)
	is(t, s, "x", "health", "healthy")
	do(t, s, "x", "kill")
	is(t, s, "x", "health", "none")

	must(t, "configure", s.configure("x", sleeper+"health_check: {interval: 20ms, timeout: 50ms, retries: 2}\n"))
	do(t, s, "x", "start")
	daemon.Await(t, "a ping", func() bool { return probe(t, s, "x") != nil })
	if p := probe(t, s, "x"); p["kind"] != "ping" || p["healthy"] != true {
		t.Errorf("probe: %v", p)
	}
	pid := pidOf(t, s, "x")
	kill(t, pid, unix.SIGSTOP)
	await(t, s, "x", "health", "unhealthy")
	is(t, s, "x", "status", "running")
	if p := probe(t, s, "x"); p["timed_out"] != true || p["healthy"] != false {
		t.Errorf("probe of a shim that stands still: %v", p)
	}
	kill(t, pid, unix.SIGCONT)
	await(t, s, "x", "health", "healthy")
	if got := strings.Join(events(t, s, "x", "health")[3:], "; "); got != "from=none to=starting; from=starting to=healthy; from=healthy to=unhealthy probe=ping timeout; from=unhealthy to=healthy" {
		t.Errorf("events: %s", got)
	}
	do(t, s, "x", "kill")
}

// flag is a file that decides what a probe says.
func flag(t *testing.T, s subject) (path string, set func(bool)) {
	t.Helper()
	path = filepath.Join(s.home().Dir, "flag")
	return path, func(there bool) {
		t.Helper()
		err := os.WriteFile(path, nil, 0o644)
		if !there {
			err = os.Remove(path)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
}

func probedByCommand(t *testing.T, s subject) {
	path, set := flag(t, s)
	set(true)
	up(t, s, "x", sleeper+"env: {WHO: me}\nuser: nobody\n"+
		fast(fmt.Sprintf(`command: [sh, -c, "echo $WHO $(id -un); test -e %s || exit 3"]`, path)))
	await(t, s, "x", "health", "healthy")
	if p := probe(t, s, "x"); p["kind"] != "command" || p["output"] != "me nobody\n" || p["exit_code"] != 0.0 || p["duration_ms"] == 0.0 {
		t.Errorf("probe: %v", p)
	}
	set(false)
	await(t, s, "x", "health", "unhealthy")
	is(t, s, "x", "status", "running")
	if p := probe(t, s, "x"); p["exit_code"] != 3.0 || p["healthy"] != false || p["timed_out"] != false {
		t.Errorf("failed probe: %v", p)
	}
	set(true)
	await(t, s, "x", "health", "healthy")
	if got := strings.Join(events(t, s, "x", "health"), "; "); got != "from=none to=starting; from=starting to=healthy; from=healthy to=unhealthy probe=command exit_code=3; from=unhealthy to=healthy" {
		t.Errorf("events: %s", got)
	}
	do(t, s, "x", "kill")
}

func startPeriod(t *testing.T, s subject) {
	path, set := flag(t, s)
	up(t, s, "x", sleeper+fmt.Sprintf("health_check: {command: [test, -e, %s], interval: 20ms, retries: 1, start_period: 1h}\n", path))
	daemon.Await(t, "a probe", func() bool { return probe(t, s, "x") != nil })
	first := probe(t, s, "x")["time"]
	daemon.Await(t, "another probe", func() bool { return probe(t, s, "x")["time"] != first })
	is(t, s, "x", "health", "starting", "status", "running")
	set(true)
	await(t, s, "x", "health", "healthy")
	set(false)
	await(t, s, "x", "health", "unhealthy") // the first success has ended the period
	do(t, s, "x", "kill")

	must(t, "configure", s.configure("x", sleeper+"health_check: {command: [false], interval: 20ms, retries: 2, start_period: 0s}\n"))
	do(t, s, "x", "start")
	await(t, s, "x", "health", "unhealthy")
	do(t, s, "x", "kill")
}

func hungProbe(t *testing.T, s subject) {
	up(t, s, "x", sleeper+"health_check: {interval: 50ms, timeout: 100ms, retries: 1, start_period: 0s, "+
		`command: [sh, -c, "trap '' TERM INT HUP; echo before; sleep 1000 & sleep 1000"]}`+"\n")
	await(t, s, "x", "health", "unhealthy")
	if p := probe(t, s, "x"); p["timed_out"] != true || p["output"] != "before\n" {
		t.Errorf("probe: %v", p)
	}
	is(t, s, "x", "status", "running")
	do(t, s, "x", "stop 5s") // it would take as long if the probes held it up
	is(t, s, "x", "status", "stopped", "exit_code", "143")
}

// python is the configuration of a box that runs a Python script.
func python(text string) string { return fmt.Sprintf("command: [python3, -c, %q]\n", text) }

// freePort is a port of this host on which nobody listens.
func freePort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	if err := l.Close(); err != nil {
		t.Fatal(err)
	}
	return port
}

func probedByTCP(t *testing.T, s subject) {
	port := freePort(t)
	up(t, s, "x", python(`
import signal, socket
l = socket.create_server(("127.0.0.1", `+port+`))
signal.signal(signal.SIGUSR1, lambda *a: l.close())
while True: signal.pause()
`)+fast("tcp: "+port))
	await(t, s, "x", "health", "healthy")
	do(t, s, "x", "signal USR1")
	await(t, s, "x", "health", "unhealthy")
	if p := probe(t, s, "x"); p["kind"] != "tcp" || !strings.Contains(fmt.Sprint(p["reason"]), "refused") {
		t.Errorf("probe: %v", p)
	}
	do(t, s, "x", "kill")
	// In a network of its own nobody listens there.
	must(t, "configure", s.configure("x", sleeper+"network: none\nhealth_check: {start_period: 0s, interval: 30ms, retries: 1, tcp: 1}\n"))
	do(t, s, "x", "start")
	await(t, s, "x", "health", "unhealthy")
	do(t, s, "x", "kill")
}

func probedByHTTP(t *testing.T, s subject) {
	port := freePort(t)
	// Each signal makes it answer with the next code.
	up(t, s, "x", python(`
import http.server, signal
codes = [203, 503, 302]
class H(http.server.BaseHTTPRequestHandler):
    def do_GET(s):
        body = " ".join([s.command, s.path, s.headers["Host"]]).encode()
        s.send_response(codes[0])
        s.send_header("Content-Length", str(len(body)))
        s.end_headers()
        s.wfile.write(body)
signal.signal(signal.SIGUSR1, lambda *a: codes.pop(0))
http.server.HTTPServer(("127.0.0.1", `+port+`), H).serve_forever()
`)+fast(fmt.Sprintf("http: %q", "http://127.0.0.1:"+port+"/a?b=c")))
	await(t, s, "x", "health", "healthy")
	do(t, s, "x", "signal USR1")
	await(t, s, "x", "health", "unhealthy")
	if p := probe(t, s, "x"); p["kind"] != "http" || p["reason"] != "HTTP status 503" || p["output"] != "GET /a?b=c 127.0.0.1:"+port {
		t.Errorf("probe: %v", p)
	}
	do(t, s, "x", "signal USR1")
	await(t, s, "x", "health", "healthy")
	do(t, s, "x", "kill")
}

func deaths(t *testing.T, s subject) {
	for _, c := range []struct{ config, act, health string }{
		{script("exit 0"), "", "none"},
		{script("exit 3"), "", "unhealthy"},
		{script("kill -KILL $$"), "", "unhealthy"},
		{script("exit 3", "health_check: {disabled: true}\n"), "", "none"},
		{sleeper, "stop", "none"},
		{sleeper, "kill", "none"},
	} {
		up(t, s, "x", c.config)
		if c.act != "" {
			do(t, s, "x", c.act)
		}
		waits(t, s, "x", "stopped")
		is(t, s, "x", "status", "stopped", "health", c.health)
		must(t, "remove", s.remove("x"))
	}
	up(t, s, "x", sleeper)
	kill(t, pidOf(t, s, "x"), unix.SIGKILL)
	await(t, s, "x", "status", "stopped")
	is(t, s, "x", "health", "unhealthy", "exit_code", "137")
	reopened(t, s, func(end func()) {
		end()
		s.open()
		is(t, s, "x", "health", "unhealthy", "status", "stopped")
	})
	do(t, s, "x", "start")
	is(t, s, "x", "health", "healthy")
	kill(t, pidOf(t, s, "x"), unix.SIGTERM)
	await(t, s, "x", "status", "stopped")
	is(t, s, "x", "health", "none")
}

func optedOut(t *testing.T, s subject) {
	checks := "health_check: {disabled: true, command: [touch, " + filepath.Join(s.home().Dir, "probed") + "], interval: 20ms, retries: 7, timeout: 3s, start_period: 5s, on_unhealthy: restart}\n"
	up(t, s, "x", sleeper+checks)
	is(t, s, "x", "health", "none", "status", "running")
	config, _ := info(t, s, "x")["config"].(map[string]any)
	got := config["health_check"]
	kept := `map[command:[touch ` + filepath.Join(s.home().Dir, "probed") + `] disabled:true http:<nil> interval:20ms on_unhealthy:restart retries:7 start_period:5s tcp:<nil> timeout:3s]`
	if fmt.Sprint(got) != kept {
		t.Errorf("settings:\n got %v\nwant %s", got, kept)
	}
	// Another box, probed more slowly, has had its probes: this one had none.
	up(t, s, "other", sleeper+"health_check: {interval: 100ms, command: [\"true\"]}\n")
	await(t, s, "other", "health", "healthy")
	at := probe(t, s, "other")["time"]
	daemon.Await(t, "another probe", func() bool { return probe(t, s, "other")["time"] != at })
	if p := probe(t, s, "x"); p != nil {
		t.Errorf("probed: %v", p)
	}
	if _, err := os.Stat(filepath.Join(s.home().Dir, "probed")); err == nil {
		t.Error("its command was run")
	}
	kill(t, pidOf(t, s, "x"), unix.SIGKILL)
	await(t, s, "x", "status", "stopped")
	is(t, s, "x", "health", "none", "exit_code", "137")
	do(t, s, "other", "kill")
}

func pausedUnprobed(t *testing.T, s subject) {
	path, set := flag(t, s)
	set(true)
	up(t, s, "x", sleeper+fast(fmt.Sprintf("command: [test, -e, %s]", path)))
	await(t, s, "x", "health", "healthy")
	do(t, s, "x", "pause")
	set(false)
	at := probe(t, s, "x")["time"]
	up(t, s, "other", sleeper+fast(`command: ["true"]`))
	for range 5 {
		last := probe(t, s, "other")
		daemon.Await(t, "another probe", func() bool { p := probe(t, s, "other"); return p != nil && (last == nil || p["time"] != last["time"]) })
	}
	is(t, s, "x", "status", "paused", "health", "healthy")
	if now := probe(t, s, "x")["time"]; now != at {
		t.Error("probed while it was paused")
	}
	do(t, s, "x", "resume")
	await(t, s, "x", "health", "unhealthy")
	do(t, s, "x", "kill")
	do(t, s, "other", "kill")
}

func adoptedProbed(t *testing.T, s subject) {
	path, set := flag(t, s)
	set(true)
	up(t, s, "x", sleeper+fast(fmt.Sprintf("command: [test, -e, %s]", path)))
	up(t, s, "ping", sleeper+"health_check: {interval: 20ms, timeout: 50ms, retries: 1}\n")
	await(t, s, "x", "health", "healthy")
	recorded := func(health string) {
		t.Helper()
		daemon.Await(t, "that on record", func() bool {
			text, err := os.ReadFile(boxFile(s, "x", "state.json"))
			return err == nil && strings.Contains(string(text), `"health":"`+health+`"`)
		})
	}
	reopened(t, s, func(end func()) {
		recorded("healthy")
		end()
		s.open()
		is(t, s, "x", "health", "healthy")
		await(t, s, "ping", "health", "healthy")
		set(false)
		await(t, s, "x", "health", "unhealthy")
		recorded("unhealthy")
		end()
		s.open()
		is(t, s, "x", "health", "unhealthy")
		set(true)
		await(t, s, "x", "health", "healthy")
	})
	do(t, s, "x", "kill")
	do(t, s, "ping", "kill")
}

func waitHealthy(t *testing.T, s subject) {
	path, set := flag(t, s)
	must(t, "create", s.create("x"))
	answer := async(watch(t, s, "x", "healthy"))
	must(t, "configure", s.configure("x", sleeper+fast(fmt.Sprintf("command: [test, -e, %s]", path))))
	do(t, s, "x", "start")
	daemon.Await(t, "a probe", func() bool { return probe(t, s, "x") != nil })
	select {
	case a := <-answer:
		t.Fatalf("wait/healthy answers while it is starting: %q", a)
	default:
	}
	set(true)
	if a := <-answer; a != [2]string{"healthy", "fine"} {
		t.Errorf("wait/healthy: %q", a)
	}
	if got := waits(t, s, "x", "healthy"); got != "healthy" {
		t.Errorf("wait/healthy of a healthy box: %q", got)
	}
	set(false)
	await(t, s, "x", "health", "unhealthy")
	answer = async(watch(t, s, "x", "healthy"))
	do(t, s, "x", "kill")
	if a := <-answer; a[1] != string(canceled) {
		t.Errorf("wait/healthy over a kill: %q", a)
	}
	_, k := result(t, "wait/healthy", watch(t, s, "x", "healthy"))
	want(t, "wait/healthy of a stopped box", k, canceled)
	up(t, s, "off", sleeper+"health_check: {disabled: true}\n")
	_, k = result(t, "wait/healthy", watch(t, s, "off", "healthy"))
	want(t, "wait/healthy without checks", k, canceled)
	do(t, s, "off", "kill")
}

func hungBeside(t *testing.T, s subject) {
	const hung = "health_check: {interval: 10ms, timeout: 1h, start_period: 0s, "
	up(t, s, "a", sleeper+hung+`command: [sleep, "1000"]}`+"\n")
	up(t, s, "b", sleeper+hung+`command: [sh, -c, "trap '' TERM INT HUP QUIT; sleep 1000 & sleep 1000"]}`+"\n")
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	up(t, s, "c", sleeper+hung+fmt.Sprintf("http: %q}\n", "http://"+silent.Addr().String()+"/"))
	up(t, s, "d", sleeper+"health_check: {interval: 10ms, timeout: 1h}\n")
	frozen := pidOf(t, s, "d")
	kill(t, frozen, unix.SIGSTOP)
	up(t, s, "other", sleeper+fast(`command: ["true"]`))
	var last any
	for range 20 { // any of them would take an hour
		daemon.Await(t, "another probe", func() bool {
			p := probe(t, s, "other")
			if p == nil || p["time"] == last {
				return false
			}
			last = p["time"]
			return true
		})
	}
	is(t, s, "a", "health", "starting", "status", "running")
	kill(t, frozen, unix.SIGCONT)
	for _, name := range []string{"a", "b", "c", "d", "other"} {
		do(t, s, name, "kill")
	}
}

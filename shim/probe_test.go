package shim

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// reasonRoom is how much of a reason is told, in bytes.
const reasonRoom = wire.MaxLineAnswer - wire.PongSize - wire.MaxProbeOutput

// probed makes a box that sleeps and is probed by a command.
func probed(t testing.TB, argv ...string) *box {
	t.Helper()
	b := newBox(t, "/bin/sleep", "1000")
	b.spec.Probe = wire.Probe{Kind: wire.ProbeCommand, Argv: argv, TimeoutNs: int64(patience)}
	return b
}

func expectResult(t testing.TB, got, want wire.ProbeResult) {
	t.Helper()
	got.Duration = 0
	if a, b := fmt.Sprintf("%+v %q", got, got.Output), fmt.Sprintf("%+v %q", want, want.Output); a != b {
		t.Errorf("got  %s\nwant %s", a, b)
	}
}

// alone waits until the box has no process but its command.
func (b *box) alone() {
	b.t.Helper()
	until(b.t, "the command is alone", func() bool { return len(processesWith(b.t, b.tag)) == 1 })
}

// children of the shim, dead or alive, by pid. Each is that of the thread that forked it.
func (b *box) children() (pids []string) {
	b.t.Helper()
	for _, e := range must(os.ReadDir(fmt.Sprintf("/proc/%d/task", b.h.PID))) {
		pids = append(pids, strings.Fields(readStat(b.t, b.h.PID, "task/"+e.Name()+"/children"))...)
	}
	slices.SortFunc(pids, func(a, b string) int { return must(strconv.Atoi(a)) - must(strconv.Atoi(b)) })
	return pids
}

// group is a cgroup for one test, with a freezer.
type group struct {
	t   testing.TB
	dir string
	v2  bool
}

func newGroup(t testing.TB) *group {
	t.Helper()
	g := &group{t: t, dir: "/sys/fs/cgroup/freezer"}
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.procs"); err == nil {
		g.dir, g.v2 = "/sys/fs/cgroup", true
	}
	g.dir = must(os.MkdirTemp(g.dir, "shim-test-"))
	t.Cleanup(func() {
		// What has died leaves its group a little later.
		until(t, "the cgroup is empty", func() bool { return !errors.Is(os.Remove(g.dir), unix.EBUSY) })
	})
	return g
}

// has makes a box of the group.
func (g *group) has(b *box) *box {
	g.t.Cleanup(g.thaw) // else a test that fails could not end
	if g.v2 {
		b.spec.Cgroups, b.spec.Freezer, b.spec.Thaw = []string{g.dir + "/cgroup.procs"}, g.dir+"/cgroup.freeze", "0"
	} else {
		b.spec.Cgroups, b.spec.Freezer, b.spec.Thaw = []string{g.dir + "/tasks"}, g.dir+"/freezer.state", "THAWED"
	}
	return b
}

func (g *group) write(v1, v2 string) {
	g.t.Helper()
	file, word := "freezer.state", v1
	if g.v2 {
		file, word = "cgroup.freeze", v2
	}
	if err := os.WriteFile(filepath.Join(g.dir, file), []byte(word), 0); err != nil {
		g.t.Fatal(err)
	}
}

func (g *group) freeze() {
	g.t.Helper()
	g.write("FROZEN", "1")
	until(g.t, "all are frozen", func() bool {
		if g.v2 {
			return strings.Contains(string(must(os.ReadFile(g.dir+"/cgroup.events"))), "frozen 1")
		}
		return string(must(os.ReadFile(g.dir+"/freezer.state"))) == "FROZEN\n"
	})
}

func (g *group) thaw() {
	g.t.Helper()
	g.write("THAWED", "0")
}

func TestProbeExit(t *testing.T) {
	for name, c := range map[string]struct {
		script string
		want   wire.ProbeResult
	}{
		"0":         {"exit 0", wire.ProbeResult{}},
		"7":         {"echo out; echo err >&2; exit 7", wire.ProbeResult{Code: 7, Output: []byte("out\nerr\n")}},
		"255":       {"exit 255", wire.ProbeResult{Code: 255}},
		"SIGTERM":   {"kill -TERM $$", wire.ProbeResult{Code: 143}},
		"SIGKILL":   {"echo x; kill -KILL $$", wire.ProbeResult{Code: 137, Output: []byte("x\n")}},
		"any bytes": {`printf '\000\377\n'`, wire.ProbeResult{Output: []byte("\x00\xff\n")}},
		"no output": {"exec >&- 2>&-; exit 3", wire.ProbeResult{Code: 3}},
		"1,024":     {"yes | head -c 1024", wire.ProbeResult{Output: []byte(strings.Repeat("y\n", 512))}},
		"flood":     {"yes | head -c 3000000 && exit 2; exit 1", wire.ProbeResult{Code: 2, Output: []byte(strings.Repeat("y\n", 512))}},
	} {
		t.Run(name, func(t *testing.T) {
			l := probed(t, "/bin/sh", "-c", c.script).mustStart().line()
			for range 2 {
				expectResult(t, l.probe(), c.want)
			}
		})
	}
}

// A probe is run as the command is, by whatever a process can see of that.
func TestProbeIsRunAsTheCommandIs(t *testing.T) {
	looks := []string{
		"env | sort | grep -v ^_=", "id", "pwd; umask", "ulimit -a", "cat /proc/sys/kernel/hostname", "cat /proc/self/oom_score_adj",
		"grep -E '^(Cap|NoNewPrivs|Seccomp|Sig[BI]|Groups|[UG]id)' /proc/self/status",
		"cat /proc/self/cgroup",
		"for n in pid mnt net ipc uts user; do readlink /proc/self/ns/$n; done",
		"readlink /proc/self/fd/0; ls /proc/self/fd | wc -l",
		"read pid comm s pp pg sid rest </proc/$$/stat; test $sid = $$ && test $pg = $$ && echo $pp own session",
		"touch /tmp/x$$ 2>/dev/null && rm /tmp/x$$ && echo writable || echo read-only",
	}
	for name, set := range map[string]func(*wire.Spec){
		"root":         func(*wire.Spec) {},
		"readonly":     func(s *wire.Spec) { s.ReadonlyRoot = true },
		"user":         func(s *wire.Spec) { s.UID, s.GID, s.Groups = 1234, 2345, []uint32{7, 9} },
		"capabilities": func(s *wire.Spec) { s.UID, s.GID, s.Capabilities, s.CapAmbient = 1234, 1234, 1<<10|1, 1<<10 },
		"all": func(s *wire.Spec) {
			s.UID, s.GID, s.NoNewPrivs, s.PrivateNet, s.Workdir, s.Hostname = 1, 1, true, true, "/usr/bin", "boxed"
			s.Rlimits = []wire.Rlimit{{Resource: unix.RLIMIT_NOFILE, Soft: 100, Hard: 200}, {Resource: unix.RLIMIT_CORE, Soft: 0, Hard: 0}}
			s.ReadonlyRoot = true
		},
	} {
		t.Run(name, func(t *testing.T) {
			for _, look := range looks {
				g := newGroup(t)
				b := g.has(newBox(t, "/bin/sh", "-c", look+"; echo end; sleep 1000"))
				b.spec.Env = append(b.spec.Env, "A=b c")
				set(&b.spec)
				b.spec.Probe = wire.Probe{Kind: wire.ProbeCommand, Argv: []string{"sh", "-c", look + "; echo end; exit 5"}, TimeoutNs: int64(patience)}
				b.mustStart()
				b.awaitLog("end\n")
				r := b.line().probe()
				if strings.Contains(look, "cgroup") && !strings.Contains(b.log(), filepath.Base(g.dir)) {
					t.Errorf("not in its cgroup: %s", b.log())
				}
				if r.Code != 5 || string(r.Output) != b.log() || len(r.Output) < len("x\nend\n") {
					t.Errorf("%s: the command sees\n%sand the probe %+v\n%s", look, b.log(), r, r.Output)
				}
			}
		})
	}
}

// The result comes when the probe's own process has ended, whoever has its output
// open, and what it left in its group is killed.
func TestProbeThatLeavesAChild(t *testing.T) {
	b := probed(t, "/bin/sh", "-c", "trap '' TERM HUP; sleep 1000 & echo left; exit 4").mustStart()
	l := b.line()
	for range 3 {
		expectResult(t, l.probe(), wire.ProbeResult{Code: 4, Output: []byte("left\n")})
		b.alone()
	}
}

// At the timeout all of the group is killed, whatever it does about it.
func TestProbeTimeout(t *testing.T) {
	const timeout = time.Second // to write what it has to, on any machine
	for name, c := range map[string]struct{ script, out string }{
		"stubborn": {"trap '' TERM HUP INT QUIT; (trap '' TERM; sleep 1000) & echo hung; while :; do sleep 1; done", "hung\n"},
		"silent":   {"exec >&- 2>&-; sleep 1000", ""},
		"flood":    {"yes", strings.Repeat("y\n", 512)},
		"stopped":  {"kill -STOP $$", ""},
	} {
		t.Run(name, func(t *testing.T) {
			b := probed(t, "/bin/sh", "-c", c.script)
			b.spec.Probe.TimeoutNs = int64(timeout)
			b.mustStart()
			l := b.line()
			began := time.Now()
			r := l.probe()
			if took := time.Since(began); r.Duration < timeout || r.Duration > took || took > timeout+2*time.Second {
				t.Errorf("%v by the shim, %v in all", r.Duration, took)
			}
			expectResult(t, r, wire.ProbeResult{TimedOut: true, Code: 137, Output: []byte(c.out)})
			l.begin()
			l.close()
			b.alone()
			until(t, "the shim has reaped them", func() bool { return len(b.children()) == 1 })
		})
	}
}

// A shim that waits for a probe does nothing else: neither a pipe that is at its end
// nor a connection that could be written to keeps it awake.
func TestProbeThatIsWaitedForCostsNothing(t *testing.T) {
	for name, p := range map[string]wire.Probe{
		"closed output": {Kind: wire.ProbeCommand, Argv: []string{"/bin/sh", "-c", "exec >&- 2>&-; sleep 1000"}},
		"silent peer":   {Kind: wire.ProbeHTTP, Port: serve(t, "127.0.0.1:0", hold), Request: "GET / HTTP/1.0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			b := probed(t)
			b.spec.Probe = p
			b.spec.Probe.TimeoutNs = int64(patience)
			l := b.mustStart().line()
			l.begin()
			until(t, "it sleeps", func() bool {
				before := b.cpuTime()
				time.Sleep(100 * time.Millisecond)
				return b.cpuTime() == before
			})
		})
	}
}

func TestProbeThatFloodsDoesNotKeepTheShimBusy(t *testing.T) {
	l := probed(t, "/usr/bin/yes").mustStart().line()
	l.begin()
	for range 100 {
		l.quiet()
	}
}

// What gets out of its group lives on in the box, does no harm, and ends with it.
func TestProbeWhoseChildEscapes(t *testing.T) {
	up := filepath.Join(t.TempDir(), "up")
	b := probed(t, "/bin/sh", "-c", `setsid sh -c 'touch "$0"; exec sleep 1000' "$0" & while ! test -e "$0"; do sleep 0.01; done; rm "$0"; exit 6`, up).mustStart()
	l := b.line()
	for i := range 3 {
		expectResult(t, l.probe(), wire.ProbeResult{Code: 6})
		until(t, "the escaped are left", func() bool { return len(processesWith(t, b.tag)) == 1+i+1 })
	}
	l.quiet()
}

func TestProbeIsRefused(t *testing.T) {
	t.Run("none", func(t *testing.T) {
		sh(t, "exec sleep 1000").mustStart().line().refused(unix.ENOENT)
	})
	t.Run("one runs", func(t *testing.T) {
		done := filepath.Join(t.TempDir(), "done")
		l := probed(t, "/bin/sh", "-c", `while ! test -e "$0"; do sleep 0.01; done`, done).mustStart().line()
		seq := l.begin()
		l.refused(unix.EBUSY)
		if err := os.WriteFile(done, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		expectResult(t, l.result(seq), wire.ProbeResult{})
		l.probe()
	})
	t.Run("paused", func(t *testing.T) {
		b := probed(t, "/bin/true").mustStart()
		l := b.line()
		b.ask(wire.Request{Op: wire.OpPause})
		l.refused(unix.EBUSY)
		b.ask(wire.Request{Op: wire.OpResume})
		expectResult(t, l.probe(), wire.ProbeResult{})
	})
	t.Run("stopping", func(t *testing.T) {
		b := probed(t, "/bin/true")
		b.spec.Argv = []string{"/bin/sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done"}
		b.mustStart()
		b.awaitLog("ready")
		l := b.line()
		b.ask(wire.Request{Op: wire.OpStop, Grace: time.Hour})
		l.refused(unix.EBUSY)
	})
}

// Probes that cannot be killed do not keep the next from being made, up to a
// number, and their deaths are not taken for those of others. They are of a frozen
// box; on cgroup v2 they do die. The shim itself is never held up.
func TestProbesOfAFrozenBox(t *testing.T) {
	g := newGroup(t)
	mark := filepath.Join(t.TempDir(), "ran")
	b := g.has(probed(t, "/bin/sh", "-c", "echo ran >>"+mark+"; echo ran; exit 3"))
	b.spec.Probe.TimeoutNs = int64(50 * time.Millisecond)
	b.mustStart()
	l := b.line()
	g.freeze()
	for i := range maxLate + 2 {
		if !g.v2 && i >= maxLate {
			l.refused(unix.EBUSY)
			continue
		}
		expectResult(t, l.probe(), wire.ProbeResult{TimedOut: true, Code: 137})
	}
	// The line that goes has no probe left, and the next has the same limit.
	l.close()
	l = b.line()
	if !g.v2 {
		l.refused(unix.EBUSY)
	}
	g.thaw()
	until(t, "they are reaped", func() bool { return len(b.children()) == 1 })
	if ran, err := os.ReadFile(mark); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("they ran on after their time: %s, %v", ran, err)
	}
	var r wire.ProbeResult
	until(t, "a probe is in time", func() bool { r = l.probe(); return !r.TimedOut })
	expectResult(t, r, wire.ProbeResult{Code: 3, Output: []byte("ran\n")})
}

// The child of a probe has all that the shim has open until it executes, and one
// that never gets so far keeps it. That must keep no line open, and give the shim
// nothing to do.
func TestALineEndsThoughAChildHasIt(t *testing.T) {
	g := newGroup(t)
	b := g.has(probed(t, "/bin/true")).mustStart()
	old := b.line()
	g.freeze()
	old.begin()
	until(t, "the child is there", func() bool { return len(b.children()) == 2 })
	l := b.line()
	old.ended()
	old.close()
	l.quiet()
	until(t, "the shim sleeps", func() bool {
		before := b.cpuTime()
		time.Sleep(100 * time.Millisecond)
		return b.cpuTime() == before
	})
	g.thaw()
	expectResult(t, l.probe(), wire.ProbeResult{})
}

func TestProbeThatCannotBeStarted(t *testing.T) {
	dir := t.TempDir()
	locked := filepath.Join(dir, "locked")
	if err := errors.Join(os.Chmod(filepath.Dir(dir), 0o755), os.Chmod(dir, 0o755), os.Mkdir(locked, 0o700)); err != nil {
		t.Fatal(err)
	}
	file := func(name, content string, mode os.FileMode) string {
		p := filepath.Join(dir, name)
		if err := errors.Join(os.MkdirAll(filepath.Dir(p), 0o755), os.WriteFile(p, []byte(content), mode)); err != nil {
			t.Fatal(err)
		}
		return p
	}
	file("a/plain", "x", 0o644)
	file("a/both", "x", 0o644)
	file("b/both", "#!/bin/sh\nexit 9\n", 0o755)
	file("b/private", "#!/bin/sh\n", 0o700)
	file("b/noline", "echo hi\n", 0o755)
	noInterpreter := file("b/nointerp", "#!/no/such/thing\n", 0o755)
	file("locked/inside", "#!/bin/sh\n", 0o755)
	search := "PATH=" + dir + "/a:" + locked + ":/no/such:" + dir + "/b"
	for name, c := range map[string]struct {
		argv string
		want wire.ProbeResult
	}{
		"not found":       {"foo", wire.ProbeResult{Code: 127, Reason: wire.Cut(`command "foo" not found in PATH `+search[5:]+" (step lookup)", reasonRoom)}},
		"out of reach":    {"inside", wire.ProbeResult{Code: 127, Reason: wire.Cut(`command "inside" not found in PATH `+search[5:]+" (step lookup)", reasonRoom)}},
		"no such file":    {"/no/such", wire.ProbeResult{Code: 127, Reason: `command "/no/such" not found (step lookup)`}},
		"below a file":    {"/etc/passwd/x", wire.ProbeResult{Code: 127, Reason: `command "/etc/passwd/x" not found (step lookup)`}},
		"no interpreter":  {noInterpreter, wire.ProbeResult{Code: 127, Reason: `command "` + noInterpreter + `" not found (step lookup)`}},
		"not executable":  {"plain", wire.ProbeResult{Code: 126, Reason: dir + `/a/plain is not executable for user 1234: permission denied (step exec)`}},
		"private":         {"private", wire.ProbeResult{Code: 126, Reason: dir + `/b/private is not executable for user 1234: permission denied (step exec)`}},
		"no #! line":      {"noline", wire.ProbeResult{Code: 126, Reason: "cannot run " + dir + "/b/noline: exec format error (is the #! line missing?) (step exec)"}},
		"the second is":   {"both", wire.ProbeResult{Code: 9}},
		"a directory":     {dir, wire.ProbeResult{Code: 126, Reason: dir + ` is not executable for user 1234: permission denied (step exec)`}},
		"longest of PATH": {strings.Repeat("x", 250), wire.ProbeResult{Code: 127, Reason: `command "` + strings.Repeat("x", reasonRoom-9)}},
	} {
		t.Run(name, func(t *testing.T) {
			b := probed(t, c.argv)
			b.spec.UID, b.spec.GID, b.spec.Env = 1234, 1234, []string{search, b.tag}
			b.mustStart()
			l := b.line()
			for range 2 {
				expectResult(t, l.probe(), c.want)
			}
		})
	}
	t.Run("it comes and goes", func(t *testing.T) {
		program := filepath.Join(dir, "program")
		l := probed(t, program).mustStart().line()
		absent := wire.ProbeResult{Code: 127, Reason: `command "` + program + `" not found (step lookup)`}
		expectResult(t, l.probe(), absent)
		file("program", "#!/bin/sh\nexit 8\n", 0o644)
		expectResult(t, l.probe(), wire.ProbeResult{Code: 126, Reason: program + " is not executable: permission denied (step exec)"})
		if err := os.Chmod(program, 0o755); err != nil {
			t.Fatal(err)
		}
		expectResult(t, l.probe(), wire.ProbeResult{Code: 8})
		if err := os.Remove(program); err != nil {
			t.Fatal(err)
		}
		expectResult(t, l.probe(), absent)
	})
	t.Run("no workdir any more", func(t *testing.T) {
		b := probed(t, "/bin/true")
		b.spec.Workdir = filepath.Join(dir, "w")
		if err := os.Mkdir(b.spec.Workdir, 0o755); err != nil {
			t.Fatal(err)
		}
		b.mustStart()
		l := b.line()
		expectResult(t, l.probe(), wire.ProbeResult{})
		if err := os.Remove(b.spec.Workdir); err != nil {
			t.Fatal(err)
		}
		expectResult(t, l.probe(), wire.ProbeResult{Code: 125, Reason: "cannot chdir to " + b.spec.Workdir + ": no such file or directory (step workdir)"})
	})
}

// A probe that hangs before it is executed, here on a file system that does not
// answer, holds up nobody. It still has the shim's descriptors then, one of which
// leads out of the box: the box's root may see it, and must not look into it.
func TestTheBoxCannotLookIntoAProbeThatHasNotBegun(t *testing.T) {
	inSharedNamespace(t)
	b := probed(t, "/bin/true")
	b.spec.Workdir = t.TempDir()
	b.spec.Capabilities = 1 << unix.CAP_CHOWN
	b.spec.Argv = []string{"/usr/bin/python3", "-c", `
import os, time
print("ready", flush=True)
while True:
    for pid in os.listdir("/proc"):
        if pid.isdigit() and int(pid) not in (1, os.getpid()):
            try:
                with open("/proc/%s/status" % pid) as f:
                    status = dict(l.split(":", 1) for l in f)
                if status["State"].split()[0] != "D": continue
                print("caps", status["CapPrm"].strip(), flush=True)
                print("it has", os.readlink("/proc/%s/fd/5" % pid), flush=True)
            except PermissionError:
                print("denied", flush=True)
            except (FileNotFoundError, ProcessLookupError):
                pass
    time.sleep(0.01)
`}
	b.mustStart()
	b.awaitLog("ready")
	fd, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer sys.Close(fd)
	if err := unix.Mount("boxlite", b.spec.Workdir, "fuse.boxlite", 0, fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,allow_other,default_permissions", fd)); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(b.spec.Workdir, unix.MNT_DETACH) }()
	l := b.line()
	l.begin()
	l.quiet()
	b.awaitLog(fmt.Sprintf("caps %016x\n", 1<<unix.CAP_CHOWN))
	b.awaitLog("denied")
	if strings.Contains(b.log(), "it has") {
		t.Errorf("%s", b.log())
	}
	l.close()
	until(t, "it is gone", func() bool { return len(b.children()) == 1 })
}

// After a thousand probes the shim is what it was.
func TestProbesLeaveNothingBehind(t *testing.T) {
	server := serve(t, "127.0.0.1:0", func(c net.Conn) { answer(c, "HTTP/1.1 503 Busy\r\n\r\nbody") })
	for name, p := range map[string]wire.Probe{
		"command":     {Kind: wire.ProbeCommand, Argv: []string{"true"}},
		"not found":   {Kind: wire.ProbeCommand, Argv: []string{"/no/such"}},
		"tcp":         {Kind: wire.ProbeTCP, Port: server},
		"tcp refused": {Kind: wire.ProbeTCP, Port: closedPort(t)},
		"http":        {Kind: wire.ProbeHTTP, Port: server, Request: "GET / HTTP/1.0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newGroup(t).has(probed(t))
			p.TimeoutNs = int64(patience)
			b.spec.Probe = p
			b.mustStart()
			l := b.line()
			first := fmt.Sprint(l.probe().Code)
			for range 10 {
				l.probe()
			}
			files := len(must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.h.PID))))
			before := b.pss()
			for range 1000 {
				if r := l.probe(); fmt.Sprint(r.Code) != first {
					t.Fatalf("%+v", r)
				}
			}
			if n := len(must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.h.PID)))); n != files {
				t.Errorf("%d descriptors, %d before", n, files)
			}
			until(t, "no children are left", func() bool { return len(b.children()) == 1 })
			after := b.pss()
			t.Logf("PSS: %d KiB, %d before", after, before)
			if after > before+400 {
				t.Errorf("PSS: %d KiB, %d before", after, before)
			}
		})
	}
}

func (b *box) pss() int {
	b.t.Helper()
	return must(strconv.Atoi(strings.Fields(field(readStat(b.t, b.h.PID, "smaps_rollup"), "Pss"))[0]))
}

func as[T any](v any) T {
	t, ok := v.(T)
	if !ok {
		panic(fmt.Sprintf("%T", v))
	}
	return t
}

// serve listens on address until the test has ended, and handles each connection
// with handle. It returns the port.
func serve(t testing.TB, address string, handle func(net.Conn)) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer closeFile(c)
				handle(c)
			}()
		}
	}()
	port := uint16(as[*net.TCPAddr](ln.Addr()).Port)
	servers.Store(port, ln)
	t.Cleanup(func() { servers.Delete(port); _ = ln.Close(); <-done })
	return port
}

// servers are the listeners of serve, by their ports.
var servers sync.Map

// lend has a process of the box hold the listener that it is probed for, if that is one of
// serve: else it would be another's.
func (b *box) lend() {
	b.t.Helper()
	ln, ok := servers.Load(b.spec.Probe.Port)
	if !ok || b.spec.PrivateNet {
		return
	}
	f := must(as[*net.TCPListener](ln).File())
	defer closeFile(f)
	fd := int(f.Fd()) // which makes it blocking, for all who have it, as Start does
	cmd := exec.Command("nsenter", "--pid=/proc/"+strconv.Itoa(b.h.PID)+"/ns/pid", "sleep", "1000")
	cmd.ExtraFiles = []*os.File{f}
	if err := errors.Join(cmd.Start(), unix.SetNonblock(fd, true)); err != nil {
		b.t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }() // it ends with the box, whose end waits for it to reap its child
	children := fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid)
	for end := time.Now().Add(patience); ; {
		if pids, err := os.ReadFile(children); err == nil && len(pids) > 0 {
			return
		}
		if time.Now().After(end) {
			b.t.Fatal("nobody of the box holds the listener")
		}
		time.Sleep(time.Millisecond)
	}
}

// answer reads a request and sends text.
func answer(c net.Conn, text string) {
	readRequest(c)
	// The probe may have hung up.
	_, _ = io.WriteString(c, text)
}

func readRequest(c net.Conn) string {
	var request []byte
	for b := make([]byte, 4096); !strings.HasSuffix(string(request), "\r\n\r\n"); {
		n, err := c.Read(b)
		request = append(request, b[:n]...)
		if err != nil {
			break
		}
	}
	return string(request)
}

// hold keeps a connection open until the other end closes it.
func hold(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// closedPort is a port that nobody listens on, neither of IPv4 nor of IPv6, until
// the test has ended.
func closedPort(t testing.TB) uint16 {
	t.Helper()
	fd := must(unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	t.Cleanup(func() { sys.Close(fd) })
	// Of both, as IPV6_V6ONLY is 0.
	if err := errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0), unix.Bind(fd, &unix.SockaddrInet6{})); err != nil {
		t.Fatal(err)
	}
	return uint16(as[*unix.SockaddrInet6](must(unix.Getsockname(fd))).Port)
}

// fullPort is a port that does not answer to one more connection.
func fullPort(t testing.TB) uint16 {
	t.Helper()
	fd := must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	t.Cleanup(func() { sys.Close(fd) })
	local := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := errors.Join(unix.Bind(fd, local), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	local.Port = as[*unix.SockaddrInet4](must(unix.Getsockname(fd))).Port
	for range 10 {
		c := must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0))
		t.Cleanup(func() { sys.Close(c) })
		if err := unix.Connect(c, local); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			t.Fatal(err)
		}
		out := []unix.PollFd{{Fd: int32(c), Events: unix.POLLOUT}}
		if n := must(sys.Retry(func() (int, error) { return unix.Poll(out, 100) })); n == 0 {
			return uint16(local.Port)
		}
	}
	t.Fatal("the queue is never full")
	return 0
}

func (b *box) probeOnce(p wire.Probe) wire.ProbeResult {
	b.t.Helper()
	b.spec.Probe = p
	return b.mustStart().line().probe()
}

func TestProbeTCP(t *testing.T) {
	v4 := serve(t, "127.0.0.1:0", hold)
	v6 := serve(t, "[::1]:0", hold)
	refused := closedPort(t)
	for name, c := range map[string]struct {
		probe wire.Probe
		want  wire.ProbeResult
	}{
		"open":           {wire.Probe{Port: v4}, wire.ProbeResult{}},
		"open, by name":  {wire.Probe{Port: v4, Addr: "127.0.0.1"}, wire.ProbeResult{}},
		"only IPv6":      {wire.Probe{Port: v6}, wire.ProbeResult{}},
		"IPv6":           {wire.Probe{Port: v6, Addr: "::1"}, wire.ProbeResult{}},
		"not IPv4":       {wire.Probe{Port: v6, Addr: "127.0.0.1"}, wire.ProbeResult{Code: 1, Reason: "connection refused"}},
		"mapped":         {wire.Probe{Port: v4, Addr: "::ffff:127.0.0.1"}, wire.ProbeResult{}},
		"refused":        {wire.Probe{Port: refused}, wire.ProbeResult{Code: 1, Reason: "connection refused"}},
		"does not reply": {wire.Probe{Port: fullPort(t), TimeoutNs: 2e8}, wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonConnecting}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "/bin/sleep", "1000")
			c.probe.Kind = wire.ProbeTCP
			if c.probe.TimeoutNs == 0 {
				c.probe.TimeoutNs = int64(patience)
			}
			b.spec.Probe = c.probe
			b.mustStart()
			l := b.line()
			for range 2 {
				r := l.probe()
				expectResult(t, r, c.want)
				if c.want.TimedOut && (r.Duration < time.Duration(c.probe.TimeoutNs) || r.Duration > 2*time.Second) {
					t.Errorf("it took %v", r.Duration)
				}
			}
		})
	}
}

// The service sees an orderly end, and no error.
func TestProbeTCPEndsInOrder(t *testing.T) {
	got := make(chan error, 1)
	port := serve(t, "127.0.0.1:0", func(c net.Conn) {
		_, err := c.Read(make([]byte, 1))
		got <- err
	})
	b := newBox(t, "/bin/sleep", "1000")
	expectResult(t, b.probeOnce(wire.Probe{Kind: wire.ProbeTCP, Port: port, TimeoutNs: int64(patience)}), wire.ProbeResult{})
	if err := <-got; !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

// A closed port among those that connections begin from is no service, although a
// socket can connect to it: to itself.
func TestProbeIsNotConnectedToItself(t *testing.T) {
	b := newBox(t, "/bin/sh", "-c", "echo 40001 40001 >/proc/sys/net/ipv4/ip_local_port_range && echo ready; exec sleep 1000")
	b.spec.PrivateNet = true
	b.spec.Probe = wire.Probe{Kind: wire.ProbeTCP, Port: 40001, Addr: "127.0.0.1", TimeoutNs: int64(patience)}
	b.mustStart()
	b.awaitLog("ready")
	expectResult(t, b.line().probe(), wire.ProbeResult{Code: 1, Reason: "connection refused"})
}

func TestProbeHTTP(t *testing.T) {
	const timeout = 300 * time.Millisecond
	ok := func(text string) func(net.Conn) { return func(c net.Conn) { answer(c, text) } }
	open := func(text string) func(net.Conn) { return func(c net.Conn) { answer(c, text); hold(c) } }
	for name, c := range map[string]struct {
		handle func(net.Conn)
		want   wire.ProbeResult
	}{
		"200":            {ok("HTTP/1.1 200 OK\r\nX: y\r\n\r\nbody\x00"), wire.ProbeResult{Output: []byte("body\x00")}},
		"204":            {ok("HTTP/1.0 204 No Content\r\n\r\n"), wire.ProbeResult{}},
		"302":            {ok("HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n"), wire.ProbeResult{}},
		"399":            {ok("HTTP/1.1 399\r\n\r\n"), wire.ProbeResult{}},
		"199":            {ok("HTTP/1.1 199 x\r\n\r\n"), wire.ProbeResult{Code: 1, Reason: reasonInterim}},
		"404":            {ok("HTTP/1.1 404 Not Found\r\n\r\nnot here"), wire.ProbeResult{Code: 1, Reason: "HTTP status 404", Output: []byte("not here")}},
		"500":            {ok("HTTP/1.1 500 Oh\r\n\r\n"), wire.ProbeResult{Code: 1, Reason: "HTTP status 500"}},
		"503, kept open": {open("HTTP/1.1 503 Busy\r\n\r\nwait"), wire.ProbeResult{Code: 1, Reason: "HTTP status 503", Output: []byte("wait")}},
		"200, kept open": {open("HTTP/1.1 200 OK\r\n\r\nbody"), wire.ProbeResult{Output: []byte("body")}},
		"line feeds":     {ok("HTTP/1.1 200\nA: b\n\nbody"), wire.ProbeResult{Output: []byte("body")}},
		"cut head":       {ok("HTTP/1.1 200 OK\r\nA: b"), wire.ProbeResult{}},
		"cut status":     {ok("HTTP/1.1 200 OK"), wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"nothing":        {ok(""), wire.ProbeResult{Code: 1, Reason: reasonEmpty}},
		"garbage":        {open("SSH-2.0-x\r\n"), wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"almost":         {open("HTTP/1.1 2O0 OK\r\n\r\n"), wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"four digits":    {open("HTTP/1.1 2000 OK\r\n\r\n"), wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"lower case":     {open("http/1.1 200 OK\r\n\r\n"), wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"silent":         {hold, wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonWaiting}},
		"half a head":    {open("HTTP/1.1 200 OK\r\nA: "), wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonWaiting}},
		"huge body":      {ok("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 10<<20)), wire.ProbeResult{Output: []byte(strings.Repeat("x", wire.MaxProbeOutput))}},
		"huge head":      {ok("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 10<<20)), wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"large head":     {ok("HTTP/1.1 404 OK\r\nX: " + strings.Repeat("x", 60<<10) + "\r\n\r\nb"), wire.ProbeResult{Code: 1, Reason: "HTTP status 404", Output: []byte("b")}},
		"piecemeal": {func(c net.Conn) {
			readRequest(c)
			for _, b := range []byte("HTTP/1.1 404 No\r\n\r\n") {
				_, _ = c.Write([]byte{b})
				time.Sleep(time.Millisecond)
			}
			_, _ = c.Write([]byte("bo"))
			_, _ = c.Write([]byte("dy"))
		}, wire.ProbeResult{Code: 1, Reason: "HTTP status 404", Output: []byte("body")}},
		"trickle": {func(c net.Conn) {
			for err := error(nil); err == nil; time.Sleep(20 * time.Millisecond) {
				_, err = c.Write([]byte("HTTP/1.1 200 OK\r\nX: yyyyyyyyyyyyyyyyyyyyyy")[:1])
			}
		}, wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"trickling head": {func(c net.Conn) {
			for _, b := range []byte("HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 100)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}, wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonWaiting}},
		"before it was asked": {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 503 Busy\r\n\r\n") }, wire.ProbeResult{Code: 1, Reason: "HTTP status 503"}},
		"reset": {func(c net.Conn) {
			readRequest(c)
			_ = as[*net.TCPConn](c).SetLinger(0)
		}, wire.ProbeResult{Code: 1, Reason: "connection reset by peer"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "/bin/sleep", "1000")
			p := wire.Probe{Kind: wire.ProbeHTTP, Port: serve(t, "127.0.0.1:0", c.handle), Request: "GET / HTTP/1.0\r\n\r\n", TimeoutNs: int64(timeout)}
			if !c.want.TimedOut {
				p.TimeoutNs = int64(patience)
			}
			b.spec.Probe = p
			b.mustStart()
			l := b.line()
			for range 2 {
				began := time.Now()
				r := l.probe()
				expectResult(t, r, c.want)
				if took := time.Since(began); took > 3*time.Second || c.want.TimedOut && r.Duration < timeout {
					t.Errorf("it took %v, or %v in all", r.Duration, took)
				}
			}
			l.quiet()
		})
	}
}

// A request that the connection does not take at once is sent as it goes.
func TestProbeHTTPOfALargeRequest(t *testing.T) {
	b := newBox(t, "/usr/bin/python3", "-c", `
import socket, time
for name in "tcp_wmem", "tcp_rmem":
    with open("/proc/sys/net/ipv4/" + name, "w") as f: f.write("4096 4096 4096")
s = socket.socket(); s.bind(("127.0.0.1", 41234)); s.listen(); print("ready", flush=True)
c, _ = s.accept()
time.sleep(0.05) # all buffers are full by then
got = b""
while not got.endswith(b"\r\n\r\n"):
    more = c.recv(1 << 20)
    if not more: break
    got += more
whole = got == b"GET / HTTP/1.0\r\nX: " + b"0123456789" * 10000 + b"\r\n\r\n"
c.sendall(b"HTTP/1.0 %d x\r\n\r\n" % (200 if whole else 400))
c.close()
time.sleep(1000)
`)
	b.spec.PrivateNet = true
	request := "GET / HTTP/1.0\r\nX: " + strings.Repeat("0123456789", 10_000) + "\r\n\r\n"
	b.spec.Probe = wire.Probe{Kind: wire.ProbeHTTP, Port: 41234, Request: request, TimeoutNs: int64(patience)}
	b.mustStart()
	b.awaitLog("ready")
	expectResult(t, b.line().probe(), wire.ProbeResult{})
}

func TestProbeInAPrivateNetwork(t *testing.T) {
	b := newBox(t, "/usr/bin/python3", "-c", `
import socket
s = socket.socket(); s.bind(("127.0.0.1", 41234)); s.listen(); print("ready", flush=True)
while True:
    c, _ = s.accept()
    if c.recv(100): c.sendall(b"HTTP/1.0 200 OK\r\n\r\nhere")
    c.close()
`)
	b.spec.PrivateNet = true
	b.spec.Probe = wire.Probe{Kind: wire.ProbeHTTP, Port: 41234, Request: "GET / HTTP/1.0\r\n\r\n", TimeoutNs: int64(patience)}
	b.mustStart()
	b.awaitLog("ready")
	expectResult(t, b.line().probe(), wire.ProbeResult{Output: []byte("here")})
	// The same from the host's network; and an address that only the host reaches.
	outside := newBox(t, "/bin/sleep", "1000")
	expectResult(t, outside.probeOnce(b.spec.Probe), wire.ProbeResult{Code: 1, Reason: "connection refused"})
	inside := newBox(t, "/bin/sleep", "1000")
	inside.spec.PrivateNet = true
	expectResult(t, inside.probeOnce(wire.Probe{Kind: wire.ProbeTCP, Addr: "192.0.2.1", Port: 80, TimeoutNs: int64(patience)}), wire.ProbeResult{Code: 1, Reason: "network is unreachable"})
}

// A line that goes while a probe waits for the network takes the probe with it.
func TestLineThatIsHungUpEndsItsConnection(t *testing.T) {
	ended := make(chan struct{})
	port := serve(t, "127.0.0.1:0", func(c net.Conn) { readRequest(c); hold(c); ended <- struct{}{} })
	b := newBox(t, "/bin/sleep", "1000")
	b.spec.Probe = wire.Probe{Kind: wire.ProbeHTTP, Port: port, Request: "GET / HTTP/1.0\r\n\r\n", TimeoutNs: int64(time.Hour)}
	b.mustStart()
	l := b.line()
	l.begin()
	l.close()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the connection is still there")
	}
}

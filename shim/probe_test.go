package shim

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

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

package shim

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// These tests run the real program as root. Whatever a box leaves behind fails
// the test: see newBox.

const (
	patience = time.Minute // on a machine that is busy with other things
	allCaps  = ^uint64(0)
	path     = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
)

func TestMain(m *testing.M) {
	if os.Getenv("SHIM_TEST_HELPER") != "" {
		os.Exit(helper())
	}
	code := m.Run()
	if buildDir != "" {
		if err := os.RemoveAll(buildDir); err != nil {
			panic(err)
		}
	}
	os.Exit(code)
}

var buildDir string

// shimProgram builds the shim for the first test that wants it. A fuzzer's
// workers never do.
var shimProgram = sync.OnceValue(func() string {
	dir, err := os.MkdirTemp("", "shim-test")
	if err != nil {
		panic(err)
	}
	buildDir = dir
	// Not the name it is installed under, so that comm cannot come from there.
	program := filepath.Join(dir, "shim-under-test")
	build := exec.Command("go", "build", "-trimpath", "-o", program, "github.com/boxlitefs/boxlite/cmd/boxlite-shim")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		panic(fmt.Sprintf("%s%v", out, err))
	}
	return program
})

// box is a box under test.
type box struct {
	t      testing.TB
	path   string
	dir    *os.File
	spec   wire.Spec
	hold   *os.File
	tag    string
	h      *client.Handle
	reaped bool
	status unix.WaitStatus
	usage  unix.Rusage
}

var boxes int

// newBox makes a box that runs argv. At the end of the test its shim is killed
// and reaped, and no process that had its environment may be left.
func newBox(t testing.TB, argv ...string) *box {
	t.Helper()
	return newBoxIn(t, t.TempDir(), argv...)
}

func newBoxIn(t testing.TB, dir string, argv ...string) *box {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("these tests have to be run as root")
	}
	f, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	boxes++
	b := &box{t: t, path: dir, dir: f, tag: fmt.Sprintf("BOXTAG=%d.%d", os.Getpid(), boxes)}
	b.spec = wire.Spec{
		Box: "test", Run: fmt.Sprint("run", boxes), Argv: argv, Env: []string{"PATH=" + path, b.tag}, Workdir: "/",
		Capabilities: allCaps, StopSignal: syscall.SIGTERM, StopGraceNs: int64(10 * time.Second), LogMax: 10 << 20,
	}
	t.Cleanup(func() {
		if b.h != nil {
			if !b.reaped {
				// ESRCH: it ended by itself.
				if err := unix.PidfdSendSignal(b.h.PIDFD, unix.SIGKILL, nil, 0); err != nil && err != unix.ESRCH {
					t.Error(err)
				}
				b.wait()
			}
			b.h.Close()
			sys.Close(b.h.PIDFD)
		}
		_ = f.Close()
		if left := processesWith(t, b.tag); len(left) > 0 {
			t.Errorf("processes left behind: %v", left)
		}
		if t.Failed() {
			own, _ := os.ReadFile(filepath.Join(dir, client.LogFile))
			t.Logf("shim.log: %s", own)
		}
	})
	return b
}

// sh makes a box that runs a shell script.
func sh(t testing.TB, script string) *box {
	t.Helper()
	return newBox(t, "/bin/sh", "-c", script)
}

func processesWith(t testing.TB, env string) (pids []int) {
	t.Helper()
	entries, err := os.ReadDir("/proc")
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		b, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
		if err != nil { // it has ended meanwhile
			continue
		}
		if slices.Contains(strings.Split(string(b), "\x00"), env) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (b *box) launch() {
	b.t.Helper()
	h, err := client.Launch(client.LaunchOptions{Path: shimProgram(), Dir: b.dir, Spec: b.spec, Hold: b.hold})
	if err != nil {
		b.t.Fatal(err)
	}
	b.h = h
}

// start launches the box and returns how its start went.
func (b *box) start() error {
	b.t.Helper()
	b.launch()
	if err := b.h.Begin(); err != nil {
		b.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	err := b.h.WaitStarted(ctx)
	if err == nil {
		b.lend()
	}
	return err
}

func (b *box) mustStart() *box {
	b.t.Helper()
	if err := b.start(); err != nil {
		b.t.Fatal(err)
	}
	return b
}

// wait reaps the shim.
func (b *box) wait() unix.WaitStatus {
	b.t.Helper()
	if b.reaped {
		return b.status
	}
	deadline := time.Now().Add(patience)
	for {
		fds := []unix.PollFd{{Fd: int32(b.h.PIDFD), Events: unix.POLLIN}}
		n, err := unix.Poll(fds, int(time.Until(deadline).Milliseconds()))
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 {
			_ = unix.Kill(b.h.PID, unix.SIGKILL)
			_, _ = unix.Wait4(b.h.PID, nil, 0, nil)
			b.reaped = true
			b.t.Fatalf("the shim did not end (%v)", err)
		}
		break
	}
	if _, err := unix.Wait4(b.h.PID, &b.status, 0, &b.usage); err != nil {
		b.t.Fatal(err)
	}
	b.reaped = true
	return b.status
}

func (b *box) record() wire.ExitRecord {
	b.t.Helper()
	data, err := os.ReadFile(filepath.Join(b.path, wire.RecordName))
	if err != nil {
		b.t.Fatal(err)
	}
	var r wire.ExitRecord
	if err := json.Unmarshal(data, &r); err != nil {
		b.t.Fatalf("%s: %v", data, err)
	}
	if r.Run != b.spec.Run {
		b.t.Errorf("the record is of run %q, not %q", r.Run, b.spec.Run)
	}
	if r.EndedNs < r.StartedNs || r.EndedNs > time.Now().UnixNano() {
		b.t.Errorf("times of the record: %+v", r)
	}
	return r
}

// logFiles returns the log's files in order, after checking that each begins
// where the one before ends.
func (b *box) logFiles() (bases []int64, sizes []int64) {
	b.t.Helper()
	entries, err := os.ReadDir(b.path)
	if err != nil {
		b.t.Fatal(err)
	}
	for _, e := range entries {
		if base, ok := wire.ParseLogName(e.Name()); ok {
			info, err := e.Info()
			if err != nil {
				b.t.Fatal(err)
			}
			bases, sizes = append(bases, base), append(sizes, info.Size())
		}
	}
	for i := 1; i < len(bases); i++ {
		if bases[i-1]+sizes[i-1] != bases[i] {
			b.t.Errorf("a hole in the log: %v %v", bases, sizes)
		}
	}
	return bases, sizes
}

func (b *box) log() string {
	b.t.Helper()
	var all []byte
	bases, _ := b.logFiles()
	for _, base := range bases {
		data, err := os.ReadFile(filepath.Join(b.path, wire.LogName(base)))
		if err != nil {
			b.t.Fatal(err)
		}
		all = append(all, data...)
	}
	return string(all)
}

// awaitLog waits for text to be in the log, by means of WatchLog.
func (b *box) awaitLog(text string) {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w, err := client.WatchLog(ctx, b.dir)
	if err != nil {
		b.t.Fatal(err)
	}
	defer closeFile(w)
	for !strings.Contains(b.log(), text) {
		if err := w.Next(ctx); err != nil {
			b.t.Fatalf("waiting for %q: %v; log: %q", text, err, b.log())
		}
	}
}

func (b *box) ask(req wire.Request) client.Reply {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	r, err := client.Ask(ctx, b.dir, req)
	if err != nil {
		b.t.Fatal(err)
	}
	return r
}

// output runs the box to its end, which has to be good, and returns its log.
func (b *box) output() string {
	b.t.Helper()
	b.mustStart()
	if ws := b.wait(); ws.ExitStatus() != 0 {
		b.t.Fatalf("exit %d, log %q", ws.ExitStatus(), b.log())
	}
	return b.log()
}

func expect(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %q, want %q", what, got, want)
	}
}

// until waits for a condition outside, which nothing tells of.
func until(t testing.TB, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v", what, patience)
		}
	}
}

func field(status, key string) string {
	for line := range strings.Lines(status) {
		if k, v, _ := strings.Cut(line, ":"); k == key {
			return strings.TrimSpace(v)
		}
	}
	return "no " + key
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

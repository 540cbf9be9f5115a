package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
)

// Bound is how long anything that ought to be quick may take before it counts as
// hanging.
const Bound = 20 * time.Second

// Home is where the daemons of one test live, one after the other.
type Home struct {
	T testing.TB
	// Dir holds Mount, State and whatever the test puts beside them. Other users
	// can get through it.
	Dir, Mount, State string
	// Shim is the shim that the next Start gives to the daemon.
	Shim string
	// Boxlited is the daemon that the next Start runs, if not the tree's own.
	Boxlited string
	// Wrap are the words before the daemon's own on the command line.
	Wrap []string
	// Env is added to the daemon's environment.
	Env []string

	log *os.File

	mu       sync.Mutex
	daemon   *Daemon // the last one
	launches int
}

// New makes a Home, which is cleaned up and checked for leaks when the test ends.
func New(t testing.TB) *Home {
	t.Helper()
	_, shim := Binaries(t)
	dir, err := os.MkdirTemp("", prefix)
	if err != nil {
		t.Fatal(err)
	}
	h := &Home{T: t, Dir: dir, Mount: filepath.Join(dir, "mnt"), State: filepath.Join(dir, "state"), Shim: shim}
	h.log, err = os.OpenFile(filepath.Join(dir, "log"), os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(errors.Join(err, os.RemoveAll(dir)))
	}
	t.Cleanup(h.cleanup)
	return h
}

// File writes an executable file into the Home's directory and returns its path.
func (h *Home) File(name, text string) string {
	h.T.Helper()
	path := filepath.Join(h.Dir, name)
	if err := os.WriteFile(path, []byte(text), 0o755); err != nil {
		h.T.Fatal(err)
	}
	return path
}

// Log returns what all daemons of the Home wrote to stderr so far.
func (h *Home) Log() string {
	text, err := os.ReadFile(h.log.Name())
	if err != nil {
		h.T.Error(err)
	}
	return string(text)
}

// Record is shim.json of a box: its process, as the daemon put it on record.
type Record struct {
	Run      string          `json:"run"`
	Identity reaper.Identity `json:"identity"`
}

// Records returns the records of all boxes that have one, by name.
func (h *Home) Records() map[string]Record {
	h.T.Helper()
	out := map[string]Record{}
	paths, err := filepath.Glob(filepath.Join(h.State, "boxes", "*", "shim.json"))
	if err != nil {
		h.T.Fatal(err)
	}
	for _, path := range paths {
		text, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue // it has just ended
		}
		if err != nil {
			h.T.Error(err)
			continue
		}
		var r Record
		if json.Unmarshal(text, &r) == nil { // else the test has spoilt it
			out[filepath.Base(filepath.Dir(path))] = r
		}
	}
	return out
}

// Await polls until ok holds, and fails the test when it does not within Bound.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	if !await(Bound, ok) {
		t.Fatalf("gave up waiting for %s", what)
	}
}

func await(bound time.Duration, ok func() bool) bool {
	end := time.Now().Add(bound)
	for wait := time.Millisecond; !ok(); wait = min(2*wait, 50*time.Millisecond) {
		if time.Now().After(end) {
			return false
		}
		<-time.After(wait)
	}
	return true
}

// cleanup ends what is left and fails the test for what should not be left.
func (h *Home) cleanup() {
	h.T.Helper()
	h.mu.Lock()
	d := h.daemon
	h.mu.Unlock()
	if d != nil && d.Running() {
		d.Stop()
	}
	h.endShims()
	h.freeMounts(d)
	text := h.Log()
	if _, race, found := strings.Cut(text, "WARNING: DATA RACE"); found {
		h.T.Errorf("the daemon has a data race:%s", head(race, 80))
	}
	if h.T.Failed() && text != "" {
		h.T.Logf("the daemon said:\n%s", tail(text, 60))
	}
	if err := h.log.Close(); err != nil {
		h.T.Error(err)
	}
	left, err := Mounts(h.Dir)
	if err != nil || len(left) > 0 {
		h.T.Errorf("%s is not removed: mounts %v, error %v", h.Dir, left, err)
		return
	}
	if err := os.RemoveAll(h.Dir); err != nil {
		h.T.Error(err)
	}
}

// endShims kills the shims that are on record: to outlive the daemon is their
// right. Any other process that works in the state directory is a leak.
func (h *Home) endShims() {
	h.T.Helper()
	boot, err := reaper.BootID()
	if err != nil {
		h.T.Error(err)
		return
	}
	groups, err := h.cgroups()
	if err != nil {
		h.T.Error(err)
	}
	for _, dir := range groups {
		// What is frozen cannot die. Only a v1 freezer has the file.
		err := os.WriteFile(filepath.Join(dir, "freezer.state"), []byte("THAWED"), 0)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, fs.ErrPermission) {
			h.T.Error(err)
		}
	}
	var recorded []int
	for _, r := range h.Records() {
		recorded = append(recorded, r.Identity.PID)
		p, err := reaper.Find(boot, r.Identity)
		if errors.Is(err, reaper.ErrGone) {
			continue
		}
		if err == nil {
			err = p.Kill()
		}
		if err != nil {
			h.T.Errorf("shim %d: %v", r.Identity.PID, err)
		}
	}
	// A child of this process on its way to exec still has all files of its
	// parent, so what is seen once is no leak yet.
	if !await(2*time.Second, func() bool { return len(users(h.State)) == 0 }) {
		for _, pid := range users(h.State) {
			what := "is on no record"
			if slices.Contains(recorded, pid) {
				what = "does not die"
			}
			h.T.Errorf("leak: process %d %s works in the state directory and %s", pid, Comm(pid), what)
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				h.T.Error(err)
			}
		}
	}
	for _, pid := range recorded {
		reap(pid)
	}
	for _, dir := range groups {
		// A killed shim may still be ending its processes.
		var err error
		await(2*time.Second, func() bool { err = unix.Rmdir(dir); return !errors.Is(err, unix.EBUSY) })
		if err != nil && !errors.Is(err, unix.ENOENT) {
			h.T.Errorf("cgroup %s: %v", dir, err)
		}
	}
}

// cgroups returns the cgroups of the boxes and of the state directory, the inner
// ones first. That they are there is no leak: a daemon may have been killed.
func (h *Home) cgroups() ([]string, error) {
	var st unix.Stat_t
	if err := unix.Stat(h.State, &st); errors.Is(err, unix.ENOENT) {
		return nil, nil
	} else if err != nil {
		return nil, err
	}
	id := fmt.Sprintf("boxlite/%x-%x", st.Dev, st.Ino)
	var dirs []string
	for _, pattern := range []string{"*/" + id + "/box-*", id + "/box-*", "*/" + id, id} {
		found, err := filepath.Glob("/sys/fs/cgroup/" + pattern)
		if err != nil {
			return nil, err
		}
		dirs = append(dirs, found...)
	}
	return dirs, nil
}

// Groups returns the cgroups of the boxes, by the name of the box.
func (h *Home) Groups() map[string][]string {
	h.T.Helper()
	dirs, err := h.cgroups()
	if err != nil {
		h.T.Fatal(err)
	}
	out := map[string][]string{}
	for _, dir := range dirs {
		if box, ok := strings.CutPrefix(filepath.Base(dir), "box-"); ok {
			out[box] = append(out[box], dir)
		}
	}
	return out
}

// reap takes the status of a shim that is a child of this process: that of a
// runtime in here which was closed before.
func reap(pid int) {
	for {
		err := unix.Waitid(unix.P_PID, pid, nil, unix.WEXITED|unix.WNOHANG, nil)
		if !errors.Is(err, unix.EINTR) {
			return // ECHILD: not ours, or reaped already
		}
	}
}

// freeMounts takes away every mount in the Home's directory. One of a daemon that
// was killed is to be expected; any other is a leak.
func (h *Home) freeMounts(d *Daemon) {
	h.T.Helper()
	left, err := Mounts(h.Dir)
	if err != nil {
		h.T.Error(err)
	}
	for _, m := range slices.Backward(left) {
		if d == nil || !d.killed {
			h.T.Errorf("leak: %s is still mounted at %s", m.Type, m.Path)
		}
		if strings.HasPrefix(m.Type, "fuse") {
			if err := Abort(m.Minor); err != nil {
				h.T.Error(err)
			}
		}
		if err := unix.Unmount(m.Path, unix.MNT_DETACH); err != nil {
			h.T.Errorf("unmount %s: %v", m.Path, err)
		}
	}
}

const connections = "/sys/fs/fuse/connections"

// Abort ends a FUSE connection: every request that waits on it fails at once.
func Abort(minor string) error {
	if err := mountConnections(); err != nil {
		return err
	}
	err := os.WriteFile(filepath.Join(connections, minor, "abort"), []byte("1"), 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // nobody holds it open any more
	}
	return err
}

// Waiting returns how many requests of a FUSE connection have no answer yet.
func Waiting(minor string) (int, error) {
	if err := mountConnections(); err != nil {
		return 0, err
	}
	text, err := os.ReadFile(filepath.Join(connections, minor, "waiting"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

// mountConnections makes sure that there is fusectl, which nobody may have mounted
// since the machine was started.
func mountConnections() error {
	var st unix.Statfs_t
	if err := unix.Statfs(connections, &st); err != nil {
		return err
	}
	if st.Type == unix.FUSE_SUPER_MAGIC || st.Type == fusectlMagic {
		return nil
	}
	if err := unix.Mount("none", connections, "fusectl", 0, ""); err != nil {
		return fmt.Errorf("mount fusectl: %w", err)
	}
	return nil
}

// fusectlMagic is FUSE_CTL_SUPER_MAGIC of fs/fuse/control.c.
const fusectlMagic = 0x65735543

// head returns the first n lines of text.
func head(text string, n int) string {
	lines := strings.SplitAfter(text, "\n")
	return strings.Join(lines[:min(len(lines), n)], "")
}

// tail returns the last n lines of text.
func tail(text string, n int) string {
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	return strings.Join(lines[max(0, len(lines)-n):], "\n")
}

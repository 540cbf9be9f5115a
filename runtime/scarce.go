package runtime

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/opencontainers/cgroups"
	cgroup2 "github.com/opencontainers/cgroups/fs2"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/wire"
)

// slots bounds how many goroutines at once are in system calls that may wait, for the disk
// say. Each of those keeps a thread, and a thread that the Go runtime finds no other for
// must be made: where the daemon's cgroup has no room for it, that ends the daemon. So the
// sum of all slots, and of the 20 of package atomicfile, is less than SpareThreads.
type slots chan struct{}

func (s slots) do(fn func() error) error {
	s <- struct{}{}
	defer func() { <-s }()
	return fn()
}

// SpareThreads is how many threads the daemon needs beside one for each processor, when as
// much waits in system calls as may: see slots. Some wait always: in epoll_wait, for
// signals, in reads of /dev/fuse.
const SpareThreads = 96

var (
	starters = make(slots, 8)  // of shims, and makers of their cgroups
	visitors = make(slots, 24) // clients in the files of boxes, and in logs
	releases = make(slots, 4)  // of overlays: see overlayHold
)

// taskLimit is how many tasks, which are processes and threads, a cgroup may have.
type taskLimit struct {
	dir      string
	max, now int
}

func (l taskLimit) room() int { return max(l.max-l.now, 0) }

// tasks returns the limit that the daemon meets first; ok is false if there is none.
func tasks() (found taskLimit, ok bool) {
	dir, err := tasksDir()
	if err != nil {
		return found, false // without the controller nothing limits them
	}
	for ; len(dir) > 1; dir = filepath.Dir(dir) {
		l := taskLimit{dir: dir}
		var merr, nerr error
		l.max, merr = readNumber(filepath.Join(dir, "pids.max"))
		l.now, nerr = readNumber(filepath.Join(dir, "pids.current"))
		if errors.Is(merr, os.ErrNotExist) {
			break // the root of the hierarchy, or above
		}
		if merr == nil && nerr == nil && (!ok || l.room() < found.room()) {
			found, ok = l, true
		}
	}
	return found, ok
}

// tasksDir is the daemon's directory in the hierarchy that limits tasks.
func tasksDir() (string, error) {
	if !cgroups.IsCgroup2UnifiedMode() {
		return cgroups.GetOwnCgroupPath("pids")
	}
	own, err := cgroups.ParseCgroupFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	return filepath.Join(cgroup2.UnifiedMountpoint, own[""]), nil
}

func readNumber(path string) (int, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(text)))
}

const moreTasks = "write more to its pids.max; in a systemd unit that is TasksMax=infinity"

// CheckTasks returns an error if the daemon's cgroup has no room for n more tasks.
func CheckTasks(n int) error {
	if l, ok := tasks(); ok && l.room() < n {
		return fmt.Errorf("%w: boxlited makes %d threads at its start, and cgroup %s has room for %d of its %d tasks: %s", ErrHost, n, l.dir, l.room(), l.max, moreTasks)
	}
	return nil
}

// shimTasks is how many a shim needs before its command runs, with a margin.
const shimTasks = 8

// explainTasks says of a start that failed that there is a limit, if that is why. A shim
// without room for its threads dies, and its daemon hears no more.
func explainTasks(err error) error {
	failed := new(wire.StartError)
	if !errors.Is(err, unix.EAGAIN) && (!errors.As(err, &failed) || failed.Step != wire.StepLaunch) {
		return err
	}
	l, ok := tasks()
	if !ok || l.room() >= shimTasks {
		return err
	}
	return fmt.Errorf("%w (the daemon's cgroup %s has %d of the %d tasks that it may have: %s)", err, l.dir, l.now, l.max, moreTasks)
}

// scarce reports whether an error says that the daemon, or its host, has no descriptor left.
func scarce(err error) bool { return errors.Is(err, unix.EMFILE) || errors.Is(err, unix.ENFILE) }

// ExplainFiles says of the lack of descriptors whose it is, and what helps.
func ExplainFiles(err error) error {
	var limit unix.Rlimit
	switch {
	case errors.Is(err, unix.EMFILE) && unix.Getrlimit(unix.RLIMIT_NOFILE, &limit) == nil:
		return fmt.Errorf("%w (boxlited may have %d: give it more with ulimit -n, in a systemd unit with LimitNOFILE=)", err, limit.Cur)
	case errors.Is(err, unix.ENFILE):
		return fmt.Errorf("%w (on this host: sysctl fs.file-max)", err)
	}
	return err
}

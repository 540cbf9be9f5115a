package fsapi

import (
	"context"
	"strconv"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/reaper/procfs"
	"github.com/boxlitefs/boxlite/runtime"
)

// caller returns who made a request.
func caller(ctx context.Context) runtime.By {
	c, ok := fuse.FromContext(ctx)
	if !ok {
		return runtime.By{}
	}
	return runtime.By{UID: c.Uid, PID: int(c.Pid)}
}

// process returns who made a request, with the pid of the process. FUSE names the thread.
// Where the process can't be known, the pid is that of the thread.
func process(ctx context.Context) runtime.By {
	by := caller(ctx)
	if p := tgid(by.PID); p != 0 {
		by.PID = p
	}
	return by
}

// tgid returns the process that a thread belongs to. It returns 0 if that can't be known: the
// thread has ended, or is in a pid namespace that this process does not see.
func tgid(tid int) int {
	if tid <= 0 {
		return 0
	}
	status, err := procfs.Of(tid).Status()
	if err != nil {
		return 0
	}
	n, err := strconv.Atoi(status.Field("Tgid"))
	if err != nil {
		return 0
	}
	return n
}

// proc is a process. A later one with the same pid is another proc.
type proc struct {
	pid   int
	began uint64 // in ticks since the boot; 0 if that can't be known
}

func procOf(pid int) proc { return proc{pid, startTime(pid)} }

// ended reports whether the process is known to have ended.
func (p proc) ended() bool { return p.began != 0 && startTime(p.pid) != p.began }

// startTime returns when a process began, in ticks since the boot; 0 if that can't be known.
func startTime(pid int) uint64 {
	if pid <= 0 {
		return 0
	}
	s, err := procfs.Of(pid).Stat()
	if err != nil {
		return 0
	}
	return s.StartTicks
}

// pfExiting is PF_EXITING of linux/sched.h.
const pfExiting = 0x4

// dying reports whether a thread is about to end because of a signal. The kernel closes the
// files of a killed process as it closes those of any other, so the flush of a half-written
// file looks like that of a whole one. Only this tells them apart.
func dying(tid int) bool {
	if tid <= 0 {
		return false
	}
	s, err := procfs.Of(tid).Stat()
	return err == nil && s.Flags&pfExiting != 0 && s.ExitStatus.Signaled()
}

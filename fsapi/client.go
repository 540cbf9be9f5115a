package fsapi

import (
	"context"
	"errors"
	"strconv"
	"syscall"

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

// closer returns the process that a flush comes from.
func closer(ctx context.Context) proc {
	tid := caller(ctx).PID
	pid, inExec := threadStatus(tid)
	if pid == 0 {
		pid = tid
	}
	if inExec {
		return proc{pid: pid}
	}
	return procOf(pid)
}

// tgid returns the process that a thread belongs to. It returns 0 if that can't be known: the
// thread has ended, or is in a pid namespace that this process does not see.
func tgid(tid int) int {
	pid, _ := threadStatus(tid)
	return pid
}

// threadStatus returns the process that a thread belongs to, as tgid does, and whether it is
// within execve(2).
//
// There the kernel closes what is to be closed on exec, and each of our files that is among
// it gets a flush. Until that is answered the kernel keeps the process's exec_update_lock,
// and /proc/PID/stat waits for this lock: a daemon that reads it to find out what to answer
// waits for itself, and everybody who runs ps waits with it. /proc/PID/status does not wait.
// It shows a process that is there already in its new memory, which has nothing but a stack
// yet: VmExe is 0, as in no other thread that can make a request. One that ends has no memory,
// and no VmExe.
func threadStatus(tid int) (pid int, inExec bool) {
	if tid <= 0 {
		return 0, false
	}
	status, err := procfs.Of(tid).Status()
	if err != nil {
		return 0, false
	}
	if pid, err = strconv.Atoi(status.Field("Tgid")); err != nil {
		return 0, false
	}
	return pid, status.Field("VmExe") == "0 kB"
}

// proc is a process. A later one with the same pid is another proc.
type proc struct {
	pid   int
	began uint64 // in ticks since the boot; 0 if that can't be known
}

// procOf returns a process that waits in a request other than a flush, or in a flush that is
// not one of execve(2): see threadStatus.
func procOf(pid int) proc {
	if pid <= 0 {
		return proc{pid: pid}
	}
	s, err := procfs.Of(pid).Stat()
	if err != nil {
		return proc{pid: pid}
	}
	return proc{pid, s.StartTicks}
}

// is reports whether two are the same process, as far as it is known.
func (p proc) is(q proc) bool {
	return p.pid == q.pid && (p.began == q.began || p.began == 0 || q.began == 0)
}

// ended reports whether no process has the pid. It reads nothing of /proc, where it might
// have to wait for the process that has the pid now.
func (p proc) ended() bool {
	return p.pid > 0 && errors.Is(syscall.Kill(p.pid, 0), syscall.ESRCH)
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
	if _, inExec := threadStatus(tid); inExec {
		return false
	}
	s, err := procfs.Of(tid).Stat()
	return err == nil && s.Flags&pfExiting != 0 && s.ExitStatus.Signaled()
}

package fsapi

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/boxlitefs/boxlite/runtime"
)

// process returns who made a request, with the pid of the process: FUSE names the thread
// that made it. Where that can't be known, the pid is what FUSE said.
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

// tgid returns the process that a thread belongs to. 0 means it can't be known: the client
// is gone, or lives in a pid namespace that this one does not see.
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
	status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return 0, false
	}
	for line := range strings.Lines(string(status)) {
		key, value, _ := strings.Cut(line, ":")
		switch value = strings.TrimSpace(value); key {
		case "Tgid":
			if pid, err = strconv.Atoi(value); err != nil {
				return 0, false
			}
		case "VmExe":
			return pid, value == "0 kB"
		}
	}
	return pid, false
}

// proc is a process, and none that has its pid after it.
type proc struct {
	pid   int
	began uint64 // in ticks since the boot; 0 if that can't be known
}

// procOf returns a process that waits in a request other than a flush, or in a flush that is
// not one of execve(2): see threadStatus.
func procOf(pid int) proc {
	f := stat(pid)
	if len(f) < 20 {
		return proc{pid: pid}
	}
	began, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return proc{pid: pid}
	}
	return proc{pid, began}
}

// is reports whether two are the same process, as far as it is known.
func (p proc) is(q proc) bool {
	return p.pid == q.pid && (p.began == q.began || p.began == 0 || q.began == 0)
}

// gone reports whether no process has the pid. It asks nothing of /proc, where it might have
// to wait for whoever has it now.
func (p proc) gone() bool {
	return p.pid > 0 && errors.Is(syscall.Kill(p.pid, 0), syscall.ESRCH)
}

// stat returns what /proc says of a process or thread, from its state on, which is the
// third field of that file. It is not for one that is within execve(2): see threadStatus.
func stat(pid int) []string {
	if pid <= 0 {
		return nil
	}
	text, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return nil
	}
	return strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
}

// pfExiting is PF_EXITING of linux/sched.h.
const pfExiting = 0x4

// dying reports whether a thread is on its way out because of a signal. The
// kernel closes a killed process's files as it closes anybody's, so the flush of
// a half-written file looks like that of a whole one; only this tells them apart.
func dying(tid int) bool {
	if _, inExec := threadStatus(tid); inExec {
		return false
	}
	// Flags are the ninth field, the exit code is the fifty-second and holds a wait
	// status.
	f := stat(tid)
	if len(f) < 50 {
		return false
	}
	flags, err := strconv.ParseUint(f[6], 10, 64)
	if err != nil || flags&pfExiting == 0 {
		return false
	}
	code, err := strconv.Atoi(f[49])
	return err == nil && code&0x7f != 0
}

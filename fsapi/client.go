package fsapi

import (
	"bytes"
	"context"
	"os"
	"strconv"
	"strings"

	"github.com/hanwen/go-fuse/v2/fuse"

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
	status, err := os.ReadFile("/proc/" + strconv.Itoa(tid) + "/status")
	if err != nil {
		return 0
	}
	for line := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(line, "Tgid:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(v))
			if err != nil {
				return 0
			}
			return n
		}
	}
	return 0
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
	f := procStat(pid)
	if len(f) < 20 {
		return 0
	}
	ticks, err := strconv.ParseUint(f[19], 10, 64)
	if err != nil {
		return 0
	}
	return ticks
}

// procStat returns the fields of /proc/PID/stat of a process or thread, from the third on,
// which is its state.
func procStat(pid int) []string {
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

// dying reports whether a thread is about to end because of a signal. The kernel closes the
// files of a killed process as it closes those of any other, so the flush of a half-written
// file looks like that of a whole one. Only this tells them apart.
func dying(tid int) bool {
	// Flags are the ninth field, the exit code is the fifty-second and holds a wait
	// status.
	f := procStat(tid)
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

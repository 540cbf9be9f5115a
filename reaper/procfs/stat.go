package procfs

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Stat is what is needed of /proc/PID/stat.
type Stat struct {
	// PID is the process's, or the thread's own id.
	PID int
	// State is the one-letter scheduling state as in proc(5): R, S, D, T, t, Z, …
	State string
	// Parent is the pid of the process's parent, 0 if that is in no namespace that shows here.
	Parent int
	// Flags are the PF_ bits of linux/sched.h.
	Flags uint64
	// UserTime and SystemTime are the process's own, and ReapedUserTime and ReapedSystemTime
	// those of all children that it has reaped, and that they had.
	UserTime, SystemTime, ReapedUserTime, ReapedSystemTime time.Duration
	// Threads is how many threads the process has.
	Threads int
	// StartTicks is the start time in clock ticks after boot (10 ms each).
	StartTicks uint64
	// ExitStatus is the wait status of a zombie, or of one that is about to end; 0 where it
	// is not for this process to see.
	ExitStatus unix.WaitStatus
}

// clockTick is the unit of times in /proc: USER_HZ is 100 on every Linux port
// that Go runs on.
const clockTick = 10 * time.Millisecond

// Stat reads /proc/PID/stat. The kernel makes it wait while the process is within execve(2);
// Status does not wait.
func (p Process) Stat() (Stat, error) {
	var buf [1024]byte
	b, err := p.read("stat", buf[:])
	if err != nil {
		return Stat{}, err
	}
	s, err := parseStat(b)
	if err != nil {
		err = fmt.Errorf("%sstat: %w", p.path, err)
	}
	return s, err
}

func parseStat(b []byte) (Stat, error) {
	// The second field, the command's name, may hold spaces and parentheses.
	front, _, _ := bytes.Cut(b, []byte(" "))
	f := strings.Fields(string(b[bytes.LastIndexByte(b, ')')+1:]))
	if len(f) < 50 {
		return Stat{}, fmt.Errorf("only %d fields after the name", len(f))
	}
	s := Stat{State: f[0]}
	var errs [10]error
	s.PID, errs[0] = strconv.Atoi(string(front))
	s.Parent, errs[1] = strconv.Atoi(f[1])
	s.Flags, errs[2] = strconv.ParseUint(f[6], 10, 64)
	for i, t := range [...]*time.Duration{&s.UserTime, &s.SystemTime, &s.ReapedUserTime, &s.ReapedSystemTime} {
		var n int64
		n, errs[3+i] = strconv.ParseInt(f[11+i], 10, 64)
		*t = time.Duration(n) * clockTick
	}
	s.Threads, errs[7] = strconv.Atoi(f[17])
	s.StartTicks, errs[8] = strconv.ParseUint(f[19], 10, 64)
	var status uint64
	status, errs[9] = strconv.ParseUint(f[49], 10, 32)
	s.ExitStatus = unix.WaitStatus(status)
	return s, errors.Join(errs[:]...)
}

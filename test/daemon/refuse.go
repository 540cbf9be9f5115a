package daemon

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// refuseEnv makes the test binary a wrapper (see RefuseCall) instead of running
// tests.
const refuseEnv = "BOXLITE_TEST_REFUSE"

// RefuseCall makes every daemon that is started from now on, and its children,
// get EMFILE for a system call, as if the machine had run out of something.
func (h *Home) RefuseCall(nr int) {
	h.T.Helper()
	self, err := os.Executable()
	if err != nil {
		h.T.Fatal(err)
	}
	h.Wrap = []string{self}
	h.Env = []string{fmt.Sprintf("%s=%d", refuseEnv, nr)}
}

// AllowCalls takes back RefuseCall for the next daemon.
func (h *Home) AllowCalls() { h.Wrap, h.Env = nil, nil }

// refused puts a filter on this process and becomes the program in its arguments.
func refused(nr string) int {
	fail := func(err error) int {
		fmt.Fprintln(os.Stderr, "refuse a call:", err)
		return 1
	}
	var call uint32
	if _, err := fmt.Sscan(nr, &call); err != nil {
		return fail(err)
	}
	filter := []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: 0}, // seccomp_data.nr
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: call},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(unix.EMFILE)},
		{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	runtime.LockOSThread() // the filter is the thread's, and exec keeps that
	if err := unix.Prctl(unix.PR_SET_SECCOMP, unix.SECCOMP_MODE_FILTER, uintptr(unsafe.Pointer(&program)), 0, 0); err != nil {
		return fail(err)
	}
	var env []string
	for _, e := range os.Environ() {
		if !strings.HasPrefix(e, refuseEnv+"=") {
			env = append(env, e)
		}
	}
	return fail(unix.Exec(os.Args[1], os.Args[1:], env))
}

package shim

import (
	"io"
	"runtime"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"
)

// inSharedNamespace puts this test's thread into a mount namespace of its own
// that is all shared. The thread is thrown away with the test.
func inSharedNamespace(t *testing.T) {
	t.Helper()
	runtime.LockOSThread()
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		t.Fatal(err)
	}
	// First private: a mount made here must not reach the machine's namespace.
	for _, how := range []uintptr{unix.MS_PRIVATE, unix.MS_SHARED} {
		if err := unix.Mount("", "/", "", how|unix.MS_REC, ""); err != nil {
			t.Fatal(err)
		}
	}
}

// closeFile closes a file of which a test needs no more.
func closeFile(f io.Closer) { _ = f.Close() }

func sigactionForTest(sig unix.Signal, act *struct{ handler, flags, restorer, mask uint64 }) unix.Errno {
	_, _, errno := unix.RawSyscall6(unix.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(act)), 0, 8, 0, 0)
	return errno
}

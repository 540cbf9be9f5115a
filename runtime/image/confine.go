package image

import (
	"errors"
	"fmt"
	"math"
	"os"
	"runtime"

	seccomp "github.com/elastic/go-seccomp-bpf"
	"github.com/elastic/go-seccomp-bpf/arch"
	"golang.org/x/sys/unix"
)

// What reads a hostile layer has no use for most of what root may do. After confine the
// unpacker keeps the capabilities and the system calls that it takes to make files, so that
// a bug in what it uses does not make it root of the host.

// unpackCaps are the capabilities of the unpacker: files of any owner, with set-uid bits
// and capabilities of their own. The kernel asks for SYS_ADMIN to set a trusted attribute,
// which overlayfs wants; the system calls for which it is feared are not to be had.
const unpackCaps = 1<<unix.CAP_CHOWN | 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_FOWNER | 1<<unix.CAP_FSETID | 1<<unix.CAP_SETFCAP | 1<<unix.CAP_SYS_ADMIN

// unpackCalls are the system calls of the unpacker, which are those of Go's runtime and of
// package archive; some architectures have not all of them. It needs none to make another process, to reach one, to get a socket, or
// to change what it sees of the file system as a whole.
var unpackCalls = []string{
	// Files.
	"read", "readv", "pread64", "preadv", "write", "writev", "pwrite64", "pwritev", "close", "lseek", "fstat", "newfstatat", "fstatat", "statx", "fstatfs", "statfs", "openat",
	"fcntl", "ftruncate", "truncate", "fallocate", "fsync", "fdatasync", "sync_file_range", "fadvise64", "getdents64", "getcwd", "fchdir", "chdir", "copy_file_range",
	"sendfile", "splice", "mkdirat", "mknodat", "linkat", "symlinkat", "unlinkat", "renameat", "renameat2", "readlinkat", "faccessat", "faccessat2", "fchmod",
	"fchmodat", "fchown", "fchownat", "utimensat", "umask", "setxattr", "lsetxattr", "fsetxattr", "getxattr", "lgetxattr", "fgetxattr", "listxattr", "llistxattr",
	"flistxattr", "removexattr", "lremovexattr", "fremovexattr", "pipe2", "dup3", "dup", "ppoll", "epoll_create1", "epoll_ctl", "epoll_pwait", "eventfd2",
	// Memory, threads and time.
	"mmap", "munmap", "mprotect", "madvise", "mremap", "brk", "mincore", "futex", "set_robust_list", "get_robust_list", "rseq", "sched_yield", "sched_getaffinity",
	"gettid", "getpid", "getppid", "tgkill", "exit", "exit_group", "nanosleep", "clock_nanosleep", "clock_gettime", "clock_getres", "gettimeofday", "getrandom",
	"restart_syscall", "setitimer", "timer_create", "timer_settime", "timer_delete", "membarrier",
	// Signals and limits of its own.
	"rt_sigaction", "rt_sigprocmask", "rt_sigreturn", "sigaltstack", "rt_sigtimedwait", "getrlimit", "prlimit64", "getrusage", "uname", "sysinfo",
	"getuid", "geteuid", "getgid", "getegid", "capget",
}

// confined is the argument of an unpacker that has renounced what it does not need.
const confined = "confined"

// renounce starts this program anew, as the same process, with few capabilities, no way to
// get others, and no descriptor but its own. Capabilities belong to a thread, and Go has
// several: after an exec there is one.
func renounce() error {
	runtime.LockOSThread()
	// The daemon's rank is not for who unpacks what strangers have packed.
	if err := os.WriteFile("/proc/self/oom_score_adj", []byte("500"), 0); err != nil {
		return err
	}
	if err := unix.CloseRange(unpackAlive+1, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close what was inherited: %w", err)
	}
	for c := uintptr(0); ; c++ {
		has, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, c, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			break // there are no more
		}
		if err == nil && has == 1 && unpackCaps&(1<<c) == 0 {
			err = unix.Prctl(unix.PR_CAPBSET_DROP, c, 0, 0, 0)
		}
		// Without SETPCAP the daemon has been cut down itself.
		if err != nil && !errors.Is(err, unix.EPERM) {
			return fmt.Errorf("drop capability %d: %w", c, err)
		}
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&head, &sets[0]); err != nil {
		return err
	}
	sets[0].Inheritable, sets[1].Inheritable = 0, 0
	if err := unix.Capset(&head, &sets[0]); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	return unix.Exec("/proc/self/exe", []string{UnpackerName, confined}, os.Environ())
}

// filterCalls leaves this process the system calls of the unpacker.
func filterCalls() error {
	here, err := arch.GetInfo("")
	if err != nil {
		return err
	}
	return seccomp.LoadFilter(seccomp.Filter{
		Flag: seccomp.FilterFlagTSync, // of all threads
		Policy: seccomp.Policy{
			DefaultAction: seccomp.ActionErrno,
			Syscalls: []seccomp.SyscallGroup{
				{Action: seccomp.ActionAllow, Names: callsOf(here)},
				// Go's runtime names its memory.
				{Action: seccomp.ActionAllow, NamesWithCondtions: []seccomp.NameWithConditions{{
					Name: "prctl", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.Equal, Value: unix.PR_SET_VMA}},
				}}},
				// A thread, but no process. What makes threads by clone3 makes do with
				// clone where that is not there.
				{Action: seccomp.ActionAllow, NamesWithCondtions: []seccomp.NameWithConditions{{
					Name: "clone", Conditions: seccomp.ArgumentConditions{{Argument: 0, Operation: seccomp.BitsSet, Value: unix.CLONE_THREAD}},
				}}},
				{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
			},
		},
	})
}

// callsOf returns those of the unpacker's system calls that an architecture has.
func callsOf(a *arch.Info) (names []string) {
	for _, name := range unpackCalls {
		if _, ok := a.SyscallNames[name]; ok {
			names = append(names, name)
		}
	}
	return names
}

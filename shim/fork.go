//go:build linux && (amd64 || arm64)

package shim

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/wire"
)

// The command is started by a fork and exec of our own. Resource limits,
// capabilities and no_new_privs have to be set between the two, on the child
// alone; os/exec cannot do that, and a second Go program between the shim and
// the command costs as much as all the rest of a start. The three functions of
// the runtime are those that package syscall forks with. The runtime keeps them
// for such use (go.dev/issue/67401).

//go:linkname runtimeBeforeFork syscall.runtime_BeforeFork
func runtimeBeforeFork()

//go:linkname runtimeAfterFork syscall.runtime_AfterFork
func runtimeAfterFork()

//go:linkname runtimeAfterForkInChild syscall.runtime_AfterForkInChild
func runtimeAfterForkInChild()

// rawVfork is clone(flags), with or without CLONE_VFORK|CLONE_VM.
func rawVfork(flags uintptr) (pid, errno uintptr)

// The steps of the child, in order.
const (
	childAlone = 1 + iota
	childCgroup
	childOOM
	childSession
	childFiles
	childRlimit
	childBounding
	childGroups
	childGID
	childUID
	childCapabilities
	childAmbient
	childWorkdir
	childNoNewPrivs
	childCloexec
	childSignals
	childExec
)

// child is all that the child needs, prepared before the fork because it must
// not allocate.
//
// The command's child shares the shim's memory until it has executed the command
// or ended: that is the fastest, no pipe is needed to tell of a failure, and there
// is nothing that could hold it up. A probe's child has the box around it, which
// may be frozen or throttled, and may stop what it can see; its programs may be on
// a file system that does not answer. The shim must not wait for it, so it is a
// process apart, and tells by a pipe.
type child struct {
	apart      bool
	report     uintptr // with apart: the pipe that a failure is written to
	paths      []*byte // the files to execute, of which the first that is there is taken
	argv, envv **byte
	dir        *byte
	files      [3]uintptr // what becomes stdin, stdout and stderr
	ctty       bool       // stdin is a terminal, and to be that of the session
	join       []uintptr  // files to write itself into
	oomFile    *byte      // nil: the score stays
	oomScore   []byte
	uid, gid   uintptr
	groups     *uint32
	ngroups    uintptr
	rlimits    []wire.Rlimit
	bounding   uint64
	held       uint64 // permitted and effective capabilities
	ambient    uint64
	noNewPrivs bool

	trouble
}

// trouble is where a child failed; step is 0 if it did not.
type trouble struct {
	step, index, errno uintptr
}

type capHeader struct {
	version uint32
	pid     int32
}

type capData struct {
	effective, permitted, inheritable uint32
}

const capVersion3 = 0x20080522

// forkExec forks; the child becomes the command and never returns from here.
//
// The two may share memory and stack while the child lives in this function, so
// the rules of package syscall's forkAndExecInChild1 apply: nothing that grows the
// stack or allocates or writes a pointer, and the parent leaves at once, since
// the child has used the frame.
//
//go:noinline
//go:norace
//go:nocheckptr
func forkExec(c *child) (pid, errno uintptr) {
	var (
		i      uintptr
		fd     uintptr
		bit    uint64
		lim    *wire.Rlimit
		hdr    capHeader
		caps   [2]capData
		action sigaction
		mask   uint64
		self   = byte('0')
		cwd    = unix.AT_FDCWD
		flags  = uintptr(unix.SIGCHLD)
	)
	if !c.apart {
		flags |= unix.CLONE_VFORK | unix.CLONE_VM
	}
	// Here and not in the caller, as from now on no stack may be checked for its
	// size, which functions do when they are entered.
	runtimeBeforeFork()
	pid, errno = rawVfork(flags)
	if errno != 0 || pid != 0 {
		return
	}

	// The child. Its signals are blocked until the last step.
	runtimeAfterForkInChild()

	// Before it becomes one whom the box may trace: it has the shim's descriptors
	// until it executes.
	if c.apart {
		c.step = childAlone
		if _, _, e := syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_DUMPABLE, 0, 0); e != 0 {
			c.errno = uintptr(e)
			goto failed
		}
	}

	// First, so that all that follows is counted where it belongs. "0" means the
	// writer. On v1 it goes into tasks: a thread that moves itself takes no lock of
	// all processes, and the child has one thread only.
	c.step = childCgroup
	for i = 0; i < uintptr(len(c.join)); i++ {
		c.index = i
		if _, _, e := syscall.RawSyscall(unix.SYS_WRITE, c.join[i], uintptr(unsafe.Pointer(&self)), 1); e != 0 {
			c.errno = uintptr(e)
			goto failed
		}
	}
	c.step = childOOM
	if c.oomFile != nil {
		var e syscall.Errno
		if fd, _, e = syscall.RawSyscall6(unix.SYS_OPENAT, uintptr(cwd), uintptr(unsafe.Pointer(c.oomFile)), unix.O_WRONLY|unix.O_CLOEXEC, 0, 0, 0); e == 0 {
			_, _, e = syscall.RawSyscall(unix.SYS_WRITE, fd, uintptr(unsafe.Pointer(&c.oomScore[0])), uintptr(len(c.oomScore)))
		}
		if e != 0 {
			c.errno = uintptr(e)
			goto failed
		}
		_, _, _ = syscall.RawSyscall(unix.SYS_CLOSE, fd, 0, 0)
	}

	c.step = childSession
	if _, _, e := syscall.RawSyscall(unix.SYS_SETSID, 0, 0, 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}

	c.step = childFiles
	for i = 0; i <= 2; i++ {
		if c.files[i] == i {
			continue // as /dev/null is; dup3 would refuse it
		}
		if _, _, e := syscall.RawSyscall(unix.SYS_DUP3, c.files[i], i, 0); e != 0 {
			c.errno = uintptr(e)
			goto failed
		}
	}
	if c.ctty {
		if _, _, e := syscall.RawSyscall(unix.SYS_IOCTL, 0, unix.TIOCSCTTY, 0); e != 0 {
			c.errno = uintptr(e)
			goto failed
		}
	}

	// Limits before the uid: to raise a hard one takes a capability.
	c.step = childRlimit
	for i = 0; i < uintptr(len(c.rlimits)); i++ {
		lim = &c.rlimits[i]
		c.index = i
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRLIMIT64, 0, uintptr(lim.Resource), uintptr(unsafe.Pointer(&lim.Soft)), 0, 0, 0); e != 0 {
			c.errno = uintptr(e)
			goto failed
		}
	}

	// The bounding set while CAP_SETPCAP is still there. EINVAL is the answer
	// for the first number that this kernel has no capability for.
	c.step = childBounding
	for i = 0; i < 64; i++ {
		if c.bounding&(1<<i) != 0 {
			continue
		}
		c.index = i
		if _, _, e := syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_CAPBSET_DROP, i, 0); e != 0 {
			if e == unix.EINVAL {
				break
			}
			c.errno = uintptr(e)
			goto failed
		}
	}

	c.step = childGroups
	if _, _, e := syscall.RawSyscall(unix.SYS_SETGROUPS, c.ngroups, uintptr(unsafe.Pointer(c.groups)), 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}
	c.step = childGID
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESGID, c.gid, c.gid, c.gid); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}
	c.step = childUID
	if c.ambient != 0 {
		// Else the change of the uid takes the permitted set. The flag goes with execve.
		if _, _, e := syscall.RawSyscall(unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0); e != 0 {
			c.errno = uintptr(e)
			goto failed
		}
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, c.uid, c.uid, c.uid); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}

	// The inheritable set holds what the ambient set needs and no more: root
	// gets its capabilities from the bounding set, and a program with
	// inheritable file capabilities must not find any here (CVE-2022-24769).
	c.step = childCapabilities
	hdr.version = capVersion3
	for i = 0; i < 2; i++ {
		caps[i].permitted = uint32(c.held >> (32 * i))
		caps[i].effective = caps[i].permitted
		caps[i].inheritable = uint32(c.ambient >> (32 * i))
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&caps)), 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}
	c.step = childAmbient
	if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0, 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}
	for i, bit = 0, c.ambient; bit != 0; i, bit = i+1, bit>>1 {
		if bit&1 == 0 {
			continue
		}
		c.index = i
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, i, 0, 0, 0); e != 0 {
			c.errno = uintptr(e)
			goto failed
		}
	}

	// After the uid: a directory that the user cannot enter is an error.
	c.step = childWorkdir
	if _, _, e := syscall.RawSyscall(unix.SYS_CHDIR, uintptr(unsafe.Pointer(c.dir)), 0, 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}
	if c.noNewPrivs {
		c.step = childNoNewPrivs
		if _, _, e := syscall.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0, 0); e != 0 {
			c.errno = uintptr(e)
			goto failed
		}
	}

	// Every descriptor is close-on-exec by itself; this keeps it so whatever a
	// later change opens.
	c.step = childCloexec
	if _, _, e := syscall.RawSyscall(unix.SYS_CLOSE_RANGE, 3, ^uintptr(0)>>32, unix.CLOSE_RANGE_CLOEXEC); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}

	// An ignored signal stays ignored across execve, and the shim has those
	// that the daemon was started with (nohup, say). SIGKILL and SIGSTOP give
	// EINVAL, which is all that this call can fail with.
	c.step = childSignals
	for i = 1; i <= 64; i++ {
		_, _, _ = syscall.RawSyscall6(unix.SYS_RT_SIGACTION, i, uintptr(unsafe.Pointer(&action)), 0, 8, 0, 0)
	}
	if _, _, e := syscall.RawSyscall6(unix.SYS_RT_SIGPROCMASK, unix.SIG_SETMASK, uintptr(unsafe.Pointer(&mask)), 0, 8, 0, 0); e != 0 {
		c.errno = uintptr(e)
		goto failed
	}

	// As execvp does it: a file that is there and cannot be executed is the one to
	// be named, if no other can be. One in a directory that the user cannot enter is
	// not there. In shared memory step is 0 when one could be executed.
	c.step, c.errno = 0, 0
	for i = 0; i < uintptr(len(c.paths)); i++ {
		_, _, e := syscall.RawSyscall(unix.SYS_EXECVE, uintptr(unsafe.Pointer(c.paths[i])), uintptr(unsafe.Pointer(c.argv)), uintptr(unsafe.Pointer(c.envv)))
		if e == unix.EACCES && len(c.paths) > 1 {
			if _, _, there := syscall.RawSyscall(unix.SYS_FACCESSAT, uintptr(cwd), uintptr(unsafe.Pointer(c.paths[i])), unix.F_OK); there != 0 {
				e = unix.ENOENT
			}
		}
		if c.errno != uintptr(unix.EACCES) {
			c.index, c.errno = i, uintptr(e)
		}
		if e != unix.ENOENT && e != unix.ENOTDIR && e != unix.EACCES {
			break
		}
	}
	c.step = childExec

failed:
	if c.apart {
		_, _, _ = syscall.RawSyscall(unix.SYS_WRITE, c.report, uintptr(unsafe.Pointer(&c.trouble)), unsafe.Sizeof(c.trouble))
	}
	for {
		_, _, _ = syscall.RawSyscall(unix.SYS_EXIT, 125, 0, 0)
	}
}

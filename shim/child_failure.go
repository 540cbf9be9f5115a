//go:build linux && (amd64 || arm64)

package shim

import (
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/wire"
)

func forkFailed(errno uintptr) *wire.StartError {
	return &wire.StartError{Step: wire.StepFork, Errno: syscall.Errno(errno), Detail: "cannot start a process"}
}

// failure says in words where the child failed.
func (c *child) failure(spec *wire.Spec, path string) *wire.StartError {
	e := &wire.StartError{Errno: syscall.Errno(c.errno)}
	switch c.step {
	case childAlone:
		e.Step, e.Detail = wire.StepFork, "cannot keep the box from looking into its child"
	case childCgroup:
		e.Step, e.Detail = wire.StepCgroup, "cannot join "+spec.Cgroups[c.index]
	case childOOM:
		e.Step, e.Detail = wire.StepFork, "cannot set /proc/self/oom_score_adj"
	case childSession:
		e.Step, e.Detail = wire.StepFork, "cannot make a session"
	case childFiles:
		e.Step, e.Detail = wire.StepLog, "cannot connect the command to its log or streams"
	case childRlimit:
		r := c.rlimits[c.index]
		e.Step, e.Detail = wire.StepRlimit, "cannot set rlimit "+rlimitName(r.Resource)+
			" to "+strconv.FormatUint(r.Soft, 10)+":"+strconv.FormatUint(r.Hard, 10)
	case childBounding:
		e.Step, e.Detail = wire.StepCapabilities, "cannot drop capability "+strconv.Itoa(int(c.index))
	case childGroups:
		e.Step, e.Detail = wire.StepUser, "cannot set the supplementary groups"
	case childGID:
		e.Step, e.Detail = wire.StepUser, "cannot become group "+strconv.FormatUint(uint64(spec.GID), 10)
	case childUID:
		e.Step, e.Detail = wire.StepUser, "cannot become user "+strconv.FormatUint(uint64(spec.UID), 10)
	case childCapabilities:
		e.Step, e.Detail = wire.StepCapabilities, "cannot set the capabilities"
	case childAmbient:
		e.Step, e.Detail = wire.StepCapabilities, "cannot set ambient capability "+strconv.Itoa(int(c.index))
	case childWorkdir:
		e.Step, e.Detail = wire.StepWorkdir, "cannot chdir to "+spec.Workdir
	case childNoNewPrivs:
		e.Step, e.Detail = wire.StepPrivileges, "cannot set no_new_privs"
	case childCloexec:
		e.Step, e.Detail = wire.StepFork, "cannot keep the shim's descriptors from the command"
	case childSignals:
		e.Step, e.Detail = wire.StepFork, "cannot reset the signal mask"
	default:
		e.Step, e.Detail = wire.StepExec, "cannot run "+path
		if e.Errno == unix.EACCES {
			e.Detail = path + " is not executable"
			if spec.UID != 0 {
				e.Detail += " for user " + strconv.FormatUint(uint64(spec.UID), 10)
			}
		}
	}
	return e
}

// notExecuted says why a child apart, which was told to execute name, found in one of
// files, has not done so, with the exit code that a shell would give.
func (c *child) notExecuted(t trouble, spec *wire.Spec, name string, files []string) (int, *wire.StartError) {
	if errno := syscall.Errno(t.errno); t.step == childExec && (errno == unix.ENOENT || errno == unix.ENOTDIR) {
		e := &wire.StartError{Step: wire.StepLookup, Errno: errno, Detail: `command "` + name + `" not found`}
		if !strings.Contains(name, "/") {
			e.Detail += " in PATH " + wire.SearchPath(spec.Env)
		}
		return 127, e
	}
	failed := *c // the one that failed was a copy
	failed.trouble = t
	file := name
	if t.step == childExec {
		file = files[t.index]
	}
	e := failed.failure(spec, file)
	if e.Step == wire.StepExec {
		return 126, e
	}
	return failedCode, e
}

// rlimitName is the name that setrlimit(2) has for a resource, as in config.
func rlimitName(resource int) string {
	const names = "cpu fsize data stack core rss nproc nofile memlock as locks sigpending msgqueue nice rtprio rttime"
	rest := names
	for i := 0; ; i++ {
		name, more, ok := strings.Cut(rest, " ")
		if i == resource {
			return name
		}
		if !ok {
			return strconv.Itoa(resource)
		}
		rest = more
	}
}

//go:build linux && (amd64 || arm64)

package shim

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// spawn starts the command of s.spec with logFD as its stdout and stderr, and
// returns its pid once it has been executed.
func spawn(s *supervisor, logFD int) (int, *wire.StartError) {
	path, failed := lookup(s.spec)
	if failed != nil {
		return 0, failed
	}
	c, failed := s.newChild(s.spec.Argv, []string{path})
	if failed != nil {
		return 0, failed
	}
	c.files = [3]uintptr{wire.FDNull, uintptr(logFD), uintptr(logFD)}
	pid, errno := forkExec(c)
	runtimeAfterFork()
	if errno != 0 {
		return 0, forkFailed(errno)
	}
	if c.step != 0 {
		if _, err := sys.Retry(func() (int, error) { return unix.Wait4(int(pid), nil, 0, nil) }); err != nil {
			return 0, wire.NewStartError(wire.StepFork, "cannot reap the child", err)
		}
		return 0, c.failure(s.spec, path)
	}
	return int(pid), nil
}

// newChild prepares a child that executes argv, found in one of paths, as the spec
// says that the box's command is run.
func (s *supervisor) newChild(argv, paths []string) (*child, *wire.StartError) {
	c, err := newChild(s.spec, argv, paths)
	if err == nil {
		err = s.unshield(c)
	}
	if err != nil {
		return nil, wire.NewStartError(wire.StepFork, "cannot prepare the command", err)
	}
	c.join = s.join
	return c, nil
}

func newChild(spec *wire.Spec, args, paths []string) (*child, error) {
	files, err := syscall.SlicePtrFromStrings(paths)
	if err != nil {
		return nil, err
	}
	argv, err := syscall.SlicePtrFromStrings(args)
	if err != nil {
		return nil, err
	}
	envv, err := syscall.SlicePtrFromStrings(spec.Env)
	if err != nil {
		return nil, err
	}
	dir, err := syscall.BytePtrFromString(spec.Workdir)
	if err != nil {
		return nil, err
	}
	held, err := heldCapabilities()
	if err != nil {
		return nil, err
	}
	c := &child{
		paths: files[:len(paths)], argv: &argv[0], envv: &envv[0], dir: dir,
		uid: uintptr(spec.UID), gid: uintptr(spec.GID),
		groups: unsafe.SliceData(spec.Groups), ngroups: uintptr(len(spec.Groups)),
		rlimits:    spec.Rlimits,
		bounding:   spec.Capabilities,
		held:       spec.Capabilities & held,
		noNewPrivs: spec.NoNewPrivs,
	}
	if spec.UID != 0 {
		c.held &= spec.CapAmbient
		c.ambient = c.held
	}
	if lim, raised := raisedNofile(spec); raised {
		c.rlimits = append([]wire.Rlimit{lim}, c.rlimits...)
	}
	return c, nil
}

// raisedNofile gives the limit of open files for a command whose spec has none.
// A Go program raises its own soft limit when it starts, which is not meant for
// others (select(2) breaks above 1024): the command gets the kernel's default.
func raisedNofile(spec *wire.Spec) (wire.Rlimit, bool) {
	for _, r := range spec.Rlimits {
		if r.Resource == unix.RLIMIT_NOFILE {
			return wire.Rlimit{}, false
		}
	}
	var lim unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &lim); err != nil || lim.Cur <= 1024 {
		return wire.Rlimit{}, false
	}
	return wire.Rlimit{Resource: unix.RLIMIT_NOFILE, Soft: 1024, Hard: lim.Max}, true
}

// heldCapabilities returns what the shim has and can therefore pass on.
func heldCapabilities() (uint64, error) {
	hdr := unix.CapUserHeader{Version: capVersion3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return 0, err
	}
	return uint64(data[0].Permitted) | uint64(data[1].Permitted)<<32, nil
}

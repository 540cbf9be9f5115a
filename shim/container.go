//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// The bundle of a container.
const (
	runtimeLog = wire.ContainerDir + "/log"
	pidFile    = wire.ContainerDir + "/pid"
	layersDir  = wire.ContainerDir + "/l"
	changesDir = wire.ContainerDir + "/changes"
	callsDir   = wire.ContainerDir + "/calls"
)

// setUpContainer makes what an OCI runtime needs, on a tmpfs that only the shim's
// mount namespace has: with the shim it is gone, whatever else happens.
//
// Layers are shared by boxes that have different ids. They are mounted with the ids
// of this box, which costs no copy and changes nothing on disk.
func (s *supervisor) setUpContainer() *wire.StartError {
	spec, c := s.spec, s.spec.Container
	const what = "cannot make the container's root"
	// What is given is taken before anything is covered.
	mounts := make([]int, len(spec.Mounts))
	for i, m := range spec.Mounts {
		tree, err := cloneTree(m.Source)
		if err != nil {
			return wire.NewStartError(wire.StepMount, "mount "+m.Source+" on "+m.Target, err)
		}
		mounts[i] = tree
	}
	layers := make([]int, len(c.Layers))
	for i, dir := range c.Layers {
		tree, err := openTree(dir)
		if err != nil {
			return wire.NewStartError(wire.StepMount, what+" of "+dir, err)
		}
		layers[i] = tree
	}
	changes := -1
	if c.Upper != "" {
		var err error
		if changes, err = openTree(c.Upper); err != nil {
			return wire.NewStartError(wire.StepMount, "cannot open the box's changes in "+c.Upper, err)
		}
	}
	for _, path := range spec.Mask {
		if err := mask(path); err != nil {
			return wire.NewStartError(wire.StepMask, "cannot hide "+path, err)
		}
	}
	for _, path := range c.Detach {
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			return wire.NewStartError(wire.StepCgroup, "cannot hide "+path, err)
		}
	}
	if err := unix.Mount("proc", "/proc", "proc", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, ""); err != nil {
		return wire.NewStartError(wire.StepNamespace, "cannot mount /proc", err)
	}
	var ids int
	var err error
	s.init, ids, err = makeNamespaces(c)
	if err != nil {
		return wire.NewStartError(wire.StepNamespace, "cannot make the container's namespaces", err)
	}
	defer sys.Close(ids)
	if err := mapAll(c, ids, spec.Mounts, mounts, layers); err != nil {
		return err
	}
	if err := unix.Mount("tmpfs", wire.PrivateDir, "tmpfs", unix.MS_NOSUID, "mode=755,size=16m"); err != nil {
		return wire.NewStartError(wire.StepMount, "cannot cover "+wire.PrivateDir, err)
	}
	for _, dir := range [...]string{wire.ContainerDir, wire.ContainerRoot, wire.ContainerState, layersDir, changesDir, wire.ContainerMounts, wire.ContainerFiles, callsDir} {
		if err := unix.Mkdir(dir, 0o755); err != nil {
			return wire.NewStartError(wire.StepMount, what, err)
		}
	}
	if err := replaceNull(); err != nil {
		return wire.NewStartError(wire.StepMount, "cannot make a /dev/null for the container", err)
	}
	if err := mountRoot(layers, changes); err != nil {
		return wire.NewStartError(wire.StepMount, what, err)
	}
	if c.Init {
		if err := s.init.enter(); err != nil {
			return wire.NewStartError(wire.StepNamespace, "cannot make the container's init", err)
		}
	}
	if err := checkRoot(); err != nil {
		return err
	}
	if changes >= 0 {
		if err := makeTmp(int(c.FirstID)); err != nil {
			return wire.NewStartError(wire.StepMount, what, err)
		}
	}
	for i, m := range spec.Mounts {
		if err := place(mounts[i], wire.ContainerMount(i)); err != nil {
			return wire.NewStartError(wire.StepMount, "mount "+m.Source+" on "+m.Target, err)
		}
	}
	if err := makeFiles(c); err != nil {
		return err
	}
	if err := writeFile(wire.ContainerDir+"/config.json", c.Config, 0); err != nil {
		return wire.NewStartError(wire.StepMount, "cannot write config.json", err)
	}
	return s.keepNamespaces()
}

// keepNamespaces puts the namespaces of the container where its configuration has them.
func (s *supervisor) keepNamespaces() *wire.StartError {
	c := s.spec.Container
	namespaces := [...]struct {
		name, path string
		made       bool
	}{
		{"user", wire.UserNamespace, true},
		{"pid", wire.PIDNamespace, c.Init},
		{"net", wire.NetworkNamespace, c.Init && c.PrivateNet},
	}
	for _, n := range namespaces {
		if !n.made {
			continue
		}
		err := writeFile(n.path, nil, 0)
		if err == nil {
			err = unix.Mount(s.init.proc("ns/"+n.name), n.path, "", unix.MS_BIND, "")
		}
		if err != nil {
			return wire.NewStartError(wire.StepNamespace, "cannot keep the "+n.name+" namespace of the container", err)
		}
	}
	if c.Init {
		return s.init.await()
	}
	if err := s.init.end(); err != nil {
		return wire.NewStartError(wire.StepNamespace, "cannot reap who has made the user namespace", err)
	}
	return nil
}

// replaceNull gives the shim, and so the container, a /dev/null of its own for its
// stdin. crun makes what is stdin the property of the container's user, who could
// take the host's /dev/null from all others.
func replaceNull() error {
	const null = wire.ContainerDir + "/null"
	err := unix.Mknod(null, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
	if err == nil {
		err = unix.Chmod(null, 0o666)
	}
	if err != nil {
		return err
	}
	fd, err := sys.Retry(func() (int, error) { return unix.Open(null, unix.O_RDWR|unix.O_CLOEXEC, 0) })
	if err != nil {
		return err
	}
	return errors.Join(unix.Dup3(fd, wire.FDNull, 0), unix.Close(fd))
}

// makeFiles makes what the container gets from the shim, on a file system that is
// read-only itself: a container that was given SYS_ADMIN can undo that of a mount.
func makeFiles(c *wire.Container) *wire.StartError {
	if len(c.Files) == 0 {
		return nil
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	err := unix.Mount("tmpfs", wire.ContainerFiles, "tmpfs", flags, "mode=755,size=1m")
	for _, f := range c.Files {
		if err == nil {
			err = writeFile(wire.ContainerFile(f.Name), f.Data, int(c.FirstID))
		}
	}
	if err == nil {
		err = unix.Mount("", wire.ContainerFiles, "", unix.MS_REMOUNT|unix.MS_RDONLY|flags, "")
	}
	if err != nil {
		return wire.NewStartError(wire.StepMount, "cannot make the files for the container", err)
	}
	return nil
}

// checkRoot refuses a root that could lead the runtime astray: runc makes links in
// /dev before the host is out of its sight, and follows that if it is a link itself.
func checkRoot() *wire.StartError {
	for _, name := range [...]string{"/dev", "/proc", "/sys"} {
		var st unix.Stat_t
		err := unix.Lstat(wire.ContainerRoot+name, &st)
		if err == nil && st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return &wire.StartError{Step: wire.StepMount, Errno: unix.ENOTDIR, Detail: "the container's root has no directory " + name}
		}
		if err != nil && !errors.Is(err, unix.ENOENT) {
			return wire.NewStartError(wire.StepMount, "cannot look at "+name+" of the container's root", err)
		}
	}
	return nil
}

// openTree returns a detached copy of the mount at a directory, without those below.
func openTree(path string) (int, error) {
	return sys.Retry(func() (int, error) {
		return unix.OpenTree(unix.AT_FDCWD, path, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_SYMLINK_NOFOLLOW)
	})
}

// mapAll gives detached mounts the ids of the container.
func mapAll(c *wire.Container, ids int, given []wire.Mount, mounts, layers []int) *wire.StartError {
	for i, tree := range mounts {
		// A file system that cannot map ids is given as it is: its owners are nobody
		// in the box.
		if err := mapIDs(tree, ids, unix.AT_RECURSIVE); err != nil && !errors.Is(err, unix.EINVAL) {
			return wire.NewStartError(wire.StepMount, "mount "+given[i].Source+" on "+given[i].Target, err)
		}
		// Not all runtimes do this to what is below.
		attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NODEV}
		if given[i].ReadOnly {
			attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		}
		if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|unix.AT_RECURSIVE, &attr); err != nil {
			return wire.NewStartError(wire.StepMount, "mount "+given[i].Source+" on "+given[i].Target, err)
		}
	}
	for i, tree := range layers {
		err := mapIDs(tree, ids, 0)
		if errors.Is(err, unix.EINVAL) {
			return &wire.StartError{Step: wire.StepMount, Errno: unix.EINVAL, Detail: "the file system of " + c.Layers[i] + " cannot be mounted with other ids (ext4, xfs, btrfs and tmpfs can)"}
		}
		if err != nil {
			return wire.NewStartError(wire.StepMount, "cannot mount "+c.Layers[i]+" with the ids of the container", err)
		}
	}
	return nil
}

// makeTmp makes /tmp where the root has none: programs take it for granted.
func makeTmp(owner int) error {
	const tmp = wire.ContainerRoot + "/tmp"
	err := unix.Mkdir(tmp, 0o700)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err == nil {
		err = unix.Lchown(tmp, owner, owner)
	}
	if err == nil {
		err = unix.Chmod(tmp, 0o777|unix.S_ISVTX)
	}
	return err
}

// mountRoot puts the root together. Device files of an image are dead in it: those
// of the box are bind mounts.
func mountRoot(layers []int, changes int) error {
	if changes < 0 {
		if err := restrict(layers[0]); err != nil {
			return err
		}
		return place(layers[0], wire.ContainerRoot)
	}
	lower := make([]string, len(layers))
	for i, tree := range layers {
		lower[i] = layersDir + "/" + strconv.Itoa(i)
		if err := place(tree, lower[i]); err != nil {
			return err
		}
	}
	if err := place(changes, changesDir); err != nil {
		return err
	}
	options := "lowerdir=" + strings.Join(lower, ":") + ",upperdir=" + changesDir + "/upper,workdir=" + changesDir + "/work"
	return unix.Mount("overlay", wire.ContainerRoot, "overlay", unix.MS_NODEV, options)
}

func restrict(tree int) error {
	return unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NODEV})
}

// mapIDs gives a detached mount the ids of a user namespace.
func mapIDs(tree, userns int, flags uint) error {
	return unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH|flags, &unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns)})
}

// place mounts a detached tree on a new directory, or file, of the shim's own.
func place(tree int, target string) error {
	var st unix.Stat_t
	err := unix.Fstat(tree, &st)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFDIR {
		if err = unix.Mkdir(target, 0o755); errors.Is(err, unix.EEXIST) {
			err = nil
		}
	} else {
		err = writeFile(target, nil, 0)
	}
	if err == nil {
		err = unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
	}
	if err != nil {
		return err
	}
	return unix.Close(tree)
}

func writeFile(path string, data []byte, owner int) error {
	fd, err := sys.Retry(func() (int, error) {
		return unix.Open(path, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o644)
	})
	if err != nil {
		return err
	}
	for len(data) > 0 && err == nil {
		var n int
		n, err = sys.Retry(func() (int, error) { return unix.Write(fd, data) })
		data = data[max(n, 0):]
	}
	if err == nil && owner != 0 {
		err = unix.Fchown(fd, owner, owner)
	}
	return errors.Join(err, unix.Close(fd))
}

// actAs sets the effective user of the thread, which keeps its capabilities: some
// hosts allow user namespaces to nobody else.
func actAs(uid uintptr) unix.Errno {
	const noFixup = 1 << 2 // SECBIT_NO_SETUID_FIXUP
	const same = ^uintptr(0)
	bits, _, errno := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_GET_SECUREBITS, 0, 0, 0, 0, 0)
	if errno == 0 {
		_, _, errno = unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, bits|noFixup, 0, 0, 0, 0)
	}
	if errno != 0 {
		return errno
	}
	_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, same, uid, same)
	if _, _, e := unix.RawSyscall6(unix.SYS_PRCTL, unix.PR_SET_SECUREBITS, bits, 0, 0, 0, 0); errno == 0 {
		errno = e
	}
	return errno
}

// overwrite writes data, in one piece, to a file that is there.
func overwrite(path string, data []byte) error {
	fd, err := sys.Retry(func() (int, error) { return unix.Open(path, unix.O_WRONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return err
	}
	_, err = sys.Retry(func() (int, error) { return unix.Write(fd, data) })
	return errors.Join(err, unix.Close(fd))
}

// spawnContainer has the runtime start the container, and returns the pid of its
// command. It waits for the runtime, as a shim that starts has nothing else to do.
func spawnContainer(s *supervisor, logFD int) (int, *wire.StartError) {
	if failed := s.callRuntime(logFD, "run", "--detach", "--bundle", wire.ContainerDir, "--pid-file", pidFile, s.spec.Box); failed != nil {
		return 0, failed
	}
	pid, failed := readPID(pidFile)
	if failed == nil && (s.spec.Probe.Kind == wire.ProbeTCP || s.spec.Probe.Kind == wire.ProbeHTTP) {
		failed = s.joinNetwork(pid)
	}
	return pid, failed
}

// callRuntime runs the OCI runtime with its output to out, and waits for its end.
func (s *supervisor) callRuntime(out int, args ...string) *wire.StartError {
	c := s.spec.Container
	child, failed := s.newRuntime(runtimeArgv(c, runtimeLog, args...))
	if failed != nil {
		return failed
	}
	child.files = [3]uintptr{wire.FDNull, uintptr(out), uintptr(out)}
	pid, errno := forkExec(child)
	runtimeAfterFork()
	if errno != 0 {
		return forkFailed(errno)
	}
	var status unix.WaitStatus
	if _, err := sys.Retry(func() (int, error) { return unix.Wait4(int(pid), &status, 0, nil) }); err != nil {
		return wire.NewStartError(wire.StepFork, "cannot reap the runtime", err)
	}
	switch {
	case child.step != 0:
		return child.failure(s.spec, c.Runtime[0])
	case status.Exited() && status.ExitStatus() == 0:
		return nil
	}
	return &wire.StartError{Step: wire.StepRuntime, Detail: c.Runtime[0] + runtimeComplaint(status, runtimeLog)}
}

// newRuntime prepares a child that is the OCI runtime: root on the host, in the
// box's cgroups.
func (s *supervisor) newRuntime(argv []string) (*child, *wire.StartError) {
	root := *s.spec
	root.Env, root.Workdir = []string{"PATH=" + wire.DefaultPath}, "/"
	root.UID, root.GID, root.Groups, root.Rlimits = 0, 0, nil, nil
	root.NoNewPrivs, root.Capabilities, root.CapAmbient = false, ^uint64(0), 0
	c, err := newChild(&root, argv, argv[:1])
	if err == nil {
		err = s.unshield(c)
	}
	if err != nil {
		return nil, wire.NewStartError(wire.StepFork, "cannot prepare the runtime", err)
	}
	c.join = s.join
	return c, nil
}

// runtimeComplaint says why a runtime failed: the last of what it has logged.
func runtimeComplaint(status unix.WaitStatus, log string) string {
	if status.Signaled() {
		return " was killed by signal " + strconv.Itoa(int(status.Signal()))
	}
	fd, err := sys.Retry(func() (int, error) { return unix.Open(log, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err == nil {
		defer sys.Close(fd)
		buf := make([]byte, 2048)
		var size int64
		if size, err = unix.Seek(fd, 0, 2); err == nil {
			var n int
			if n, err = sys.Retry(func() (int, error) { return unix.Pread(fd, buf, max(size-int64(len(buf)), 0)) }); err == nil {
				text := strings.TrimSpace(string(buf[:n]))
				if text != "" {
					return ": " + logMessage(text[strings.LastIndexByte(text, '\n')+1:])
				}
			}
		}
	}
	return " exited with status " + strconv.Itoa(status.ExitStatus())
}

// logMessage takes the message out of a line of a runtime's log.
func logMessage(line string) string {
	_, after, found := strings.Cut(line, ` msg="`)
	if !found {
		if _, after, found = strings.Cut(line, "Z: "); found { // crun: a time and the message
			return after
		}
		return line
	}
	if msg, err := strconv.Unquote(`"` + strings.TrimSuffix(after, `"`) + `"`); err == nil {
		return msg
	}
	return after
}

func readPID(file string) (int, *wire.StartError) {
	const what = "cannot read the pid of the container"
	fd, err := sys.Retry(func() (int, error) { return unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return 0, wire.NewStartError(wire.StepRuntime, what, err)
	}
	defer sys.Close(fd)
	var buf [16]byte
	n, err := sys.Retry(func() (int, error) { return unix.Read(fd, buf[:]) })
	if err != nil {
		return 0, wire.NewStartError(wire.StepRuntime, what, err)
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(buf[:n])))
	if err != nil || pid <= 1 {
		return 0, &wire.StartError{Step: wire.StepRuntime, Detail: what}
	}
	return pid, nil
}

// joinNetwork moves the shim's thread into the network of the container, where its
// probes connect. The control socket is a file, and stays where it is.
func (s *supervisor) joinNetwork(pid int) *wire.StartError {
	runtime.LockOSThread()
	var own, its unix.Stat_t
	fd, err := sys.Retry(func() (int, error) {
		return unix.Open("/proc/"+strconv.Itoa(pid)+"/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	})
	if err == nil {
		if err = errors.Join(unix.Stat("/proc/thread-self/ns/net", &own), unix.Fstat(fd, &its)); err == nil {
			s.sharedNet = own.Dev == its.Dev && own.Ino == its.Ino
			err = unix.Setns(fd, unix.CLONE_NEWNET)
		}
		sys.Close(fd)
	}
	if err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ESRCH) && !errors.Is(err, unix.EACCES) { // it has ended already
		return wire.NewStartError(wire.StepNetwork, "cannot join the network of the container", err)
	}
	return nil
}

// obeys reports whether the command of a container does anything about a signal. The
// first process of a pid namespace is spared what it has not asked for: a signal that
// would end any other process is nothing to it.
func obeys(pid int, sig syscall.Signal) bool {
	switch sig {
	case unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return true // it would not end any other process either
	}
	fd, err := sys.Retry(func() (int, error) {
		return unix.Open("/proc/"+strconv.Itoa(pid)+"/status", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return true
	}
	defer sys.Close(fd)
	buf := make([]byte, 4096)
	n, err := sys.Retry(func() (int, error) { return unix.Read(fd, buf) })
	if err != nil {
		return true
	}
	for line := range strings.SplitSeq(string(buf[:n]), "\n") {
		// Blocked, ignored, caught: in each case it means to.
		name, mask, _ := strings.Cut(line, ":\t")
		if name != "SigBlk" && name != "SigIgn" && name != "SigCgt" {
			continue
		}
		if bits, err := strconv.ParseUint(mask, 16, 64); err != nil || bits&(1<<(sig-1)) != 0 {
			return true
		}
	}
	return false
}

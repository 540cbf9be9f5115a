//go:build linux && (amd64 || arm64)

package shim

import (
	"errors"

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

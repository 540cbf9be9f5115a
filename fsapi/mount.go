package fsapi

import (
	"errors"
	"fmt"
	stdlog "log"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper/procfs"
	"github.com/boxlitefs/boxlite/runtime"
)

// fsType is the type of the mount as mountinfo shows it.
const fsType = "fuse.boxlite"

// maxWrite and maxRead are the greatest write and read that the kernel sends, in bytes. It
// splits greater ones. A read has a buffer of its size for as long as it blocks. cat asks for
// 128 KiB, and a thousand of them in wait/ would take that a thousand times.
const (
	maxWrite = 128 << 10
	maxRead  = 16 << 10
)

// probeBound is how long a mount at the mount point has to answer.
const probeBound = 2 * time.Second

// ErrMountBusy says that the mount point is in use: something is mounted there that is not
// dead, or it is not empty.
var ErrMountBusy = errors.New("the mount point is in use")

// Mount is a mounted control filesystem.
type Mount struct {
	path   string
	device string // major:minor, as mountinfo shows it
	server *fuse.Server
	below  int // descriptor of the directory under the mount, locked; never closed
}

// ClearMountPoint makes path ready for a mount. It creates the directory if need be, and
// unmounts what a dead boxlited left there. It fails with ErrMountBusy if anything else is
// mounted there, or the directory is not empty.
func ClearMountPoint(path string) error {
	for {
		found, err := mountedAt(path)
		if err != nil {
			return err
		}
		if found == nil {
			break
		}
		if found.fsType != fsType {
			return fmt.Errorf("%w: %s is mounted at %s", ErrMountBusy, found.fsType, path)
		}
		switch err := probe(path); {
		case errors.Is(err, unix.ENOTCONN) || errors.Is(err, unix.ECONNABORTED):
		case err == nil:
			return fmt.Errorf("%w: a living boxlited has mounted %s (each needs a --mount and a --state of its own)", ErrMountBusy, path)
		default:
			return fmt.Errorf("%w: a boxlite mount at %s does not answer: %w (free it with: echo 1 > /sys/fs/fuse/connections/%s/abort)", ErrMountBusy, path, err, found.minor())
		}
		if err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
			return fmt.Errorf("unmount what a dead boxlited left at %s: %w", path, err)
		}
	}
	if err := os.MkdirAll(path, 0o755); err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	hidden, err := os.ReadDir(path)
	if err != nil {
		return fmt.Errorf("mount point: %w", err)
	}
	if len(hidden) > 0 {
		return fmt.Errorf("%w: %s is not empty, and what is there (%s, …) would be hidden", ErrMountBusy, path, hidden[0].Name())
	}
	return nil
}

// probe asks a mount of another process whether it lives: it asks for what is never cached.
// It does so in a goroutine of its own, since a mount that hangs never answers.
func probe(path string) error {
	answer := make(chan error, 1)
	go func() {
		var st unix.Statfs_t
		answer <- unix.Statfs(path, &st)
	}()
	select {
	case err := <-answer:
		return err
	case <-time.After(probeBound):
		return unix.ETIMEDOUT
	}
}

// Serve mounts the control filesystem of rt at path and answers requests from
// then on. The mount point has to be clear.
//
// The mount is made here and not by go-fuse. Every child would inherit the descriptor of
// /dev/fuse that go-fuse opens. While one of them lived, clients of a killed daemon would hang
// instead of getting ENOTCONN.
func (f *FS) Serve(rt *runtime.Runtime, path string) (_ *Mount, err error) {
	f.rt = rt
	// Two daemons may both have found the mount point clear.
	below, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("mount point: %w", err)
	}
	err = unix.Flock(below, unix.LOCK_EX|unix.LOCK_NB)
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = fmt.Errorf("%w: another boxlited is mounting %s", ErrMountBusy, path)
	}
	var found *mountPoint
	if err == nil {
		found, err = mountedAt(path)
	}
	if err == nil && found != nil {
		err = fmt.Errorf("%w: another boxlited has mounted %s", ErrMountBusy, path)
	}
	if err != nil {
		return nil, errors.Join(err, unix.Close(below))
	}
	// Before /dev/fuse is open: between fork and exec the child has all descriptors.
	f.notifier.prepare(path)
	defer func() {
		if err != nil {
			f.notifier.close()
		}
	}()
	fd, err := syscall.Open("/dev/fuse", syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("open /dev/fuse: %w (is the fuse module there?)", err)
	}
	// default_permissions: without it allow_other checks nothing at all.
	opts := fmt.Sprintf("fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other,max_read=%d", fd, maxRead)
	if err := unix.Mount("boxlite", path, fsType, unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, opts); err != nil {
		return nil, errors.Join(fmt.Errorf("mount %s: %w", path, err), syscall.Close(fd))
	}
	m := &Mount{path: path, below: below}
	found, err = mountedAt(path)
	if err == nil && found == nil {
		err = errors.New("it does not show in mountinfo")
	}
	if err == nil {
		m.device = found.device
		// Without Options the kernel would cache everything for a second. With these it
		// caches what has a timeout of its own.
		var none time.Duration
		options := &fs.Options{
			EntryTimeout: &none, AttrTimeout: &none, NegativeTimeout: &none,
			NullPermissions: true,
			RootStableAttr:  &fs.StableAttr{Ino: inoRoot},
			MountOptions: fuse.MountOptions{
				Name: "boxlite", MaxWrite: maxWrite, DisableXAttrs: true,
				// Without it a truncating open is followed by a SETATTR that names
				// no handle.
				ExtraCapabilities: fuse.CAP_ATOMIC_O_TRUNC,
				// Nothing here is read from a descriptor; its pipes would only be
				// kept open.
				DisableSplice: true,
				PanicHandler:  f.panicked,
				Logger:        stdlog.New(f.log.WriterLevel(logrus.InfoLevel), "go-fuse: ", 0),
			},
		}
		// As fs.Mount does it, but for the counting.
		m.server, err = fuse.NewServer(count(fs.NewNodeFS(f.top, options), f.metrics, f.lane, f.budget), "/dev/fd/"+strconv.Itoa(fd), &options.MountOptions)
	}
	if err == nil {
		go m.server.Serve()
		err = m.server.WaitMount()
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("serve %s: %w", path, err), unix.Unmount(path, unix.MNT_DETACH))
	}
	f.notifier.begin(m.device)
	f.startServing()
	return m, nil
}

// Wait returns when the filesystem is no longer mounted.
func (m *Mount) Wait() { m.server.Wait() }

// Unmount unmounts the filesystem, at once if nothing is open on it. Else it is detached: no
// path leads there any more, and a client that still has a file open gets ECONNABORTED when
// the daemon exits.
func (m *Mount) Unmount() error {
	found, err := mountedAt(m.path)
	if err != nil {
		return err
	}
	if found == nil || found.device != m.device {
		return nil // it is gone already, and what is there now is not ours
	}
	err = unix.Unmount(m.path, unix.UMOUNT_NOFOLLOW)
	if errors.Is(err, unix.EBUSY) {
		err = unix.Unmount(m.path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	}
	if err != nil {
		return fmt.Errorf("unmount %s: %w", m.path, err)
	}
	return nil
}

// mountPoint is one line of mountinfo.
type mountPoint struct {
	device string
	fsType string
}

func (m *mountPoint) minor() string {
	_, minor, _ := strings.Cut(m.device, ":")
	return minor
}

// mountedAt returns what is mounted at exactly this path, the uppermost if there are several,
// or nil. It reads mountinfo: to stat the path itself could hang.
func mountedAt(path string) (*mountPoint, error) {
	mounts, err := procfs.Self.Mounts(-1)
	if err != nil {
		return nil, fmt.Errorf("look for mounts: %w", err)
	}
	path = filepath.Clean(path)
	var found *mountPoint
	for m := range mounts {
		if m.Point == path {
			found = &mountPoint{device: m.Device, fsType: m.Type}
		}
	}
	return found, nil
}

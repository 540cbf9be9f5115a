package rootfs

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
)

func TestTheEndOfARunClosesItsFiles(t *testing.T) {
	r, dir, path := testRoot(t, HostIDs)
	put(t, dir+"/f", strings.Repeat("x", 1<<16))
	before := openFDs(t)
	var users sync.WaitGroup
	begun := make(chan struct{}, 64)
	for range 4 {
		f, err := r.Open(t.Context(), path+"/f", unix.O_RDWR)
		must(t, err)
		d, err := r.ReadDir(t.Context(), path)
		must(t, err)
		users.Go(func() {
			buf := make([]byte, 1<<12)
			var err, derr, perr error
			for i := 0; err == nil || derr == nil || perr == nil; i++ {
				if i == 1 {
					begun <- struct{}{}
				}
				_, err = f.ReadAt(t.Context(), buf, 0)
				if derr = d.Seek(t.Context(), 0); derr == nil {
					_, derr = d.Next(t.Context())
				}
				perr = r.Rename(t.Context(), path+"/f", path+"/f", 0)
			}
			fails(t, "read", err, ErrEnded)
			fails(t, "readdir", derr, ErrEnded)
			fails(t, "rename", perr, ErrEnded)
			f.Close()
			d.Close()
		})
	}
	for range 4 {
		<-begun
	}
	r.Close()
	users.Wait()
	if after := openFDs(t); after != before-2 {
		t.Errorf("there were %d descriptors with the root's two, and there are %d", before, after)
	}
	_, err := r.Open(t.Context(), path+"/f", unix.O_RDONLY)
	fails(t, "open", err, ErrEnded)
	r.Close()
}

// A box with a user namespace of its own, whose root is an overlay that belongs to that:
// such a file system takes no file of root on the host.
func TestFilesOfAUserNamespace(t *testing.T) {
	boot, err := reaper.BootID()
	must(t, err)
	self, err := reaper.Identify(boot, os.Getpid())
	must(t, err)
	busybox, err := exec.LookPath("busybox")
	must(t, err)
	dir := t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755))
	must(t, os.Chmod(dir, 0o755))
	ids := IDs{Base: 300000, Size: 65536}
	maps := []syscall.SysProcIDMap{{HostID: int(ids.Base), Size: int(ids.Size)}}
	c := exec.Command("sh", "-ec", `mount -t tmpfs none "$1"; cd "$1"; mkdir l u w m l/home l/tmp
		cp "$2" l/busybox; echo lower >l/f; chmod 700 l/home; chown 1000:1000 l/home
		mount -t overlay -o lowerdir=l,upperdir=u,workdir=w none m
		mount -t tmpfs none m/tmp; echo; exec chroot m /busybox sleep 60`, "sh", dir, busybox)
	c.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: unix.CLONE_NEWUSER | unix.CLONE_NEWNS, UidMappings: maps, GidMappings: maps,
		Credential: &syscall.Credential{}, GidMappingsEnableSetgroups: true,
	}
	c.Stderr = os.Stderr
	ready, err := c.StdoutPipe()
	must(t, err)
	must(t, c.Start())
	defer func() {
		must(t, c.Process.Kill())
		_ = c.Wait() // it was killed
	}()
	_, err = ready.Read(make([]byte, 1))
	must(t, err)
	var r *Root
	for end := time.Now().Add(5 * time.Second); r == nil; { // until it has changed its root
		fd, err := FindCommand(boot, self, ids)
		must(t, err)
		r = rootOf(ids)
		if err = r.attach(fd); err != nil {
			fails(t, "the root before chroot", err, ErrNoProcess)
			must(t, unix.Close(fd))
			r = nil
		}
		if time.Now().After(end) {
			t.Fatal(err)
		}
	}
	defer r.Close()
	for _, path := range []string{"new", "tmp/new", "home/new"} {
		f, info, err := r.Create(t.Context(), path, unix.O_RDWR, 0o4755, 0, 0)
		if err != nil {
			t.Errorf("create %s: %v", path, err)
			continue
		}
		_, err = f.WriteAt(t.Context(), []byte("text"), 0)
		must(t, err)
		id, mode, size := uint32(5), uint32(0o600), int64(2)
		must(t, r.Change(t.Context(), path, Change{UID: &id, GID: &id, Size: &size, Mode: &mode}))
		if now, err := f.Lstat(t.Context()); err != nil || info.UID != 0 || now.UID != 5 || now.GID != 5 || now.Size != 2 || now.Mode != unix.S_IFREG|0o600 {
			t.Errorf("%s was of %d, and is %+v, %v", path, info.UID, now, err)
		}
		f.Close()
		_, err = r.Mkdir(t.Context(), path+".d", 0o755, 1000, 1000)
		must(t, err)
		_, err = r.Link(t.Context(), path, path+".d/link")
		must(t, err)
		must(t, r.Rename(t.Context(), path, path+".d/new", 0))
		_, err = r.Symlink(t.Context(), "new", path+".d/symlink", 0, 0)
		must(t, err)
		for _, name := range []string{"link", "new", "symlink"} {
			must(t, r.Remove(t.Context(), path+".d/"+name, false))
		}
		must(t, r.Remove(t.Context(), path+".d", true))
	}
	f, err := r.Open(t.Context(), "f", unix.O_WRONLY|unix.O_APPEND)
	must(t, err)
	_, err = f.WriteAt(t.Context(), []byte("upper"), 0)
	must(t, err)
	if info, err := f.Lstat(t.Context()); err != nil || info.Size != uint64(len("lower\nupper")) {
		t.Errorf("the file that was copied up is %+v, %v", info, err)
	}
	f.Close()
	// Files that are open keep no mount of it when it is gone.
	f, err = r.Open(t.Context(), "f", unix.O_RDONLY)
	must(t, err)
	r.Close()
	_, err = f.ReadAt(t.Context(), make([]byte, 1), 0)
	fails(t, "read", err, ErrEnded)
}

func TestCallsInRootCanBeInterrupted(t *testing.T) {
	r, dir, path := testRoot(t, HostIDs)
	put(t, dir+"/f", "x")
	ctx, cancel := context.WithCancel(t.Context())
	// All turns are taken: by calls that the box has made to take long.
	for range turnsOfBox {
		r.turns <- struct{}{}
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := r.Lstat(ctx, path+"/f")
		waiting <- err
	}()
	cancel()
	fails(t, "a call that waits for its turn", <-waiting, unix.EINTR)
	for range turnsOfBox {
		<-r.turns
	}
	fails(t, "a call that is on its way", r.useNow(func() error {
		return r.walk(ctx, path+"/f", func(*place) error { return nil })
	}), unix.EINTR)
}

func TestARootIsAttachedOnce(t *testing.T) {
	begun, attached := 0, 0
	r := New(Run{
		IDs: HostIDs, Turns: make(chan struct{}, 1),
		Command: func() (int, error) {
			if begun++; begun == 1 {
				return -1, ErrNoProcess
			}
			return unix.Open("/proc/self", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		},
		Attached: func(*Root) { attached++ },
	})
	defer r.Close()
	_, err := r.Lstat(t.Context(), "")
	fails(t, "without a command", err, ErrNoProcess)
	for range 100 {
		_, err := r.Lstat(t.Context(), "")
		must(t, err)
	}
	if begun != 2 || attached != 1 {
		t.Errorf("the command was looked for %d times, not twice, and its root opened %d times, not once", begun, attached)
	}
}

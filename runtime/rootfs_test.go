package runtime

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
)

// testRoot is the way to the files that this process sees, as those of a box that has
// the ids of m, and the path of a directory there, on a tmpfs of its own.
func testRoot(t *testing.T, m idMap) (r *Root, dir, path string) {
	t.Helper()
	proc, err := unix.Open("/proc/self", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	r = emptyRoot(everyID)
	must(t, r.attach(proc))
	r.ids = m
	t.Cleanup(r.Close)
	dir = t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // else root in the box gets no further
	must(t, unix.Mount("test", dir, "tmpfs", 0, "mode=755,uid="+strconv.Itoa(int(m.base))+",gid="+strconv.Itoa(int(m.base))))
	t.Cleanup(func() { must(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	return r, dir, strings.TrimPrefix(dir, "/")
}

func put(t *testing.T, path, text string) {
	t.Helper()
	must(t, os.WriteFile(path, []byte(text), 0o644))
}

func fails(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, not %v", what, err, want)
	}
}

func TestNoSymbolicLinkIsFollowed(t *testing.T) {
	r, dir, path := testRoot(t, everyID)
	must(t, os.Mkdir(dir+"/d", 0o755))
	put(t, dir+"/d/f", "x")
	must(t, os.Symlink("d", dir+"/l"))
	must(t, os.Symlink("d/f", dir+"/lf"))
	_, err := r.Lstat(t.Context(), path+"/l/f")
	fails(t, "through a link", err, unix.ESTALE)
	_, err = r.Open(t.Context(), path+"/lf", unix.O_RDONLY)
	fails(t, "open of a link", err, unix.ESTALE)
	_, _, err = r.Create(t.Context(), path+"/lf", unix.O_WRONLY, 0o644, 0, 0)
	fails(t, "create over a link", err, unix.ESTALE)
	_, err = r.ReadDir(t.Context(), path+"/l")
	fails(t, "reading a link to a directory", err, unix.ESTALE)
	text, err := r.Readlink(t.Context(), path+"/lf")
	if err != nil || text != "d/f" {
		t.Errorf("the link says %q, %v", text, err)
	}
	for _, up := range []string{"..", path + "/..", path + "/./d", path + "//d"} {
		_, err := r.Lstat(t.Context(), up)
		fails(t, up, err, unix.EINVAL)
	}
}

func TestWhatIsNoFileIsNotOpened(t *testing.T) {
	r, dir, path := testRoot(t, everyID)
	must(t, unix.Mkfifo(dir+"/fifo", 0o644))
	must(t, unix.Mknod(dir+"/null", unix.S_IFCHR|0o644, int(unix.Mkdev(1, 3))))
	for name, kind := range map[string]uint32{"fifo": unix.S_IFSOCK, "null": unix.S_IFCHR} {
		for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR | unix.O_TRUNC} {
			_, err := r.Open(t.Context(), path+"/"+name, flags)
			fails(t, name, err, unix.EACCES)
		}
		_, _, err := r.Create(t.Context(), path+"/"+name, unix.O_WRONLY, 0o644, 0, 0)
		fails(t, "create over "+name, err, unix.EACCES)
		info, err := r.Lstat(t.Context(), path+"/"+name)
		if err != nil || info.Mode&unix.S_IFMT != kind {
			t.Errorf("%s looks like %o, %v", name, info.Mode, err)
		}
		must(t, r.Remove(t.Context(), path+"/"+name, false))
	}
}

// The type of what is mounted in a box is known before it is entered.
func TestMountsOfOtherTypesAreEmpty(t *testing.T) {
	r, dir, path := testRoot(t, everyID)
	for _, name := range []string{"proc", "inner"} {
		must(t, os.Mkdir(dir+"/"+name, 0o755))
	}
	must(t, unix.Mount("test", dir+"/proc", "proc", 0, ""))
	must(t, unix.Mount("test", dir+"/inner", "tmpfs", 0, ""))
	put(t, dir+"/inner/f", "x")
	if info, err := r.Lstat(t.Context(), path+"/inner/f"); err != nil || info.Size != 1 {
		t.Errorf("a file in a tmpfs: %+v, %v", info, err)
	}
	info, err := r.Lstat(t.Context(), path+"/proc")
	if err != nil || info.Mode != unix.S_IFDIR|0o555 {
		t.Errorf("a procfs looks like %o, %v", info.Mode, err)
	}
	_, err = r.Lstat(t.Context(), path+"/proc/self")
	fails(t, "a name in procfs", err, unix.ENOENT)
	_, _, err = r.Create(t.Context(), path+"/proc/x", unix.O_WRONLY, 0o644, 0, 0)
	fails(t, "create in procfs", err, unix.EACCES)
	_, err = r.Mkdir(t.Context(), path+"/proc/x", 0o755, 0, 0)
	fails(t, "mkdir in procfs", err, unix.EACCES)
	fails(t, "chmod of procfs", r.Change(t.Context(), path+"/proc", RootChange{Mode: new(uint32)}), unix.EPERM)
	d, err := r.ReadDir(t.Context(), path+"/proc")
	must(t, err)
	if e, err := d.Next(t.Context()); !errors.Is(err, io.EOF) {
		t.Errorf("procfs has %q, %v", e.Name, err)
	}
	d.Close()
	// The number of a mount is given away again.
	for range 20 {
		must(t, unix.Unmount(dir+"/inner", 0))
		must(t, unix.Mount("test", dir+"/inner", "proc", 0, ""))
		_, err := r.Lstat(t.Context(), path+"/inner/self")
		fails(t, "a name in what is procfs now", err, unix.ENOENT)
		must(t, unix.Unmount(dir+"/inner", 0))
		must(t, unix.Mount("test", dir+"/inner", "tmpfs", 0, ""))
		put(t, dir+"/inner/f", "x")
		_, err = r.Lstat(t.Context(), path+"/inner/f")
		must(t, err)
	}
	// The kernel would take them away from a box that is in another mount namespace.
	for _, name := range []string{"proc", "inner"} {
		fails(t, "rmdir of a mount point", r.Remove(t.Context(), path+"/"+name, true), unix.EBUSY)
		fails(t, "rename of a mount point", r.Rename(t.Context(), path+"/"+name, path+"/x", 0), unix.EBUSY)
	}
}

func TestIdsOfABox(t *testing.T) {
	m := idMap{base: 300000, size: 65536}
	for host, want := range map[uint32]uint32{0: 65534, 299999: 65534, 300000: 0, 301000: 1000, 365535: 65535, 365536: 65534, 1<<32 - 1: 65534} {
		if got := m.shown(host); got != want {
			t.Errorf("%d on the host is shown as %d, not %d", host, got, want)
		}
	}
	r, dir, path := testRoot(t, m)
	f, info, err := r.Create(t.Context(), path+"/f", unix.O_WRONLY, 0o4777, 0, 0)
	must(t, err)
	f.Close()
	if info.UID != 0 || info.GID != 0 || info.Mode != unix.S_IFREG|0o4777 {
		t.Errorf("a new file is of %d:%d, mode %o", info.UID, info.GID, info.Mode)
	}
	owner := func(name string, uid, gid uint32) {
		t.Helper()
		var st unix.Stat_t
		must(t, unix.Lstat(dir+"/"+name, &st))
		if st.Uid != uid || st.Gid != gid {
			t.Errorf("%s is of %d:%d on the host, not %d:%d", name, st.Uid, st.Gid, uid, gid)
		}
	}
	owner("f", 300000, 300000)
	_, err = r.Mkdir(t.Context(), path+"/d", 0o755, 1000, 1001)
	must(t, err)
	owner("d", 301000, 301001)
	_, err = r.Symlink(t.Context(), "x", path+"/l", 70000, 70000) // whom the box does not know
	must(t, err)
	owner("l", 300000, 300000)
	id := uint32(7)
	must(t, r.Change(t.Context(), path+"/f", RootChange{UID: &id}))
	owner("f", 300007, 300000)
	id = 65536
	fails(t, "an id that the box does not have", r.Change(t.Context(), path+"/f", RootChange{GID: &id}), unix.EINVAL)
	// Whoever made them, and whatever thread this test runs on, has its own ids again.
	for range 100 {
		var wg sync.WaitGroup
		for range 4 {
			wg.Go(func() {
				if u, _ := unix.SetfsuidRetUid(-1); u != 0 {
					t.Errorf("a thread has kept the id %d", u)
				}
			})
		}
		wg.Wait()
	}
}

// The box may have been given a directory of the host. Where it is nobody, the daemon
// does nothing for it.
func TestWhatIsNotTheBoxsIsNotTouched(t *testing.T) {
	m := idMap{base: 300000, size: 65536}
	r, dir, path := testRoot(t, m)
	must(t, os.Mkdir(dir+"/host", 0o755))
	must(t, os.Mkdir(dir+"/host/closed", 0o700))
	put(t, dir+"/host/public", "public")
	put(t, dir+"/host/closed/f", "x")
	must(t, os.WriteFile(dir+"/host/secret", []byte("secret"), 0o640))
	host := path + "/host"
	f, err := r.Open(t.Context(), host+"/public", unix.O_RDONLY)
	must(t, err)
	f.Close()
	_, err = r.Open(t.Context(), host+"/public", unix.O_WRONLY)
	fails(t, "writing a file of the host", err, unix.EACCES)
	_, err = r.Open(t.Context(), host+"/public", unix.O_RDONLY|unix.O_TRUNC)
	fails(t, "truncating it by an open", err, unix.EACCES)
	fails(t, "truncating it", r.Change(t.Context(), host+"/public", RootChange{Size: new(int64)}), unix.EACCES)
	_, err = r.Open(t.Context(), host+"/secret", unix.O_RDONLY)
	fails(t, "reading a secret", err, unix.EACCES)
	_, err = r.Lstat(t.Context(), host+"/closed/f")
	fails(t, "searching a closed directory", err, unix.EACCES)
	_, err = r.ReadDir(t.Context(), host+"/closed")
	fails(t, "listing it", err, unix.EACCES)
	_, _, err = r.Create(t.Context(), host+"/new", unix.O_WRONLY, 0o644, 0, 0)
	fails(t, "making a file", err, unix.EACCES)
	_, _, err = r.Create(t.Context(), host+"/public", unix.O_WRONLY, 0o644, 0, 0)
	fails(t, "making it again", err, unix.EACCES)
	_, err = r.Mkdir(t.Context(), host+"/new", 0o755, 0, 0)
	fails(t, "making a directory", err, unix.EACCES)
	fails(t, "removing a file", r.Remove(t.Context(), host+"/public", false), unix.EACCES)
	fails(t, "moving it away", r.Rename(t.Context(), host+"/public", path+"/public", 0), unix.EACCES)
	_, err = r.Link(t.Context(), host+"/public", path+"/public")
	fails(t, "another name for it", err, unix.EPERM)
	id, mode := uint32(0), uint32(0o777)
	fails(t, "chown", r.Change(t.Context(), host+"/public", RootChange{UID: &id}), unix.EPERM)
	fails(t, "chmod", r.Change(t.Context(), host+"/public", RootChange{Mode: &mode}), unix.EPERM)
	now := unix.Timespec{Nsec: unix.UTIME_NOW}
	fails(t, "touch", r.Change(t.Context(), host+"/public", RootChange{Mtime: &now}), unix.EPERM)
	// As in /tmp: everybody may make files, and remove his own.
	must(t, os.Chmod(dir+"/host", 0o777|os.ModeSticky))
	f, _, err = r.Create(t.Context(), host+"/mine", unix.O_WRONLY, 0o644, 0, 0)
	must(t, err)
	f.Close()
	fails(t, "removing a file of the host in a sticky directory", r.Remove(t.Context(), host+"/public", false), unix.EPERM)
	must(t, r.Remove(t.Context(), host+"/mine", false))
	text, err := os.ReadFile(dir + "/host/public")
	if err != nil || string(text) != "public" {
		t.Errorf("the file of the host has %q, %v", text, err)
	}
}

// What a box swaps under the hands of the daemon leads it nowhere.
func TestSwappedForALink(t *testing.T) {
	r, dir, path := testRoot(t, everyID)
	for _, d := range []string{"out", "d"} {
		must(t, os.Mkdir(dir+"/"+d, 0o755))
		put(t, dir+"/"+d+"/f", d)
	}
	must(t, os.Symlink(dir+"/out", dir+"/l"))
	stop := make(chan struct{})
	var swapper sync.WaitGroup
	swapper.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
				// The directory and the link change places.
				must(t, unix.Renameat2(unix.AT_FDCWD, dir+"/d", unix.AT_FDCWD, dir+"/l", unix.RENAME_EXCHANGE))
			}
		}
	})
	found, missed := 0, 0
	for end := time.Now().Add(30 * time.Second); (found < 200 || missed < 200) && time.Now().Before(end); {
		f, err := r.Open(t.Context(), path+"/d/f", unix.O_RDONLY)
		if err != nil {
			fails(t, "open", err, unix.ESTALE)
			missed++
			continue
		}
		found++
		buf := make([]byte, 8)
		n, err := f.ReadAt(t.Context(), buf, 0)
		if err != nil || string(buf[:n]) != "d" {
			t.Errorf("read %q, %v", buf[:n], err)
		}
		f.Close()
		if f, _, err := r.Create(t.Context(), path+"/d/new", unix.O_RDWR|unix.O_TRUNC, 0o644, 0, 0); err == nil {
			f.Close()
		} else {
			fails(t, "create", err, unix.ESTALE)
		}
		if _, err := r.Mkdir(t.Context(), path+"/d/newdir", 0o755, 0, 0); err == nil {
			_ = r.Remove(t.Context(), path+"/d/newdir", true)
		}
		_ = r.Rename(t.Context(), path+"/d/new", path+"/d/newer", 0)
		_ = r.Remove(t.Context(), path+"/d/newer", false)
	}
	close(stop)
	swapper.Wait()
	if found < 200 || missed < 200 {
		t.Errorf("the file was found %d times and missed %d times: little was swapped", found, missed)
	}
	left, err := os.ReadDir(dir + "/out")
	must(t, err)
	text, err := os.ReadFile(dir + "/out/f")
	if err != nil || len(left) != 1 || string(text) != "out" {
		t.Errorf("the directory that the link leads to has %v, %q, %v", left, text, err)
	}
}

func TestTheEndOfARunClosesItsFiles(t *testing.T) {
	r, dir, path := testRoot(t, everyID)
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

func openFDs(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

func TestDeepAndOddNames(t *testing.T) {
	r, _, path := testRoot(t, everyID)
	deep := path
	for range 40 { // more than PATH_MAX
		deep += "/" + strings.Repeat("d", 200)
		_, err := r.Mkdir(t.Context(), deep, 0o755, 0, 0)
		must(t, err)
	}
	names := []string{"a\nb", "\xff\xfe", "-rf", strings.Repeat("n", 255), " ", "\\"}
	for _, name := range names {
		f, _, err := r.Create(t.Context(), filepath.Join(deep, name), unix.O_WRONLY|unix.O_EXCL, 0o600, 0, 0)
		must(t, err)
		f.Close()
	}
	d, err := r.ReadDir(t.Context(), deep)
	must(t, err)
	defer d.Close()
	seen := map[string]bool{}
	for {
		e, err := d.Next(t.Context())
		if errors.Is(err, io.EOF) {
			break
		}
		must(t, err)
		seen[e.Name] = true
		if info, err := r.Lstat(t.Context(), filepath.Join(deep, e.Name)); e.Name != "." && e.Name != ".." && (err != nil || info.Ino != e.Ino) {
			t.Errorf("%q has the number %d in the directory and %d itself, %v", e.Name, e.Ino, info.Ino, err)
		}
	}
	for _, name := range names {
		if !seen[name] {
			t.Errorf("%q is not listed", name)
		}
	}
}

func TestTheCommandIsTheOldestChild(t *testing.T) {
	boot, err := reaper.BootID()
	must(t, err)
	self, err := reaper.Identify(boot, os.Getpid())
	must(t, err)
	_, err = openCommand(boot, self, everyID)
	fails(t, "without a child", err, ErrNoProcess)
	var pids []int
	for range 3 {
		c := exec.Command("sleep", "60")
		must(t, c.Start())
		t.Cleanup(func() {
			must(t, c.Process.Kill())
			_ = c.Wait() // it was killed
		})
		pids = append(pids, c.Process.Pid)
		// A tick of the clock that start times are counted in.
		for began := time.Now(); time.Since(began) < 11*time.Millisecond; {
		}
	}
	fd, err := openCommand(boot, self, everyID)
	must(t, err)
	status, err := readProc(fd, "status", 1<<10)
	must(t, err)
	if !strings.Contains(status, "\nPid:\t"+strconv.Itoa(pids[0])+"\n") {
		t.Errorf("the command is not %d but %s", pids[0], status)
	}
	must(t, unix.Close(fd))
	other := self
	other.StartTicks++
	_, err = openCommand(boot, other, everyID)
	fails(t, "with a pid that is another's now", err, ErrNoProcess)
	other = self
	if other.Inode++; self.Inode != 0 {
		_, err = openCommand(boot, other, everyID)
		fails(t, "with another's inode", err, ErrNoProcess)
	}
}

// What an OCI runtime leaves between the shim and the command is not the command.
func TestTheCommandOfABoxWithIdsOfItsOwn(t *testing.T) {
	boot, err := reaper.BootID()
	must(t, err)
	self, err := reaper.Identify(boot, os.Getpid())
	must(t, err)
	start := func(script string) {
		c := exec.Command("sh", "-c", "echo; "+script)
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		ready, err := c.StdoutPipe()
		must(t, err)
		must(t, c.Start())
		t.Cleanup(func() {
			must(t, unix.Kill(-c.Process.Pid, unix.SIGKILL))
			_ = c.Wait() // it was killed
		})
		_, err = ready.Read(make([]byte, 1))
		must(t, err)
	}
	ids := idMap{base: 300000, size: 65536}
	start("sleep 60")
	_, err = openCommand(boot, self, ids)
	fails(t, "with a child that has the host's ids", err, ErrNoProcess)
	name := func() string {
		end := time.Now().Add(5 * time.Second)
		for {
			fd, err := openCommand(boot, self, ids)
			if err == nil {
				text, err := readProc(fd, "cmdline", 1<<10)
				must(t, err)
				fails(t, "the root of a process that has the host's files", emptyRoot(ids).attach(fd), ErrNoProcess)
				must(t, unix.Close(fd))
				if strings.HasPrefix(text, "sleep") { // and not the unshare that becomes it
					return strings.ReplaceAll(text, "\x00", " ")
				}
			}
			if time.Now().After(end) {
				t.Fatal("the command is not found: ", err)
			}
		}
	}
	start("exec sleep 61 & wait")
	start("exec unshare -U sleep 62")
	if got := name(); got != "sleep 62 " {
		t.Errorf("the command is %q", got)
	}
}

func TestTheCommandBelowItsRuntime(t *testing.T) {
	boot, err := reaper.BootID()
	must(t, err)
	// The first child has the program of the shim, as the init of a container has.
	c := exec.Command("sh", "-c", "unshare -U sh -c 'sleep 61; :' & bash -c 'unshare -U sleep 60; :'; :")
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	must(t, c.Start())
	defer func() {
		must(t, unix.Kill(-c.Process.Pid, unix.SIGKILL))
		_ = c.Wait() // it was killed
	}()
	shim, err := reaper.Identify(boot, c.Process.Pid)
	must(t, err)
	for end := time.Now().Add(5 * time.Second); ; {
		name := ""
		fd, err := openCommand(boot, shim, idMap{base: 300000, size: 65536})
		if err == nil {
			if ourUsers(fd) {
				t.Error("the command has the host's ids")
			}
			name, err = readProc(fd, "cmdline", 1<<10)
			must(t, err)
			must(t, unix.Close(fd))
			if name == "sleep\x0060\x00" { // and not an unshare that becomes it, or the init
				return
			}
		}
		if time.Now().After(end) {
			t.Fatalf("the command is not found but %q: %v", name, err)
		}
	}
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
	ids := idMap{base: 300000, size: 65536}
	maps := []syscall.SysProcIDMap{{HostID: int(ids.base), Size: int(ids.size)}}
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
		fd, err := openCommand(boot, self, ids)
		must(t, err)
		r = emptyRoot(ids)
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
		must(t, r.Change(t.Context(), path, RootChange{UID: &id, GID: &id, Size: &size, Mode: &mode}))
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

func TestNumbersOfFilesAreNotMixedUp(t *testing.T) {
	seen := map[uint64]string{}
	for dev := range uint64(50) {
		for ino := range uint64(200) {
			n := rootIno(unix.Mkdev(0, uint32(dev)), ino)
			what := strconv.Itoa(int(dev)) + ":" + strconv.Itoa(int(ino))
			if seen[n] != "" {
				t.Errorf("%s and %s have one number", what, seen[n])
			}
			seen[n] = what
			if n < 1<<62 || n >= 1<<63 {
				t.Errorf("%s has the number %x, which may be one of the control filesystem", what, n)
			}
		}
	}
}

func TestCallsInRootCanBeInterrupted(t *testing.T) {
	r, dir, path := testRoot(t, everyID)
	put(t, dir+"/f", "x")
	ctx, cancel := context.WithCancel(t.Context())
	// All turns are taken: by calls that the box has made to take long.
	for range visitsOfBox {
		r.visits <- struct{}{}
	}
	waiting := make(chan error, 1)
	go func() {
		_, err := r.Lstat(ctx, path+"/f")
		waiting <- err
	}()
	cancel()
	fails(t, "a call that waits for its turn", <-waiting, unix.EINTR)
	for range visitsOfBox {
		<-r.visits
	}
	fails(t, "a call that is on its way", r.useNow(func() error {
		return r.walk(ctx, path+"/f", func(*place) error { return nil })
	}), unix.EINTR)
}

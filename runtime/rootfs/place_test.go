package rootfs

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func TestNoSymbolicLinkIsFollowed(t *testing.T) {
	r, dir, path := testRoot(t, HostIDs)
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

// The type of what is mounted in a box is known before it is entered.
func TestMountsOfOtherTypesAreEmpty(t *testing.T) {
	r, dir, path := testRoot(t, HostIDs)
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
	fails(t, "chmod of procfs", r.Change(t.Context(), path+"/proc", Change{Mode: new(uint32)}), unix.EPERM)
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

// What a box swaps under the hands of the daemon leads it nowhere.
func TestSwappedForALink(t *testing.T) {
	r, dir, path := testRoot(t, HostIDs)
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

func TestDeepAndOddNames(t *testing.T) {
	r, _, path := testRoot(t, HostIDs)
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

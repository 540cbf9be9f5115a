package userdb

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// read gives the text of a file of a root.
func read(r *Root, name string) (string, error) {
	f, err := r.open(name)
	if err != nil {
		return "", err
	}
	text, err := io.ReadAll(f)
	return string(text), errors.Join(err, f.Close())
}

// The kernel's own word is had by this program, started in a mount namespace of its own.
const (
	layersEnv = "USERDB_TEST_LAYERS"
	namesEnv  = "USERDB_TEST_NAMES"
)

func TestMain(m *testing.M) {
	if layers := os.Getenv(layersEnv); layers != "" {
		if err := show(layers, strings.Fields(os.Getenv(namesEnv))); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	m.Run()
}

// show prints what an overlay has by some names.
func show(layers string, names []string) error {
	at, err := os.MkdirTemp("", "userdb")
	if err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := unix.Mount("overlay", at, "overlay", unix.MS_RDONLY, "lowerdir="+layers); err != nil {
		return err
	}
	root, err := unix.Open(at, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	for _, name := range names {
		fd, err := unix.Openat2(root, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
		text := make([]byte, 100)
		n := 0
		if err == nil {
			n, err = unix.Read(fd, text)
		}
		fmt.Printf("%s: %q, %v\n", name, text[:max(n, 0)], err)
	}
	return errors.Join(unix.Unmount(at, unix.MNT_DETACH), os.Remove(at))
}

func TestLinksAndLayers(t *testing.T) {
	out := tree(t, map[string]string{"secret": "of the host"})
	upper := tree(t, map[string]string{
		"etc/passwd":     "-> /nix/store/passwd",
		"etc/relative":   "-> ../nix/./store/../store/passwd",
		"etc/climbs":     "-> ../../../../../nix/store/passwd",
		"etc/out":        "-> " + out + "/secret",
		"etc/climbs-out": "-> ../../../../../../../.." + out + "/secret",
		"etc/loop":       "-> loop",
		"etc/through":    "-> /etc/passwd/x",
		"etc/slash":      "-> /nix/store/passwd/",
		"etc/dir":        "-> /nix",
		"etc/hidden":     "-> /opaque/below",
		"opaque/above":   "above",
		"covered":        "a file",
		"link":           "-> etc",
		"old/here":       "here",
		"renamed/new":    "new",
		"far/new":        "far",
		"removed/.keep":  "",
		"proc/self/root": "-> /",
		"etc/by-proc":    "-> /proc/self/root/nix/store/passwd",
		"etc/by-fd":      "-> /proc/self/fd/0",
	})
	lower := tree(t, map[string]string{
		"nix/store/passwd": "of the store",
		"etc/passwd":       "of the lower layer",
		"etc/only-below":   "only below",
		"opaque/below":     "below",
		"covered/file":     "no more",
		"original/below":   "original",
		"deep/er/below":    "deeper",
		"removed/file":     "removed",
	})
	must(t, unix.Mknod(filepath.Join(upper, "removed/file"), unix.S_IFCHR, 0))
	must(t, unix.Setxattr(filepath.Join(upper, "opaque"), opaqueAttr, []byte("y"), 0))
	must(t, unix.Setxattr(filepath.Join(upper, "renamed"), redirectAttr, []byte("original"), 0))
	must(t, unix.Setxattr(filepath.Join(upper, "far"), redirectAttr, []byte("/deep/er"), 0))
	must(t, unix.Setxattr(filepath.Join(upper, "old"), redirectAttr, []byte("../.."), 0))
	r := &Root{Layers: []string{upper, lower}}
	var names []string
	kernel := ""
	for name, want := range map[string]string{
		"/etc/passwd":           "of the store",
		"/etc/relative":         "of the store",
		"/etc/climbs":           "of the store",
		"/etc/by-proc":          "of the store",
		"/link/passwd":          "of the store",
		"/link/../etc/passwd":   "of the store",
		"/../etc//./only-below": "only below",
		"/opaque/above":         "above",
		"/renamed/below":        "original",
		"/renamed/new":          "new",
		"/far/below":            "deeper",
		"/covered":              "a file",
	} {
		if got, err := read(r, name); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
		names = append(names, name)
		kernel += fmt.Sprintf("%s: %q, <nil>\n", name, want)
	}
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), layersEnv+"="+strings.Join(r.Layers, ":"), namesEnv+"="+strings.Join(names, " "))
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS}
	if out, err := cmd.CombinedOutput(); err != nil || string(out) != kernel {
		t.Errorf("the kernel, %v:\n%s\nand here:\n%s", err, out, kernel)
	}
	for _, name := range []string{
		"/etc/out", "/etc/climbs-out", "/etc/through", "/etc/slash", "/etc/hidden", "/opaque/below", "/covered/file",
		"/removed/file", "/nowhere", "/etc/by-fd", "/etc/passwd/.",
	} {
		if got, err := read(r, name); !notThere(err) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	for name, want := range map[string]error{"/etc/loop": unix.ELOOP, "/etc/dir": unix.EISDIR, "/": unix.EISDIR} {
		if got, err := read(r, name); !errors.Is(err, want) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if got, err := read(r, "/old/other"); err == nil || notThere(err) {
		t.Errorf("a redirect that climbs: %q, %v", got, err)
	}
}

func TestWhatWillBeMountedIsSeen(t *testing.T) {
	given := tree(t, map[string]string{"passwd": "given", "etc/group": "of a directory"})
	dir := tree(t, map[string]string{"etc/passwd": "own", "conf": "-> /etc"})
	r := &Root{Layers: []string{dir}, Mounts: map[string]string{
		"/etc/passwd": filepath.Join(given, "passwd"), "/made/for/it": filepath.Join(given, "etc"), "/gone": "/nowhere",
	}}
	for name, want := range map[string]string{"/etc/passwd": "given", "/conf/passwd": "given", "/made/for/it/group": "of a directory"} {
		if got, err := read(r, name); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", name, got, err, want)
		}
	}
	for _, name := range []string{"/made/for/other", "/gone/x"} {
		if got, err := read(r, name); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// The file of a hostile container that runs can change between any two looks at it.
func TestAFileThatBecomesAFIFOIsNotWaitedFor(t *testing.T) {
	dir := tree(t, map[string]string{"etc/passwd": "root:x:0:0::/:\n"})
	file, fifo := filepath.Join(dir, "etc/passwd"), filepath.Join(dir, "etc/fifo")
	must(t, unix.Mkfifo(fifo, 0o600))
	stop, stopped := make(chan struct{}), make(chan error, 1)
	go func() {
		for {
			select {
			case <-stop:
				stopped <- nil
				return
			default:
			}
			if err := unix.Renameat2(unix.AT_FDCWD, file, unix.AT_FDCWD, fifo, unix.RENAME_EXCHANGE); err != nil {
				stopped <- err
				return
			}
		}
	}()
	done := make(chan struct{})
	go func() {
		defer close(done)
		for range 2000 {
			text, err := read(&Root{Layers: []string{dir}}, "/etc/passwd")
			if err == nil && text == "" || err != nil && err.Error() != "it is no regular file" {
				t.Errorf("%q, %v", text, err)
				return
			}
		}
	}()
	select {
	case <-done:
	case <-time.After(30 * time.Second):
		t.Error("waits for a FIFO")
	}
	close(stop)
	must(t, <-stopped)
}

// A walk holds a descriptor for each level: a hostile root must not get it to take them all,
// nor to go on for ever.
func TestAWalkIsBounded(t *testing.T) {
	deep := strings.Repeat("d/", maxDepth)
	to := strings.Repeat("d/../", maxSteps/2) // looks up as many names as it has d
	dir := tree(t, map[string]string{
		deep + "file": "deep", deep + "d/file": "too deep", "file": "near",
		"down": "-> " + deep + "down", deep + "down": "-> " + deep + "x",
		"long": "-> " + to + "file", "longer": "-> " + to + "long",
	})
	for _, r := range []*Root{{Layers: []string{dir}}, {Layers: []string{dir}, Mounts: map[string]string{"/d": dir + "/d"}}} {
		for name, want := range map[string]error{
			"/" + deep + "file": nil, "/" + deep + "d/file": unix.ENAMETOOLONG, "/down": unix.ENAMETOOLONG,
			"/long": nil, "/longer": unix.ENAMETOOLONG,
		} {
			if got, err := read(r, name); !errors.Is(err, want) {
				t.Errorf("%.80s: %q, %v; want %v", name, got, err, want)
			}
		}
	}
}

func TestNoDescriptorIsLeft(t *testing.T) {
	dir := tree(t, map[string]string{"a/b/c/d": "x", "a/l": "-> b/../b/c/d", "a/loop": "-> loop", "a/out": "-> ../../nowhere"})
	count := func() int {
		entries, err := os.ReadDir("/proc/self/fd")
		must(t, err)
		return len(entries)
	}
	before := count()
	r := &Root{Layers: []string{dir, dir}}
	for _, name := range []string{"/a/l", "/a/loop", "/a/out", "/a/b", "/a/b/c/d/e", "/x", strings.Repeat("/a/b/..", maxSteps)} {
		_, _ = read(r, name) // it is about what is left
	}
	if after := count(); after != before {
		t.Errorf("%d descriptors, and %d before", after, before)
	}
}

func FuzzRoot(f *testing.F) {
	f.Add("../../../../etc/passwd", "/a/../b")
	f.Add("/etc/../..", "b")
	f.Fuzz(func(t *testing.T, a, b string) {
		dir := tree(t, map[string]string{"etc/x": "inside"})
		_ = os.Symlink(a, filepath.Join(dir, "etc/passwd"))
		_ = os.Symlink(b, filepath.Join(dir, "b"))
		if text, err := read(&Root{Layers: []string{dir}}, "/etc/passwd"); err == nil && text != "inside" {
			t.Errorf("%q and %q lead to %q", a, b, fmt.Sprintf("%.80s", text))
		}
	})
}

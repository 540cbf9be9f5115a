package rootfs

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// rootOf returns access to the files of a run with these ids, for a test to attach.
func rootOf(ids IDs) *Root { return New(Run{IDs: ids, Turns: make(chan struct{}, 100)}) }

// testRoot returns access to the files that this process sees, as those of a box that has
// the ids of m, and the path of a directory there, on a tmpfs of its own.
func testRoot(t *testing.T, m IDs) (r *Root, dir, path string) {
	t.Helper()
	proc, err := unix.Open("/proc/self", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	must(t, err)
	r = rootOf(HostIDs)
	must(t, r.attach(proc))
	r.run.IDs = m
	t.Cleanup(r.Close)
	dir = t.TempDir()
	must(t, os.Chmod(filepath.Dir(dir), 0o755)) // else root in the box gets no further
	must(t, unix.Mount("test", dir, "tmpfs", 0, "mode=755,uid="+strconv.Itoa(int(m.Base))+",gid="+strconv.Itoa(int(m.Base))))
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

func openFDs(t *testing.T) int {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	must(t, err)
	return len(list)
}

package deep

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// deepen makes n directories, each in the one before.
func deepen(t *testing.T, path string, n int) {
	t.Helper()
	fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	for range n {
		must(t, err)
		must(t, unix.Mkdirat(fd, "d", 0o700))
		next, oerr := unix.Openat(fd, "d", unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, unix.Close(fd))
		fd, err = next, oerr
	}
	must(t, err)
	must(t, unix.Close(fd))
}

// A box leaves what it likes. Removing that takes a bounded number of descriptors.
func TestRemoveAll(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "x")
	for _, sub := range []string{"a/b/c", "wide", ".1", "full"} {
		must(t, os.MkdirAll(filepath.Join(dir, sub), 0o700))
	}
	for i := range 3000 {
		must(t, os.WriteFile(filepath.Join(dir, "wide", fmt.Sprint(i)), nil, 0o600))
	}
	must(t, os.WriteFile(filepath.Join(dir, "full", "f"), nil, 0))
	kept := filepath.Join(t.TempDir(), "kept")
	must(t, os.WriteFile(kept, nil, 0o600))
	must(t, os.Symlink(kept, filepath.Join(dir, "a", "link")))
	must(t, os.Symlink(filepath.Dir(kept), filepath.Join(dir, "a", "dir")))
	must(t, unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	for _, sub := range []string{".", "a", "a/b", "full"} {
		deepen(t, filepath.Join(dir, sub), 2000)
	}
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: min(old.Cur, 200), Max: old.Max}))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }()
	must(t, RemoveAll(t.Context(), dir))
	if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still there: %v", err)
	}
	if _, err := os.Lstat(kept); err != nil {
		t.Error(err)
	}
	must(t, RemoveAll(t.Context(), dir))
	must(t, RemoveAll(t.Context(), kept))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// What is empty does not wait for what others remove.
func TestAnEmptyDirectoryIsRemovedAtOnce(t *testing.T) {
	for range cap(removers) {
		removers <- struct{}{}
	}
	defer func() {
		for range cap(removers) {
			<-removers
		}
	}()
	dir := t.TempDir()
	empty, full := filepath.Join(dir, "empty"), filepath.Join(dir, "full")
	must(t, os.Mkdir(empty, 0o700))
	must(t, os.MkdirAll(filepath.Join(full, "d"), 0o700))
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	for range 2 { // once it is there, and once it is not
		if err := RemoveAll(ctx, empty); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(empty); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	cancel()
	if err := RemoveAll(ctx, full); !errors.Is(err, context.Canceled) {
		t.Errorf("a directory with something in it: %v", err)
	}
}

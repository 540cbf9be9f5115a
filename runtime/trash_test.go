package runtime

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestADirectoryIsRemovedHoweverDeepItIs(t *testing.T) {
	var old unix.Rlimit
	must(t, unix.Getrlimit(unix.RLIMIT_NOFILE, &old))
	few := old
	few.Cur = 200
	must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &few))
	defer func() { must(t, unix.Setrlimit(unix.RLIMIT_NOFILE, &old)) }()
	path := filepath.Join(t.TempDir(), "box")
	must(t, os.Mkdir(path, 0o700))
	for _, side := range []string{"a", "b"} {
		fd, err := unix.Open(path, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		must(t, err)
		// Some of them have a name that a directory from below would get.
		for _, name := range []string{side, ".deep.1"} {
			for range 500 {
				must(t, unix.Mkdirat(fd, name, 0o700))
				f, err := unix.Openat(fd, name, unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
				must(t, err)
				must(t, unix.Symlinkat("/", f, "link"))
				must(t, unix.Close(fd))
				fd = f
			}
		}
		must(t, unix.Close(fd))
	}
	must(t, os.Mkdir(filepath.Join(path, ".deep.2"), 0o700))
	must(t, os.WriteFile(filepath.Join(path, ".deep.3"), nil, 0o600))
	if err := removeTree(path); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Lstat(path); !os.IsNotExist(err) {
		t.Errorf("it is there: %v", err)
	}
	must(t, removeTree(path))
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, removeTree(path))
}

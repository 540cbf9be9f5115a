package runtime

import (
	"errors"
	"io"
	"os"
	"strconv"

	"golang.org/x/sys/unix"
)

// trashDepth bounds how many directories are open at once while one is removed.
const trashDepth = 32

// removeTree is os.RemoveAll, which has a descriptor open for each level: a box may
// have made more than the daemon has.
func removeTree(path string) error {
	top, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return os.RemoveAll(path)
	}
	t := trashTree{top: top}
	return errors.Join(t.empty(top, 0), top.Close(), os.RemoveAll(path))
}

type trashTree struct {
	top   *os.File
	moved int // directories from below to the top
}

// empty removes all that is in a directory. What lies too deep is moved to the top,
// which is emptied last.
func (t *trashTree) empty(dir *os.File, depth int) error {
	for {
		var failed error
		some := false
		for {
			names, err := dir.Readdirnames(256)
			for _, name := range names {
				if err := t.remove(dir, name, depth); err != nil {
					failed = err
				} else {
					some = true
				}
			}
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
		}
		if !some {
			return failed
		}
		if _, err := dir.Seek(0, io.SeekStart); err != nil {
			return err
		}
	}
}

func (t *trashTree) remove(dir *os.File, name string, depth int) error {
	fd := int(dir.Fd())
	err := unix.Unlinkat(fd, name, 0)
	if !errors.Is(err, unix.EISDIR) {
		return ignoreGone(err)
	}
	if depth == trashDepth {
		return t.raise(fd, name)
	}
	sub, err := unix.Openat(fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return ignoreGone(err)
	}
	f := os.NewFile(uintptr(sub), name)
	if err := errors.Join(t.empty(f, depth+1), f.Close()); err != nil {
		return err
	}
	return ignoreGone(unix.Unlinkat(fd, name, unix.AT_REMOVEDIR))
}

// raise moves a directory to the top, under a name that nothing has there.
func (t *trashTree) raise(fd int, name string) error {
	for {
		t.moved++
		err := unix.Renameat(fd, name, int(t.top.Fd()), ".deep."+strconv.Itoa(t.moved))
		if !errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.EEXIST) && !errors.Is(err, unix.ENOTDIR) {
			return ignoreGone(err)
		}
	}
}

func ignoreGone(err error) error {
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	return err
}

package userdb

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

const (
	// maxRootFile bounds what is read of a file of a root, in bytes.
	maxRootFile = 4 << 20
	maxLinks    = 40
	// maxDepth bounds how deep a walk goes: each level holds a descriptor for each layer.
	maxDepth = 64
	// maxSteps bounds how many names are looked up for one file.
	maxSteps = 1024
)

// Root is a root file system as what runs in it sees it, whether or not it is mounted.
//
// What is in it is not trusted. It is walked name by name: no link leads out, and nothing
// is opened but a regular file.
type Root struct {
	// Layers are the directories that an overlay is made of, the uppermost first; or the
	// only one.
	Layers []string
	// Mounts are what will be mounted: by absolute target, what is mounted there.
	Mounts map[string]string
}

// dir is a directory of one layer.
type dir struct {
	layer int
	fd    int    // what prefix is relative to; unix.AT_FDCWD for the root of a layer
	at    string // with a slash at its end, or empty
}

// place is a directory of the root: what the layers have of it, the uppermost first.
type place struct {
	path string
	dirs []dir
}

func (p place) close() {
	for _, d := range p.dirs {
		d.close()
	}
}

func (d dir) close() {
	if d.fd >= 0 {
		_ = unix.Close(d.fd) // only looked at
	}
}

// open opens a regular file of the root, by its absolute path.
func (r *Root) open(name string) (io.ReadCloser, error) {
	fd, err := r.find(name)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return nil, err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, errors.New("it is no regular file")
	}
	// This very file, whatever the name stands for by now.
	f, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), os.O_RDONLY|unix.O_NONBLOCK, 0) // a lease would be waited for
	if err != nil {
		return nil, err
	}
	return &boundedFile{File: f, left: maxRootFile}, nil
}

// boundedFile gives an error after so many bytes.
type boundedFile struct {
	*os.File
	left int
}

func (b *boundedFile) Read(p []byte) (int, error) {
	n, err := b.File.Read(p)
	if b.left -= n; b.left < 0 {
		return 0, fmt.Errorf("it is larger than %d bytes", maxRootFile)
	}
	return n, err
}

// walk is the search for one file.
type walk struct {
	*Root
	steps int // names that were looked up
}

// find returns an O_PATH descriptor of what name stands for, or ENAMETOOLONG where the
// way there is deeper than maxDepth or has more names than maxSteps.
func (r *Root) find(name string) (int, error) {
	w := &walk{Root: r}
	stack := []place{r.top()}
	defer func() {
		for _, p := range stack {
			p.close()
		}
	}()
	up := func(depth int) {
		for _, p := range stack[depth:] {
			p.close()
		}
		stack = stack[:depth]
	}
	todo := strings.Split(name, "/")
	for links := 0; len(todo) > 0; {
		word := todo[0]
		todo = todo[1:]
		switch word {
		case "", ".":
			continue
		case "..":
			up(max(len(stack)-1, 1))
			continue
		}
		next, leaf, err := w.step(stack[len(stack)-1], word)
		if err != nil {
			return -1, err
		}
		if leaf < 0 {
			if stack = append(stack, next); len(stack)-1 > maxDepth {
				return -1, syscall.ENAMETOOLONG
			}
			continue
		}
		to, err := readLink(leaf)
		switch {
		case errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT): // it is no link
			if len(todo) > 0 {
				return -1, errors.Join(syscall.ENOTDIR, unix.Close(leaf))
			}
			return leaf, nil
		case err != nil:
			return -1, errors.Join(err, unix.Close(leaf))
		}
		_ = unix.Close(leaf)
		if links++; links > maxLinks {
			return -1, syscall.ELOOP
		}
		if strings.HasPrefix(to, "/") {
			up(1)
		}
		todo = append(strings.Split(to, "/"), todo...)
	}
	return -1, syscall.EISDIR
}

// count is called for each name that is to be looked up.
func (w *walk) count() error {
	if w.steps++; w.steps > maxSteps {
		return syscall.ENAMETOOLONG
	}
	return nil
}

// top is the root itself.
func (r *Root) top() place {
	p := place{path: "/"}
	for i, layer := range r.Layers {
		p.dirs = append(p.dirs, dir{layer: i, fd: unix.AT_FDCWD, at: layer + "/"})
	}
	return p
}

// step goes from a directory to what it has of a name: another directory, or something
// else, of which it gives an O_PATH descriptor.
func (w *walk) step(from place, name string) (next place, leaf int, err error) {
	next.path = path.Join(from.path, name)
	if source, ok := w.Mounts[next.path]; ok {
		if err := w.count(); err != nil {
			return next, -1, err
		}
		fd, err := unix.Open(source, unix.O_PATH|unix.O_CLOEXEC, 0)
		if err != nil {
			return next, -1, err
		}
		if isDir(fd) {
			next.dirs = []dir{{fd: fd}}
			return next, -1, nil
		}
		return next, fd, nil
	}
	next.dirs, leaf, err = w.lookup(from.dirs, name)
	if errors.Is(err, fs.ErrNotExist) && w.mountsBelow(next.path) {
		err = nil // it will be made
	}
	return next, leaf, err
}

func (r *Root) mountsBelow(dir string) bool {
	for target := range r.Mounts {
		if strings.HasPrefix(target, dir+"/") {
			return true
		}
	}
	return false
}

// What overlayfs keeps about a directory.
const (
	opaqueAttr   = "trusted.overlay.opaque"
	redirectAttr = "trusted.overlay.redirect"
)

// lookup does what overlayfs does: the uppermost layer that has the name says what it is,
// and directories are merged with those below.
func (w *walk) lookup(dirs []dir, name string) (found []dir, leaf int, err error) {
	if err := w.count(); err != nil {
		return nil, -1, err
	}
	for i, d := range dirs {
		fd, err := unix.Openat(d.fd, d.at+name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			place{dirs: found}.close()
			return nil, -1, err
		}
		if !isDir(fd) {
			// A directory hides what is below it; a whiteout is nothing, and ends it as well.
			if len(found) > 0 || isWhiteout(fd) {
				_ = unix.Close(fd)
				break
			}
			return nil, fd, nil
		}
		found = append(found, dir{layer: d.layer, fd: fd})
		if attribute(fd, opaqueAttr) == "y" {
			break
		}
		if to := attribute(fd, redirectAttr); to != "" {
			// It was renamed: below it has its old name.
			below, err := w.redirected(dirs[i+1:], d.layer, to)
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				place{dirs: found}.close()
				return nil, -1, err
			}
			found = append(found, below...)
			break
		}
	}
	if len(found) == 0 {
		return nil, -1, fs.ErrNotExist
	}
	return found, -1, nil
}

// redirected returns what the layers below one have of a directory that is called to
// there: a name beside it, or a path from the root.
func (w *walk) redirected(beside []dir, layer int, to string) ([]dir, error) {
	at := place{dirs: beside}
	if strings.HasPrefix(to, "/") {
		at = w.top()
		at.dirs = at.dirs[layer+1:]
	}
	borrowed := true
	for word := range strings.SplitSeq(strings.Trim(to, "/"), "/") {
		if word == "" || word == "." || word == ".." {
			return nil, fmt.Errorf("%s says %q", redirectAttr, to)
		}
		dirs, leaf, err := w.lookup(at.dirs, word)
		if !borrowed {
			at.close()
		}
		if err == nil && leaf >= 0 {
			err = errors.Join(fs.ErrNotExist, unix.Close(leaf))
		}
		if err != nil {
			return nil, err
		}
		at, borrowed = place{dirs: dirs}, false
	}
	return at.dirs, nil
}

func isDir(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR
}

func isWhiteout(fd int) bool {
	var st unix.Stat_t
	return unix.Fstat(fd, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// attribute returns an extended attribute of what an O_PATH descriptor stands for.
func attribute(fd int, name string) string {
	var v [unix.PathMax]byte
	n, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", fd), name, v[:])
	if err != nil {
		return "" // there is none, or the file system has no such thing
	}
	return string(v[:n])
}

// readLink returns the text of a symbolic link: EINVAL or ENOENT for what is none.
func readLink(fd int) (string, error) {
	var v [unix.PathMax]byte
	n, err := unix.Readlinkat(fd, "", v[:])
	if err != nil {
		return "", err
	}
	return string(v[:n]), nil
}

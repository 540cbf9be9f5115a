// Package deep deletes what others have made, however deep it is.
package deep

import (
	"context"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// maxDepth is how deep RemoveAll descends before it brings closer what is further down.
const maxDepth = 32

// removers bounds how much is deleted at once: each waits for the disk in a thread of its
// own, and others want the disk, too.
var removers = make(chan struct{}, 2)

// RemoveAll deletes path and all below it, as os.RemoveAll does, which holds a
// descriptor for each level: a box makes a hundred thousand levels in a second, and
// would take from the daemon all the descriptors that it may have. Nobody else may
// change anything in path meanwhile. When ctx ends it stops, after the file that it is
// at, and returns the error of ctx; what is left can be deleted by another call.
func RemoveAll(ctx context.Context, path string) error {
	// An empty directory costs nothing, and waits for nobody's tree.
	if err := unix.Rmdir(path); err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	select {
	case removers <- struct{}{}:
		defer func() { <-removers }()
	case <-ctx.Done():
		return ctx.Err()
	}
	if err := os.Remove(path); err == nil || errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	top, err := os.OpenRoot(path)
	if err != nil {
		return err
	}
	defer top.Close()
	r := remover{ctx: ctx, top: top}
	for again := true; again && err == nil; {
		again, err = r.empty(top, ".", 0)
	}
	if err != nil {
		return err
	}
	return os.Remove(path)
}

type remover struct {
	ctx    context.Context
	top    *os.Root
	serial int
}

// empty removes what is in dir, whose path from the top is path. It reports whether
// the top has got something new.
func (r *remover) empty(dir *os.Root, path string, depth int) (moved bool, err error) {
	for {
		names, err := someNames(dir)
		if err != nil || len(names) == 0 {
			return moved, err
		}
		for _, name := range names {
			if err := r.ctx.Err(); err != nil {
				return moved, err
			}
			m, err := r.remove(dir, name, filepath.Join(path, name), depth)
			moved = moved || m
			if err != nil {
				return moved, err
			}
		}
		if depth == 0 && moved {
			return moved, nil // or it would never come to an end of the names
		}
	}
}

func (r *remover) remove(dir *os.Root, name, path string, depth int) (moved bool, err error) {
	if err = dir.Remove(name); err == nil || errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if fi, serr := dir.Lstat(name); serr != nil || !fi.IsDir() {
		return false, err
	}
	if depth == maxDepth {
		return true, r.raise(path)
	}
	sub, err := dir.OpenRoot(name)
	if err != nil {
		return false, err
	}
	defer sub.Close()
	if moved, err = r.empty(sub, path, depth+1); err != nil {
		return moved, err
	}
	return moved, dir.Remove(name)
}

// raise moves a directory to the top, under a name that is free there.
func (r *remover) raise(path string) error {
	for {
		r.serial++
		name := "." + strconv.Itoa(r.serial)
		if _, err := r.top.Lstat(name); err == nil {
			continue
		} else if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return r.top.Rename(path, name)
	}
}

// someNames returns names of dir, none if it is empty.
func someNames(dir *os.Root) ([]string, error) {
	f, err := dir.Open(".")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	names, err := f.Readdirnames(1024)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

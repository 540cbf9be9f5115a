package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// hybridMount is where hosts with cgroup v1 have v2.
const hybridMount = "/sys/fs/cgroup/unified"

// A room is a thread with a mount namespace of its own. In it /run and /dev/shm are empty, where
// container engines keep their state, and a hybrid host's second kind of cgroups is out of sight:
// crun refuses to run otherwise. With the room and what runs in it goes all that is mounted there.
type room struct {
	calls chan func()
	close func() error
}

// newRoom makes a room. A daemon that is started before would be kept from unmounting its files.
func (b *bench) newRoom() (*room, error) {
	r := &room{calls: make(chan func())}
	ready := make(chan error)
	go func() {
		// The thread ends with the goroutine, which never unlocks it.
		runtime.LockOSThread()
		ready <- furnish()
		for call := range r.calls {
			call()
		}
	}()
	r.close = sync.OnceValue(func() error {
		close(r.calls)
		return nil
	})
	b.onEnd(r.close)
	return r, <-ready
}

func furnish() error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("a mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	for _, dir := range []string{"/run", "/dev/shm"} {
		if err := unix.Mount("tmpfs", dir, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755"); err != nil && !errors.Is(err, unix.ENOENT) {
			return fmt.Errorf("mount on %s: %w", dir, err)
		}
	}
	err := unix.Unmount(hybridMount, unix.MNT_DETACH)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOENT) {
		return nil // there is none
	}
	return err
}

// do calls the function in the room.
func (r *room) do(call func() error) error {
	done := make(chan error)
	r.calls <- func() { done <- call() }
	return <-done
}

// run runs a program to its end, and returns what it prints on its standard output.
func (r *room) run(argv ...string) (out string, err error) {
	err = r.do(func() error {
		var stderr strings.Builder
		cmd := exec.Command(argv[0], argv[1:]...)
		cmd.Stderr = &stderr
		text, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, &stderr)
		}
		out = strings.TrimSpace(string(text))
		return nil
	})
	return out, err
}

// timed runs programs one after the other, each to its end. Their output goes nowhere, or into a
// pipe they would have to be read from until the container ends.
func (r *room) timed(programs ...*spawner) (took time.Duration, err error) {
	err = r.do(func() error {
		for _, p := range programs {
			one, err := p.run()
			took += one
			if err != nil {
				return err
			}
		}
		return nil
	})
	return took, err
}

// benchGroup is the parent of the cgroups of what the bench starts by others' programs.
func benchGroup() string { return fmt.Sprintf("boxlite-bench-%d", os.Getpid()) }

// removeGroups removes a cgroup that is empty from all hierarchies.
func removeGroups(name string) error {
	mounts, err := readMounts()
	errs := []error{err}
	for _, m := range mounts {
		if m.kind != "cgroup" && m.kind != "cgroup2" {
			continue
		}
		if err := os.Remove(filepath.Join(m.point, name)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// hasGroup reports whether any hierarchy has a cgroup of this name.
func hasGroup(name string) (bool, error) {
	found, err := filepath.Glob("/sys/fs/cgroup/*/" + name)
	if err == nil && len(found) == 0 {
		found, err = filepath.Glob("/sys/fs/cgroup/" + name)
	}
	return len(found) > 0, err
}

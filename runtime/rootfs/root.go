package rootfs

import (
	"context"
	"errors"
	"sync"

	"golang.org/x/sys/unix"
)

var (
	// ErrEnded says that the run of the box that a file belongs to has ended.
	ErrEnded = errors.New("the run of the box has ended")
	// ErrNoProcess says that the command of the run is not found, or not in its own root yet.
	ErrNoProcess = errors.New("no process is running")
)

// Run is what a Root has to know of a run.
type Run struct {
	// IDs are those of the box.
	IDs IDs
	// Turns bounds how many requests to the files of all boxes are carried out at once.
	Turns chan struct{}
	// Command opens /proc/PID of the run's command, see FindCommand. The first request calls
	// it, and the next ones do as long as it fails. It must not use the Root.
	Command func() (proc int, err error)
	// Attached is called once, when the root directory of the command is open: whoever owns the
	// run closes the Root when the run has ended. It must not wait for the Root.
	Attached func(*Root)
}

// Root gives access to the files of one run of a box. Paths have no leading slash and
// no "." or ".."; "" is the root itself. Errors are ErrEnded once the run has ended,
// ErrNoProcess, errnos, and those of Run.Command.
type Root struct {
	run   Run
	turns chan struct{} // the share of this box in run.Turns

	// mu is held for reading by whatever uses the descriptors. It guards these four.
	mu               sync.RWMutex
	attached, closed bool
	proc             int   // /proc/PID of the command
	top              place // the root

	filesMu sync.Mutex // guards files
	files   map[*openFile]struct{}

	mountsMu sync.Mutex      // guards mounts
	mounts   map[uint64]bool // by unique id: whether a mount may be entered
}

// New returns access to the files of a run. It opens nothing before its first request.
func New(run Run) *Root {
	return &Root{run: run, turns: make(chan struct{}, turnsOfBox), files: map[*openFile]struct{}{}, mounts: map[uint64]bool{}}
}

// attach opens the root directory of the process of /proc/PID proc, and owns proc if there is
// no error. The caller holds mu.
func (r *Root) attach(proc int) error {
	fd, err := unix.Openat(proc, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		err = ErrNoProcess // it has just ended
	}
	if err != nil {
		return err
	}
	r.proc, r.top = proc, place{fd: fd}
	err = statx(fd, &r.top.st)
	var host unix.Stat_t
	if err == nil && r.run.IDs != HostIDs && unix.Stat("/", &host) == nil &&
		host.Ino == r.top.st.Ino && host.Dev == unix.Mkdev(r.top.st.Dev_major, r.top.st.Dev_minor) {
		err = ErrNoProcess // it has not left the host's files yet
	}
	if err == nil {
		var typ string
		if typ, err = r.mountType(r.top.st.Mnt_id); err == nil && !localTypes[typ] && typ != "overlay" {
			err = unix.EACCES
		}
	}
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	r.attached = true
	return nil
}

// Close closes all descriptors, also those of files that are still open: one of them
// would keep the mounts of a box that is gone.
func (r *Root) Close() {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	if r.attached {
		closeFD(r.top.fd)
		closeFD(r.proc)
	}
	r.mu.Unlock()
	r.filesMu.Lock()
	files := make([]*openFile, 0, len(r.files))
	for f := range r.files {
		files = append(files, f)
	}
	r.filesMu.Unlock()
	for _, f := range files {
		f.Close()
	}
}

// closeFD closes a descriptor whose close can lose nothing.
func closeFD(fd int) { _ = unix.Close(fd) }

// use runs fn while the descriptors of the root are certainly open.
func (r *Root) use(ctx context.Context, fn func() error) error {
	return r.inTurn(ctx, func() error { return r.useNow(fn) })
}

// turnsOfBox is how many requests to the files of one box are carried out at once. A
// box can make them take long, by what it does with a file at the same time. The rest of
// Run.Turns is for the other boxes.
const turnsOfBox = 6

// inTurn runs fn, which asks the file system of the box, when it is its turn. ctx ends the
// wait for that.
func (r *Root) inTurn(ctx context.Context, fn func() error) error {
	for _, turns := range []chan struct{}{r.turns, r.run.Turns} {
		select {
		case turns <- struct{}{}:
			defer func() { <-turns }()
		case <-ctx.Done():
			return unix.EINTR
		}
	}
	return fn()
}

// useNow is use for a caller that has its turn.
func (r *Root) useNow(fn func() error) error {
	r.mu.RLock()
	if !r.attached && !r.closed {
		r.mu.RUnlock()
		if err := r.beginOnce(); err != nil {
			return err
		}
		r.mu.RLock()
	}
	defer r.mu.RUnlock()
	if r.closed {
		return ErrEnded
	}
	return fn()
}

// beginOnce finds the files of the run, unless somebody else has done so meanwhile.
func (r *Root) beginOnce() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attached || r.closed {
		return nil
	}
	proc, err := r.run.Command()
	if err != nil {
		return err
	}
	if err := r.attach(proc); err != nil {
		return errors.Join(err, unix.Close(proc))
	}
	r.run.Attached(r)
	return nil
}

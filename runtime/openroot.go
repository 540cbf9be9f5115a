package runtime

import (
	"sync"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/fault"
	"github.com/boxlitefs/boxlite/runtime/rootfs"
	"github.com/boxlitefs/boxlite/runtime/status"
)

// rootOfHost offers the files of boxes of engine host too.
var rootOfHost = fault.RootOfHost

// rootIDs tells whether the files of a run with this configuration are offered, and
// which ids the box has on the host. Engine host has the host's files, which need no
// second way to them.
func (b *Box) rootIDs(c *config.Config) (ids rootfs.IDs, offered bool) {
	if c.Engine == config.EngineContainer {
		return b.ownIDs(), true
	}
	return rootfs.HostIDs, rootOfHost
}

// rootSlot keeps the access to the files of the box's run, once it was asked for.
type rootSlot struct {
	mu   sync.Mutex
	run  *run
	root *rootfs.Root
}

// rooted returns the run whose files are offered now, and the box's ids in it.
func (b *Box) rooted() (*run, rootfs.IDs, error) {
	s := b.Snapshot()
	r, going := s.Run()
	cfg := s.Config
	if going {
		cfg = r.r.cfg
	}
	if cfg == nil {
		return nil, rootfs.IDs{}, unix.ENOENT
	}
	ids, offered := b.rootIDs(cfg)
	switch {
	case !offered:
		return nil, ids, unix.ENOENT
	case !going || s.Status == status.Starting || s.Status == status.Unknown:
		return nil, ids, b.fail("root", ErrNoProcess)
	}
	return r.r, ids, nil
}

// OpenRoot returns access to the files of the run that goes on: the same for all callers.
// It costs nothing before it is used, and is closed when the run has ended. It gives
// ENOENT for a box whose files are not offered, and ErrNoProcess without a run.
func (b *Box) OpenRoot() (*rootfs.Root, error) {
	r, ids, err := b.rooted()
	if err != nil {
		return nil, err
	}
	b.files.mu.Lock()
	defer b.files.mu.Unlock()
	if b.files.run != r {
		b.files.run, b.files.root = r, rootfs.New(rootfs.Run{
			IDs: ids, Turns: visitors,
			Command:  func() (int, error) { return b.openCommand(r, ids) },
			Attached: func(root *rootfs.Root) { go b.closeRoot(r, root) },
		})
	}
	return b.files.root, nil
}

// openCommand opens /proc/PID of the command of a run.
func (b *Box) openCommand(r *run, ids rootfs.IDs) (int, error) {
	b.mu.Lock()
	proc := r.proc
	b.mu.Unlock()
	if proc == nil {
		return -1, ErrNoProcess
	}
	return rootfs.FindCommand(b.rt.bootID, proc.Identity(), ids)
}

// closeRoot closes the access to the files of a run when that has ended.
func (b *Box) closeRoot(r *run, root *rootfs.Root) {
	select {
	case <-r.proc.Done():
	case <-b.rt.closing:
	}
	root.Close()
	if b.rt.opt.Observer != nil {
		b.rt.opt.Observer.RootClosed(b)
	}
}

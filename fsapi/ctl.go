package fsapi

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
)

// maxCommands is how much one write to ctl may hold, in bytes.
const maxCommands = 4096

// ctlFile is ctl: the write accepts a command, the close completes it.
type ctlFile struct {
	fs.Inode
	boxFile
}

var (
	_ node             = (*ctlFile)(nil)
	_ fs.NodeGetattrer = (*ctlFile)(nil)
	_ fs.NodeSetattrer = (*ctlFile)(nil)
	_ fs.NodeOpener    = (*ctlFile)(nil)
)

func (c *ctlFile) stat() (attr, syscall.Errno) {
	return c.owned(attr{mtime: c.box.Snapshot().Created, timeout: long})
}

// Getattr shows an empty file.
func (c *ctlFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(c, out)
}

// Setattr delegates the file; a new size is accepted and means nothing.
func (c *ctlFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	in.Valid &^= fuse.FATTR_SIZE
	return chown(c.box, c.name, c, in, out)
}

// Open gives a handle with commands of its own.
func (c *ctlFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return c.fs.openCtl(ctx, c, boxTarget{c.box}, flags)
}

// openCtl opens a ctl, by which commands are given to something.
func (f *FS) openCtl(ctx context.Context, file node, to target, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_WRONLY {
		return nil, 0, syscall.EACCES
	}
	if to.gone() {
		return nil, 0, syscall.ENOENT
	}
	g, errno := newGrant(ctx, file, mayWrite)
	if errno != 0 {
		return nil, 0, errno
	}
	return &ctlHandle{fs: f, target: granted{to, g}}, fuse.FOPEN_DIRECT_IO, 0
}

// order is a command and who gave it.
type order struct {
	by      runtime.By
	command runtime.Command
	begun   *runtime.Completion // nil if it has to wait for its turn
}

// maxQueue is how many commands may wait behind one.
const maxQueue = 1024

// target is what commands are given to.
type target interface {
	gone() bool
	// verbs are the commands it knows, for a message.
	verbs() string
	parse(words []string) (runtime.Command, error)
	Do(by runtime.By, c runtime.Command) (*runtime.Completion, error)
	RefuseCommand(err error) error
}

type boxTarget struct{ *runtime.Box }

func (t boxTarget) gone() bool                                    { return t.Snapshot().Removed }
func (t boxTarget) verbs() string                                 { return verbList }
func (t boxTarget) parse(words []string) (runtime.Command, error) { return parseCommand(words) }

// granted is a target as who has opened its ctl may use it: what waits in a queue when
// that ends is not begun.
type granted struct {
	target
	right *grant
}

func (t granted) Do(by runtime.By, c runtime.Command) (*runtime.Completion, error) {
	if err := t.right.check(); err != nil {
		return nil, err
	}
	return t.target.Do(by, c)
}

// ctlHandle carries out the commands that are written through one open, in
// order.
type ctlHandle struct {
	fs     *FS
	target granted

	mu    sync.Mutex
	queue []order
	idle  chan struct{} // closed when nothing is under way; nil before the first command
	err   error         // of the first command that failed
}

var (
	_ fs.FileWriter  = (*ctlHandle)(nil)
	_ fs.FileFlusher = (*ctlHandle)(nil)
)

// Write accepts commands or refuses them, at once. A write with a fault in any
// line does nothing at all.
func (h *ctlHandle) Write(ctx context.Context, data []byte, _ int64) (uint32, syscall.Errno) {
	if h.target.gone() {
		return 0, syscall.ENODEV
	}
	if err := h.target.right.check(); err != nil {
		return 0, toErrno(err)
	}
	if len(data) > maxCommands {
		_ = h.target.RefuseCommand(fmt.Errorf("a write of %d bytes: commands are at most %d", len(data), maxCommands))
		return 0, syscall.E2BIG
	}
	commands, err := parseCommands(h.target, string(data))
	if err != nil {
		return 0, toErrno(h.target.RefuseCommand(err))
	}
	by := caller(ctx)
	if p := tgid(by.PID); p != 0 {
		by.PID = p // FUSE names the thread
	}
	orders := make([]order, 0, len(commands))
	for _, c := range commands {
		orders = append(orders, order{by: by, command: c})
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.idle != nil {
		select {
		case <-h.idle:
		default:
			// What came before through this open is not done: the state that a
			// command will meet isn't known yet.
			return h.enqueue(orders, len(data))
		}
	}
	first, err := h.target.Do(by, orders[0].command)
	if err != nil {
		return 0, toErrno(err)
	}
	h.err = nil // of what was closed, or will be, before this
	h.queue = orders[1:]
	h.idle = make(chan struct{})
	go h.carryOut(first)
	return uint32(len(data)), 0
}

// enqueue puts orders behind those that are under way. A kill is never stuck
// behind a stop: it begins at once, and what waits before it is not begun at all.
// mu is held.
func (h *ctlHandle) enqueue(orders []order, n int) (uint32, syscall.Errno) {
	if orders[0].command.Verb == runtime.VerbKill {
		done, err := h.target.Do(orders[0].by, orders[0].command)
		if err != nil {
			return 0, toErrno(err)
		}
		orders[0].begun = done
		h.queue = nil
	}
	if len(h.queue)+len(orders) > maxQueue {
		_ = h.target.RefuseCommand(fmt.Errorf("%d commands wait already", len(h.queue)))
		return 0, syscall.E2BIG
	}
	h.queue = append(h.queue, orders...)
	return uint32(n), 0
}

// carryOut waits for one command after the other. What stands behind one that
// failed is not begun: it was written in the belief that the first had worked.
func (h *ctlHandle) carryOut(work *runtime.Completion) {
	err := work.Wait(context.Background())
	for err == nil {
		next, more := h.next()
		if !more {
			return
		}
		if work = next.begun; work == nil {
			work, err = h.target.Do(next.by, next.command)
		}
		if err == nil {
			err = work.Wait(context.Background())
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = err
	}
	h.queue = nil
	close(h.idle)
}

// next takes the next order. Without one the handle is idle.
func (h *ctlHandle) next() (order, bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.queue) == 0 {
		close(h.idle)
		return order{}, false
	}
	o := h.queue[0]
	h.queue = h.queue[1:]
	return o, true
}

// Flush waits for the commands written so far and returns how they ended. When
// the waiter is interrupted, the work goes on.
func (h *ctlHandle) Flush(ctx context.Context) syscall.Errno {
	h.mu.Lock()
	idle := h.idle
	h.mu.Unlock()
	if idle == nil {
		return 0
	}
	select {
	case <-idle:
	case <-ctx.Done():
		return syscall.EINTR
	case <-h.fs.closing:
		return syscall.ESHUTDOWN
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return toErrno(h.err)
}

// parseCommands reads one command a line. Blank lines are skipped, but there has
// to be a command.
func parseCommands(to target, text string) ([]runtime.Command, error) {
	var out []runtime.Command
	n := 0
	for line := range strings.Lines(text) {
		n++
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		c, err := to.parse(words)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", n, err)
		}
		out = append(out, c)
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%w: no command (%s)", runtime.ErrInvalid, to.verbs())
	}
	return out, nil
}

const verbList = "start, stop [DURATION], kill, restart [DURATION], pause, resume, signal NAME"

func parseCommand(words []string) (runtime.Command, error) {
	c := runtime.Command{Verb: runtime.Verb(words[0])}
	args := words[1:]
	bad := func(format string, a ...any) (runtime.Command, error) {
		return runtime.Command{}, fmt.Errorf("%w: %s", runtime.ErrInvalid, fmt.Sprintf(format, a...))
	}
	switch c.Verb {
	case runtime.VerbStart, runtime.VerbKill, runtime.VerbPause, runtime.VerbResume:
		if len(args) > 0 {
			return bad("%s takes no argument", c.Verb)
		}
	case runtime.VerbStop, runtime.VerbRestart:
		if len(args) > 1 {
			return bad("%s takes at most a duration", c.Verb)
		}
		if len(args) == 1 {
			d, err := time.ParseDuration(args[0])
			if err != nil || d < 0 {
				return bad("%q is no duration (write 10s or 1m30s)", args[0])
			}
			c.Grace = &d
		}
	case runtime.VerbSignal:
		if len(args) != 1 {
			return bad("signal takes one name, like TERM")
		}
		s, err := runtime.ParseSignal(args[0])
		if err != nil {
			return bad("%v", err)
		}
		c.Signal = s
	default:
		return bad("unknown command %q (%s)", words[0], verbList)
	}
	return c, nil
}

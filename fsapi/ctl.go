package fsapi

import (
	"context"
	"errors"
	"fmt"
	"strings"
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
	return &ctlHandle{fs: f, right: g, orders: orders{to: granted{to, g}, budget: f.budget}}, fuse.FOPEN_DIRECT_IO, 0
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

// ctlHandle takes the commands that are written through one open.
type ctlHandle struct {
	synced
	fs     *FS
	right  *grant
	orders orders
}

var (
	_ fs.FileWriter  = (*ctlHandle)(nil)
	_ fs.FileFlusher = (*ctlHandle)(nil)
)

// Write accepts commands or refuses them, at once. A write with a fault in any
// line does nothing at all.
func (h *ctlHandle) Write(ctx context.Context, data []byte, _ int64) (uint32, syscall.Errno) {
	to := h.orders.to
	if to.gone() {
		return 0, syscall.ENODEV
	}
	if err := h.right.check(); err != nil {
		return 0, toErrno(err)
	}
	if len(data) > maxCommands {
		_ = to.RefuseCommand(fmt.Errorf("a write of %d bytes: commands are at most %d", len(data), maxCommands))
		return 0, syscall.E2BIG
	}
	commands, err := parseCommands(to, string(data))
	if err != nil {
		return 0, toErrno(to.RefuseCommand(err))
	}
	by := process(ctx)
	err = h.orders.add(by, procOf(by.PID), commands)
	if errors.Is(err, errTooMany) {
		_ = to.RefuseCommand(err)
		return 0, syscall.E2BIG
	}
	if err != nil {
		return 0, toErrno(err)
	}
	return uint32(len(data)), 0
}

// Flush waits for the commands that the closing process has written so far and returns how
// they ended. When the waiter is interrupted, the work goes on. Who has written nothing
// does not wait: each process that had the file open closes it at its end, and most only
// passed it on.
func (h *ctlHandle) Flush(ctx context.Context) syscall.Errno {
	if h.orders.all() {
		return 0
	}
	w := h.orders.wrote(closer(ctx))
	if w == nil {
		return 0
	}
	if errno := h.fs.await(ctx, w.idle); errno != 0 {
		return errno
	}
	return toErrno(h.orders.tell(w))
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

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
	"github.com/boxlitefs/boxlite/runtime/config"
)

// maxCommands is how much one write to ctl may hold, in bytes.
const maxCommands = 4096

// ctlFile is a ctl, by which commands are given to a target. The write accepts a command, and
// the close waits for its end.
type ctlFile struct {
	node
	to    target
	mtime time.Time
}

var (
	_ stater           = (*ctlFile)(nil)
	_ fs.NodeSetattrer = (*ctlFile)(nil)
	_ fs.NodeOpener    = (*ctlFile)(nil)
)

// stat shows an empty file.
func (c *ctlFile) stat() (attr, syscall.Errno) {
	return c.own(attr{mtime: c.mtime, timeout: cacheTime})
}

// Setattr gives the file away if its subject allows it. A new size is accepted and means
// nothing.
func (c *ctlFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return c.of.setattr(c.name, c, in, out)
}

// Open gives a handle with commands of its own.
func (c *ctlFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_WRONLY {
		return nil, 0, syscall.EACCES
	}
	if c.of.removed() {
		return nil, 0, syscall.ENOENT
	}
	g, errno := newGrant(ctx, c, mayWrite)
	if errno != 0 {
		return nil, 0, errno
	}
	return &ctlHandle{node: &c.node, right: g, orders: orders{to: granted{c.to, g}, budget: c.fs.budget}}, fuse.FOPEN_DIRECT_IO, 0
}

// boxTarget is a box as a target of commands.
type boxTarget struct{ *runtime.Box }

func (t boxTarget) verbs() string                                 { return verbList }
func (t boxTarget) parse(words []string) (runtime.Command, error) { return parseCommand(words) }

// granted is a target with the right of its ctl's opener to use it. A command that is queued
// when the right ends is not begun.
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
	node   *node
	right  *grant
	orders orders
}

var (
	_ fs.FileWriter  = (*ctlHandle)(nil)
	_ fs.FileFlusher = (*ctlHandle)(nil)
)

// Write accepts commands or refuses them, at once. A write with a fault in any line does
// nothing.
func (h *ctlHandle) Write(ctx context.Context, data []byte, _ int64) (uint32, syscall.Errno) {
	to := h.orders.to
	if h.node.of.removed() {
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
// they ended. When the waiter is interrupted, the work goes on. A process that has written
// nothing does not wait: every process that has the file open closes it when it ends, and
// most of these only passed it on.
func (h *ctlHandle) Flush(ctx context.Context) syscall.Errno {
	if h.orders.all() {
		return 0
	}
	w := h.orders.wrote(closer(ctx))
	if w == nil {
		return 0
	}
	if errno := h.node.fs.await(ctx, w.idle); errno != 0 {
		return errno
	}
	return toErrno(h.orders.report(w))
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
		s, err := config.ParseSignal(args[0])
		if err != nil {
			return bad("%v", err)
		}
		c.Signal = s
	default:
		return bad("unknown command %q (%s)", words[0], verbList)
	}
	return c, nil
}

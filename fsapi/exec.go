package fsapi

import (
	"context"
	"fmt"
	"strconv"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/status"
)

// execFiles is the list of an exec's files.
var execFiles = []struct {
	name string
	mode uint32
	make func(place, *runtime.Exec) stater
}{
	{"cmd", 0o600, func(p place, e *runtime.Exec) stater { return &cmdFile{node{place: p}, e} }},
	{"ctl", 0o200, func(p place, e *runtime.Exec) stater { return &ctlFile{node: node{place: p}, to: execTarget{e}} }},
	{"stdin", 0o200, func(p place, e *runtime.Exec) stater { return &stdinFile{node{place: p}, e} }},
	{"stdout", 0o400, output((*runtime.Exec).Stdout)},
	{"stderr", 0o400, output((*runtime.Exec).Stderr)},
	{"status", 0o444, execWord(func(s *runtime.ExecSnapshot) string { return string(s.Status) })},
	{"exit_code", 0o444, execWord(func(s *runtime.ExecSnapshot) string { return strconv.Itoa(s.ExitCode) })},
	{"pid", 0o444, execWord(func(s *runtime.ExecSnapshot) string { return strconv.Itoa(s.PID) })},
}

// execWord makes a file of one value of the exec's snapshot.
func execWord(value func(*runtime.ExecSnapshot) string) func(place, *runtime.Exec) stater {
	return func(p place, e *runtime.Exec) stater {
		return &snapshotFile{node{place: p}, func() (*runtime.Text, attr) { return line(value(e.Snapshot())), attr{} }}
	}
}

// output makes stdout or stderr.
func output(of func(*runtime.Exec) *runtime.Output) func(place, *runtime.Exec) stater {
	return func(p place, e *runtime.Exec) stater {
		return execStream(p, func(e *runtime.Exec, _ runtime.By) (runtime.Stream, error) { return of(e), nil }, e)
	}
}

func execStream(p place, open func(*runtime.Exec, runtime.By) (runtime.Stream, error), e *runtime.Exec) stater {
	return &streamFile{node: node{place: p}, guarded: true, open: func(by runtime.By) (runtime.Stream, error) { return open(e, by) }}
}

func execIno(e *runtime.Exec, index int) uint64 { return (e.Serial()+1)*inoPerBox + uint64(index) }

// execsDir is exec/ of a box, where mkdir makes an exec and rmdir removes one. A user to whom
// it is given may run commands in the box.
type execsDir struct {
	dir
	box *runtime.Box
}

var (
	_ stater           = (*execsDir)(nil)
	_ fs.NodeLookuper  = (*execsDir)(nil)
	_ fs.NodeReaddirer = (*execsDir)(nil)
	_ fs.NodeMkdirer   = (*execsDir)(nil)
	_ fs.NodeRmdirer   = (*execsDir)(nil)
)

func (d *execsDir) stat() (attr, syscall.Errno) {
	n, changed := d.box.ExecCount()
	if changed.IsZero() {
		changed = d.box.Snapshot().Created
	}
	return d.own(attr{nlink: 2 + uint32(n), mtime: changed})
}

// Lookup finds an exec.
func (d *execsDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	e := d.box.Exec(name)
	if e == nil || e.Snapshot().Removed {
		return nil, syscall.ENOENT
	}
	return d.enter(ctx, e, out)
}

func (d *execsDir) enter(ctx context.Context, e *runtime.Exec, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	shown := &execDir{dir{node{place: place{fs: d.fs, of: ofExec{e}, mode: runtime.ExecMode}}}, e}
	return enter(ctx, d.EmbeddedInode(), shown, execIno(e, 0), fuse.S_IFDIR, out)
}

// Readdir lists the execs by name.
func (d *execsDir) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	all, _ := d.box.Execs()
	out := make([]fuse.DirEntry, 0, len(all))
	for _, e := range all {
		out = append(out, fuse.DirEntry{Name: e.Name(), Ino: execIno(e, 0), Mode: fuse.S_IFDIR})
	}
	return d.fs.list(ctx, out)
}

// Mkdir makes an exec, which belongs to the client.
func (d *execsDir) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	c, ok := fuse.FromContext(ctx)
	if !ok {
		return nil, syscall.EIO // as root's it would have root's rights
	}
	owner := status.Owner{UID: c.Uid, GID: c.Gid, Mode: runtime.ExecMode}
	if mode&noMode == 0 {
		owner.Mode = mode & 0o777
	}
	e, err := d.box.CreateExec(name, owner)
	if err != nil {
		return nil, toErrno(err)
	}
	return d.enter(ctx, e, out)
}

// Rmdir removes an exec that has no process, for root or the exec's owner.
func (d *execsDir) Rmdir(ctx context.Context, name string) syscall.Errno {
	c, ok := fuse.FromContext(ctx)
	if !ok {
		return syscall.EIO
	}
	return toErrno(d.box.RemoveExec(name, c.Uid))
}

// execDir is the directory of one exec.
type execDir struct {
	dir
	exec *runtime.Exec
}

var (
	_ stater           = (*execDir)(nil)
	_ fs.NodeLookuper  = (*execDir)(nil)
	_ fs.NodeReaddirer = (*execDir)(nil)
)

func (d *execDir) entries() []entry {
	in := func(name string, mode uint32) place {
		return place{fs: d.fs, of: d.of, name: name, mode: mode}
	}
	out := make([]entry, 0, len(execFiles)+1)
	for i, f := range execFiles {
		out = append(out, entry{f.name, execIno(d.exec, 3+i), fuse.S_IFREG, func() stater { return f.make(in(f.name, f.mode), d.exec) }})
	}
	return append(out, entry{"wait", execIno(d.exec, 1), fuse.S_IFDIR, func() stater {
		stopped := func() stater {
			return execStream(in("wait/stopped", 0o444), blocking((*runtime.Exec).WaitStopped), d.exec)
		}
		return &fixedDir{dir{node{place: in("wait", 0o755)}}, time.Time{}, []entry{{"stopped", execIno(d.exec, 2), fuse.S_IFREG, stopped}}}
	}})
}

func (d *execDir) stat() (attr, syscall.Errno) { return d.own(attr{nlink: 3}) }

// Lookup finds a file of the exec.
func (d *execDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return find(ctx, d.EmbeddedInode(), d.entries(), name, out)
}

// Readdir lists the exec's files.
func (d *execDir) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	return list(d.entries()), 0
}

// execTarget is an exec as a target of commands.
type execTarget struct{ *runtime.Exec }

func (t execTarget) verbs() string                 { return execVerbs }
func (t execTarget) RefuseCommand(err error) error { return t.Refuse(err) }

const execVerbs = "kill, signal NAME, close_stdin"

func (t execTarget) parse(words []string) (runtime.Command, error) {
	switch verb := runtime.Verb(words[0]); verb {
	case runtime.VerbKill, runtime.VerbSignal:
		return parseCommand(words)
	case runtime.VerbCloseStdin:
		if len(words) > 1 {
			return runtime.Command{}, fmt.Errorf("%w: %s takes no argument", runtime.ErrInvalid, verb)
		}
		return runtime.Command{Verb: verb}, nil
	}
	return runtime.Command{}, fmt.Errorf("%w: unknown command %q (%s)", runtime.ErrInvalid, words[0], execVerbs)
}

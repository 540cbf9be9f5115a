package fsapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
)

// execFiles is the list of an exec's files. Their attributes are never cached: there
// may be many execs, and none lives for long.
var execFiles = []struct {
	name string
	mode uint32
	make func(execFile) node
}{
	{"cmd", 0o600, func(f execFile) node { return &cmdFile{execFile: f} }},
	{"ctl", 0o200, func(f execFile) node { return &execCtlFile{execFile: f} }},
	{"stdin", 0o200, func(f execFile) node { return &stdinFile{execFile: f} }},
	{"stdout", 0o400, func(f execFile) node { return &outputFile{execFile: f, open: (*runtime.Exec).Stdout} }},
	{"stderr", 0o400, func(f execFile) node { return &outputFile{execFile: f, open: (*runtime.Exec).Stderr} }},
	{"status", 0o444, execWord(func(s *runtime.ExecSnapshot) string { return string(s.Status) })},
	{"exit_code", 0o444, execWord(func(s *runtime.ExecSnapshot) string { return strconv.Itoa(s.ExitCode) })},
	{"pid", 0o444, execWord(func(s *runtime.ExecSnapshot) string { return strconv.Itoa(s.PID) })},
}

// execFile is what the files of an exec have in common.
type execFile struct {
	fs   *FS
	e    *runtime.Exec
	name string
	mode uint32
}

func execIno(e *runtime.Exec, index int) uint64 { return (e.Serial()+1)*inoPerBox + uint64(index) }

// owned gives the attributes of a file by the owner that it was given, or has by who
// made the exec.
func (f *execFile) owned(size int64) (attr, syscall.Errno) {
	s := f.e.Snapshot()
	if s.Removed {
		return attr{}, syscall.ENODEV
	}
	o := s.Owner(f.name, f.mode)
	return attr{mode: o.Mode, uid: o.UID, gid: o.GID, size: size, nlink: 1, mtime: s.Changed}, 0
}

func (f *execFile) removed() bool { return f.e.Snapshot().Removed }

// setattr delegates a file. A new size is accepted, and means nothing, where sized says
// so.
func (f *execFile) setattr(n node, sized bool, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if in.Valid&fuse.FATTR_SIZE != 0 && !sized {
		return syscall.EPERM
	}
	if f.removed() {
		return touchOrphan(n, in, out)
	}
	return giveAway(n, 0, in, out, func(o runtime.Owner) error { return f.e.SetOwner(f.name, o) })
}

// execsDir is exec/ of a box, where mkdir makes an exec and rmdir removes one.
type execsDir struct {
	dir
	box *runtime.Box
}

var (
	_ node             = (*execsDir)(nil)
	_ fs.NodeGetattrer = (*execsDir)(nil)
	_ fs.NodeSetattrer = (*execsDir)(nil)
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
	return ownedBy(d.box, "exec", attr{mode: 0o755, nlink: 2 + uint32(n), mtime: changed})
}

// Getattr shows the directory as it is.
func (d *execsDir) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(d, out)
}

// Setattr delegates the directory, and with it the right to run commands in the box.
func (d *execsDir) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return chown(d.box, "exec", d, in, out)
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
	f := execFile{fs: d.fs, e: e, mode: runtime.ExecMode}
	return enter(ctx, d.EmbeddedInode(), &execDir{dir: dir{fs: d.fs}, execFile: f}, execIno(e, 0), fuse.S_IFDIR, out)
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

// Mkdir makes an exec, which belongs to who asks.
func (d *execsDir) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	c, ok := fuse.FromContext(ctx)
	if !ok {
		return nil, syscall.EIO // as root's it would have root's rights
	}
	owner := runtime.Owner{UID: c.Uid, GID: c.Gid, Mode: runtime.ExecMode}
	if mode&noMode == 0 {
		owner.Mode = mode & 0o777
	}
	e, err := d.box.CreateExec(name, owner)
	if err != nil {
		return nil, toErrno(err)
	}
	return d.enter(ctx, e, out)
}

// Rmdir removes an exec that has no process, for root or whom it belongs to.
func (d *execsDir) Rmdir(ctx context.Context, name string) syscall.Errno {
	c, ok := fuse.FromContext(ctx)
	if !ok {
		return syscall.EIO
	}
	return toErrno(d.box.RemoveExec(name, c.Uid))
}

// execDir is the directory of one exec, or wait/ in it.
type execDir struct {
	dir
	execFile
	waits bool
}

var (
	_ node             = (*execDir)(nil)
	_ fs.NodeGetattrer = (*execDir)(nil)
	_ fs.NodeSetattrer = (*execDir)(nil)
	_ fs.NodeLookuper  = (*execDir)(nil)
	_ fs.NodeReaddirer = (*execDir)(nil)
)

func (d *execDir) entries() []entry {
	file := func(name string, mode uint32, index int, make func(execFile) node) entry {
		f := execFile{fs: d.execFile.fs, e: d.e, name: name, mode: mode}
		return entry{name, execIno(d.e, index), fuse.S_IFREG, func() node { return make(f) }}
	}
	if d.waits {
		e := file("stopped", 0o444, 2, func(f execFile) node {
			f.name = "wait/stopped"
			return &outputFile{execFile: f, wait: true}
		})
		return []entry{e}
	}
	out := make([]entry, 0, len(execFiles)+1)
	for i, f := range execFiles {
		out = append(out, file(f.name, f.mode, 3+i, f.make))
	}
	return append(out, entry{"wait", execIno(d.e, 1), fuse.S_IFDIR, func() node {
		return &execDir{dir: dir{fs: d.dir.fs}, execFile: execFile{fs: d.execFile.fs, e: d.e, name: "wait", mode: 0o755}, waits: true}
	}})
}

func (d *execDir) stat() (attr, syscall.Errno) {
	a, errno := d.owned(0)
	if a.nlink = 3; d.waits {
		a.nlink = 2
	}
	return a, errno
}

// Getattr shows the directory as it is.
func (d *execDir) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(d, out)
}

// Setattr delegates the directory.
func (d *execDir) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return d.setattr(d, false, in, out)
}

// Lookup finds a file of the exec.
func (d *execDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return find(ctx, d.EmbeddedInode(), d.entries(), name, out)
}

// Readdir lists the exec's files.
func (d *execDir) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	return list(d.entries()), 0
}

// execTextFile is a file whose contents are made anew at each open.
type execTextFile struct {
	fs.Inode
	execFile
	word func(*runtime.ExecSnapshot) string
}

var (
	_ node             = (*execTextFile)(nil)
	_ fs.NodeGetattrer = (*execTextFile)(nil)
	_ fs.NodeSetattrer = (*execTextFile)(nil)
	_ fs.NodeOpener    = (*execTextFile)(nil)
)

func execWord(word func(*runtime.ExecSnapshot) string) func(execFile) node {
	return func(f execFile) node { return &execTextFile{execFile: f, word: word} }
}

func (t *execTextFile) stat() (attr, syscall.Errno) {
	return t.owned(int64(len(t.word(t.e.Snapshot()))) + 1)
}

// Getattr shows the size that an open would find.
func (t *execTextFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(t, out)
}

// Setattr delegates the file.
func (t *execTextFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return t.setattr(t, false, in, out)
}

// Open takes the snapshot that all reads through the handle give.
func (t *execTextFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := readOnly(flags); errno != 0 {
		return nil, 0, errno
	}
	s := t.e.Snapshot()
	if s.Removed {
		return nil, 0, syscall.ENOENT
	}
	return t.read(ctx, t.EmbeddedInode(), []byte(t.word(s)+"\n"))
}

// read opens a text of the exec.
func (f *execFile) read(ctx context.Context, inode *fs.Inode, text []byte) (fs.FileHandle, uint32, syscall.Errno) {
	lease, errno := f.fs.budget.lease(ctx, len(text))
	if errno != 0 {
		return nil, 0, errno
	}
	return &execTextHandle{file: f, inode: inode, text: text, lease: lease}, readFlags, 0
}

type execTextHandle struct {
	synced
	file  *execFile
	inode *fs.Inode
	text  []byte // shared, never changed
	lease lease
}

var (
	_ fs.FileReader   = (*execTextHandle)(nil)
	_ fs.FileReleaser = (*execTextHandle)(nil)
)

// Read gives the snapshot, or ENODEV once the exec is gone.
func (h *execTextHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if h.file.removed() {
		return nil, syscall.ENODEV
	}
	return readAt(h.text, dest, off), 0
}

// Release ends the reading.
func (h *execTextHandle) Release(context.Context) syscall.Errno {
	h.lease.end()
	h.file.fs.drop(h.file.e.Box(), h.inode)
	return 0
}

// outputFile is stdout or stderr, or wait/stopped: its reads block.
type outputFile struct {
	fs.Inode
	execFile
	open func(*runtime.Exec) *runtime.Output
	wait bool
}

var (
	_ node             = (*outputFile)(nil)
	_ fs.NodeGetattrer = (*outputFile)(nil)
	_ fs.NodeSetattrer = (*outputFile)(nil)
	_ fs.NodeOpener    = (*outputFile)(nil)
)

func (o *outputFile) stat() (attr, syscall.Errno) { return o.owned(0) }

// Getattr shows an empty file: how much there will be is not known.
func (o *outputFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(o, out)
}

// Setattr delegates the file.
func (o *outputFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return o.setattr(o, false, in, out)
}

// Open gives a reader.
func (o *outputFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := readOnly(flags); errno != 0 {
		return nil, 0, errno
	}
	if o.removed() {
		return nil, 0, syscall.ENOENT
	}
	g, errno := newGrant(ctx, o, mayRead)
	if errno != 0 {
		return nil, 0, errno
	}
	h := &outputHandle{file: o, right: g, nonblock: flags&syscall.O_NONBLOCK != 0}
	if o.wait {
		h.stream = o.e.WaitStopped()
	} else {
		out := o.open(o.e)
		h.stream, h.unread = out, out.Unread
	}
	return h, readFlags | fuse.FOPEN_STREAM, 0
}

type outputHandle struct {
	synced
	file     *outputFile
	right    *grant
	stream   runtime.Stream
	unread   func([]byte) // nil where nothing is consumed
	nonblock bool
}

var (
	_ fs.FileReader   = (*outputHandle)(nil)
	_ fs.FileReleaser = (*outputHandle)(nil)
)

// Read blocks until there is something to give, and then gives that. What was taken for
// a client that has been interrupted meanwhile is given back.
func (h *outputHandle) Read(ctx context.Context, dest []byte, _ int64) (fuse.ReadResult, syscall.Errno) {
	if len(dest) == maxRead {
		dest = dest[:maxRead-1] // see waitHandle
	}
	turn := h.file.fs.lane.turn(ctx)
	defer turn.end()
	for {
		if err := h.right.check(); err != nil {
			return nil, toErrno(err)
		}
		n, more, err := h.stream.Poll(dest)
		switch {
		case errors.Is(err, io.EOF):
			return waited{fuse.ReadResultData(nil)}, 0
		case err != nil:
			return nil, toErrno(err)
		case more == nil && h.unread != nil && ctx.Err() != nil:
			h.unread(dest[:n])
			return nil, syscall.EINTR
		case more == nil:
			return waited{fuse.ReadResultData(dest[:n])}, 0
		case h.nonblock:
			return nil, syscall.EAGAIN
		}
		if errno := turn.await(func() syscall.Errno { return h.file.fs.await(ctx, more) }); errno != 0 {
			return nil, errno
		}
	}
}

// await waits for a channel to be closed, for as long as the client does.
func (f *FS) await(ctx context.Context, more <-chan struct{}) syscall.Errno {
	select {
	case <-more:
		return 0
	case <-ctx.Done():
		return syscall.EINTR
	case <-f.closing:
		return syscall.ESHUTDOWN
	}
}

// Release ends the reading.
func (h *outputHandle) Release(context.Context) syscall.Errno {
	h.stream.Close()
	h.file.fs.drop(h.file.e.Box(), h.file.EmbeddedInode())
	return 0
}

// stdinFile is stdin, whose writes block.
type stdinFile struct {
	fs.Inode
	execFile
}

var (
	_ node             = (*stdinFile)(nil)
	_ fs.NodeGetattrer = (*stdinFile)(nil)
	_ fs.NodeSetattrer = (*stdinFile)(nil)
	_ fs.NodeOpener    = (*stdinFile)(nil)
)

// stdinSize is the size that stdin shows. It means nothing, but that the kernel lets
// several write at once only where none of them makes the file longer: else who waits
// for the command to read would hold a lock, on which not even SIGKILL ends a wait.
const stdinSize = 1 << 30

func (i *stdinFile) stat() (attr, syscall.Errno) { return i.owned(stdinSize) }

// Getattr shows a file of a size that is not its own.
func (i *stdinFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(i, out)
}

// Setattr delegates the file.
func (i *stdinFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return i.setattr(i, true, in, out)
}

// Open gives a writer.
func (i *stdinFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if flags&syscall.O_ACCMODE != syscall.O_WRONLY {
		return nil, 0, syscall.EACCES
	}
	if i.removed() {
		return nil, 0, syscall.ENOENT
	}
	g, errno := newGrant(ctx, i, mayWrite)
	if errno != 0 {
		return nil, 0, errno
	}
	w := i.e.OpenStdin(func() bool { return g.check() == nil })
	if flags&syscall.O_TRUNC != 0 {
		go i.regrow()
	}
	return &stdinHandle{file: i, right: g, writer: w, nonblock: flags&syscall.O_NONBLOCK != 0}, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_STREAM | fuse.FOPEN_NOFLUSH | fuse.FOPEN_PARALLEL_DIRECT_WRITES, 0
}

// regrow makes the kernel take the file for as long as before: an open that truncates
// has set the size to 0. That is done when the client has got the answer, which nothing
// tells, and before it writes; so it is tried again and again for a moment.
func (i *stdinFile) regrow() {
	for _, pause := range [...]time.Duration{20 * time.Microsecond, 50 * time.Microsecond, 200 * time.Microsecond, time.Millisecond, 5 * time.Millisecond} {
		time.Sleep(pause)                        //nolint:forbidigo // there is no condition to wait for
		_ = i.WriteCache(stdinSize-1, []byte{0}) // ENOENT: it has been forgotten
	}
}

type stdinHandle struct {
	synced
	file     *stdinFile
	right    *grant
	writer   *runtime.StdinWriter
	nonblock bool
}

var (
	_ fs.FileWriter   = (*stdinHandle)(nil)
	_ fs.FileReleaser = (*stdinHandle)(nil)
)

// Write writes all of data, as to a pipe: it blocks while that is full, and gives a
// short count when the client is interrupted then.
func (h *stdinHandle) Write(ctx context.Context, data []byte, _ int64) (uint32, syscall.Errno) {
	done := 0
	for {
		var n int
		var more <-chan struct{}
		err := h.right.check()
		if err == nil {
			n, more, err = h.file.e.PollWrite(data[done:])
		}
		done += n
		var errno syscall.Errno
		switch {
		case err != nil:
			errno = toErrno(err)
		case done == len(data):
			return uint32(done), 0
		case more == nil:
			continue
		case h.nonblock:
			errno = syscall.EAGAIN
		default:
			errno = h.file.fs.await(ctx, more)
		}
		if errno != 0 && done > 0 {
			return uint32(done), 0
		}
		if errno != 0 {
			return 0, errno
		}
	}
}

// Release is what an end of the input is made of: it comes when the last descriptor of
// an open is closed.
func (h *stdinHandle) Release(context.Context) syscall.Errno {
	h.writer.Close()
	h.file.fs.drop(h.file.e.Box(), h.file.EmbeddedInode())
	return 0
}

// execCtlFile is ctl of an exec.
type execCtlFile struct {
	fs.Inode
	execFile
}

var (
	_ node             = (*execCtlFile)(nil)
	_ fs.NodeGetattrer = (*execCtlFile)(nil)
	_ fs.NodeSetattrer = (*execCtlFile)(nil)
	_ fs.NodeOpener    = (*execCtlFile)(nil)
)

func (c *execCtlFile) stat() (attr, syscall.Errno) { return c.owned(0) }

// Getattr shows an empty file.
func (c *execCtlFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(c, out)
}

// Setattr delegates the file; a new size is accepted and means nothing.
func (c *execCtlFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return c.setattr(c, true, in, out)
}

// Open gives a handle with commands of its own.
func (c *execCtlFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return c.fs.openCtl(ctx, c, execTarget{c.e}, flags)
}

// execTarget is an exec as what commands are given to.
type execTarget struct{ *runtime.Exec }

func (t execTarget) gone() bool                    { return t.Snapshot().Removed }
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

// cmdFile is cmd: read as it was written, run when its writer closes it.
type cmdFile struct {
	fs.Inode
	execFile
}

var (
	_ node             = (*cmdFile)(nil)
	_ fs.NodeGetattrer = (*cmdFile)(nil)
	_ fs.NodeSetattrer = (*cmdFile)(nil)
	_ fs.NodeOpener    = (*cmdFile)(nil)
)

func (c *cmdFile) stat() (attr, syscall.Errno) { return c.owned(int64(len(c.e.Snapshot().Text))) }

// Getattr shows the command that was given.
func (c *cmdFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(c, out)
}

// Setattr delegates the file, or truncates what an open handle is writing.
func (c *cmdFile) Setattr(_ context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok && !c.removed() {
		h, writing := f.(*configHandle)
		if !writing {
			return syscall.EPERM
		}
		if errno := h.truncate(size); errno != 0 {
			return errno
		}
	}
	return c.setattr(c, true, in, out)
}

// Open gives the text to a reader; a writer begins with nothing.
func (c *cmdFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	s := c.e.Snapshot()
	if s.Removed {
		return nil, 0, syscall.ENOENT
	}
	if flags&syscall.O_ACCMODE == syscall.O_RDONLY {
		return c.read(ctx, c.EmbeddedInode(), s.Text)
	}
	g, errno := newGrant(ctx, c, mayWrite)
	if errno != 0 {
		return nil, 0, errno
	}
	lease, errno := c.fs.budget.lease(ctx, runtime.MaxConfigSize)
	if errno != 0 {
		return nil, 0, errno
	}
	by := process(ctx)
	return &configHandle{fs: c.fs, doc: cmdDraft{c.e, by, g}, append: flags&syscall.O_APPEND != 0, owner: by.PID, lease: lease}, fuse.FOPEN_DIRECT_IO, 0
}

// cmdDraft is a cmd being written, by who has opened it: what he may is not more when
// he passes it on to somebody else.
type cmdDraft struct {
	*runtime.Exec
	by    runtime.By
	right *grant
}

func (d cmdDraft) gone() bool                 { return d.Snapshot().Removed }
func (d cmdDraft) checkPrefix(b []byte) error { return runtime.CheckExecPrefix(d.Box().Name(), b) }
func (d cmdDraft) check(b []byte) error       { return d.Check(b) }
func (d cmdDraft) refuse(err error) error     { return d.Refuse(err) }

func (d cmdDraft) mayWrite() error {
	if err := d.right.check(); err != nil {
		return err
	}
	return d.MayRun()
}

func (d cmdDraft) commit(b []byte) (*runtime.Completion, error) {
	if err := d.right.check(); err != nil {
		return nil, err
	}
	return d.Run(d.by, b)
}

// ExecChanged has watchers told of an exec that has begun or ended, in those of its
// files that the kernel has.
func (f *FS) ExecChanged(e *runtime.Exec) {
	if f.early(func() { f.ExecChanged(e) }) {
		return
	}
	d := f.boxes.GetChild(e.Box().Name())
	if d == nil || d.StableAttr().Ino != boxIno(e.Box(), 0) {
		return
	}
	execs := d.GetChild("exec")
	if execs == nil {
		return
	}
	c := execs.GetChild(e.Name())
	if c == nil || c.StableAttr().Ino != execIno(e, 0) {
		return
	}
	var paths []string
	for _, name := range [...]string{"status", "pid", "exit_code"} {
		if c.GetChild(name) != nil {
			paths = append(paths, "boxes/"+e.Box().Name()+"/exec/"+e.Name()+"/"+name)
		}
	}
	f.notifier.markPaths(e.Box(), paths)
}

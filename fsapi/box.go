package fsapi

import (
	"context"
	"strconv"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
)

// boxFiles is the list of a box's files: their modes, what changes them, and how
// they are made.
var boxFiles = []struct {
	name   string
	mode   uint32
	fields runtime.Field // changes of these change the file
	make   func(boxFile) node
}{
	{"config.yaml", 0o640, runtime.FieldConfig, func(f boxFile) node { return &configFile{boxFile: f} }},
	{"ctl", 0o200, 0, func(f boxFile) node { return &ctlFile{boxFile: f} }},
	{"status", 0o444, runtime.FieldStatus, word(func(s *runtime.Snapshot) string { return string(s.Status) }, runtime.FieldStatus)},
	{"health", 0o444, runtime.FieldHealth, word(func(s *runtime.Snapshot) string { return string(s.Health) }, runtime.FieldHealth)},
	{"pid", 0o444, runtime.FieldPID, word(func(s *runtime.Snapshot) string { return strconv.Itoa(s.PID) }, runtime.FieldPID)},
	{"exit_code", 0o444, runtime.FieldExitCode, word(func(s *runtime.Snapshot) string { return strconv.Itoa(s.ExitCode) }, runtime.FieldExitCode)},
	{"last_error", 0o444, runtime.FieldLastError, word(func(s *runtime.Snapshot) string { return s.LastError }, runtime.FieldLastError)},
	{"info.json", 0o444, runtime.FieldInfo, func(f boxFile) node { return f.text(info) }},
	{"stats", 0o444, 0, stats},
	{"log", 0o444, runtime.FieldLog, func(f boxFile) node { return &logFile{boxFile: f} }},
	{"events", 0o444, runtime.FieldEvents, func(f boxFile) node {
		return f.text(func(b *runtime.Box) (*runtime.Text, attr) {
			text, last := b.EventsText()
			return history(text, last, b.Snapshot().Created)
		})
	}},
}

// waitFiles is the list of a box's blocking files.
var waitFiles = []struct {
	name string
	open func(*runtime.Box, runtime.By) (runtime.Stream, error)
}{
	{"running", blocking((*runtime.Box).WaitRunning)},
	{"healthy", blocking((*runtime.Box).WaitHealthy)},
	{"exit", blocking((*runtime.Box).WaitExit)},
	{"stopped", blocking((*runtime.Box).WaitStopped)},
	{"log", (*runtime.Box).WaitLog},
	{"event", blocking((*runtime.Box).WaitEvent)},
}

// blocking is the way to a stream that needs nothing and is for everybody.
func blocking[T any](open func(T) runtime.Stream) func(T, runtime.By) (runtime.Stream, error) {
	return func(of T, _ runtime.By) (runtime.Stream, error) { return open(of), nil }
}

// boxFile is what the files of a box have in common.
type boxFile struct {
	fs   *FS
	box  *runtime.Box
	name string
	mode uint32
}

// ownedBy gives the attributes of a box's file (or directory): what it was given, and the
// rest as it follows from the directory. b is nil for what is the daemon's own.
func ownedBy(b *runtime.Box, name string, a attr) (attr, syscall.Errno) {
	if b == nil {
		return a, 0
	}
	s := b.Snapshot()
	if s.Removed {
		return attr{}, syscall.ENODEV
	}
	own, ok := s.Owner(name)
	if !ok {
		own.Follows = runtime.FollowsAll
	}
	if o, ok := s.Owner(""); ok && name != "" {
		a.follow(name, o, own)
	}
	if own.Follows&runtime.FollowsUID == 0 {
		a.uid = own.UID
	}
	if own.Follows&runtime.FollowsGID == 0 {
		a.gid = own.GID
	}
	if own.Follows&runtime.FollowsMode == 0 {
		a.mode = own.Mode
	}
	return a, 0
}

// follow makes a box's file one of a directory of that owner and mode: who may not read the
// one may not read the other, and what not all may read, by that or by the mode of its own, is
// for whom the box belongs to. But the right to use a box goes with no file but its own.
func (a *attr) follow(name string, dir, own runtime.Owner) {
	a.mode &= dir.Mode | 0o700
	mode := a.mode
	if own.Follows&runtime.FollowsMode == 0 {
		mode &= own.Mode
	}
	if mode&0o004 == 0 && name != "ctl" && name != "exec" {
		a.uid, a.gid = dir.UID, dir.GID
	}
}

// owned is ownedBy for a file of the list.
func (f *boxFile) owned(a attr) (attr, syscall.Errno) {
	a.mode, a.nlink = f.mode, 1
	return ownedBy(f.box, f.name, a)
}

// removed gives the errno of a box that is gone.
func (f *boxFile) removed() syscall.Errno {
	if f.box.Snapshot().Removed {
		return syscall.ENODEV
	}
	return 0
}

// chown answers a Setattr that may delegate a file of a box. What is the daemon's
// own (b is nil) stays so, and sizes can't be set.
func chown(b *runtime.Box, name string, n node, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if b == nil || in.Valid&fuse.FATTR_SIZE != 0 {
		return touchOnly(n, in, out)
	}
	if b.Snapshot().Removed {
		return touchGhost(n, in, out)
	}
	// The directory itself follows nothing.
	follows := runtime.FollowsAll
	if own, ok := b.Snapshot().Owner(name); ok || name == "" {
		follows = own.Follows
	}
	return giveAway(n, follows, in, out, func(o runtime.Owner) error { return b.SetOwner(name, o) })
}

// giveAway answers a Setattr of a file by setting the owner and mode that it asks for; of the
// rest it follows what it did.
//
// Who has a file only as long as he has the directory keeps it no longer by giving it to
// himself or to the group that it has, which the kernel lets every owner do.
func giveAway(n node, follows runtime.Follows, in *fuse.SetAttrIn, out *fuse.AttrOut, set func(runtime.Owner) error) syscall.Errno {
	a, errno := n.stat()
	if errno != 0 {
		return errno
	}
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		if !mayGive(&in.Caller, a) {
			return syscall.EPERM
		}
		o := runtime.Owner{UID: a.uid, GID: a.gid, Mode: a.mode, Follows: follows}
		if uid, ok := in.GetUID(); ok && (in.Caller.Uid == 0 || uid != a.uid) {
			o.UID, o.Follows = uid, o.Follows&^runtime.FollowsUID
		}
		if gid, ok := in.GetGID(); ok && (in.Caller.Uid == 0 || gid != a.gid) {
			o.GID, o.Follows = gid, o.Follows&^runtime.FollowsGID
		}
		if mode, ok := in.GetMode(); ok {
			o.Mode, o.Follows = mode&0o777, o.Follows&^runtime.FollowsMode
		}
		if err := set(o); err != nil {
			return toErrno(err)
		}
	}
	return answerSetattr(n, out)
}

// boxDir is the directory of one box.
type boxDir struct {
	dir
	box *runtime.Box
}

var (
	_ node             = (*boxDir)(nil)
	_ fs.NodeGetattrer = (*boxDir)(nil)
	_ fs.NodeSetattrer = (*boxDir)(nil)
	_ fs.NodeLookuper  = (*boxDir)(nil)
	_ fs.NodeReaddirer = (*boxDir)(nil)
)

func (d *boxDir) entries() []entry {
	out := make([]entry, 0, len(boxFiles)+2)
	for i, f := range boxFiles {
		bf := boxFile{fs: d.fs, box: d.box, name: f.name, mode: d.fs.mode(f.name, f.mode)}
		out = append(out, entry{f.name, boxIno(d.box, 2+i), fuse.S_IFREG, func() node { return f.make(bf) }})
	}
	return append(out,
		entry{"wait", boxIno(d.box, 1), fuse.S_IFDIR, d.wait},
		entry{"exec", boxIno(d.box, boxInoExec), fuse.S_IFDIR, func() node { return &execsDir{dir: dir{fs: d.fs}, box: d.box} }})
}

func (d *boxDir) wait() node {
	s := d.box.Snapshot()
	w := &fixedDir{dir: dir{fs: d.fs}, box: d.box, attr: attr{mode: 0o755, nlink: 2, mtime: s.Created, timeout: long}}
	for i, f := range waitFiles {
		w.entries = append(w.entries, entry{f.name, boxIno(d.box, 2+len(boxFiles)+i), fuse.S_IFREG, func() node {
			return &waitFile{fs: d.fs, box: d.box, name: "wait/" + f.name, mtime: s.Created, open: func(by runtime.By) (runtime.Stream, error) { return f.open(d.box, by) }}
		}})
	}
	return w
}

func (d *boxDir) stat() (attr, syscall.Errno) {
	return ownedBy(d.box, "", attr{mode: 0o755, nlink: 4, mtime: d.box.Snapshot().Created, timeout: long})
}

// Getattr shows the directory as it is.
func (d *boxDir) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(d, out)
}

// Setattr delegates the box; new times mean that somebody wants it.
func (d *boxDir) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 {
		if err := d.box.Touch(); err != nil {
			return toErrno(err)
		}
	}
	return chown(d.box, "", d, in, out)
}

// Lookup finds a file of the box.
func (d *boxDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if d.fs.notifier.calls(ctx) {
		d.fs.notifier.borrow(d.EmbeddedInode(), name)
	}
	if name == rootName {
		return d.lookupRoot(ctx, out)
	}
	return find(ctx, d.EmbeddedInode(), d.entries(), name, out)
}

// Readdir lists the box's files, but not root (as ZFS does with .zfs): an rm -rf or
// chown -R of a box would go through the files in it, and through what of the host it
// was given.
func (d *boxDir) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	return list(d.entries()), 0
}

// word makes a file of one value of the box's snapshot.
func word(value func(*runtime.Snapshot) string, field runtime.Field) func(boxFile) node {
	return func(f boxFile) node {
		return f.text(func(b *runtime.Box) (*runtime.Text, attr) {
			s := b.Snapshot()
			return line(value(s)), attr{mtime: s.Changed(field), timeout: long}
		})
	}
}

func (f boxFile) text(render func(*runtime.Box) (*runtime.Text, attr)) node {
	return &textFile{fs: f.fs, box: f.box, name: f.name, mode: f.mode, render: func() (*runtime.Text, attr) { return render(f.box) }}
}

// line makes the text of a file that shows one value.
func line(value string) *runtime.Text { return &runtime.Text{Bytes: []byte(value + "\n")} }

func info(b *runtime.Box) (*runtime.Text, attr) {
	s := b.Snapshot()
	// The last probe is in it, and probes are not announced.
	return b.InfoText(s), attr{mtime: s.Changed(runtime.FieldInfo)}
}

// stats asks the kernel anew for each who looks, but once for all who do so at the same
// time.
func stats(f boxFile) node {
	now := share(f.stats)
	return f.text(func(b *runtime.Box) (*runtime.Text, attr) {
		// The numbers change with every look; a time that did so too would make tar
		// and rsync see a file that changes under their hands.
		return now.get(), attr{mtime: b.Snapshot().Changed(runtime.FieldInfo)}
	})
}

func (f boxFile) stats() *runtime.Text {
	b := f.box
	st, err := b.Stats()
	if err != nil {
		f.fs.log.WithField("box", b.Name()).WithError(err).Warn("stats")
	}
	text := "cpu_usec " + strconv.FormatInt(st.CPU.Microseconds(), 10) +
		"\nmemory_bytes " + strconv.FormatInt(st.Memory, 10) +
		"\npids " + strconv.Itoa(st.Pids) +
		"\noom_kills " + strconv.FormatUint(st.OOMKills, 10) +
		"\nrestarts " + strconv.Itoa(b.Snapshot().Restarts)
	return line(text)
}

// history shows events, of which the last came then, if there are any; else since says
// how old the file is.
func history(text *runtime.Text, last, since time.Time) (*runtime.Text, attr) {
	if last.IsZero() {
		last = since
	}
	return text, attr{mtime: last, timeout: long}
}

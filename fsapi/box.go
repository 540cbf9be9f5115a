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
	make   func(place, *runtime.Box) stater
}{
	{"config.yaml", 0o640, runtime.FieldConfig, func(p place, b *runtime.Box) stater { return &configFile{node{place: p}, b} }},
	{"ctl", 0o200, 0, func(p place, b *runtime.Box) stater {
		return &ctlFile{node{place: p}, boxTarget{b}, b.Snapshot().Created}
	}},
	{"status", 0o444, runtime.FieldStatus, word(func(s *runtime.Snapshot) string { return string(s.Status) }, runtime.FieldStatus)},
	{"health", 0o444, runtime.FieldHealth, word(func(s *runtime.Snapshot) string { return string(s.Health) }, runtime.FieldHealth)},
	{"pid", 0o444, runtime.FieldPID, word(func(s *runtime.Snapshot) string { return strconv.Itoa(s.PID) }, runtime.FieldPID)},
	{"exit_code", 0o444, runtime.FieldExitCode, word(func(s *runtime.Snapshot) string { return strconv.Itoa(s.ExitCode) }, runtime.FieldExitCode)},
	{"last_error", 0o444, runtime.FieldLastError, word(func(s *runtime.Snapshot) string { return s.LastError }, runtime.FieldLastError)},
	{"info.json", 0o444, runtime.FieldInfo, boxText(info)},
	{"stats", 0o444, 0, statsFile},
	{"log", 0o444, runtime.FieldLog, func(p place, b *runtime.Box) stater { return &logFile{node{place: p}, b} }},
	{"events", 0o444, runtime.FieldEvents, boxText(func(b *runtime.Box) (*runtime.Text, attr) {
		text, last := b.EventsText()
		return history(text, last, b.Snapshot().Created)
	})},
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

// boxDir is the directory of one box.
type boxDir struct {
	dir
	box *runtime.Box
}

var (
	_ stater           = (*boxDir)(nil)
	_ fs.NodeSetattrer = (*boxDir)(nil)
	_ fs.NodeLookuper  = (*boxDir)(nil)
	_ fs.NodeReaddirer = (*boxDir)(nil)
)

func (f *FS) boxDir(b *runtime.Box) *boxDir {
	return &boxDir{dir{node{place: place{fs: f, of: ofBox{b}, mode: 0o755}}}, b}
}

func (d *boxDir) entries() []entry {
	in := func(name string, mode uint32) place {
		return place{fs: d.fs, of: d.of, name: name, mode: d.fs.mode(name, mode)}
	}
	out := make([]entry, 0, len(boxFiles)+2)
	for i, f := range boxFiles {
		out = append(out, entry{f.name, boxIno(d.box, 2+i), fuse.S_IFREG, func() stater { return f.make(in(f.name, f.mode), d.box) }})
	}
	wait := func() stater {
		created := d.box.Snapshot().Created
		w := &fixedDir{dir{node{place: in("wait", 0o755)}}, created, nil}
		for i, f := range waitFiles {
			open := func(by runtime.By) (runtime.Stream, error) { return f.open(d.box, by) }
			w.entries = append(w.entries, entry{f.name, boxIno(d.box, 2+len(boxFiles)+i), fuse.S_IFREG, func() stater {
				return &streamFile{node: node{place: in("wait/"+f.name, 0o444)}, mtime: created, open: open}
			}})
		}
		return w
	}
	return append(out,
		entry{"wait", boxIno(d.box, 1), fuse.S_IFDIR, wait},
		entry{"exec", boxIno(d.box, boxInoExec), fuse.S_IFDIR, func() stater { return &execsDir{dir{node{place: in("exec", 0o755)}}, d.box} }})
}

func (d *boxDir) stat() (attr, syscall.Errno) {
	return d.own(attr{nlink: 4, mtime: d.box.Snapshot().Created, timeout: cacheTime})
}

// Setattr gives the box away. New times mean that the box is in use.
func (d *boxDir) Setattr(ctx context.Context, f fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if in.Valid&(fuse.FATTR_ATIME|fuse.FATTR_MTIME) != 0 {
		if err := d.box.Touch(); err != nil {
			return toErrno(err)
		}
	}
	return d.node.Setattr(ctx, f, in, out)
}

// Lookup finds a file of the box.
func (d *boxDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if d.fs.notifier.calls(ctx) {
		d.fs.notifier.noteDentry(d.EmbeddedInode(), name)
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

// boxText makes a file that is read as it was when it was opened.
func boxText(render func(*runtime.Box) (*runtime.Text, attr)) func(place, *runtime.Box) stater {
	return func(p place, b *runtime.Box) stater {
		return &snapshotFile{node{place: p}, func() (*runtime.Text, attr) { return render(b) }}
	}
}

// word makes a file of one value of the box's snapshot.
func word(value func(*runtime.Snapshot) string, field runtime.Field) func(place, *runtime.Box) stater {
	return boxText(func(b *runtime.Box) (*runtime.Text, attr) {
		s := b.Snapshot()
		return line(value(s)), attr{mtime: s.Changed(field), timeout: cacheTime}
	})
}

func info(b *runtime.Box) (*runtime.Text, attr) {
	s := b.Snapshot()
	// The last probe is in it, and probes are not announced.
	return b.InfoText(s), attr{mtime: s.Changed(runtime.FieldInfo)}
}

// statsFile makes the file stats, which asks the kernel anew for each who looks, but once
// for all who do so at the same time.
func statsFile(p place, b *runtime.Box) stater {
	now := share(func() *runtime.Text { return p.fs.stats(b) })
	return &snapshotFile{node{place: p}, func() (*runtime.Text, attr) {
		// The numbers change with every look. A time that did so too would make tar
		// and rsync see a file that changes under their hands.
		return now.get(), attr{mtime: b.Snapshot().Changed(runtime.FieldInfo)}
	}}
}

func (f *FS) stats(b *runtime.Box) *runtime.Text {
	st, err := b.Stats()
	if err != nil {
		f.log.WithField("box", b.Name()).WithError(err).Warn("stats")
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
	return text, attr{mtime: last, timeout: cacheTime}
}

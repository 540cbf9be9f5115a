package fsapi

import (
	"context"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
)

// entry is one name in a directory whose names are fixed.
type entry struct {
	name string
	ino  uint64
	kind uint32
	make func() node
}

func list(entries []entry) fs.DirStream {
	out := make([]fuse.DirEntry, 0, len(entries))
	for _, e := range entries {
		out = append(out, fuse.DirEntry{Name: e.name, Ino: e.ino, Mode: e.kind})
	}
	return fs.NewListDirStream(out)
}

func find(ctx context.Context, parent *fs.Inode, entries []entry, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	for _, e := range entries {
		if e.name == name {
			return enter(ctx, parent, e.make(), e.ino, e.kind, out)
		}
	}
	return nil, syscall.ENOENT
}

// topDir is the top of the control filesystem.
type topDir struct{ dir }

var (
	_ node             = (*topDir)(nil)
	_ fs.NodeGetattrer = (*topDir)(nil)
	_ fs.NodeSetattrer = (*topDir)(nil)
	_ fs.NodeLookuper  = (*topDir)(nil)
	_ fs.NodeReaddirer = (*topDir)(nil)
	_ fs.NodeMkdirer   = (*topDir)(nil)
	_ fs.NodeRmdirer   = (*topDir)(nil)
	_ fs.NodeUnlinker  = (*topDir)(nil)
	_ fs.NodeRenamer   = (*topDir)(nil)
	_ fs.NodeCreater   = (*topDir)(nil)
	_ fs.NodeSymlinker = (*topDir)(nil)
	_ fs.NodeLinker    = (*topDir)(nil)
	_ fs.NodeMknoder   = (*topDir)(nil)
	_ fs.NodeTmpfiler  = (*topDir)(nil)
	_ fs.NodeStatfser  = (*topDir)(nil)
	_ fs.NodeLookuper  = (*fixedDir)(nil)
	_ fs.NodeReaddirer = (*fixedDir)(nil)
	_ fs.NodeGetattrer = (*fixedDir)(nil)
	_ runtime.Observer = (*FS)(nil)
)

func (d *topDir) entries() []entry {
	f := d.fs
	text := func(name string, ino uint64, t *textFile) entry {
		t.fs, t.mode = f, f.mode(name, 0o444)
		return entry{name, ino, fuse.S_IFREG, func() node { return t }}
	}
	return []entry{
		text("version", inoVersion, &textFile{render: func() (*runtime.Text, attr) {
			return line(f.version), attr{mtime: f.began, timeout: long}
		}}),
		text("features", inoFeatures, &textFile{render: func() (*runtime.Text, attr) {
			return line(strings.Join(f.rt.Features(), "\n")), attr{mtime: f.began, timeout: long}
		}}),
		text("events", inoEvents, &textFile{render: func() (*runtime.Text, attr) {
			text, last := f.rt.EventsText()
			return history(text, last, f.began)
		}}),
		text("last_error", inoLastError, &textFile{render: func() (*runtime.Text, attr) {
			s, at := f.rt.LastError()
			return line(s), attr{mtime: at, timeout: long}
		}}),
		{"metrics", inoMetrics, fuse.S_IFREG, func() node { return &metricsFile{fs: f} }},
		{"wait", inoWait, fuse.S_IFDIR, func() node {
			return &fixedDir{dir: dir{fs: f}, attr: attr{mode: 0o755, nlink: 2, mtime: f.began, timeout: long}, entries: []entry{
				{"event", inoWaitEvent, fuse.S_IFREG, func() node {
					return &waitFile{fs: f, name: "wait/event", mtime: f.began, open: func(runtime.By) (runtime.Stream, error) { return f.rt.WaitEvent(), nil }}
				}},
			}}
		}},
		{"boxes", inoBoxes, fuse.S_IFDIR, func() node { return f.boxes }},
		{"images", inoImagesDir, fuse.S_IFDIR, func() node { return f.images }},
	}
}

func (d *topDir) stat() (attr, syscall.Errno) {
	return attr{mode: 0o755, nlink: 5, mtime: d.fs.began, timeout: long}, 0
}

// OnAdd makes boxes/ known before the first request: boxes change, and remove
// themselves, also when nobody has looked there yet.
func (d *topDir) OnAdd(ctx context.Context) {
	d.AddChild("boxes", d.NewPersistentInode(ctx, d.fs.boxes, fs.StableAttr{Mode: fuse.S_IFDIR, Ino: inoBoxes}), true)
	d.fs.earlyMu.Lock()
	defer d.fs.earlyMu.Unlock()
	d.fs.rooted = true
}

// Getattr shows the directory as it is.
func (d *topDir) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(d, out)
}

// Setattr accepts new times only.
func (d *topDir) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return touchOnly(d, in, out)
}

// Lookup finds a fixed name.
func (d *topDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if name == orphansName {
		return d.lookupOrphans(ctx, out)
	}
	return find(ctx, d.EmbeddedInode(), d.entries(), name, out)
}

// Readdir lists the fixed names.
func (d *topDir) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	return list(d.entries()), 0
}

// Statfs says that nothing is stored here, as procfs and cgroupfs do.
func (d *topDir) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	return 0
}

// fixedDir is a directory of fixed names: one of the wait directories.
type fixedDir struct {
	dir
	attr    attr
	box     *runtime.Box // nil for the daemon's own
	entries []entry
}

func (d *fixedDir) stat() (attr, syscall.Errno) { return ownedBy(d.box, "wait", d.attr) }

// Getattr shows the directory as it is.
func (d *fixedDir) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(d, out)
}

// Setattr delegates a box's directory.
func (d *fixedDir) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return chown(d.box, "wait", d, in, out)
}

// Lookup finds a fixed name.
func (d *fixedDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return find(ctx, d.EmbeddedInode(), d.entries, name, out)
}

// Readdir lists the fixed names.
func (d *fixedDir) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	return list(d.entries), 0
}

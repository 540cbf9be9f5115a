package fsapi

import (
	"context"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
)

// topDir is the top of the control filesystem.
type topDir struct{ dir }

var (
	_ stater           = (*topDir)(nil)
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
)

func (d *topDir) entries() []entry {
	f := d.fs
	own := func(name string, mode uint32) place {
		return place{fs: f, of: ofDaemon{}, name: name, mode: f.mode(name, mode)}
	}
	text := func(name string, ino uint64, render func() (*runtime.Text, attr)) entry {
		return entry{name, ino, fuse.S_IFREG, func() stater { return &snapshotFile{node{place: own(name, 0o444)}, render} }}
	}
	return []entry{
		text("version", inoVersion, func() (*runtime.Text, attr) {
			return line(f.version), attr{mtime: f.began, timeout: cacheTime}
		}),
		text("features", inoFeatures, func() (*runtime.Text, attr) {
			return line(strings.Join(f.rt.Features(), "\n")), attr{mtime: f.began, timeout: cacheTime}
		}),
		text("events", inoEvents, func() (*runtime.Text, attr) {
			text, last := f.rt.EventsText()
			return history(text, last, f.began)
		}),
		text("last_error", inoLastError, func() (*runtime.Text, attr) {
			s, at := f.rt.LastError()
			return line(s), attr{mtime: at, timeout: cacheTime}
		}),
		{"metrics", inoMetrics, fuse.S_IFREG, func() stater { return &metricsFile{node{place: own("metrics", 0o444)}} }},
		{"wait", inoWait, fuse.S_IFDIR, func() stater {
			event := func() stater {
				return &streamFile{node: node{place: own("wait/event", 0o444)}, mtime: f.began, open: func(runtime.By) (runtime.Stream, error) { return f.rt.WaitEvent(), nil }}
			}
			return &fixedDir{dir{node{place: own("wait", 0o755)}}, f.began, []entry{{"event", inoWaitEvent, fuse.S_IFREG, event}}}
		}},
		{"boxes", inoBoxes, fuse.S_IFDIR, func() stater { return f.boxes }},
		{"images", inoImagesDir, fuse.S_IFDIR, func() stater { return f.images }},
	}
}

func (d *topDir) stat() (attr, syscall.Errno) {
	return d.own(attr{nlink: 5, mtime: d.fs.began, timeout: cacheTime})
}

// OnAdd makes boxes/ known before the first request: boxes change, and remove themselves, also
// when no client has looked there yet.
func (d *topDir) OnAdd(ctx context.Context) {
	d.AddChild("boxes", d.NewPersistentInode(ctx, d.fs.boxes, fs.StableAttr{Mode: fuse.S_IFDIR, Ino: inoBoxes}), true)
	d.fs.postponeMu.Lock()
	defer d.fs.postponeMu.Unlock()
	d.fs.rooted = true
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

// Statfs shows that nothing is stored here, as procfs and cgroupfs do.
func (d *topDir) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	out.Bsize, out.Frsize, out.NameLen = 4096, 4096, 255
	return 0
}

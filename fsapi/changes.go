package fsapi

import (
	"github.com/hanwen/go-fuse/v2/fs"

	"github.com/boxlitefs/boxlite/runtime"
)

// The core reports each change. The kernel is made to forget what it has cached of that, and
// the notifier has to tell watchers.
var _ runtime.Observer = (*FS)(nil)

// postpone keeps a notification for later if the server cannot send it yet: until the mount
// is complete it is not even safe to try.
func (f *FS) postpone(notify func()) bool {
	if f.serving.Load() {
		return false
	}
	f.postponeMu.Lock()
	defer f.postponeMu.Unlock()
	if f.serving.Load() {
		return false
	}
	if f.rooted { // before, there is nothing that the kernel could know
		f.postponed = append(f.postponed, notify)
	}
	return true
}

// startServing sends what was postponed.
func (f *FS) startServing() {
	f.postponeMu.Lock()
	f.serving.Store(true)
	postponed := f.postponed
	f.postponed = nil
	f.postponeMu.Unlock()
	for _, notify := range postponed {
		notify()
	}
}

// invalidate makes the kernel forget the attributes of an inode that it may know. It takes no
// lock that a request could hold, so it may be called from anywhere.
func invalidate(i *fs.Inode) {
	if i == nil {
		return
	}
	// ENOENT: the kernel has forgotten it already, which serves as well.
	_ = i.NotifyContent(-1, 0)
}

// drop makes the kernel forget a file of a removed box: see node.drop. b is nil for a file
// that is in no box.
func (f *FS) drop(b *runtime.Box, i *fs.Inode) {
	if b == nil || !b.Snapshot().Removed {
		return
	}
	for name, parent := i.Parent(); parent != nil && parent != f.boxes.EmbeddedInode(); name, parent = parent.Parent() {
		_ = parent.NotifyEntry(name) // ENOENT: it has been forgotten
	}
}

// BoxChanged makes the kernel forget what it holds of the files that changed, and
// has watchers told of them.
func (f *FS) BoxChanged(b *runtime.Box, fields runtime.Field) {
	if f.postpone(func() { f.BoxChanged(b, fields) }) {
		return
	}
	d := f.boxes.GetChild(b.Name())
	if d == nil || d.StableAttr().Ino != boxIno(b, 0) {
		return
	}
	if fields&runtime.FieldOwner != 0 {
		invalidate(d)
		for _, c := range d.Children() {
			invalidate(c)
			for _, w := range c.Children() {
				invalidate(w)
			}
		}
		return
	}
	var dirty runtime.Field
	for _, file := range boxFiles {
		if file.fields&fields == 0 {
			continue
		}
		c := d.GetChild(file.name)
		if file.fields != runtime.FieldLog { // whose attributes are never cached
			invalidate(c)
		}
		if c != nil || file.fields&watched != 0 {
			dirty |= file.fields
		}
	}
	f.notifier.mark(b, dirty)
}

// BoxRemoved makes the kernel forget a removed box, and has watchers told. If a client asked
// for the removal, the kernel has forgotten the box already.
func (f *FS) BoxRemoved(b *runtime.Box, asked bool) {
	f.boxes.touch()
	if f.postpone(func() { f.BoxRemoved(b, asked) }) {
		return
	}
	d := f.boxes.GetChild(b.Name())
	if d != nil && d.StableAttr().Ino != boxIno(b, 0) {
		d = nil
	}
	if !asked {
		invalidate(f.boxes.EmbeddedInode())
		_ = f.boxes.NotifyEntry(b.Name()) // ENOENT: it was not known
	}
	f.notifier.removed(b, d, asked)
}

// Changed makes the kernel forget the sizes of the daemon's own files.
func (f *FS) Changed() {
	if f.postpone(f.Changed) {
		return
	}
	events, lastError := f.top.GetChild("events"), f.top.GetChild("last_error")
	invalidate(events)
	invalidate(lastError)
	f.notifier.markTop(events, lastError)
}

// ExecChanged has watchers told of an exec that has begun or ended, in those of its
// files that the kernel has.
func (f *FS) ExecChanged(e *runtime.Exec) {
	if f.postpone(func() { f.ExecChanged(e) }) {
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

// RootClosed makes the kernel forget the files of a run that has ended. What is known of them
// here goes with them.
func (f *FS) RootClosed(b *runtime.Box) {
	if f.postpone(func() { f.RootClosed(b) }) {
		return
	}
	if d := f.boxes.GetChild(b.Name()); d != nil && d.StableAttr().Ino == boxIno(b, 0) {
		_ = d.NotifyEntry(rootName) // ENOENT: it has been forgotten
	}
}

// ImagesChanged makes the kernel forget what it holds of images/, and has watchers told by a
// MODIFY. A CREATE would take a mkdir through the mount, and that would find nothing.
func (f *FS) ImagesChanged() {
	if f.postpone(f.ImagesChanged) {
		return
	}
	f.images.touch()
	if d := f.top.GetChild("images"); d != nil {
		invalidate(d)
		f.notifier.mark(nil, topImages)
	}
}

// ImagesErrorChanged is the same for images/last_error. The directory does not change with a
// file in it.
func (f *FS) ImagesErrorChanged() {
	if f.postpone(f.ImagesErrorChanged) {
		return
	}
	d := f.top.GetChild("images")
	if d == nil {
		return
	}
	if e := d.GetChild("last_error"); e != nil {
		invalidate(e)
		f.notifier.mark(nil, topImagesError)
	}
}

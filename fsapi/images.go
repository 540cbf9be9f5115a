package fsapi

import (
	"context"
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/image"
)

// imagesDir is images/, where rmdir removes an image. They come by themselves, since a box
// that needs one has it pulled, or by images/ctl.
type imagesDir struct {
	dir
	mu      sync.Mutex
	changed time.Time // when an image last came or went
	serials map[imageID]uint64
	next    uint64
}

// imageID tells an image from one that was removed and pulled again.
type imageID struct {
	digest string
	pulled int64
}

func idOf(i *image.Image) imageID { return imageID{i.Digest, i.Pulled.UnixNano()} }

var (
	_ node             = (*imagesDir)(nil)
	_ fs.NodeGetattrer = (*imagesDir)(nil)
	_ fs.NodeSetattrer = (*imagesDir)(nil)
	_ fs.NodeLookuper  = (*imagesDir)(nil)
	_ fs.NodeReaddirer = (*imagesDir)(nil)
	_ fs.NodeRmdirer   = (*imagesDir)(nil)
)

// inoImages is where the inode numbers of images begin, far from those of boxes.
const inoImages = 1 << 62

// ino returns the inode number of an image's directory; the next is that of its file.
// None is used twice.
func (d *imagesDir) ino(i *image.Image) uint64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	n, ok := d.serials[idOf(i)]
	if !ok {
		d.next++
		n = d.next
		d.serials[idOf(i)] = n
	}
	return inoImages + 2*n
}

// touch notes that images came or went.
func (d *imagesDir) touch() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.changed = time.Now()
	there := map[imageID]bool{}
	for _, i := range d.fs.rt.Images().List() {
		there[idOf(i)] = true
	}
	for id := range d.serials {
		if !there[id] {
			delete(d.serials, id)
		}
	}
}

func (d *imagesDir) stat() (attr, syscall.Errno) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return attr{mode: 0o755, nlink: 2 + uint32(len(d.fs.rt.Images().List())), mtime: d.changed, timeout: long}, 0
}

// Getattr shows the directory as it is.
func (d *imagesDir) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(d, out)
}

// Setattr accepts new times only.
func (d *imagesDir) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return touchOnly(d, in, out)
}

// entries are the files of images/. No image has such a name: each has an @ in it.
func (d *imagesDir) entries() []entry {
	return []entry{
		{"ctl", inoImagesCtl, fuse.S_IFREG, func() node { return &imagesCtlFile{fs: d.fs} }},
		{"last_error", inoImagesError, fuse.S_IFREG, func() node {
			return &textFile{fs: d.fs, mode: 0o444, render: func() (*runtime.Text, attr) {
				s, at := d.fs.rt.ImagesError()
				return line(s), attr{mtime: at, timeout: long}
			}}
		}},
	}
}

// Lookup finds an image, or a file of the directory.
func (d *imagesDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	if found, errno := find(ctx, d.EmbeddedInode(), d.entries(), name, out); errno != syscall.ENOENT {
		return found, errno
	}
	i := d.fs.rt.Images().Get(name)
	if i == nil {
		return nil, syscall.ENOENT
	}
	in, errno := enter(ctx, d.EmbeddedInode(), &imageDir{dir: dir{fs: d.fs}, id: idOf(i), ino: d.ino(i)}, d.ino(i), fuse.S_IFDIR, out)
	// A prune takes it away without the kernel, which is not told: an rmdir, which does so
	// too, holds the directory.
	out.SetEntryTimeout(0)
	return in, errno
}

// Readdir lists the files, and the images by name.
func (d *imagesDir) Readdir(ctx context.Context) (fs.DirStream, syscall.Errno) {
	images := d.fs.rt.Images().List()
	out := make([]fuse.DirEntry, 0, len(images)+2)
	for _, e := range d.entries() {
		out = append(out, fuse.DirEntry{Name: e.name, Ino: e.ino, Mode: e.kind})
	}
	for _, i := range images {
		out = append(out, fuse.DirEntry{Name: i.Name, Ino: d.ino(i), Mode: fuse.S_IFDIR})
	}
	return d.fs.list(ctx, out)
}

// Rmdir removes an image that no box uses.
func (d *imagesDir) Rmdir(_ context.Context, name string) syscall.Errno {
	err := d.fs.rt.RemoveImage(name)
	if err == nil {
		return 0
	}
	errno := toErrno(err)
	if errno != syscall.ENOENT {
		d.fs.rt.Refuse(err)
	}
	return errno
}

// imageDir is the directory of one image.
type imageDir struct {
	dir
	id  imageID
	ino uint64
}

var (
	_ node             = (*imageDir)(nil)
	_ fs.NodeGetattrer = (*imageDir)(nil)
	_ fs.NodeSetattrer = (*imageDir)(nil)
	_ fs.NodeLookuper  = (*imageDir)(nil)
	_ fs.NodeReaddirer = (*imageDir)(nil)
)

// image returns the image of an id, or nil if it was removed.
func (f *FS) image(id imageID) *image.Image {
	if i := f.rt.Images().ByDigest(id.digest); i != nil && idOf(i) == id {
		return i
	}
	return nil
}

func (d *imageDir) stat() (attr, syscall.Errno) {
	i := d.fs.image(d.id)
	if i == nil {
		return attr{}, syscall.ENODEV
	}
	return attr{mode: 0o755, nlink: 2, mtime: i.Pulled, timeout: 0}, 0
}

// Getattr shows the directory as it is.
func (d *imageDir) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(d, out)
}

// Setattr accepts new times only.
func (d *imageDir) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return touchOnly(d, in, out)
}

func (d *imageDir) entries() []entry {
	return []entry{{"info.json", d.ino + 1, fuse.S_IFREG, func() node { return &imageFile{fs: d.fs, id: d.id} }}}
}

// Lookup finds the image's file.
func (d *imageDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return find(ctx, d.EmbeddedInode(), d.entries(), name, out)
}

// Readdir lists the image's file.
func (d *imageDir) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	return list(d.entries()), 0
}

// imageFile is info.json of an image.
type imageFile struct {
	fs.Inode
	fs *FS
	id imageID
}

var (
	_ node             = (*imageFile)(nil)
	_ fs.NodeGetattrer = (*imageFile)(nil)
	_ fs.NodeSetattrer = (*imageFile)(nil)
	_ fs.NodeOpener    = (*imageFile)(nil)
)

// text gives the contents, or nil if the image was removed.
func (f *imageFile) text() (*runtime.Text, *image.Image) {
	i := f.fs.image(f.id)
	if i == nil {
		return nil, nil
	}
	return f.fs.rt.ImageText(i), i
}

func (f *imageFile) stat() (attr, syscall.Errno) {
	text, i := f.text()
	if i == nil {
		return attr{}, syscall.ENODEV
	}
	// Which boxes use it changes without a word.
	return attr{mode: f.fs.mode("info.json", 0o444), nlink: 1, size: int64(len(text.Bytes)), mtime: i.Pulled}, 0
}

// Getattr shows the size and time that an open would find.
func (f *imageFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(f, out)
}

// Setattr accepts new times only.
func (f *imageFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return touchOnly(f, in, out)
}

// Open takes the snapshot that all reads through the handle give.
func (f *imageFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if errno := readOnly(flags); errno != 0 {
		return nil, 0, errno
	}
	text, i := f.text()
	if i == nil {
		return nil, 0, syscall.ENOENT
	}
	lease, errno := f.fs.budget.lease(ctx, len(text.Bytes))
	if errno != 0 {
		return nil, 0, errno
	}
	return &imageHandle{file: f, text: text, lease: lease}, readFlags, 0
}

// imageHandle reads one snapshot.
type imageHandle struct {
	synced
	file  *imageFile
	text  *runtime.Text
	lease lease
}

var (
	_ fs.FileReader   = (*imageHandle)(nil)
	_ fs.FileReleaser = (*imageHandle)(nil)
)

// Read gives the snapshot, or ENODEV once the image is gone.
func (h *imageHandle) Read(_ context.Context, dest []byte, off int64) (fuse.ReadResult, syscall.Errno) {
	if h.file.fs.image(h.file.id) == nil {
		return nil, syscall.ENODEV
	}
	return readAt(h.text.Bytes, dest, off), 0
}

// Release ends the reading.
func (h *imageHandle) Release(context.Context) syscall.Errno {
	h.lease.end()
	return 0
}

// ImagesChanged makes the kernel forget what it holds of images/, and has watchers
// told: MODIFY, since CREATE takes a mkdir through the mount that would find nothing.
func (f *FS) ImagesChanged() {
	if f.early(f.ImagesChanged) {
		return
	}
	f.images.touch()
	if d := f.top.GetChild("images"); d != nil {
		invalidate(d)
		f.notifier.mark(nil, topImages)
	}
}

// ImagesErrorChanged is the same for images/last_error. That is no change of the directory,
// as none of a file in it is.
func (f *FS) ImagesErrorChanged() {
	if f.early(f.ImagesErrorChanged) {
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

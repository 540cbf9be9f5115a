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

// imagesDir is images/, where rmdir removes an image. An image is pulled when a box needs it,
// or by images/ctl.
type imagesDir struct {
	dir
	mu      sync.Mutex // guards what follows; the image store is read under it
	changed time.Time  // when an image last came or went
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
	_ stater           = (*imagesDir)(nil)
	_ fs.NodeLookuper  = (*imagesDir)(nil)
	_ fs.NodeReaddirer = (*imagesDir)(nil)
	_ fs.NodeRmdirer   = (*imagesDir)(nil)
)

// inoImages is where the inode numbers of images begin, far from those of boxes.
const inoImages = 1 << 62

// ino returns the inode number of an image's directory. The next number is that of its file.
// No number is used twice.
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
	return d.own(attr{nlink: 2 + uint32(len(d.fs.rt.Images().List())), mtime: d.changed, timeout: cacheTime})
}

// entries are the files of images/. No image has such a name, since that of an image has an
// @. The ctl belongs to root: a pull uses the daemon's credentials, and takes its disk.
func (d *imagesDir) entries() []entry {
	own := func(name string, mode uint32) place {
		return place{fs: d.fs, of: d.of, name: name, mode: mode}
	}
	return []entry{
		{"ctl", inoImagesCtl, fuse.S_IFREG, func() stater {
			return &ctlFile{node{place: own("ctl", 0o200)}, imagesTarget{d.fs.rt}, d.fs.began}
		}},
		{"last_error", inoImagesError, fuse.S_IFREG, func() stater {
			return &snapshotFile{node{place: own("last_error", 0o444)}, func() (*runtime.Text, attr) {
				s, at := d.fs.rt.ImagesError()
				return line(s), attr{mtime: at, timeout: cacheTime}
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
	shown := &imageDir{dir{node{place: place{fs: d.fs, of: ofImage{d.fs, idOf(i)}, mode: 0o755}}}, idOf(i), d.ino(i)}
	in, errno := enter(ctx, d.EmbeddedInode(), shown, shown.ino, fuse.S_IFDIR, out)
	// The name is not cached. A prune removes an image, and can't make the kernel forget it:
	// an rmdir of an image holds the lock of the directory that this would take.
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
	_ stater           = (*imageDir)(nil)
	_ fs.NodeLookuper  = (*imageDir)(nil)
	_ fs.NodeReaddirer = (*imageDir)(nil)
)

func (d *imageDir) stat() (attr, syscall.Errno) {
	i := d.fs.image(d.id)
	if i == nil {
		return attr{}, syscall.ENODEV
	}
	return d.own(attr{nlink: 2, mtime: i.Pulled})
}

func (d *imageDir) entries() []entry {
	const name = "info.json"
	return []entry{{name, d.ino + 1, fuse.S_IFREG, func() stater {
		p := place{fs: d.fs, of: d.of, name: name, mode: d.fs.mode(name, 0o444)}
		return &snapshotFile{node{place: p}, func() (*runtime.Text, attr) {
			i := d.fs.image(d.id)
			if i == nil {
				return nil, attr{}
			}
			// It is not announced when the boxes that use the image change, so the size
			// is not cached.
			return d.fs.rt.ImageText(i), attr{mtime: i.Pulled}
		}}
	}}}
}

// Lookup finds the image's file.
func (d *imageDir) Lookup(ctx context.Context, name string, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	return find(ctx, d.EmbeddedInode(), d.entries(), name, out)
}

// Readdir lists the image's file.
func (d *imageDir) Readdir(context.Context) (fs.DirStream, syscall.Errno) {
	return list(d.entries()), 0
}

// image returns the image of an id, or nil if it was removed.
func (f *FS) image(id imageID) *image.Image {
	if i := f.rt.Images().ByDigest(id.digest); i != nil && idOf(i) == id {
		return i
	}
	return nil
}

// ofImage: the file is about an image. It belongs to root for good.
type ofImage struct {
	fs *FS
	id imageID
}

func (o ofImage) removed() bool       { return o.fs.image(o.id) == nil }
func (o ofImage) inBox() *runtime.Box { return nil }

func (o ofImage) own(_ string, a attr) (attr, syscall.Errno) {
	if o.removed() {
		return attr{}, syscall.ENODEV
	}
	return a, 0
}

func (o ofImage) setattr(_ string, s stater, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return keepOwner(s, in, out)
}

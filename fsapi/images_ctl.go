package fsapi

import (
	"context"
	"fmt"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/image"
)

// imagesCtlFile is images/ctl, which is root's: what an image is asked for with are the
// daemon's credentials, and it takes the daemon's disk.
type imagesCtlFile struct {
	fs.Inode
	fs *FS
}

var (
	_ node             = (*imagesCtlFile)(nil)
	_ fs.NodeGetattrer = (*imagesCtlFile)(nil)
	_ fs.NodeSetattrer = (*imagesCtlFile)(nil)
	_ fs.NodeOpener    = (*imagesCtlFile)(nil)
)

func (c *imagesCtlFile) stat() (attr, syscall.Errno) {
	return attr{mode: 0o200, nlink: 1, mtime: c.fs.began, timeout: long}, 0
}

// Getattr shows an empty file.
func (c *imagesCtlFile) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	return getattr(c, out)
}

// Setattr accepts new times; a new size is accepted and means nothing.
func (c *imagesCtlFile) Setattr(_ context.Context, _ fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	in.Valid &^= fuse.FATTR_SIZE
	return touchOnly(c, in, out)
}

// Open gives a handle with commands of its own.
func (c *imagesCtlFile) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return c.fs.openCtl(ctx, c, imagesTarget{c.fs.rt}, flags)
}

// imagesTarget is the store of images as what commands are given to.
type imagesTarget struct{ rt *runtime.Runtime }

const imagesVerbs = "pull REFERENCE, prune [all]"

func (t imagesTarget) gone() bool                    { return false }
func (t imagesTarget) Kills() uint64                 { return 0 } // it knows no kill
func (t imagesTarget) verbs() string                 { return imagesVerbs }
func (t imagesTarget) RefuseCommand(err error) error { return t.rt.RefuseImages(err) }

func (t imagesTarget) Do(by runtime.By, c runtime.Command) (*runtime.Completion, error) {
	return t.rt.ImagesDo(by, c)
}

func (t imagesTarget) parse(words []string) (runtime.Command, error) {
	c := runtime.Command{Verb: runtime.Verb(words[0])}
	args := words[1:]
	switch c.Verb {
	case runtime.VerbPull:
		if len(args) != 1 {
			return c, fmt.Errorf("%w: pull takes one reference, like docker://docker.io/library/alpine:3", runtime.ErrInvalid)
		}
		ref, err := image.ParseRef(args[0])
		if err != nil {
			return c, fmt.Errorf("%w: %w", runtime.ErrInvalid, err)
		}
		c.Image = ref
	case runtime.VerbPrune:
		if c.All = len(args) == 1 && args[0] == "all"; len(args) > 0 && !c.All {
			return c, fmt.Errorf("%w: prune takes nothing, or the word all", runtime.ErrInvalid)
		}
	default:
		return c, fmt.Errorf("%w: unknown command %q (%s)", runtime.ErrInvalid, words[0], imagesVerbs)
	}
	return c, nil
}

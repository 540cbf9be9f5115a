package fsapi

import (
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/status"
)

// subject is what a file is about: the daemon, a box, an exec or an image. It determines who
// owns the file. When it is removed the file is of no use any more: an open is ENOENT then,
// and a use of an open file is ENODEV.
type subject interface {
	removed() bool
	// inBox is the box that it is or belongs to, or nil.
	inBox() *runtime.Box
	// own adds the owner, and the mode that it has set, to what the subject's file of that
	// name shows. It gives ENODEV when the subject is removed.
	own(name string, a attr) (attr, syscall.Errno)
	// setattr answers a Setattr of such a file. A new size in it means nothing.
	setattr(name string, s stater, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno
}

// ofDaemon: the file is about the daemon. It belongs to root for good.
type ofDaemon struct{}

func (ofDaemon) removed() bool                              { return false }
func (ofDaemon) inBox() *runtime.Box                        { return nil }
func (ofDaemon) own(_ string, a attr) (attr, syscall.Errno) { return a, 0 }

func (ofDaemon) setattr(_ string, s stater, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	return keepOwner(s, in, out)
}

// keepOwner answers a Setattr of what can't be given away.
func keepOwner(s stater, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		return syscall.EPERM
	}
	return answerSetattr(s, out)
}

// ofBox: the file is about a box. It follows the box's directory unless it was given away
// itself.
type ofBox struct{ box *runtime.Box }

func (o ofBox) removed() bool       { return o.box.Snapshot().Removed }
func (o ofBox) inBox() *runtime.Box { return o.box }

func (o ofBox) own(name string, a attr) (attr, syscall.Errno) {
	s := o.box.Snapshot()
	if s.Removed {
		return attr{}, syscall.ENODEV
	}
	own, ok := s.Owner(name)
	if !ok {
		own.Follows = status.FollowsAll
	}
	if dir, ok := s.Owner(""); ok && name != "" {
		a.follow(name, dir, own)
	}
	if own.Follows&status.FollowsUID == 0 {
		a.uid = own.UID
	}
	if own.Follows&status.FollowsGID == 0 {
		a.gid = own.GID
	}
	if own.Follows&status.FollowsMode == 0 {
		a.mode = own.Mode
	}
	return a, 0
}

// follow gives a box's file the owner and mode that follow from the box's directory. A user
// who may not read the directory may not read the file. A file that not all users may read,
// by the directory's mode or its own, belongs to the directory's owner. ctl and exec do not:
// the right to use the box is given with these files alone.
func (a *attr) follow(name string, dir, own status.Owner) {
	a.mode &= dir.Mode | 0o700
	mode := a.mode
	if own.Follows&status.FollowsMode == 0 {
		mode &= own.Mode
	}
	if mode&0o004 == 0 && name != "ctl" && name != "exec" {
		a.uid, a.gid = dir.UID, dir.GID
	}
}

func (o ofBox) setattr(name string, s stater, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	now := o.box.Snapshot()
	if now.Removed {
		in.Valid &^= fuse.FATTR_SIZE
		return touchOrphan(s, in, out)
	}
	// The directory itself follows nothing.
	follows := status.FollowsAll
	if own, ok := now.Owner(name); ok || name == "" {
		follows = own.Follows
	}
	return giveAway(s, follows, in, out, func(to status.Owner) error { return o.box.SetOwner(name, to) })
}

// ofExec: the file is about an exec. It belongs to the maker of the exec until it is given
// away.
type ofExec struct{ exec *runtime.Exec }

func (o ofExec) removed() bool       { return o.exec.Snapshot().Removed }
func (o ofExec) inBox() *runtime.Box { return o.exec.Box() }

// own also sets the time at which the exec changed last. Nothing is cached: there may be many
// execs, and none lives for long.
func (o ofExec) own(name string, a attr) (attr, syscall.Errno) {
	s := o.exec.Snapshot()
	if s.Removed {
		return attr{}, syscall.ENODEV
	}
	own := s.Owner(name, a.mode)
	a.mode, a.uid, a.gid, a.mtime, a.timeout = own.Mode, own.UID, own.GID, s.Changed, 0
	return a, 0
}

func (o ofExec) setattr(name string, s stater, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if o.removed() {
		return touchOrphan(s, in, out)
	}
	return giveAway(s, 0, in, out, func(to status.Owner) error { return o.exec.SetOwner(name, to) })
}

// giveAway answers a Setattr of a file by setting the owner and mode that it asks for. What it
// does not ask for follows the directory as before.
//
// A user may own a file only because he owns the directory. The kernel lets him chown the file
// to himself, or to the group that it has. That does not make it his for longer than the
// directory.
func giveAway(s stater, follows status.Follows, in *fuse.SetAttrIn, out *fuse.AttrOut, set func(status.Owner) error) syscall.Errno {
	a, errno := s.stat()
	if errno != 0 {
		return errno
	}
	if in.Valid&(fuse.FATTR_MODE|fuse.FATTR_UID|fuse.FATTR_GID) != 0 {
		if !mayGive(&in.Caller, a) {
			return syscall.EPERM
		}
		o := status.Owner{UID: a.uid, GID: a.gid, Mode: a.mode, Follows: follows}
		if uid, ok := in.GetUID(); ok && (in.Caller.Uid == 0 || uid != a.uid) {
			o.UID, o.Follows = uid, o.Follows&^status.FollowsUID
		}
		if gid, ok := in.GetGID(); ok && (in.Caller.Uid == 0 || gid != a.gid) {
			o.GID, o.Follows = gid, o.Follows&^status.FollowsGID
		}
		if mode, ok := in.GetMode(); ok {
			o.Mode, o.Follows = mode&0o777, o.Follows&^status.FollowsMode
		}
		if err := set(o); err != nil {
			return toErrno(err)
		}
	}
	return answerSetattr(s, out)
}

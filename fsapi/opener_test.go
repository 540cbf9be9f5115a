package fsapi

import (
	"context"
	"os"
	"slices"
	"syscall"
	"testing"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// ownedFile is a file that belongs to somebody.
type ownedFile struct {
	fs.Inode
	attr  attr
	errno syscall.Errno
}

func (f *ownedFile) stat() (attr, syscall.Errno) { return f.attr, f.errno }

func TestARightEndsWithItsReason(t *testing.T) {
	self := uint32(os.Getpid())
	for name, c := range map[string]struct {
		uid, gid, pid uint32
		now, then     attr // at the open, and later
		opens         syscall.Errno
		goesOn        syscall.Errno
	}{
		"its owner":                        {uid: 7, gid: 7, now: attr{mode: 0o200, uid: 7}, then: attr{mode: 0o200, uid: 7}},
		"its owner no more":                {uid: 7, gid: 7, now: attr{mode: 0o200, uid: 7}, then: attr{mode: 0o200}, goesOn: syscall.EACCES},
		"its owner, whose right is gone":   {uid: 7, gid: 7, now: attr{mode: 0o200, uid: 7}, then: attr{mode: 0o020, uid: 7, gid: 7}, goesOn: syscall.EACCES},
		"one of its group":                 {uid: 7, gid: 8, now: attr{mode: 0o220, gid: 8}, then: attr{mode: 0o200, gid: 8}, goesOn: syscall.EACCES},
		"one of its group, and no other":   {uid: 7, gid: 8, now: attr{mode: 0o220, gid: 8}, then: attr{mode: 0o202, gid: 8}, goesOn: syscall.EACCES},
		"anybody":                          {uid: 7, gid: 7, now: attr{mode: 0o222}, then: attr{mode: 0o220}, goesOn: syscall.EACCES},
		"its new owner":                    {uid: 7, gid: 7, now: attr{mode: 0o222}, then: attr{mode: 0o200, uid: 7}},
		"root":                             {now: attr{mode: 0o200, uid: 7}, then: attr{uid: 8}},
		"given away between look and open": {uid: 7, gid: 7, now: attr{mode: 0o200}, opens: syscall.EACCES},
		"no process that can be seen":      {uid: 7, gid: 7, now: attr{mode: 0o220, gid: 9}, opens: syscall.EACCES},
		// Its thread has the capabilities of root, in this user namespace.
		"whom no mode holds": {uid: 7, gid: 7, pid: self, now: attr{mode: 0o200}, then: attr{mode: 0o200}},
	} {
		t.Run(name, func(t *testing.T) {
			f := &ownedFile{attr: c.now}
			ctx := fuse.NewContext(context.Background(), &fuse.Caller{Owner: fuse.Owner{Uid: c.uid, Gid: c.gid}, Pid: c.pid})
			g, errno := newGrant(ctx, f, mayWrite)
			if errno != c.opens {
				t.Fatalf("the open: %v", errno)
			}
			if errno != 0 {
				return
			}
			f.attr = c.then
			if errno := toErrno(g.check()); errno != c.goesOn {
				t.Errorf("later: %v", errno)
			}
			f.errno = syscall.ENODEV
			if errno := toErrno(g.check()); errno != syscall.ENODEV {
				t.Errorf("when it is gone: %v", errno)
			}
		})
	}
}

func TestCredentials(t *testing.T) {
	want, err := os.Getgroups()
	must(t, err)
	groups, _ := credentials(os.Getpid())
	for _, id := range want {
		if !slices.Contains(groups, uint32(id)) {
			t.Errorf("group %d is missing in %v", id, groups)
		}
	}
	if groups, caps := credentials(0); groups != nil || caps != 0 {
		t.Errorf("nobody has %v, %x", groups, caps)
	}
}

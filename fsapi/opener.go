package fsapi

import (
	"context"
	"errors"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper/procfs"
	"github.com/boxlitefs/boxlite/runtime"
)

// The kernel checks the right to use a file when it is opened, and never again. That is right
// for a file that is only read. But suppose that a user was given a box, an exec or its
// streams, and has had them taken away. He would go on to use them through the files that he
// has kept open. So these files check at each use whether their opener could open them now.

// The rights to a file, as in the last three bits of a mode.
const (
	mayRead  = 4
	mayWrite = 2
)

// errRevoked says that a file was taken away from its opener.
var errRevoked = errors.New("the file was given to somebody else since it was opened")

// opener is who has opened a file.
type opener struct {
	uid, gid uint32
	groups   []uint32
	override bool // has CAP_DAC_OVERRIDE
}

// grant is the right to use an open file.
type grant struct {
	opener
	file stater
	want uint32
}

// newGrant returns the right of the client that opens a file now. The kernel has checked the
// mode that it knew of. That may have changed meanwhile, so it is checked again.
func newGrant(ctx context.Context, file stater, want uint32) (*grant, syscall.Errno) {
	c, ok := fuse.FromContext(ctx)
	if !ok {
		return nil, syscall.EIO
	}
	g := &grant{opener: opener{uid: c.Uid, gid: c.Gid, override: c.Uid == 0}, file: file, want: want}
	if !g.override {
		// They are read also if the mode lets the client in without its groups: a group may
		// have fewer rights than all others. They are read at the open, as for any file. The
		// thread waits for the answer, so its id stands for no other thread.
		var caps uint64
		g.groups, caps = credentials(int(c.Pid))
		g.override = caps&(1<<unix.CAP_DAC_OVERRIDE) != 0
	}
	return g, toErrno(g.check())
}

// check fails if the file may not be used any more.
func (g *grant) check() error {
	a, errno := g.file.stat()
	switch {
	case errno != 0:
		return runtime.ErrRemoved
	case g.override || g.may(a):
		return nil
	}
	return errRevoked
}

// may reports whether the mode gives the opener the right.
func (g *grant) may(a attr) bool {
	mode := a.mode
	switch {
	case g.uid == a.uid:
		mode >>= 6
	case g.gid == a.gid || slices.Contains(g.groups, a.gid):
		mode >>= 3
	}
	return mode&g.want == g.want
}

// mayGive reports whether a client may change the owner or mode of a file. The kernel has
// checked that with the owner that it knew of. Unlike at an open, it does not ask for the
// present one before: a file that follows its directory may have another by now.
func mayGive(c *fuse.Caller, a attr) bool {
	if c.Uid == 0 || c.Uid == a.uid {
		return true
	}
	_, caps := credentials(int(c.Pid))
	return caps&(1<<unix.CAP_FOWNER|1<<unix.CAP_CHOWN) != 0
}

// credentials returns the supplementary groups of a thread, and its capabilities, as far
// as they count here. A thread that this process cannot see has none.
func credentials(tid int) (groups []uint32, caps uint64) {
	if tid <= 0 {
		return nil, 0
	}
	status, err := procfs.Of(tid).Status()
	if err != nil {
		return nil, 0
	}
	for word := range strings.FieldsSeq(status.Field("Groups")) {
		if id, err := strconv.ParseUint(word, 10, 32); err == nil {
			groups = append(groups, uint32(id))
		}
	}
	if caps, err = strconv.ParseUint(status.Field("CapEff"), 16, 64); err != nil {
		caps = 0
	}
	if caps != 0 && !sameUserNamespace("/proc/"+strconv.Itoa(tid)) {
		caps = 0
	}
	return groups, caps
}

// sameUserNamespace reports whether the capabilities of a thread count in the daemon's user
// namespace.
func sameUserNamespace(task string) bool {
	theirs, err := os.Readlink(task + "/ns/user")
	if err != nil {
		return false
	}
	ours, err := os.Readlink("/proc/self/ns/user")
	return err == nil && theirs == ours
}

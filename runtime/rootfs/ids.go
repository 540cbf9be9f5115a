package rootfs

import (
	"errors"
	"math"
	"runtime"

	"golang.org/x/sys/unix"
)

// IDs is the range of user and group ids on the host that belongs to a box. Base is 0 in the
// box, and the box has the ids below Size.
type IDs struct{ Base, Size uint32 }

// HostIDs are the ids of a box that has those of the host.
var HostIDs = IDs{Size: math.MaxUint32}

// overflowID is shown for an id that the box does not have, as the kernel does in
// a user namespace.
const overflowID = 65534

// has reports whether an id of the host belongs to the box.
func (m IDs) has(host uint32) bool { return host-m.Base < m.Size }

// shown returns what an id of the host is in the box.
func (m IDs) shown(host uint32) uint32 {
	if !m.has(host) {
		return overflowID
	}
	return host - m.Base
}

// given returns what an id of the box is on the host, or EINVAL for one that the box does not
// have.
func (m IDs) given(box uint32) (uint32, error) {
	if box >= m.Size {
		return 0, unix.EINVAL // as in a user namespace
	}
	return m.Base + box, nil
}

// as runs fn with the ids of a caller, as the host has them. A caller whom the box has no id
// for is its root. What fn makes belongs to the caller. It is needed for root too: a file
// system that belongs to the box's user namespace takes no new name from root on the host,
// whom it does not know.
func (r *Root) as(uid, gid uint32, fn func() error) error {
	host := func(id uint32) int {
		if n, err := r.run.IDs.given(id); err == nil {
			return int(n)
		}
		return int(r.run.IDs.Base)
	}
	u, g := host(uid), host(gid)
	if u == 0 && g == 0 {
		return fn()
	}
	runtime.LockOSThread()
	err := assume(u, g)
	if err == nil {
		err = fn()
	}
	if back := assume(0, 0); back != nil {
		return errors.Join(err, back) // the thread ends with its goroutine
	}
	runtime.UnlockOSThread()
	return err
}

// assume gives the thread ids for the file system, and keeps its capabilities.
func assume(uid, gid int) error {
	// The calls give the old id back, and no error.
	_ = unix.Setfsgid(gid)
	_ = unix.Setfsuid(uid)
	if g, _ := unix.SetfsgidRetGid(-1); g != gid {
		return unix.EPERM
	}
	if u, _ := unix.SetfsuidRetUid(-1); u != uid {
		return unix.EPERM
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&head, &sets[0]); err != nil {
		return err
	}
	sets[0].Effective, sets[1].Effective = sets[0].Permitted, sets[1].Permitted
	return unix.Capset(&head, &sets[0])
}

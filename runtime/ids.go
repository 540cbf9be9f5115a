package runtime

import (
	"fmt"

	"github.com/boxlitefs/boxlite/runtime/atomicfile"
	"github.com/boxlitefs/boxlite/runtime/oci"
	"github.com/boxlitefs/boxlite/runtime/rootfs"
)

// The host's user and group ids that containers have.
const (
	// DefaultFirstID and DefaultIDs are the host's ids that containers get, oci.IDs
	// each. They are above those of systemd-nspawn and of /etc/subuid, and no number
	// is negative to a program that takes it for signed.
	DefaultFirstID = 0x7000_0000
	DefaultIDs     = 0x0fff_0000
)

// ownIDs are the ids of the box's containers.
func (b *Box) ownIDs() rootfs.IDs { return rootfs.IDs{Base: b.firstID.Load(), Size: oci.IDs} }

// claimIDs gives the box a range of ids of its own, for as long as it lives.
func (b *Box) claimIDs(r *run) error {
	id, fresh := b.rt.freeIDs(b)
	if id == 0 {
		return fmt.Errorf("no ids are left for another container: %d from %d are in use (boxlited --ids gives it more)", b.rt.opt.IDs, b.rt.opt.FirstID)
	}
	r.firstID = id
	if !fresh {
		return nil
	}
	b.save.Lock()
	defer b.save.Unlock()
	// Before anything on disk is owned by them.
	err := b.saveNow(atomicfile.Atomic, func(s *stateRecord) { s.FirstID = id })
	if err != nil {
		// The next start has to try it again.
		b.mu.Lock()
		b.record.FirstID = 0
		b.firstID.Store(0)
		b.mu.Unlock()
	}
	return err
}

// freeIDs returns the first of the box's ids, 0 if none are left. fresh says that it
// had none before.
func (rt *Runtime) freeIDs(b *Box) (id uint32, fresh bool) {
	rt.ids.Lock()
	defer rt.ids.Unlock()
	if id := b.firstID.Load(); id != 0 {
		return id, false
	}
	// By their number. Those that an earlier daemon gave may be parts of two.
	taken := map[int64]bool{}
	for _, o := range rt.Boxes() {
		if first := int64(o.firstID.Load()); first != 0 {
			n := first - int64(rt.opt.FirstID) + oci.IDs<<16 // not negative, for the division
			taken[n/oci.IDs-1<<16] = true
			taken[(n+oci.IDs-1)/oci.IDs-1<<16] = true
		}
	}
	for n := uint32(0); n+oci.IDs <= rt.opt.IDs; n += oci.IDs {
		if id := rt.opt.FirstID + n; !taken[int64(n/oci.IDs)] {
			b.firstID.Store(id)
			return id, true
		}
	}
	return 0, false
}

package runtime

import (
	"testing"

	"github.com/boxlitefs/boxlite/runtime/oci"
)

func TestNoBoxGetsIDsThatAnotherHasInPart(t *testing.T) {
	rt := testRuntime(t)
	old, err := rt.Create("old")
	must(t, err)
	// An earlier daemon had another range.
	old.firstID.Store(1<<20 + 100)
	rt.opt.FirstID, rt.opt.IDs = 1<<20, 4*oci.IDs
	fresh, err := rt.Create("fresh")
	must(t, err)
	id, _ := rt.freeIDs(fresh)
	if id != 1<<20+2*oci.IDs {
		t.Errorf("got ids from %#x, where %#x to %#x are another's", id, old.firstID.Load(), old.firstID.Load()+oci.IDs-1)
	}
}

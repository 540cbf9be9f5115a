package runtime

import (
	"testing"
	"time"
)

// removal is an Observer that looks at the runtime while a removal is being told.
type removal struct {
	rt    *Runtime
	boxes []string // what Boxes gave
	named bool     // whether the name was still taken
	saved bool     // whether the box's state could be saved
	told  int
}

func (*removal) BoxChanged(*Box, Field) {}
func (*removal) Changed()               {}
func (*removal) ExecChanged(*Exec)      {}
func (*removal) ImagesChanged()         {}
func (*removal) ImagesErrorChanged()    {}
func (*removal) RootClosed(*Box)        {}

func (o *removal) BoxRemoved(b *Box, _ bool) {
	o.told++
	o.boxes = o.boxes[:0]
	for _, other := range o.rt.Boxes() {
		o.boxes = append(o.boxes, other.Name())
	}
	o.named = o.rt.Box(b.Name()) == b
	saved := make(chan struct{})
	go func() {
		b.save.Lock()
		b.save.Unlock() //nolint:staticcheck // that it can be had is all
		close(saved)
	}()
	select {
	case <-saved:
		o.saved = true
	case <-time.After(5 * time.Second):
	}
}

func TestABoxWhoseRemovalIsToldIsCountedNoMore(t *testing.T) {
	rt := testRuntime(t)
	o := &removal{rt: rt}
	rt.opt.Observer = o
	for _, name := range []string{"goes", "stays"} {
		_, err := rt.Create(name)
		must(t, err)
	}
	must(t, rt.Box("goes").Remove())
	rt.work.Wait()
	// Whoever drops what it knows when it is told, and asks again at once, must
	// not get the old count: nothing would make it ask once more.
	if o.told != 1 || len(o.boxes) != 1 || o.boxes[0] != "stays" {
		t.Errorf("told %d times; Boxes gave %v meanwhile, not [stays]", o.told, o.boxes)
	}
	if !o.named {
		t.Error("the name was free for another box before the removal was told")
	}
}

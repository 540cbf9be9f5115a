package runtime

import (
	"fmt"
	"sync"
	"testing"
)

// Boxes are started and adopted beside each other, and each gets its limits.
func TestManyGetLimitsAtOnce(t *testing.T) {
	tree, err := openGroupTree("/boxlite", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer tree.close()
	res := Resources{Pids: 10}
	if err := tree.missing(res); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		g := tree.of(fmt.Sprint("b", i))
		defer func() {
			if err := tree.remove(g); err != nil {
				t.Error(err)
			}
		}()
		wg.Go(func() {
			if err := tree.create(g, res); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

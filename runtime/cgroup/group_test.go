package cgroup

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// The end of a run is told before its group is removed: by then the next run may
// have made its own, which has the same path.
func TestTheGroupOfALaterRunStays(t *testing.T) {
	freezer := t.TempDir() // removed and made as a hierarchy's directory is
	tree := &Tree{dirs: map[string]string{"freezer": freezer}, owner: map[string]*Group{}}
	dir := filepath.Join(freezer, prefix+"x")
	first, second := tree.Of("x", false), tree.Of("x", false)
	must(t, tree.Create(first, Limits{}))
	must(t, tree.Create(second, Limits{}))
	must(t, tree.Remove(first))
	if !exists(dir) {
		t.Fatal("the end of the first run removed the group of the second")
	}
	must(t, tree.Remove(second))
	if exists(dir) {
		t.Error("the group is left")
	}
	// One that an earlier daemon made has no owner here.
	must(t, os.Mkdir(dir, 0o755))
	must(t, tree.Remove(tree.Of("x", false)))
	if exists(dir) {
		t.Error("the group of an adopted run is left")
	}
}

// What a kill still does when its run has ended, and the next has begun, does
// nothing to that.
func TestALateKillSparesTheLaterRun(t *testing.T) {
	tree, err := Open("/boxlite", t.TempDir())
	must(t, err)
	defer tree.Close()
	res := Limits{CPUs: 0.5}
	must(t, tree.Missing(res))
	first, second := tree.Of("x", false), tree.Of("x", false)
	must(t, tree.Create(first, res))
	must(t, tree.Create(second, res))
	defer func() { must(t, tree.Remove(second)) }()
	must(t, second.Freeze(0))
	must(t, first.Thaw())
	must(t, first.Throttle(0))
	if err := first.Freeze(0); !Gone(err) {
		t.Errorf("freeze of a group that is another's: %v", err)
	}
	if frozen, err := second.Frozen(); err != nil || !frozen {
		t.Errorf("it is frozen: %t, %v", frozen, err)
	}
	quota := "cpu.cfs_quota_us"
	if tree.v2 {
		quota = "cpu.max"
	}
	text, err := os.ReadFile(filepath.Join(second.Dirs["cpu"], quota))
	must(t, err)
	if !strings.HasPrefix(string(text), "50000") {
		t.Errorf("the limit of the later run is %s", text)
	}
	must(t, second.Thaw())
	if frozen, err := second.Frozen(); err != nil || frozen {
		t.Errorf("it is still frozen: %t, %v", frozen, err)
	}
}

// Boxes are started and adopted beside each other, and each gets its limits.
func TestManyGetLimitsAtOnce(t *testing.T) {
	tree, err := Open("/boxlite", t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer tree.Close()
	res := Limits{Pids: 10}
	if err := tree.Missing(res); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for i := range 8 {
		g := tree.Of(fmt.Sprint("b", i), false)
		defer func() {
			if err := tree.Remove(g); err != nil {
				t.Error(err)
			}
		}()
		wg.Go(func() {
			if err := tree.Create(g, res); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
}

// The last daemon takes the parent along, and another may just be about to use it.
func TestADaemonThatEndsTakesNothingFromOneThatBegins(t *testing.T) {
	parent := fmt.Sprintf("/boxlite-test-%d", os.Getpid())
	alone, err := Open(parent, t.TempDir())
	must(t, err)
	alone.Close()
	var daemons sync.WaitGroup
	for range 3 {
		state := t.TempDir()
		daemons.Go(func() {
			for range 300 {
				tree, err := Open(parent, state)
				if err != nil {
					t.Error(err)
					return
				}
				tree.Close()
				if len(tree.lack) != len(alone.lack) {
					t.Errorf("it lacks %v, and %v alone", tree.lack, alone.lack)
					return
				}
			}
		})
	}
	daemons.Wait()
}

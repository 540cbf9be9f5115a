package fsapi

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	dto "github.com/prometheus/client_model/go"

	"github.com/boxlitefs/boxlite/fsapi/inotify"
	"github.com/boxlitefs/boxlite/runtime"
)

func TestWatchersOfALogAreToldThatItHasGrown(t *testing.T) {
	f, rt, mnt := notified(t)
	b, err := rt.Create("x")
	must(t, err)
	dir := filepath.Join(mnt, "boxes/x")
	file, all := watch(t, filepath.Join(dir, "log")), watch(t, dir)
	f.BoxChanged(b, runtime.FieldLog)
	see(t, file, filepath.Join(dir, "log")+" MODIFY")
	see(t, all, dir+"/ MODIFY log")
}

// What a directory has is told, whether or not anybody ever looked at the file.
func TestEveryFileOfTheContractIsTold(t *testing.T) {
	f, rt, mnt := notified(t)
	b, err := rt.Create("x")
	must(t, err)
	dir := filepath.Join(mnt, "boxes/x")
	lines := watch(t, dir)
	f.BoxChanged(b, watched|runtime.FieldInfo|runtime.FieldConfig)
	var want []string
	for _, name := range []string{"status", "health", "exit_code", "pid", "last_error", "events", "log"} {
		want = append(want, dir+"/ MODIFY "+name)
	}
	see(t, lines, want...)
	// The others are told when the kernel has them.
	must(t, run(t, "stat", dir+"/info.json", dir+"/config.yaml"))
	f.BoxChanged(b, runtime.FieldInfo|runtime.FieldConfig)
	see(t, lines, dir+"/ MODIFY info.json", dir+"/ MODIFY config.yaml")
}

// removesItself removes a box as one that removed itself, and returns how long that was
// waited for.
func removesItself(t *testing.T, f *FS, b *runtime.Box) time.Duration {
	t.Helper()
	must(t, b.Remove())
	began := time.Now()
	f.BoxRemoved(b, false)
	return time.Since(began)
}

func TestABoxThatRemovedItselfIsDeletedForWatchers(t *testing.T) {
	f, rt, mnt := notified(t)
	b, err := rt.Create("x")
	must(t, err)
	boxes := filepath.Join(mnt, "boxes")
	lines, file := watch(t, boxes), watch(t, boxes+"/x/status")
	removesItself(t, f, b)
	see(t, lines, boxes+"/ DELETE,ISDIR x")
	see(t, file, boxes+"/x/status MODIFY", boxes+"/x/status DELETE_SELF")
	if err := run(t, "stat", boxes+"/x"); err == nil {
		t.Error("the box is still to be seen")
	}
	must(t, run(t, "mkdir", boxes+"/x"))
	see(t, lines, boxes+"/ CREATE,ISDIR x")
}

// stop stops the notifier, and returns how it is let go on.
func stop(t *testing.T) (resume func()) {
	t.Helper()
	p := spawned.Load()
	must(t, p.Signal(syscall.SIGSTOP))
	await(t, "the notifier to stop", func() bool {
		stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.Pid))
		return err == nil && bytes.Contains(stat, []byte(") T "))
	})
	return func() {
		if err := p.Signal(syscall.SIGCONT); err != nil && !errors.Is(err, os.ErrProcessDone) {
			t.Error(err)
		}
	}
}

// working reports whether there is something that the notifier has not done yet.
func (n *notifier) working() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.busy || len(n.deletions) > 0
}

// The notifier's rmdir may come when another box has the name.
func TestAPendingDeletionIsNeverTakenForABox(t *testing.T) {
	f, rt, mnt := notified(t)
	b, err := rt.Create("x")
	must(t, err)
	resume := stop(t)
	if took := removesItself(t, f, b); took < deletionBound {
		t.Errorf("the end of a box is not waited for: %s", took)
	}
	// Together, since the machine may be slow once.
	began := time.Now()
	for _, name := range []string{"y0", "y1", "y2"} {
		b, err := rt.Create(name)
		must(t, err)
		removesItself(t, f, b)
	}
	if took := time.Since(began); took >= 3*deletionBound {
		t.Errorf("a notifier that is known to hang is waited for %s", took)
	}
	boxes := filepath.Join(mnt, "boxes")
	must(t, run(t, "mkdir", boxes+"/x"))
	lines := watch(t, boxes)
	resume()
	await(t, "the rmdir", func() bool { return !f.notifier.working() })
	must(t, run(t, "rmdir", boxes+"/x"))
	must(t, run(t, "mkdir", boxes+"/z"))
	for got := []string(nil); ; {
		line := <-lines
		if got = append(got, line); line != boxes+"/ CREATE,ISDIR z" {
			continue
		}
		var want []string
		for _, event := range []string{"DELETE,ISDIR y0", "DELETE,ISDIR y1", "DELETE,ISDIR y2", "DELETE,ISDIR x", "CREATE,ISDIR z"} {
			want = append(want, boxes+"/ "+event)
		}
		if !slices.Equal(got, want) {
			t.Errorf("watchers saw %q, not %q", got, want)
		}
		return
	}
}

// Nobody but the notifier meets pending deletions and orphans.
func TestRemovedBoxesAreSeenByTheNotifierAlone(t *testing.T) {
	f, rt, mnt := notified(t)
	b, err := rt.Create("x")
	must(t, err)
	resume := stop(t)
	defer resume()
	removesItself(t, f, b)
	for _, argv := range [][]string{{"rmdir", "boxes/x"}, {"stat", "boxes/x"}, {"stat", orphansName}} {
		if err := run(t, argv[0], filepath.Join(mnt, argv[1])); err == nil || !strings.Contains(err.Error(), "No such file or directory") {
			t.Errorf("%v: %v", argv, err)
		}
	}
}

// descriptors counts those of /dev/fuse that this process has.
func descriptors(t *testing.T) (n int) {
	t.Helper()
	links, err := filepath.Glob("/proc/self/fd/*")
	must(t, err)
	for _, link := range links {
		if to, err := os.Readlink(link); err == nil && strings.HasPrefix(to, "/dev/fuse") {
			n++
		}
	}
	return n
}

// A child has all descriptors until it executes its program. If the daemon is killed
// just then, a client would wait for that.
func TestTheNotifierIsStartedBeforeThereIsAMount(t *testing.T) {
	f, rt := open(t)
	before, then := descriptors(t), -1
	f.NotifyBy(func(conn *os.File, args []string) (*os.Process, error) {
		if then < 0 {
			then = descriptors(t)
		}
		return spawnTest(conn, args)
	})
	mounted(t, f, rt)
	if then != before || descriptors(t) == before {
		t.Errorf("descriptors of /dev/fuse: %d, %d when it was started, and now %d", before, then, descriptors(t))
	}
}

func TestTheNotifierEndsIfThereIsNoMount(t *testing.T) {
	f, rt := open(t)
	f.NotifyBy(spawnTest)
	// mountinfo does not know it by this name.
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(t.TempDir(), link))
	if _, err := f.Serve(rt, link); err == nil {
		t.Fatal("mounted")
	}
	if p := f.notifier.process.Load(); p == nil || !p.Ended() {
		t.Error("it was not started, or goes on")
	}
}

func TestANotifierThatHangsIsReplaced(t *testing.T) {
	f, rt, mnt := notified(t)
	b, err := rt.Create("x")
	must(t, err)
	status := filepath.Join(mnt, "boxes/x/status")
	lines := watch(t, status)
	old := spawned.Load()
	stop(t)
	f.BoxChanged(b, runtime.FieldStatus)
	see(t, lines, status+" MODIFY")
	await(t, "the old notifier to be reaped", func() bool {
		return errors.Is(syscall.Kill(old.Pid, 0), syscall.ESRCH)
	})
	if n := f.notifier.replaced.Load(); n != 1 {
		t.Errorf("replaced %d times", n)
	}
}

func TestANotifierThatIsKilledIsReapedAndReplaced(t *testing.T) {
	f, rt, mnt := notified(t)
	b, err := rt.Create("x")
	must(t, err)
	status := filepath.Join(mnt, "boxes/x/status")
	lines := watch(t, status)
	for range 5 {
		p := f.notifier.process.Load()
		must(t, spawned.Load().Kill())
		await(t, "it to be reaped", p.Ended) // with nothing to do, too
		f.BoxChanged(b, runtime.FieldStatus)
		see(t, lines, status+" MODIFY")
	}
}

// A host where none can be started costs neither time nor processor.
func TestANotifierThatCannotStartIsTriedSeldom(t *testing.T) {
	f, rt := open(t)
	tries := make(chan time.Time, 100)
	f.NotifyBy(func(*os.File, []string) (*os.Process, error) {
		tries <- time.Now()
		return nil, syscall.EPERM
	})
	mnt := t.TempDir()
	m, err := f.Serve(rt, mnt)
	must(t, err)
	defer unmount(t, f, m)
	first := <-tries
	await(t, "it to be given up", func() bool { return !f.notifier.working() })
	b, err := rt.Create("x")
	must(t, err)
	must(t, run(t, "stat", filepath.Join(mnt, "boxes/x")))
	f.BoxChanged(b, runtime.FieldStatus)
	second, third := <-tries, <-tries
	if second.Sub(first) < backoffFirst || third.Sub(second) < 2*backoffFirst {
		t.Errorf("tried after %s and %s", second.Sub(first), third.Sub(second))
	}
	if !f.notifier.unavailable.Load() {
		t.Error("it would be waited for")
	}
}

func TestWhatIsToBeToldIsBoundedWithoutANotifier(t *testing.T) {
	f, rt := open(t)
	n := f.notifier
	n.closed, n.busy = false, true // nobody delivers
	n.unavailable.Store(true)
	t.Cleanup(func() { n.closed = true })
	lives, err := rt.Create("lives")
	must(t, err)
	for i := range 2 * orphansMax {
		b := &runtime.Box{} // one a job, and none the same
		n.mark(b, runtime.FieldStatus|runtime.FieldEvents)
		n.noteRemoved(b, []*fs.Inode{{}, {}}, i%2 == 0)
		n.markPaths(lives, []string{fmt.Sprintf("boxes/lives/exec/e%d/status", i)})
	}
	if len(n.dirty) != 1 || len(n.order) != 1 {
		t.Errorf("%d boxes are dirty, and %d in order", len(n.dirty), len(n.order))
	}
	if len(n.queued) > deletionsMax || len(n.deletions) > deletionsMax || len(n.orphans) > orphansMax || len(n.dirty[lives].paths) > pathsMax {
		t.Errorf("%d queued of %d deletions, %d orphans, %d paths", len(n.queued), len(n.deletions), len(n.orphans), len(n.dirty[lives].paths))
	}
	// With one that works nothing is given up.
	n.unavailable.Store(false)
	for range deletionsMax {
		n.noteRemoved(&runtime.Box{}, nil, false)
	}
	if len(n.queued) != 2*deletionsMax {
		t.Errorf("%d removals", len(n.queued))
	}
}

// taken returns the paths of a batch, with what is asked of them.
func taken(b *batch) (out []string) {
	for _, r := range b.requests {
		out = append(out, string(rune(r.Op))+r.Path)
	}
	return out
}

func TestBatches(t *testing.T) {
	f, rt := open(t)
	n := f.notifier
	n.closed, n.busy = false, true // nobody delivers
	t.Cleanup(func() { n.closed = true })
	var boxes []*runtime.Box
	for i := range batchMax {
		b, err := rt.Create(fmt.Sprintf("b%02d", i))
		must(t, err)
		boxes = append(boxes, b)
	}
	x, y := boxes[0], boxes[1]
	n.mark(x, runtime.FieldEvents|runtime.FieldPID)
	n.mark(y, runtime.FieldEvents|runtime.FieldStatus)
	n.mark(x, runtime.FieldEvents|runtime.FieldStatus)
	if n.merged.Load() != 1 {
		t.Errorf("merged %d, not 1", n.merged.Load())
	}
	if b, more := n.take(false); !more || len(b.requests) != 0 {
		t.Errorf("taken before it has settled: %q", taken(b))
	}
	b, _ := n.take(true)
	if want := []string{"Tboxes/b00/status", "Tboxes/b01/status", "Tboxes/b00/pid", "Tboxes/b00/events", "Tboxes/b01/events"}; !slices.Equal(taken(b), want) {
		t.Errorf("took %q, want %q", taken(b), want)
	}
	if _, more := n.take(true); more || n.busy {
		t.Error("what was taken is still dirty")
	}

	n.busy = true
	for _, b := range boxes {
		n.mark(b, runtime.FieldStatus|runtime.FieldPID)
	}
	b, _ = n.take(true)
	urgent, others := 0, 0
	for _, path := range taken(b) {
		if strings.HasSuffix(path, "/status") {
			urgent++
		} else {
			others++
		}
	}
	if urgent != batchMax*3/4 || others != batchMax/4 {
		t.Errorf("a batch with %d urgent and %d others", urgent, others)
	}
	all := map[string]int{}
	for more := true; more; b, more = n.take(true) {
		for _, path := range taken(b) {
			all[path]++
		}
	}
	if len(all) != 2*len(boxes) {
		t.Errorf("%d files were taken, not %d: %v", len(all), 2*len(boxes), all)
	}

	// A box that is gone has no paths any more, and its end comes before all else.
	n.busy = true
	n.mark(x, runtime.FieldStatus)
	n.mark(y, runtime.FieldStatus)
	n.noteRemoved(x, nil, false)
	b, _ = n.take(false)
	if want := []string{"Rboxes/b00"}; !slices.Equal(taken(b), want) {
		t.Errorf("took %q, want %q", taken(b), want)
	}
	b, _ = n.take(true)
	if want := []string{"Tboxes/b01/status"}; !slices.Equal(taken(b), want) {
		t.Errorf("took %q, want %q", taken(b), want)
	}
}

func TestFilesThatOnlyTheNotifierLooksUpAreNotKept(t *testing.T) {
	f, rt, mnt := notified(t)
	var boxes []*runtime.Box
	for i := range 60 {
		b, err := rt.Create(fmt.Sprintf("b%d", i))
		must(t, err)
		boxes = append(boxes, b)
	}
	must(t, run(t, "ls", "-l", filepath.Join(mnt, "boxes")))
	told := func() uint64 {
		var m dto.Metric
		must(t, f.metrics.lag.Write(&m))
		return m.GetHistogram().GetSampleCount()
	}
	before := told()
	kept := func() (n int) {
		for _, d := range f.boxes.Children() {
			n += len(d.Children())
		}
		return n
	}
	for _, b := range boxes {
		f.BoxChanged(b, watched)
	}
	await(t, "all to be told", func() bool { return told()-before >= 60*7 })
	await(t, "the kernel to forget", func() bool { return kept() <= dentriesMax })
	if kept() == 0 {
		t.Error("it keeps none at all")
	}
}

func TestTheLongestPathFitsAMessage(t *testing.T) {
	name := strings.Repeat("x", 64)
	var paths []string
	for _, file := range boxFiles {
		paths = append(paths, "boxes/"+name+"/"+file.name)
	}
	for _, file := range execFiles {
		paths = append(paths, "boxes/"+name+"/exec/"+name+"/"+file.name)
	}
	for _, path := range paths {
		if len(path) > inotify.MaxPath {
			t.Errorf("%s has %d bytes, and a path may have %d", path, len(path), inotify.MaxPath)
		}
	}
}

package fsapi

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/sirupsen/logrus"

	"github.com/boxlitefs/boxlite/runtime"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open returns a filesystem that is not mounted, and the runtime that it observes.
func open(t *testing.T) (*FS, *runtime.Runtime) {
	t.Helper()
	logger := logrus.New()
	logger.SetOutput(t.Output())
	log := logrus.NewEntry(logger)
	f := New("test", log, prometheus.NewRegistry())
	rt, err := runtime.Open(runtime.Options{State: filepath.Join(t.TempDir(), "state"), CgroupParent: "/boxlite", Log: log, Observer: f})
	must(t, err)
	t.Cleanup(func() { must(t, rt.Close(context.Background())) })
	return f, rt
}

// unmount ends a filesystem. Where mounts do not propagate, other processes'
// namespaces may have a copy of the mount, and would keep it.
func unmount(t *testing.T, f *FS, m *Mount) {
	t.Helper()
	f.Close()
	must(t, m.Unmount())
	_, minor, _ := strings.Cut(m.device, ":")
	if err := os.WriteFile("/sys/fs/fuse/connections/"+minor+"/abort", []byte("1"), 0); err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	m.Wait()
}

// size is what the kernel says of a file, asked by another process: one that asks
// its own filesystem would not end if that gave no answer.
func size(t *testing.T, path string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, "stat", "-c", "%s", path).CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("stat %s hangs", path)
	}
	if err != nil {
		return err.Error() + ": " + string(out)
	}
	return strings.TrimSpace(string(out))
}

// The kernel asks, and keeps what it is told, from the mount on; it can be told of
// changes only when fs.Mount has returned. What changes in between must not be lost.
func TestWhatChangesWhileTheMountIsMadeIsToldThen(t *testing.T) {
	f, rt := open(t)
	mnt := t.TempDir()
	for _, name := range []string{"x", "gone"} {
		_, err := rt.Create(name)
		must(t, err)
	}
	m, err := f.Serve(rt, mnt)
	must(t, err)
	t.Cleanup(func() { unmount(t, f, m) })
	paths := map[string]string{}
	for _, path := range []string{"last_error", "boxes/x/last_error", "boxes/gone"} {
		paths[path] = size(t, filepath.Join(mnt, path))
	}

	if !f.serving.CompareAndSwap(true, false) { // as if fs.Mount had not returned
		t.Fatal("mounted, and the kernel cannot be told of changes")
	}
	rt.Refuse(errors.New("something of some length"))
	if err := rt.Box("x").RefuseCommand(errors.New("something of some length")); err == nil {
		t.Fatal("no refusal")
	}
	gone := rt.Box("gone")
	must(t, gone.Remove())
	f.BoxRemoved(gone, false) // as of a box that removes itself
	for path, old := range paths {
		if now := size(t, filepath.Join(mnt, path)); now != old {
			t.Errorf("%s: %s and then %s: the kernel kept nothing, or was told too early", path, old, now)
		}
	}

	f.startServing()
	for path, old := range paths {
		if now := size(t, filepath.Join(mnt, path)); now == old {
			t.Errorf("%s: the kernel still says %s", path, now)
		}
	}
}

func TestNothingIsSentWithoutAServer(t *testing.T) {
	f, rt := open(t)
	b, err := rt.Create("x")
	must(t, err)
	change := func() {
		f.Changed()
		f.BoxChanged(b, runtime.FieldOwner)
		f.BoxRemoved(b, false)
	}
	change()                           // a sent one panics
	fs.NewNodeFS(f.top, &fs.Options{}) // the tree has its root, and no connection
	change()
	if len(f.postponed) != 3 {
		t.Errorf("%d are kept, not 3", len(f.postponed))
	}
}

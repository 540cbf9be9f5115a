package runtime

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

// full makes the disk refuse state.json of a box.
func full(t *testing.T, b *Box) (again func()) {
	t.Helper()
	tmp := filepath.Join(b.dir, "."+stateFile+".tmp")
	if err := os.Remove(tmp); err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	must(t, os.Mkdir(tmp, 0o700))
	return func() { must(t, os.Remove(tmp)) }
}

func TestWhatCouldNotBeWrittenDownIsWrittenByTheNextStart(t *testing.T) {
	rt := testRuntime(t)
	rt.opt.FirstID, rt.opt.IDs = DefaultFirstID, DefaultIDs
	b, err := rt.Create("b")
	must(t, err)
	rt.work.Wait()
	const digest = "sha256:1234"
	again := full(t, b)
	if b.claimIDs(&run{}) == nil || b.useImage(digest) == nil {
		t.Fatal("no error of a full disk")
	}
	again()
	r := &run{}
	must(t, b.claimIDs(r))
	must(t, b.useImage(digest))
	kept, err := load(b.dir, stateFile, decodeState)
	must(t, err)
	if kept == nil || kept.FirstID != r.firstID || kept.Image != digest {
		t.Errorf("on disk: %+v; the box uses ids from %#x, and image %q", kept, r.firstID, digest)
	}
}

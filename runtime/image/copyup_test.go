package image

import (
	"context"
	"errors"
	"os"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestWhatHardLinksLeadToIsCopiedOnceAndNotForever(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	const layer = "low"
	low := s.path("layers/sha256", layer)
	for _, err := range []error{
		os.Mkdir(low, 0o755), os.WriteFile(low+"/a", make([]byte, 600), 0o644), os.Link(low+"/a", low+"/b"), os.WriteFile(low+"/c", make([]byte, 500), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	s.limits.Unpacked = 1000
	dir := t.TempDir()
	var o order
	if err := s.stage(t.Context(), dir, []link{{"a", layer}, {"b", layer}}, &o); err != nil {
		t.Fatal(err)
	}
	a, err := os.Stat(dir + linksRoot + "/0")
	if err != nil {
		t.Fatal(err)
	}
	if b, err := os.Stat(dir + linksRoot + "/1"); err != nil || !os.SameFile(a, b) || a.Size() != 600 {
		t.Errorf("the copies are %v and %v %v", a, b, err)
	}
	dir = t.TempDir()
	if err := s.stage(t.Context(), dir, []link{{"a", layer}, {"c", layer}}, &o); !errors.Is(err, ErrTooBig) {
		t.Errorf("1100 bytes of 1000: %v", err)
	}
	if _, err := os.Lstat(dir + linksRoot + "/1"); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what is too big was copied: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.stage(ctx, t.TempDir(), []link{{"a", layer}}, &o); !errors.Is(err, context.Canceled) {
		t.Errorf("a pull that was cancelled: %v", err)
	}
	if err := copyFile(ctx, low+"/a", dir+"/a"); !errors.Is(err, context.Canceled) {
		t.Errorf("a copy that was cancelled: %v", err)
	}
	if err := os.RemoveAll(low); err != nil {
		t.Fatal(err)
	}
}

func TestTwoNamesOfAFileBelowAreOneFileAbove(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	img := ensure(t, s, srv.push(t, "a:1", imageOf(t, v1.Config{},
		layerOf(t, file("a", "text"), hardlink("b", "a")),
		layerOf(t, hardlink("x", "a"), hardlink("y", "b")))))
	same(t, tree(t, img.Layers[1]), map[string]string{
		".": dirLine, "a": `100644 0:0 "text"`, "b": `100644 0:0 =a "text"`, "x": `100644 0:0 =a "text"`, "y": `100644 0:0 =a "text"`,
	})
	if img.Size != 8 {
		t.Errorf("the image has %d bytes", img.Size)
	}
	nothingHalf(t, s)
}

package image

import (
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
)

// The kernel has the last word on what the layers are together.
func TestOverlayfsUnderstandsTheLayers(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	img := ensure(t, s, srv.push(t, "a:1", imageOf(t, v1.Config{},
		layerOf(t, folder("d"), file("d/gone", "x"), file("d/stays", "low"), folder("o"), file("o/old", "x"), folder("r"), file("r/old", "x"), file("f", "x"), mode(folder("tmp"), 0o1777, 0, 0)),
		layerOf(t, folder("d"), file("d/.wh.gone", ""), folder("o"), file("o/.wh..wh..opq", ""), file("o/new", "n"), file(".wh.r", ""), folder("r"), file("r/new", "n"), file(".wh.f", ""), file("tmp/t", "t")),
	)))
	top := t.TempDir()
	layers := slices.Clone(img.Layers)
	slices.Reverse(layers)
	if err := unix.Mount("overlay", top, "overlay", unix.MS_RDONLY, "lowerdir="+strings.Join(layers, ":")); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(top, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	same(t, tree(t, top), map[string]string{
		".": dirLine, "d": dirLine, "d/stays": `100644 0:0 "low"`, "o": dirLine, "o/new": `100644 0:0 "n"`, "r": dirLine, "r/new": `100644 0:0 "n"`,
		"tmp": "41777 0:0", "tmp/t": `100644 0:0 "t"`,
	})
}

func TestALayerThatHidesAllBelowIsTheLowest(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	img := ensure(t, s, srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("old", "")), layerOf(t, file(".wh..wh..opq", ""), file("new", "")), layerOf(t, file("top", "")))))
	if len(img.Layers) != 2 {
		t.Fatalf("the layers are %q", img.Layers)
	}
	same(t, tree(t, img.Layers[0]), map[string]string{".": dirLine, "new": `100644 0:0 ""`})
}

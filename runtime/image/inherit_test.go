package image

import (
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func TestDirectoriesWithoutAnEntryAreAsBelow(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	base := layerOf(t, mode(folder("./"), 0o711, 0, 0), mode(folder("tmp"), 0o1777, 0, 0), folder("home"), mode(folder("home/u"), 0o700, 1000, 100), folder("usr"), mode(folder("usr/deep"), 0o700, 0, 0))
	plain := layerOf(t, folder("tmp"), folder("home"))
	upper := layerOf(t, file("tmp/x", ""), file("home/u/y", ""), file("usr/deep/z", ""), file("new/dir/f", ""))
	want := func(root, tmp, user, deep string) map[string]string {
		return map[string]string{".": root, "tmp": tmp, "tmp/x": `100644 0:0 ""`, "home": dirLine, "home/u": user, "home/u/y": `100644 0:0 ""`,
			"usr": dirLine, "usr/deep": deep, "usr/deep/z": `100644 0:0 ""`, "new": dirLine, "new/dir": dirLine, "new/dir/f": `100644 0:0 ""`}
	}
	one := ensure(t, s, srv.push(t, "one:1", imageOf(t, v1.Config{}, base, upper)))
	same(t, tree(t, one.Layers[1]), want("40711 0:0", "41777 0:0", "40700 1000:100", "40700 0:0"))
	nothingHalf(t, s)
	two := ensure(t, s, srv.push(t, "two:1", imageOf(t, v1.Config{}, plain, upper)))
	same(t, tree(t, two.Layers[1]), want(dirLine, dirLine, dirLine, dirLine))
	// What a layer between has hidden is not seen.
	gone := layerOf(t, mode(folder("./"), 0o711, 0, 0), file(".wh.home", ""), folder("tmp"), folder("usr"), file("usr/.wh..wh..opq", ""))
	three := ensure(t, s, srv.push(t, "three:1", imageOf(t, v1.Config{}, base, gone, upper)))
	same(t, tree(t, three.Layers[2]), want("40711 0:0", dirLine, dirLine, dirLine))
	// Through a layer that has no entry either.
	four := ensure(t, s, srv.push(t, "four:1", imageOf(t, v1.Config{}, base, layerOf(t, file("tmp/between", "")), upper)))
	same(t, tree(t, four.Layers[1]), map[string]string{".": "40711 0:0", "tmp": "41777 0:0", "tmp/between": `100644 0:0 ""`})
	same(t, tree(t, four.Layers[2]), want("40711 0:0", "41777 0:0", "40700 1000:100", "40700 0:0"))
	if four.Layers[2] != one.Layers[1] || two.Layers[1] == one.Layers[1] {
		t.Errorf("the upper layers are %s, %s, %s", one.Layers[1], two.Layers[1], four.Layers[2])
	}
	for _, i := range []*Image{one, two, three, four} {
		if err := s.Remove(i.Name, nil); err != nil {
			t.Fatal(err)
		}
		nothingHalf(t, s)
	}
}

package image

import (
	"context"
	"errors"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"golang.org/x/sys/unix"
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

func TestAHardLinkToALowerLayerHasItsFile(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	low := layerOf(t, mode(folder("home"), 0o700, 7, 7), mode(pax(file("home/tool", "tool"), "SCHILY.xattr.user.x", "y", "SCHILY.xattr.security.capability", capValue), 0o4755, 5, 6), symlink("home/s", "tool"))
	high := layerOf(t, mode(hardlink("bin/tool", "home/tool"), 0o4755, 5, 6), mode(hardlink("bin/same", "bin/tool"), 0o4755, 5, 6), hardlink("bin/s", "/home/s"))
	img := ensure(t, s, srv.push(t, "a:1", imageOf(t, v1.Config{}, low, layerOf(t, file("between", "")), high)))
	attributes := fmt.Sprintf(" security.capability=%x user.x=79", capValue)
	got := tree(t, img.Layers[2])
	same(t, got, map[string]string{
		".": dirLine, "bin": dirLine, "home": "40700 7:7", "bin/same": `104755 5:6 "tool"` + attributes, "bin/tool": `104755 5:6 =bin/same "tool"` + attributes,
		"home/tool": `104755 5:6 =bin/same "tool"` + attributes, "bin/s": "120777 0:0 -> tool", "home/s": "120777 0:0 -> tool",
	})
	for _, name := range []string{"home/tool", "bin/s"} {
		if fi, err := os.Lstat(img.Layers[2] + "/" + name); err != nil || !fi.ModTime().Equal(someTime) {
			t.Errorf("%s: %v %v", name, fi, err)
		}
	}
	nothingHalf(t, s)
	for name, below := range map[string]v1.Layer{"nowhere": layerOf(t, folder("home")), "removed": layerOf(t, folder("home"), file("home/.wh.tool", ""), file("home/.wh.s", ""))} {
		if err := refuse(t, s, srv.push(t, name+":1", imageOf(t, v1.Config{}, low, below, layerOf(t, hardlink("a", "home/nothing"))))); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), `hard link to "home/nothing"`) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := refuse(t, s, srv.push(t, "removed:2", imageOf(t, v1.Config{}, low, layerOf(t, file("home/.wh.tool", "")), high))); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	nothingHalf(t, s)
	// A link on the way is not followed out of the layer.
	canary := t.TempDir()
	if err := os.WriteFile(canary+"/file", []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := refuse(t, s, srv.push(t, "out:1", imageOf(t, v1.Config{}, layerOf(t, symlink("l", canary)), layerOf(t, hardlink("h", "l/file"))))); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

func TestAWhiteoutOfNothingIsLeftOut(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	base := layerOf(t, folder("d"), file("d/a", "a"), folder("e"), file("e/x", "x"), file(".wh.never", ""))
	upper := layerOf(t, folder("d"), file("d/.wh.a", ""), file("d/.wh.b", ""), folder("own"), file("own/.wh.c", ""), file(".wh.e", ""), file("own/f", "f"))
	one := ensure(t, s, srv.push(t, "one:1", imageOf(t, v1.Config{}, base, upper)))
	same(t, tree(t, one.Layers[0]), map[string]string{".": dirLine, "d": dirLine, "d/a": `100644 0:0 "a"`, "e": dirLine, "e/x": `100644 0:0 "x"`})
	same(t, tree(t, one.Layers[1]), map[string]string{".": dirLine, "d": dirLine, "d/a": "20000 0:0 0/0", "own": dirLine, "own/f": `100644 0:0 "f"`, "e": "20000 0:0 0/0"})
	// It is another on another base.
	two := ensure(t, s, srv.push(t, "two:1", imageOf(t, v1.Config{}, layerOf(t, folder("own"), file("own/c", "c"), folder("d"), file("d/b", "b")), upper)))
	same(t, tree(t, two.Layers[1]), map[string]string{".": dirLine, "d": dirLine, "d/b": "20000 0:0 0/0", "own": dirLine, "own/c": "20000 0:0 0/0", "own/f": `100644 0:0 "f"`})
	nothingHalf(t, s)
}

func TestALayerThatIsListedTwiceIsOne(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	a, b := layerOf(t, file("f", "a")), layerOf(t, file("f", "b"), file("g", "b"))
	img := ensure(t, s, srv.push(t, "a:1", imageOf(t, v1.Config{}, a, b, a)))
	if len(img.Layers) != 2 || img.Size != 3 {
		t.Fatalf("%+v", img)
	}
	same(t, tree(t, img.Layers[0]), map[string]string{".": dirLine, "f": `100644 0:0 "b"`, "g": `100644 0:0 "b"`})
	same(t, tree(t, img.Layers[1]), map[string]string{".": dirLine, "f": `100644 0:0 "a"`})
	if err := s.Remove(img.Name, nil); err != nil {
		t.Fatal(err)
	}
	nothingHalf(t, s)
}

func TestWhiteoutsOfAnImageAreBounded(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	base := layerOf(t, file("a", ""), file("b", ""), file("c", ""))
	two, one := layerOf(t, file(".wh.a", ""), file(".wh.b", "")), layerOf(t, file(".wh.c", ""))
	within, beyond := srv.push(t, "within:1", imageOf(t, v1.Config{}, base, two)), srv.push(t, "beyond:1", imageOf(t, v1.Config{}, base, two, one))
	s.limits.Whiteouts = 2
	img := ensure(t, s, within)
	if err := refuse(t, s, beyond); !errors.Is(err, ErrTooBig) || !strings.Contains(err.Error(), "more than 2 whiteouts together") {
		t.Error(err)
	}
	// What the unpacker has counted is not relied on.
	s.limits.Whiteouts = 1
	info := layerInfo{ID: img.ids[1], Whiteouts: new(1)}
	if _, err := s.baseOf(t.Context(), nil, info); !errors.Is(err, ErrTooBig) {
		t.Error(err)
	}
}

func TestTheSearchOfLayersEndsWithThePull(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	img := ensure(t, s, srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("d/a", "")), layerOf(t, file("d/.wh.a", "")))))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	below, info := []layerInfo{{ID: img.ids[0]}}, layerInfo{ID: img.ids[1], Whiteouts: new(1)}
	if _, _, err := s.lookup(ctx, below, "d/a"); !errors.Is(err, context.Canceled) {
		t.Errorf("lookup: %v", err)
	}
	if _, err := s.whiteouts(ctx, info); !errors.Is(err, context.Canceled) {
		t.Errorf("whiteouts: %v", err)
	}
	if _, err := s.baseOf(ctx, below, info); !errors.Is(err, context.Canceled) {
		t.Errorf("baseOf: %v", err)
	}
}

// TestWhiteoutsThatAnOlderVersionLeftAreLeftOut: it counted none, and left them where there is
// nothing that they could take away.
func TestWhiteoutsThatAnOlderVersionLeftAreLeftOut(t *testing.T) {
	srv, dir := serve(t), t.TempDir()
	s := open(t, dir, Options{})
	base := layerOf(t, folder("d"), file("d/a", "a"), folder("o"), file("o/a", "a"), folder("own"))
	upper := layerOf(t, folder("d"), file("d/.wh.a", ""), file("d/.wh.b", ""), folder("o"), file("o/.wh..wh..opq", ""), file("o/.wh.a", ""), file("own/.wh.c", ""))
	lower := layerOf(t, folder("own"), file("own/c", "c"), folder("d"), file("d/a", "a"), file("d/b", "b"), folder("o"), file("o/a", "a"))
	old := ensure(t, s, srv.push(t, "old:1", imageOf(t, v1.Config{}, lower, upper)))
	// As an older version would have it.
	if err := unix.Mknod(old.Layers[1]+"/o/a", unix.S_IFCHR, 0); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.recordPath(old.Digest))
	if err != nil {
		t.Fatal(err)
	}
	counted := regexp.MustCompile(`,\s*"whiteouts": \d`)
	if n := len(counted.FindAll(b, -1)); n != 2 {
		t.Fatalf("%d layers of 2 are counted: %s", n, b)
	}
	if err := os.WriteFile(s.recordPath(old.Digest), counted.ReplaceAll(b, nil), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	want := map[string]string{".": dirLine, "d": dirLine, "d/a": "20000 0:0 0/0", "o": dirLine + " trusted.overlay.opaque=79", "own": dirLine}
	img := ensure(t, s, srv.push(t, "new:1", imageOf(t, v1.Config{}, base, upper)))
	same(t, tree(t, img.Layers[1]), want)
	// Of the same layers with another configuration: nothing but what the layer itself hides is left out.
	want["d/b"], want["own/c"] = want["d/a"], want["d/a"]
	again := ensure(t, s, srv.push(t, "again:1", imageOf(t, someConfig(), lower, upper)))
	same(t, tree(t, again.Layers[1]), want)
	// They count.
	s.limits.Whiteouts = 2
	if err := refuse(t, s, srv.push(t, "many:1", imageOf(t, v1.Config{User: "1"}, lower, upper))); !errors.Is(err, ErrTooBig) {
		t.Error(err)
	}
	nothingHalf(t, s)
}

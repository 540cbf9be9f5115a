package image

import (
	"path/filepath"
	"slices"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
)

// TestAReferenceToALayoutIsThatOfItsText: which of its colons is between the path and the name
// only the disk can tell, and the next daemon must find what it has kept without asking it.
func TestAReferenceToALayoutIsThatOfItsText(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "img")
	l, err := layout.Write(path, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	// Some are the same when they are taken for paths.
	names := []string{"plain", "docker.io/library/one:1", "a:b/c", "a:b//c", "a:b/./c", "x/../a:b/c", "two:2", "2@3:4"}
	want := map[string]string{}
	for _, name := range names {
		img := imageOf(t, v1.Config{Labels: map[string]string{"name": name}}, layerOf(t, file("f", name)))
		if err := l.AppendImage(img, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": name})); err != nil {
			t.Fatal(err)
		}
		want[name] = digestOf(t, img)
	}
	s := open(t, filepath.Join(dir, "images"), Options{})
	check := func(when string) {
		t.Helper()
		for _, name := range names {
			ref := parse(t, "oci:"+path+":"+name)
			if got := refsOf(t, s, want[name]); !slices.Equal(got, []string{ref.text}) {
				t.Errorf("%s the references of %s are %q", when, name, got)
			}
			for _, ref := range []Ref{ref, ref.located()} {
				img, release, err := s.known(ref)
				if img == nil || err != nil || img.Digest != want[name] {
					t.Errorf("%s %s is %+v, %v", when, name, img, err)
				}
				if release != nil {
					release()
				}
			}
		}
	}
	for _, name := range names {
		ref := parse(t, "oci:"+path+":"+name)
		for _, img := range []*Image{ensure(t, s, ref), refresh(t, s, ref), refresh(t, s, ref)} {
			if img.Digest != want[name] {
				t.Errorf("%s is %s, and not %s", name, img.Digest, want[name])
			}
		}
	}
	check("before the end")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, filepath.Join(dir, "images"), Options{})
	check("after it")
}

// TestAReferenceThatARecordHasTwiceIsKept: it is no other image that has it already.
func TestAReferenceThatARecordHasTwiceIsKept(t *testing.T) {
	srv, dir := serve(t), t.TempDir()
	s := open(t, dir, Options{})
	ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("f", ""))))
	img := ensure(t, s, ref)
	s.mu.Lock()
	r := s.recordOf(img)
	s.mu.Unlock()
	r.Refs = append(r.Refs, ref.text)
	if err := s.write(r); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	srv.Close()
	if again := ensure(t, s, ref); again.Digest != img.Digest || !slices.Equal(again.Refs, []string{ref.text}) {
		t.Errorf("it is %+v", again)
	}
}

package image

import (
	"context"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
)

func someConfig() v1.Config {
	return v1.Config{
		Entrypoint: []string{"/bin/sh"}, Cmd: []string{"-c", "true"}, Env: []string{"PATH=/bin", "A=b"}, User: "7:8", WorkingDir: "/w",
		StopSignal: "SIGINT", Labels: map[string]string{"k": "v"},
	}
}

func TestAnImageIsPulledFromARegistry(t *testing.T) {
	srv, dir := serve(t), t.TempDir()
	var changed atomic.Int32
	s := open(t, dir, Options{Changed: func() { changed.Add(1) }})
	low, high := layerOf(t, folder("etc"), file("etc/a", "low"), file("etc/b", "b")), layerOf(t, folder("etc"), file("etc/a", "high"), file("etc/.wh.b", ""))
	made := imageOf(t, someConfig(), low, high)
	ref := srv.push(t, "some/busybox:1", made)
	img := ensure(t, s, ref)
	digest := digestOf(t, made)
	if want := "busybox@" + strings.TrimPrefix(digest, "sha256:")[:12]; img.Name != want || img.Digest != digest {
		t.Errorf("it is %s %s, and not %s %s", img.Name, img.Digest, want, digest)
	}
	if !slices.Equal(img.Entrypoint, []string{"/bin/sh"}) || !slices.Equal(img.Cmd, []string{"-c", "true"}) || !slices.Equal(img.Env, []string{"PATH=/bin", "A=b"}) ||
		img.User != "7:8" || img.WorkingDir != "/w" || img.StopSignal != "SIGINT" || img.Labels["k"] != "v" || !img.Created.Equal(someTime) ||
		!slices.Equal(img.Refs, []string{ref.String()}) || img.Size != int64(len("low")+len("b")+len("high")) || time.Since(img.Pulled) > time.Minute {
		t.Errorf("it is %+v", img)
	}
	if len(img.Layers) != 2 {
		t.Fatalf("its layers are %q", img.Layers)
	}
	for n, want := range []map[string]string{
		{".": "40755 0:0", "etc": "40755 0:0", "etc/a": `100644 0:0 "low"`, "etc/b": `100644 0:0 "b"`},
		{".": "40755 0:0", "etc": "40755 0:0", "etc/a": `100644 0:0 "high"`, "etc/b": "20000 0:0 0/0"},
	} {
		same(t, tree(t, img.Layers[n]), want)
	}
	if got := s.List(); len(got) != 1 || got[0] != img || s.Get(img.Name) != img || s.ByDigest(digest) != img {
		t.Errorf("the store has %v", got)
	}
	if changed.Load() != 1 {
		t.Errorf("changed %d times", changed.Load())
	}
	nothingHalf(t, s)
	if fi, err := os.Stat(dir); err != nil || fi.Mode().Perm() != 0o700 && fi.Mode().Perm() != 0o755 {
		t.Errorf("%v %v", fi.Mode(), err)
	}

	// The reference is known now: nobody asks for it, also not after a restart.
	srv.Close()
	if again := ensure(t, s, ref); again != img {
		t.Errorf("it is another now: %+v", again)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	again := ensure(t, s, ref)
	if again.Name != img.Name || !slices.Equal(again.Layers, img.Layers) || again.Size != img.Size || !again.Pulled.Equal(img.Pulled) || again.StopSignal != "SIGINT" {
		t.Errorf("after a restart it is %+v", again)
	}
}

func same(t *testing.T, got, want map[string]string) {
	t.Helper()
	for name, line := range want {
		if got[name] != line {
			t.Errorf("%s is %q, and not %q", name, got[name], line)
		}
	}
	for name, line := range got {
		if _, ok := want[name]; !ok {
			t.Errorf("%s (%s) should not be there", name, line)
		}
	}
}

func TestManyWantOneImageAtOnce(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	ref := srv.push(t, "busybox:1", imageOf(t, someConfig(), layerOf(t, file("a", "a")), layerOf(t, file("b", "b")), layerOf(t, file("c", "c"))))
	// No blob is answered before all wait.
	var waiting sync.WaitGroup
	waiting.Add(8)
	srv.on(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			waiting.Wait()
		}
		return false
	})
	images, errs := make([]*Image, 8), make([]error, 8)
	var all sync.WaitGroup
	for n := range images {
		all.Go(func() {
			go func() {
				// Each is a waiter of the pull by then.
				for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline) && s.waiters(ref) < n+1; {
					time.Sleep(time.Millisecond)
				}
				waiting.Done()
			}()
			var release func()
			if images[n], release, errs[n] = s.Ensure(context.Background(), ref, nil); errs[n] == nil {
				release()
			}
		})
	}
	all.Wait()
	for n := range images {
		if errs[n] != nil || images[n] != images[0] {
			t.Errorf("%d: %v %v", n, images[n], errs[n])
		}
	}
	if blobs, most := srv.got("blobs"); blobs != 4 || most != 1 {
		t.Errorf("%d blobs were asked for, one %d times; they are 4", blobs, most)
	}
	if manifests, _ := srv.got("manifests"); manifests != 1 {
		t.Errorf("the manifest was asked for %d times", manifests)
	}
}

// waiters returns how many wait for a pull.
func (s *Store) waiters(ref Ref) int {
	s.pulls.mu.Lock()
	defer s.pulls.mu.Unlock()
	if c := s.pulls.current[ref.key()]; c != nil {
		return c.waiters
	}
	return 0
}

func TestLayersAreSharedByImages(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	base := layerOf(t, file("base", "base"))
	a := srv.push(t, "a:1", imageOf(t, v1.Config{}, base, layerOf(t, file("a", "a"))))
	b := srv.push(t, "b:1", imageOf(t, v1.Config{}, base, layerOf(t, file("b", "b"))))
	var images [2]*Image
	var all sync.WaitGroup
	for n, ref := range []Ref{a, b} {
		all.Go(func() { images[n] = ensure(t, s, ref) })
	}
	all.Wait()
	if images[0].Layers[0] != images[1].Layers[0] {
		t.Errorf("the common layer is %s and %s", images[0].Layers[0], images[1].Layers[0])
	}
	h, err := base.Digest()
	if err != nil {
		t.Fatal(err)
	}
	srv.mu.Lock()
	n := 0
	for path, times := range srv.gets {
		if strings.HasSuffix(path, h.String()) {
			n += times
		}
	}
	srv.mu.Unlock()
	if n != 1 {
		t.Errorf("the common layer was asked for %d times", n)
	}
	if err := s.Remove(images[0].Name, nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(images[1].Layers[0] + "/base"); err != nil {
		t.Errorf("the layer of the other image is gone: %v", err)
	}
	if _, err := os.Stat(images[0].Layers[1]); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the layer of no image is there: %v", err)
	}
	nothingHalf(t, s)
	if err := s.Remove(images[1].Name, nil); err != nil {
		t.Fatal(err)
	}
	nothingHalf(t, s)
	if len(s.List()) != 0 {
		t.Errorf("there is %v", s.List())
	}
}

func TestAnImageInUseIsNotRemoved(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("a", "a"))))
	img, release, err := s.Ensure(context.Background(), ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	var in *InUseError
	if err := s.Remove(img.Name, nil); !errors.Is(err, ErrInUse) || !errors.As(err, &in) || in.Name != img.Name {
		t.Errorf("with a lease: %v", err)
	}
	release()
	release() // means nothing
	err = s.Remove(img.Name, func(digest string) (string, bool) { return `box "web"`, digest == img.Digest })
	if !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), `box "web"`) {
		t.Errorf("with a box: %v", err)
	}
	if _, err := os.Stat(img.Layers[0] + "/a"); err != nil {
		t.Error(err)
	}
	if err := s.Remove(img.Name, func(string) (string, bool) { return "", false }); err != nil {
		t.Error(err)
	}
	if err := s.Remove(img.Name, nil); !errors.Is(err, ErrNotFound) {
		t.Errorf("removed again: %v", err)
	}
	if s.Get(img.Name) != nil || s.ByDigest(img.Digest) != nil {
		t.Error("it is known")
	}
	ensure(t, s, ref) // comes again
}

func TestLayoutsAndArchives(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "images"), Options{})
	img := imageOf(t, someConfig(), layerOf(t, file("a", "a")), layerOf(t, file("b", "b")))
	path := filepath.Join(dir, "up:per", "lay+out")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	l, err := layout.Write(path, empty.Index)
	if err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"one", "two"} {
		annotated, ok := mutate.Annotations(img, map[string]string{"tag": tag}).(v1.Image)
		if !ok {
			t.Fatal("no image")
		}
		if err := l.AppendImage(annotated, layout.WithAnnotations(map[string]string{"org.opencontainers.image.ref.name": tag})); err != nil {
			t.Fatal(err)
		}
	}
	one, two := ensure(t, s, parse(t, "oci:"+path+":one")), ensure(t, s, parse(t, "oci:"+path+":two"))
	if one == two || !strings.HasPrefix(one.Name, "lay_out@") || one.Layers[0] != two.Layers[0] {
		t.Errorf("they are %+v and %+v", one, two)
	}
	if err := refuse(t, s, parse(t, "oci:"+path+":three")); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), `only "one", "two"`) {
		t.Error(err)
	}
	if err := refuse(t, s, parse(t, "oci:"+path)); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "give a tag") {
		t.Error(err)
	}
	if err := refuse(t, s, parse(t, "oci:"+dir)); !errors.Is(err, ErrNotFound) {
		t.Error(err)
	}
	file := filepath.Join(dir, "file.tar")
	if err := tarball.WriteToFile(file, name.MustParseReference("x:1"), img); err != nil {
		t.Fatal(err)
	}
	archive := ensure(t, s, parse(t, "docker-archive:"+file))
	if !strings.HasPrefix(archive.Name, "file.tar@") || archive.Layers[0] != one.Layers[0] || !slices.Equal(archive.Entrypoint, one.Entrypoint) {
		t.Errorf("it is %+v", archive)
	}
	nothingHalf(t, s)
	if err := refuse(t, s, parse(t, "docker-archive:"+dir+"/none")); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	if err := refuse(t, s, parse(t, "docker-archive:/bin/busybox")); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "docker save") {
		t.Error(err)
	}
	// A compressed one has a bound of its own, and leaves nothing beside the store.
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file+".gz", zipped(t, b), 0o600); err != nil {
		t.Fatal(err)
	}
	s.limits.Archive = int64(len(b)) - 1
	if err := refuse(t, s, parse(t, "docker-archive:"+file+".gz")); !errors.Is(err, ErrTooBig) || !strings.Contains(err.Error(), "when it is decompressed") {
		t.Error(err)
	}
	nothingHalf(t, s)
	s.limits.Archive++
	if img := ensure(t, s, parse(t, "docker-archive:"+file+".gz")); img.Digest != archive.Digest {
		t.Errorf("it is %+v", img)
	}
	nothingHalf(t, s)
}

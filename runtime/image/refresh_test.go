package image

import (
	"context"
	"errors"
	"net/http"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

func refresh(t *testing.T, s *Store, ref Ref) *Image {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	img, release, err := s.Refresh(ctx, ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	release()
	return img
}

// refsOf returns what the store says that an image is known by.
func refsOf(t *testing.T, s *Store, digest string) []string {
	t.Helper()
	i := s.ByDigest(digest)
	if i == nil {
		t.Fatalf("%s is gone", digest)
	}
	return i.Refs
}

func TestAReferenceMovesToTheNewImage(t *testing.T) {
	srv, dir := serve(t), t.TempDir()
	s := open(t, dir, Options{})
	base := layerOf(t, file("base", "base"))
	ref := srv.push(t, "a:latest", imageOf(t, v1.Config{}, base, layerOf(t, file("v", "1"))))
	other := parse(t, "docker://"+srv.host+"/a:one")
	srv.push(t, "a:one", imageOf(t, v1.Config{}, base, layerOf(t, file("v", "1"))))
	first := ensure(t, s, ref)
	if ensure(t, s, other).Digest != first.Digest {
		t.Fatal("the same image is another")
	}

	if got := refresh(t, s, ref); got.Digest != first.Digest {
		t.Errorf("nothing is new, and it is %s", got.Name)
	}
	second := imageOf(t, v1.Config{}, base, layerOf(t, file("v", "2")))
	srv.push(t, "a:latest", second)
	if got := ensure(t, s, ref); got.Digest != first.Digest {
		t.Errorf("a known reference was asked for: %s", got.Name)
	}
	got := refresh(t, s, ref)
	if got.Digest != digestOf(t, second) {
		t.Fatalf("it is %s still", got.Name)
	}
	check := func(s *Store, when string) {
		t.Helper()
		if refs := refsOf(t, s, got.Digest); !slices.Equal(refs, []string{ref.String()}) {
			t.Errorf("%s: the new one is known by %q", when, refs)
		}
		if refs := refsOf(t, s, first.Digest); !slices.Equal(refs, []string{other.String()}) {
			t.Errorf("%s: the old one is known by %q", when, refs)
		}
		if i := ensure(t, s, ref); i.Digest != got.Digest {
			t.Errorf("%s: it is %s", when, i.Name)
		}
		if i := ensure(t, s, other); i.Digest != first.Digest {
			t.Errorf("%s: the other reference is %s", when, i.Name)
		}
	}
	check(s, "at once")

	// Without power after the first of the two writes, both records have it.
	old, err := os.ReadFile(s.recordPath(first.Digest))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	check(s, "after a restart")
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	both := strings.Replace(string(old), `"refs": [`, `"refs": [ "`+ref.String()+`",`, 1)
	if err := os.WriteFile(s.recordPath(first.Digest), []byte(both), 0o600); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	check(s, "after a crash")

	// And back, as a registry may: the older image is the newer now.
	srv.push(t, "a:latest", imageOf(t, v1.Config{}, base, layerOf(t, file("v", "1"))))
	if got := refresh(t, s, ref); got.Digest != first.Digest {
		t.Errorf("it is %s still", got.Name)
	}
	if refs := refsOf(t, s, got.Digest); len(refs) != 0 {
		t.Errorf("it has %q still", refs)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s = open(t, dir, Options{}); ensure(t, s, ref).Digest != first.Digest {
		t.Error("after a restart it is another again")
	}
	nothingHalf(t, s)
}

func TestNewestMakesDoWithWhatIsHere(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	ref := srv.push(t, "a:latest", imageOf(t, v1.Config{}, layerOf(t, file("v", "1"))))
	first := ensure(t, s, ref)
	srv.on(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			w.WriteHeader(http.StatusForbidden)
			return true
		}
		return false
	})
	img, release, err := s.Newest(t.Context(), ref, nil)
	if img == nil || img.Digest != first.Digest || err == nil || !strings.Contains(err.Error(), "does not let us have it") {
		t.Fatalf("%v %v", img, err)
	}
	release()
	if _, _, err := s.Refresh(t.Context(), ref, nil); err == nil {
		t.Error("Refresh makes do with it")
	}
	if img, _, err := s.Newest(t.Context(), parse(t, "docker://"+srv.host+"/b:1"), nil); img != nil || err == nil {
		t.Errorf("%v %v", img, err)
	}
}

func TestARefreshAsksAnew(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	ref := srv.push(t, "a:latest", imageOf(t, v1.Config{}, layerOf(t, file("v", "1"))))
	second := imageOf(t, v1.Config{}, layerOf(t, file("v", "2")))
	// The first pull has asked what the reference means, and has still to fetch it, when
	// there is a new one.
	asked, published := make(chan struct{}), make(chan struct{})
	var held atomic.Bool
	srv.on(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet && strings.Contains(r.URL.Path, "/blobs/") && held.CompareAndSwap(false, true) {
			close(asked)
			<-published
		}
		return false
	})
	done := make(chan error, 1)
	go func() {
		_, _, err := s.Refresh(t.Context(), ref, nil)
		done <- err
	}()
	defer close(published)
	<-asked
	srv.on(nil)
	srv.push(t, "a:latest", second)
	if got := refresh(t, s, ref); got.Digest != digestOf(t, second) {
		t.Errorf("the new one is not seen: %s", got.Name)
	}
	published <- struct{}{}
	if err := <-done; err != nil {
		t.Error(err)
	}
}

func TestPrune(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	base := layerOf(t, file("base", "base"))
	ref := srv.push(t, "a:latest", imageOf(t, v1.Config{}, base, layerOf(t, file("v", "1"))))
	first := ensure(t, s, ref)
	srv.push(t, "a:latest", imageOf(t, v1.Config{}, base, layerOf(t, file("v", "2"))))
	second := refresh(t, s, ref)
	srv.push(t, "a:latest", imageOf(t, v1.Config{}, base, layerOf(t, file("v", "3"))))
	third := refresh(t, s, ref)
	used := func(digest string) (string, bool) { return `box "b"`, digest == first.Digest }
	removed, err := s.Prune(false, used)
	if err != nil || !slices.Equal(removed, []string{second.Name}) {
		t.Fatalf("%q %v", removed, err)
	}
	if s.ByDigest(first.Digest) == nil || s.ByDigest(third.Digest) == nil || s.ByDigest(second.Digest) != nil {
		t.Error("the wrong ones are left")
	}
	removed, err = s.Prune(true, used)
	if err != nil || !slices.Equal(removed, []string{third.Name}) {
		t.Fatalf("%q %v", removed, err)
	}
	if err := s.Remove(first.Name, used); !errors.Is(err, ErrInUse) || !strings.Contains(err.Error(), `box "b"`) {
		t.Error(err)
	}
	if removed, err = s.Prune(true, nil); err != nil || len(removed) != 1 {
		t.Errorf("%q %v", removed, err)
	}
}

package image

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
)

// closes fails if the end of a store takes as long as what it must not wait for, or a caller
// of it waits for that.
func closes(t *testing.T, s *Store, ended <-chan error) {
	t.Helper()
	began := time.Now()
	if err := s.Close(); err != nil {
		t.Error(err)
	}
	select {
	case err := <-ended:
		if !errors.Is(err, ErrClosed) {
			t.Errorf("the pull: %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("who wants the image waits for the disk")
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it took %v", took)
	}
}

// TestTheEndDoesNotWaitForTheDisk: nor does who has waited for it change anything after, when
// the directory may be the next daemon's.
func TestTheEndDoesNotWaitForTheDisk(t *testing.T) {
	srv := serve(t)
	ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("f", "f"))))
	names := func(s *Store) (names []string) {
		for _, dir := range []string{"blobs", "partial", "images", "layers/sha256", "tmp", "trash"} {
			found, err := os.ReadDir(s.path(dir))
			if err != nil {
				t.Fatal(err)
			}
			for _, e := range found {
				names = append(names, filepath.Join(dir, e.Name()))
			}
		}
		return names
	}
	for n, what := range []string{"of a blob", "of all layers", "of the record"} {
		s := open(t, t.TempDir(), Options{})
		waits, answer := make(chan struct{}), make(chan struct{})
		var syncs atomic.Int32
		s.disk = func(sync func() error) error {
			if int(syncs.Add(1)) == n+1 {
				close(waits)
				<-answer
			}
			return sync()
		}
		ended := make(chan error, 1)
		go func() {
			_, _, err := s.Ensure(context.Background(), ref, nil)
			ended <- err
		}()
		<-waits
		closes(t, s, ended)
		before := names(s)
		close(answer)
		s.pulls.work.Wait()
		s.layers.work.Wait()
		s.blobs.work.Wait()
		s.sweeps.Wait()
		if after := names(s); !slices.Equal(before, after) {
			t.Errorf("%s: there was %q, and then there is %q", what, before, after)
		}
		if slices.ContainsFunc(before, func(name string) bool { return strings.HasSuffix(name, ".json") }) {
			t.Errorf("%s: there is a record: %q", what, before)
		}
		// The next one clears it away, and goes on.
		s = open(t, s.dir, Options{})
		ensure(t, s, ref)
		nothingHalf(t, s)
	}
}

// TestAFailedLayerDoesNotWaitForItsDeletion: what is left of it may be large, and what is
// deleted for others before.
func TestAFailedLayerDoesNotWaitForItsDeletion(t *testing.T) {
	s := open(t, t.TempDir(), Options{})
	answer := make(chan struct{})
	s.disk = func(sync func() error) error {
		if left, err := os.ReadDir(s.path("trash")); err == nil && len(left) > 0 {
			<-answer // so nothing is deleted until then
		}
		return sync()
	}
	if err := refuse(t, s, serve(t).push(t, "bad:1", lying(t, layerOf(t, file("f", "f"))))); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
	for dir, want := range map[string]int{"tmp": 0, "trash": 1} {
		if left, err := os.ReadDir(s.path(dir)); err != nil || len(left) != want {
			t.Errorf("in %s there is %v, and not %d; %v", dir, left, want, err)
		}
	}
	close(answer)
	nothingHalf(t, s)
}

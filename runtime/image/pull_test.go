package image

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

// noise is what does not get smaller.
func noise(n int) string {
	b := make([]byte, n)
	_, _ = rand.NewChaCha8([32]byte{1}).Read(b)
	return string(b)
}

func TestACallerWhoLeavesDisturbsNobody(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("a", "a"))))
	asked, answer := make(chan struct{}, 100), make(chan struct{})
	srv.on(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			asked <- struct{}{}
			<-answer
		}
		return false
	})
	leaver, leave := context.WithCancel(context.Background())
	left, stayed := make(chan error, 1), make(chan error, 1)
	go func() {
		_, _, err := s.Ensure(leaver, ref, nil)
		left <- err
	}()
	<-asked
	go func() {
		_, _, err := s.Ensure(context.Background(), ref, nil)
		stayed <- err
	}()
	await(t, func() bool { return s.waiters(ref) == 2 })
	leave()
	if err := <-left; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	close(answer)
	if err := <-stayed; err != nil {
		t.Error(err)
	}
	if blobs, most := srv.got("blobs"); blobs != 2 || most != 1 {
		t.Errorf("%d blobs were asked for, one %d times", blobs, most)
	}
}

func await(t *testing.T, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("it does not happen")
		}
	}
}

// slow answers a blob by its first half and keeps the rest until it is let go.
func slow(srv *server, size int, kept func(r *http.Request)) {
	srv.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/") {
			return false
		}
		var b bytes.Buffer
		srv.on(nil)
		resp, err := http.Get(srv.URL + r.URL.Path)
		if err == nil {
			_, err = io.Copy(&b, resp.Body)
			_ = resp.Body.Close()
		}
		if err != nil {
			panic(err)
		}
		slow(srv, size, kept)
		if b.Len() < size {
			return false // the configuration
		}
		w.Header().Set("Content-Length", fmt.Sprint(b.Len()))
		_, _ = w.Write(b.Bytes()[:b.Len()/2])
		_ = http.NewResponseController(w).Flush()
		kept(r)
		return true
	})
}

func TestAPullEndsWhenAllHaveLeftAndTheNextGoesOn(t *testing.T) {
	srv, dir := serve(t), t.TempDir()
	s := open(t, dir, Options{})
	ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("a", noise(200_000)))))
	ended := make(chan struct{})
	slow(srv, 100_000, func(r *http.Request) {
		<-r.Context().Done()
		close(ended)
	})
	ctx, cancel := context.WithCancel(context.Background())
	got := make(chan error, 1)
	go func() {
		_, _, err := s.Ensure(ctx, ref, nil)
		got <- err
	}()
	await(t, func() bool {
		found, _ := filepath.Glob(dir + "/partial/*")
		if len(found) != 1 {
			return false
		}
		fi, err := os.Stat(found[0])
		return err == nil && fi.Size() >= 100_000
	})
	cancel()
	if err := <-got; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	<-ended // the request is given up
	await(t, func() bool { return s.waiters(ref) == 0 && s.idle() })
	nothingHalf(t, s, "partial")

	// Also a daemon that is started again goes on where that one ended.
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	var ranges []string
	var mu sync.Mutex
	ranged(srv, &mu, &ranges)
	s = open(t, dir, Options{})
	img := ensure(t, s, ref)
	nothingHalf(t, s)
	mu.Lock()
	defer mu.Unlock()
	if len(ranges) != 1 || !strings.HasPrefix(ranges[0], "bytes=10") {
		t.Errorf("the ranges were %q", ranges)
	}
	if b, err := os.ReadFile(img.Layers[0] + "/a"); err != nil || string(b) != noise(200_000) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

// idle reports whether no pull is under way.
func (s *Store) idle() bool {
	s.pulls.mu.Lock()
	defer s.pulls.mu.Unlock()
	return len(s.pulls.current) == 0
}

// ranged makes a registry answer ranges, as real ones do.
func ranged(srv *server, mu *sync.Mutex, ranges *[]string) {
	srv.on(func(w http.ResponseWriter, r *http.Request) bool {
		want := r.Header.Get("Range")
		if want == "" || r.Method != http.MethodGet {
			return false
		}
		mu.Lock()
		*ranges = append(*ranges, want)
		mu.Unlock()
		resp, err := http.Get(srv.URL + r.URL.Path)
		if err != nil {
			panic(err)
		}
		defer resp.Body.Close()
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			panic(err)
		}
		http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(b))
		return true
	})
}

func TestABrokenConnectionIsMadeAgain(t *testing.T) {
	for _, ranges := range []bool{true, false} {
		srv := serve(t)
		s := open(t, t.TempDir(), Options{})
		ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("a", noise(200_000)))))
		var mu sync.Mutex
		var asked []string
		slow(srv, 100_000, func(*http.Request) {
			if ranges {
				ranged(srv, &mu, &asked)
			} else {
				srv.on(nil)
			}
			panic(http.ErrAbortHandler)
		})
		img := ensure(t, s, ref)
		if b, err := os.ReadFile(img.Layers[0] + "/a"); err != nil || string(b) != noise(200_000) {
			t.Errorf("%d bytes, %v", len(b), err)
		}
		nothingHalf(t, s)
		mu.Lock()
		if ranges != (len(asked) == 1) {
			t.Errorf("ranges were %q", asked)
		}
		mu.Unlock()
	}
}

func TestARegistryThatAnswersAnotherRangeIsAskedForAll(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	layer := layerOf(t, file("a", noise(200_000)))
	ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, layer))
	h, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	blob, err := layer.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(blob)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.partPath(h.Hex, srv.host), b[:1000], 0o600); err != nil {
		t.Fatal(err)
	}
	srv.on(func(w http.ResponseWriter, r *http.Request) bool {
		if r.Header.Get("Range") == "" {
			return false
		}
		w.Header().Set("Content-Range", fmt.Sprintf("bytes 0-%d/%d", len(b)-1, len(b)))
		w.WriteHeader(http.StatusPartialContent)
		_, _ = w.Write(b)
		return true
	})
	ensure(t, s, ref)
	nothingHalf(t, s)
}

func TestALayerThatAPullNeedsIsKept(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	base, slow := layerOf(t, file("base", "base")), layerOf(t, file("a", "a"))
	one := ensure(t, s, srv.push(t, "one:1", imageOf(t, v1.Config{}, base)))
	ref := srv.push(t, "two:1", imageOf(t, v1.Config{}, base, slow))
	h, err := slow.Digest()
	if err != nil {
		t.Fatal(err)
	}
	asked, answer := make(chan struct{}), make(chan struct{})
	srv.on(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, h.Hex) {
			close(asked)
			<-answer
		}
		return false
	})
	got := make(chan *Image, 1)
	go func() { got <- ensure(t, s, ref) }()
	<-asked
	if err := s.Remove(one.Name, nil); err != nil {
		t.Fatal(err)
	}
	close(answer)
	two := <-got
	if _, err := os.Stat(two.Layers[0] + "/base"); err != nil {
		t.Error(err)
	}
	nothingHalf(t, s)
}

func TestARegistryThatStopsSendingIsGivenUp(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	s.stall = 20 * time.Millisecond
	ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("a", noise(200_000)))))
	var times atomic.Int32
	srv.on(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/blobs/") {
			times.Add(1)
			<-r.Context().Done()
			return true
		}
		return false
	})
	if err := refuse(t, s, ref); !errors.Is(err, errStalled) {
		t.Error(err)
	}
	if n := times.Load(); n != fetchTries {
		t.Errorf("it was asked %d times", n)
	}
}

func TestASlowRegistryHoldsUpNoOther(t *testing.T) {
	slow, quick := serve(t), serve(t)
	s := open(t, t.TempDir(), Options{})
	layer := layerOf(t, file("a", noise(200_000)))
	img := imageOf(t, v1.Config{}, layer)
	h, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	one, two := slow.push(t, "a:1", img), quick.push(t, "b:1", imageOf(t, v1.Config{User: "7"}, layer))
	begun, cut := make(chan struct{}), make(chan struct{})
	slow.on(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, h.Hex) {
			return false
		}
		_, _ = w.Write([]byte("x"))
		_ = http.NewResponseController(w).Flush()
		close(begun)
		<-r.Context().Done()
		close(cut)
		return true
	})
	late := make(chan error, 1)
	go func() {
		_, release, err := s.Ensure(context.Background(), one, nil)
		if err == nil {
			release()
		}
		late <- err
	}()
	<-begun
	ensure(t, s, two)
	// And the layer has come for the slow one, too, which is asked no more.
	if err := <-late; err != nil {
		t.Error(err)
	}
	<-cut
	s.blobs.work.Wait()
	nothingHalf(t, s)
}

func TestARegistryThatTricklesIsGivenUp(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	s.stall, s.chunk = 50*time.Millisecond, 1000
	layer := layerOf(t, file("a", noise(200_000)))
	h, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, layer))
	var times atomic.Int32
	srv.on(func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.HasSuffix(r.URL.Path, h.Hex) {
			return false
		}
		times.Add(1)
		for r.Context().Err() == nil { // never silent for long
			_, _ = w.Write([]byte("x"))
			_ = http.NewResponseController(w).Flush()
			select {
			case <-r.Context().Done():
			case <-time.After(time.Millisecond):
			}
		}
		return true
	})
	if err := refuse(t, s, ref); !errors.Is(err, errStalled) {
		t.Error(err)
	}
	if n := times.Load(); n != fetchTries {
		t.Errorf("it was asked %d times", n)
	}
}

func TestWhatAnEarlierPullHasGotIsThrownAwayIfItIsWrong(t *testing.T) {
	layer := layerOf(t, file("a", noise(200_000)))
	h, err := layer.Digest()
	if err != nil {
		t.Fatal(err)
	}
	size, err := layer.Size()
	if err != nil {
		t.Fatal(err)
	}
	for name, have := range map[string]int64{"a part": 1000, "all": size, "more": size + 1} {
		t.Run(name, func(t *testing.T) {
			srv := serve(t)
			s := open(t, t.TempDir(), Options{})
			ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, layer))
			var mu sync.Mutex
			var ranges []string
			ranged(srv, &mu, &ranges)
			if err := os.WriteFile(s.partPath(h.Hex, srv.host), make([]byte, have), 0o600); err != nil {
				t.Fatal(err)
			}
			ensure(t, s, ref)
			nothingHalf(t, s)
			mu.Lock()
			defer mu.Unlock()
			if name == "a part" && len(ranges) != 1 {
				t.Errorf("the ranges were %q", ranges)
			}
		})
	}
}

func TestALayerThatIsTooLongIsNotFetched(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	s.limits.Packed = 1000
	if err := refuse(t, s, srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("a", noise(2000)))))); !errors.Is(err, ErrTooBig) || !strings.Contains(err.Error(), "as it is fetched") {
		t.Error(err)
	}
	if blobs, _ := srv.got("blobs"); blobs != 1 {
		t.Errorf("%d blobs were asked for", blobs)
	}
	nothingHalf(t, s)
}

func TestKilledInTheMiddle(t *testing.T) {
	srv, dir := serve(t), t.TempDir()
	low, high := layerOf(t, file("a", noise(50_000))), layerOf(t, file("b", noise(200_000)))
	ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, low, high))
	s := open(t, dir, Options{})
	highHash, err := high.Digest()
	if err != nil {
		t.Fatal(err)
	}
	srv.on(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.HasSuffix(r.URL.Path, highHash.Hex) {
			<-r.Context().Done()
			return true
		}
		return false
	})
	go func() { _, _, _ = s.Ensure(context.Background(), ref, nil) }()
	await(t, func() bool { found, _ := filepath.Glob(dir + "/layers/sha256/*"); return len(found) == 1 })
	// As a killed one leaves it: what is here is copied while the pull hangs.
	killed := filepath.Join(t.TempDir(), "killed")
	output(t, "cp", "-a", dir, killed)
	for _, garbage := range []string{"tmp/x.1", "tmp/x.1/layer", "trash/y.2", "layers/sha256/" + strings.Repeat("0", 64)} {
		if err := os.MkdirAll(filepath.Join(killed, garbage, "f"), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, garbage := range []string{"images/.new", "blobs/old", "partial/old"} {
		path := filepath.Join(killed, garbage)
		if err := errors.Join(os.WriteFile(path, []byte("x"), 0o600), os.Chtimes(path, someTime, someTime)); err != nil {
			t.Fatal(err)
		}
	}
	srv.on(nil)
	srv.mu.Lock()
	clear(srv.gets)
	srv.mu.Unlock()
	again := open(t, killed, Options{})
	nothingHalf(t, again, "blobs", "partial")
	if found, _ := filepath.Glob(killed + "/*/old"); len(found) != 0 || len(again.List()) != 0 {
		t.Errorf("%q %v", found, again.List())
	}
	img := ensure(t, again, ref)
	if b, err := os.ReadFile(img.Layers[0] + "/a"); err != nil || string(b) != noise(50_000) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
	lowHash, err := low.Digest()
	if err != nil {
		t.Fatal(err)
	}
	srv.mu.Lock()
	defer srv.mu.Unlock()
	for path := range srv.gets {
		if strings.HasSuffix(path, lowHash.Hex) {
			t.Error("what was whole was asked for again")
		}
	}
	nothingHalf(t, again)
}

func TestWhatIsCorruptLeavesNothing(t *testing.T) {
	good := layerOf(t, file("a", noise(1000)))
	for _, c := range []struct {
		name string
		what string // of the path that is answered wrongly
		how  func(b []byte) []byte
		err  error
	}{
		{"a layer with other bytes", "layer", func(b []byte) []byte { b[len(b)/2] ^= 1; return b }, ErrCorrupt},
		{"a layer that is compressed in another way", "layer", func(b []byte) []byte { b[4] ^= 1; return b }, ErrCorrupt},
		{"a layer that is too long", "layer", func(b []byte) []byte { return append(b, 0) }, ErrCorrupt},
		{"a layer that is too short", "layer", func(b []byte) []byte { return b[:len(b)-1] }, io.ErrUnexpectedEOF},
		{"another configuration", "config", func(b []byte) []byte { return bytes.Replace(b, []byte("linux"), []byte("linuy"), 1) }, ErrCorrupt},
		{"no manifest", "manifests", func([]byte) []byte { return []byte("{}") }, ErrCorrupt},
		{"half a manifest", "manifests", func(b []byte) []byte { return b[:len(b)/2] }, ErrCorrupt},
		{"a manifest without end", "manifests", func([]byte) []byte { return bytes.Repeat([]byte(" "), 5<<20) }, ErrTooBig},
		{"a configuration without end", "config", func([]byte) []byte { return bytes.Repeat([]byte(" "), 5<<20) }, ErrTooBig},
	} {
		t.Run(c.name, func(t *testing.T) {
			srv := serve(t)
			s := open(t, t.TempDir(), Options{})
			made := imageOf(t, v1.Config{}, good)
			ref := srv.push(t, "a:1", made)
			config, err := made.ConfigName()
			if err != nil {
				t.Fatal(err)
			}
			layer, err := good.Digest()
			if err != nil {
				t.Fatal(err)
			}
			what := map[string]string{"layer": layer.Hex, "config": config.Hex, "manifests": "/manifests/1"}[c.what]
			var wrong func(w http.ResponseWriter, r *http.Request) bool
			wrong = func(w http.ResponseWriter, r *http.Request) bool {
				if r.Method != http.MethodGet || !strings.HasSuffix(r.URL.Path, what) {
					return false
				}
				srv.on(nil)
				resp, err := http.Get(srv.URL + r.URL.Path)
				if err != nil {
					panic(err)
				}
				defer resp.Body.Close()
				b, err := io.ReadAll(resp.Body)
				if err != nil {
					panic(err)
				}
				srv.on(wrong)
				w.Header().Set("Content-Type", resp.Header.Get("Content-Type"))
				_, _ = w.Write(c.how(b))
				return true
			}
			srv.on(wrong)
			if err := refuse(t, s, ref); !errors.Is(err, c.err) || !strings.HasPrefix(err.Error(), "image docker://") {
				t.Error(err)
			}
			if c.name == "a layer that is too short" {
				nothingHalf(t, s, "partial") // more of it may come
			} else {
				nothingHalf(t, s)
			}
			if len(s.List()) != 0 {
				t.Errorf("the store has %v", s.List())
			}
			srv.on(nil)
			ensure(t, s, ref)
		})
	}
}

// lying makes a layer whose manifest is right and whose configuration has another
// layer.
func lying(t *testing.T, l v1.Layer) v1.Image {
	t.Helper()
	img := imageOf(t, v1.Config{}, l)
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f = f.DeepCopy()
	f.RootFS.DiffIDs[0].Hex = strings.Repeat("ab", 32)
	if img, err = mutate.ConfigFile(img, f); err != nil {
		t.Fatal(err)
	}
	return img
}

func TestALayerThatUnpacksToAnotherIsRefused(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	if err := refuse(t, s, srv.push(t, "a:1", lying(t, layerOf(t, file("a", "a"))))); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "abababab") {
		t.Error(err)
	}
	nothingHalf(t, s)
}

func TestAHostileImageDoesNotSpoilAGoodOne(t *testing.T) {
	// It claims that its layer is one of the good image.
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	layer := layerOf(t, file("a", "a"))
	good := srv.push(t, "good:1", imageOf(t, v1.Config{}, layer))
	evil := lying(t, layerOf(t, file("a", "evil")))
	f, err := evil.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f = f.DeepCopy()
	if f.RootFS.DiffIDs[0], err = layer.DiffID(); err != nil {
		t.Fatal(err)
	}
	if evil, err = mutate.ConfigFile(evil, f); err != nil {
		t.Fatal(err)
	}
	bad := srv.push(t, "evil:1", evil)
	arrived, answer := make(chan struct{}, 10), make(chan struct{})
	srv.on(func(_ http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/evil/blobs/") {
			arrived <- struct{}{}
			if len(arrived) > 1 { // its layer
				<-answer
			}
		}
		return false
	})
	badErr := make(chan error, 1)
	go func() {
		_, _, err := s.Ensure(context.Background(), bad, nil)
		badErr <- err
	}()
	await(t, func() bool { return len(arrived) == 2 })
	// The good one does not wait for that.
	img := ensure(t, s, good)
	close(answer)
	// What has come is all that the other has said that it is.
	if err := <-badErr; err != nil {
		t.Error(err)
	}
	for _, i := range s.List() {
		if b, err := os.ReadFile(i.Layers[0] + "/a"); err != nil || string(b) != "a" || i.Layers[0] != img.Layers[0] {
			t.Errorf("%s: %q %v", i.Name, b, err)
		}
	}
}

func TestPlatforms(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	of := func(arch, text string) v1.Image {
		img := imageOf(t, v1.Config{}, layerOf(t, file("a", text)))
		f, err := img.ConfigFile()
		if err != nil {
			t.Fatal(err)
		}
		f = f.DeepCopy()
		f.Architecture = arch
		if img, err = mutate.ConfigFile(img, f); err != nil {
			t.Fatal(err)
		}
		return img
	}
	add := func(img v1.Image, os, arch, variant string) mutate.IndexAddendum {
		return mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: &v1.Platform{OS: os, Architecture: arch, Variant: variant}}}
	}
	mine := of(runtime.GOARCH, "mine")
	index := mutate.AppendManifests(empty.Index, add(of(runtime.GOARCH, "v"), "linux", runtime.GOARCH, "v99"), add(of("s390x", "s"), "linux", "s390x", ""), add(of("arm", "a"), "linux", "arm", "v7"),
		add(of(runtime.GOARCH, "w"), "windows", runtime.GOARCH, ""), add(of("unknown", "u"), "unknown", "unknown", ""), add(mine, "linux", runtime.GOARCH, ""))
	ref := srv.push(t, "multi:1", index)
	img := ensure(t, s, ref)
	if img.Digest != digestOf(t, mine) {
		t.Errorf("it is %s", img.Digest)
	}
	// A digest may be that of the index, or of the image.
	for _, pin := range []string{digestOf(t, index), digestOf(t, mine)} {
		if got := ensure(t, s, parse(t, "docker://"+srv.host+"/multi:1@"+pin)); got.Digest != img.Digest || got.Name != img.Name {
			t.Errorf("%s: %+v", pin, got)
		}
	}
	if len(s.List()) != 1 || len(s.List()[0].Refs) != 3 {
		t.Errorf("the store has %+v", s.List()[0])
	}
	// Of those for more than the least processor it is the best that this one can run.
	if runtime.GOARCH == "amd64" {
		defer func(was int) { processorLevel = was }(processorLevel)
		v2, v3, v4 := add(of("amd64", "2"), "linux", "amd64", "v2"), add(of("amd64", "3"), "linux", "amd64", "v3"), add(of("amd64", "4"), "linux", "amd64", "v4")
		for n, want := range []mutate.IndexAddendum{{}, v2, v3, v4} {
			processorLevel = n
			ref := srv.push(t, fmt.Sprintf("levels:%d", n), mutate.AppendManifests(empty.Index, v4, v2, v3))
			if n == 0 {
				if err := refuse(t, s, ref); !errors.Is(err, ErrPlatform) || !strings.Contains(err.Error(), "none for linux/amd64, only for linux/amd64/v2") {
					t.Error(err)
				}
			} else if got := ensure(t, s, ref); got.Digest != digestOf(t, want.Add) {
				t.Errorf("at level %d it is %s", n+1, got.Digest)
			}
			if got := ensure(t, s, srv.push(t, fmt.Sprintf("all:%d", n), mutate.AppendManifests(empty.Index, v4, add(mine, "linux", "amd64", ""), v2))); got.Digest != img.Digest {
				t.Errorf("at level %d it is %s, and there is one for all", n+1, got.Digest)
			}
		}
	}
	others := mutate.AppendManifests(empty.Index, add(of("s390x", "s"), "linux", "s390x", ""), add(of("arm", "a"), "linux", "arm", "v7"))
	if err := refuse(t, s, srv.push(t, "others:1", others)); !errors.Is(err, ErrPlatform) || !strings.Contains(err.Error(), "only for linux/arm/v7, linux/s390x") {
		t.Error(err)
	}
	if err := refuse(t, s, srv.push(t, "alone:1", of("s390x", "s"))); !errors.Is(err, ErrPlatform) || !strings.Contains(err.Error(), "linux/s390x") {
		t.Error(err)
	}
	nested := mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: index})
	if got := ensure(t, s, srv.push(t, "nested:1", nested)); got.Digest != img.Digest {
		t.Errorf("it is %s", got.Digest)
	}
	deep := nested
	for range 5 {
		deep = mutate.AppendManifests(empty.Index, mutate.IndexAddendum{Add: deep})
	}
	if err := refuse(t, s, srv.push(t, "deep:1", deep)); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

func TestADigestPins(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	one, two := imageOf(t, v1.Config{}, layerOf(t, file("a", "1"))), imageOf(t, v1.Config{}, layerOf(t, file("a", "2")))
	srv.push(t, "a:1", one)
	srv.push(t, "a:1", two)
	if got := ensure(t, s, parse(t, "docker://"+srv.host+"/a:1@"+digestOf(t, one))); got.Digest != digestOf(t, one) {
		t.Errorf("it is %s", got.Digest)
	}
	// A registry that gives another is not believed.
	srv.on(func(w http.ResponseWriter, r *http.Request) bool {
		if strings.Contains(r.URL.Path, "/manifests/") {
			b, err := one.RawManifest()
			if err != nil {
				panic(err)
			}
			w.Header().Set("Content-Type", string(types.DockerManifestSchema2))
			_, _ = w.Write(b)
			return true
		}
		return false
	})
	if err := refuse(t, s, parse(t, "docker://"+srv.host+"/a@"+digestOf(t, two))); !errors.Is(err, ErrCorrupt) {
		t.Error(err)
	}
}

func TestWhatIsNotThere(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	if err := refuse(t, s, parse(t, "docker://"+srv.host+"/none:1")); !errors.Is(err, ErrNotFound) || !strings.Contains(err.Error(), "does not have it") {
		t.Error(err)
	}
	srv.Close()
	if err := refuse(t, s, parse(t, "docker://"+srv.host+"/none:1")); !errors.Is(err, unix.ECONNREFUSED) {
		t.Error(err)
	}
	nothingHalf(t, s)
}

func TestAFullDiskLeavesNothing(t *testing.T) {
	srv := serve(t)
	dir := t.TempDir()
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s := open(t, filepath.Join(dir, "images"), Options{})
	for what, text := range map[string]string{"fetched": noise(2 << 20), "unpacked": strings.Repeat("x", 2<<20)} {
		ref := srv.push(t, what+":1", imageOf(t, v1.Config{}, layerOf(t, file("a", text))))
		if err := refuse(t, s, ref); !errors.Is(err, unix.ENOSPC) || !strings.Contains(err.Error(), "no room") {
			t.Errorf("%s: %v", what, err)
		}
		nothingHalf(t, s)
	}
	ensure(t, s, srv.push(t, "small:1", imageOf(t, v1.Config{}, layerOf(t, file("a", "a")))))
}

func TestProgressIsTold(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	ref := srv.push(t, "a:1", imageOf(t, v1.Config{}, layerOf(t, file("a", noise(200_000)))))
	release := make(chan struct{})
	slow(srv, 100_000, func(*http.Request) {
		<-release
		srv.on(nil)
		panic(http.ErrAbortHandler)
	})
	var mu sync.Mutex
	var told []Progress
	done := make(chan error, 1)
	go func() {
		_, _, err := s.Ensure(context.Background(), ref, func(p Progress) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, p)
		})
		done <- err
	}()
	await(t, func() bool { found, _ := filepath.Glob(s.path("partial/*")); return len(found) == 1 })
	timer := time.NewTimer(progressEvery + 50*time.Millisecond) // so that more is due
	<-timer.C
	close(release)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	defer mu.Unlock()
	last := told[len(told)-1]
	if len(told) < 2 || len(told) > 4 || last.Layers != 1 || last.Bytes > last.Total || last.Total < 200_000 || last.Step != "pulling" {
		t.Errorf("told was %+v", told)
	}
}

func TestLimitsOfAnImage(t *testing.T) {
	dir := t.TempDir()
	s := open(t, filepath.Join(dir, "images"), Options{})
	var layers []v1.Layer
	for n := range 129 {
		layers = append(layers, layerOf(t, file(fmt.Sprint(n), "")))
	}
	write := func(name string, img v1.Image) Ref {
		l, err := layout.Write(filepath.Join(dir, name), empty.Index)
		if err == nil {
			err = l.AppendImage(img)
		}
		if err != nil {
			t.Fatal(err)
		}
		return parse(t, "oci:"+filepath.Join(dir, name))
	}
	if err := refuse(t, s, write("many", imageOf(t, v1.Config{}, layers...))); !errors.Is(err, ErrTooBig) {
		t.Error(err)
	}
	s.limits.Unpacked = 1 << 20
	if err := refuse(t, s, write("bomb", imageOf(t, v1.Config{}, layerOf(t, file("a", strings.Repeat("x", 2<<20)))))); !errors.Is(err, ErrTooBig) {
		t.Error(err)
	}
	nothingHalf(t, s)
	if err := refuse(t, s, write("artifact", mutate.ConfigMediaType(imageOf(t, v1.Config{}), "application/vnd.cncf.helm.config.v1+json"))); !errors.Is(err, ErrCorrupt) || !strings.Contains(err.Error(), "helm") {
		t.Error(err)
	}
	secret := rawLayer([]byte("x"), "application/vnd.oci.image.layer.v1.tar+gzip+encrypted")
	if err := refuse(t, s, write("encrypted", mutate.ConfigMediaType(imageOf(t, v1.Config{}, secret), types.OCIConfigJSON))); !strings.Contains(err.Error(), "encrypted") {
		t.Error(err)
	}
}

func TestWhatAnImageSaysOfItselfIsBounded(t *testing.T) {
	srv := serve(t)
	s := open(t, t.TempDir(), Options{})
	many := map[string]string{}
	for n := range 20_000 {
		many[fmt.Sprint(n)] = ""
	}
	for name, cfg := range map[string]v1.Config{
		"labels":             {Labels: map[string]string{"a": strings.Repeat("\x01", 600<<10)}},
		"labels, many":       {Labels: many},
		"env":                {Env: []string{"A=" + strings.Repeat("x", 300<<10)}},
		"entrypoint and cmd": {Entrypoint: []string{strings.Repeat("x", 200<<10)}, Cmd: []string{strings.Repeat("x", 200<<10)}},
		"user":               {User: strings.Repeat("x", 5<<10)},
		"workdir":            {WorkingDir: "/" + strings.Repeat("x", 5<<10)},
		"stop signal":        {StopSignal: strings.Repeat("x", 5<<10)},
	} {
		what, _, _ := strings.Cut(name, ",")
		if err := refuse(t, s, srv.push(t, "a:1", imageOf(t, cfg, layerOf(t)))); !errors.Is(err, ErrTooBig) || !strings.Contains(err.Error(), "its "+what+" are") {
			t.Errorf("%s: %.200s", name, err)
		}
	}
	img, err := mutate.Append(imageOf(t, v1.Config{}), mutate.Addendum{Layer: layerOf(t), History: v1.History{CreatedBy: strings.Repeat("x", 2<<20)}})
	if err != nil {
		t.Fatal(err)
	}
	if err := refuse(t, s, srv.push(t, "history:1", img)); !errors.Is(err, ErrTooBig) || !strings.Contains(err.Error(), "its history") {
		t.Error(err)
	}
	nothingHalf(t, s)
	// Those that are in use have at most so much.
	ensure(t, s, srv.push(t, "good:1", imageOf(t, v1.Config{Labels: map[string]string{"a": strings.Repeat("x", 400<<10)}, Env: []string{"A=" + strings.Repeat("x", 120<<10)}}, layerOf(t))))
}

func TestABrokenRecordLosesOneImageOnly(t *testing.T) {
	srv, dir := serve(t), t.TempDir()
	s := open(t, dir, Options{})
	one := ensure(t, s, srv.push(t, "one:1", imageOf(t, v1.Config{}, layerOf(t, file("a", "1")))))
	two := ensure(t, s, srv.push(t, "two:1", imageOf(t, v1.Config{}, layerOf(t, file("a", "2")))))
	three := ensure(t, s, srv.push(t, "three:1", imageOf(t, v1.Config{}, layerOf(t, file("a", "3")))))
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Truncate(s.recordPath(one.Digest), 20), os.RemoveAll(two.Layers[0])); err != nil {
		t.Fatal(err)
	}
	s = open(t, dir, Options{})
	if got := s.List(); len(got) != 1 || got[0].Name != three.Name {
		t.Errorf("the store has %v", got)
	}
	if kept, _ := filepath.Glob(dir + "/images/*.bad"); len(kept) != 2 {
		t.Errorf("kept aside are %q", kept)
	}
	nothingHalf(t, s)
}

func FuzzRecord(f *testing.F) {
	b, err := json.Marshal(record{Version: 1, Name: "a@" + strings.Repeat("0", 12), Digest: "sha256:" + strings.Repeat("0", 64), Layers: []layerInfo{{ID: strings.Repeat("0", 64)}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(b)
	f.Fuzz(func(t *testing.T, b []byte) {
		r, err := decodeRecord(b)
		if err != nil {
			return
		}
		if strings.ContainsAny(r.Name, "/\x00\n") || len(r.Digest) != 71 {
			t.Errorf("%+v", r)
		}
		for _, l := range r.Layers {
			if strings.ContainsAny(l.ID, "/.\x00") || l.ID == "" {
				t.Errorf("%+v", r)
			}
		}
	})
}

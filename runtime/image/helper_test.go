package image

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"io/fs"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"sort"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"golang.org/x/sys/unix"
)

func TestMain(m *testing.M) {
	if os.Args[0] == UnpackerName {
		if forge() {
			os.Exit(0)
		}
		os.Exit(RunUnpacker())
	}
	if os.Args[0] == attackerName {
		os.Exit(attack(os.Args[1] == "filtered"))
	}
	// With the race detector a process takes a second to end.
	if err := os.Setenv("GORACE", "atexit_sleep_ms=0"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// entry is one of a tar. The zero mode is 0644, or 0755 of a directory.
type entry struct {
	tar.Header
	text string
}

func file(name, text string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, text}
}

func folder(name string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}, ""}
}

func symlink(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: to, Mode: 0o777}, ""}
}

func hardlink(name, to string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: to, Mode: 0o644}, ""}
}

func device(name string, kind byte) entry {
	return entry{tar.Header{Name: name, Typeflag: kind, Mode: 0o666, Devmajor: 1, Devminor: 3}, ""}
}

func output(t testing.TB, name string, args ...string) []byte {
	t.Helper()
	out, err := exec.Command(name, args...).Output()
	if err != nil {
		t.Fatal(err)
	}
	return out
}

var someTime = time.Unix(1_600_000_000, 0)

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := e.Header
		h.Size = int64(len(e.text))
		if h.ModTime.IsZero() && h.Typeflag != tar.TypeXGlobalHeader {
			h.ModTime = someTime
		}
		if err := w.WriteHeader(&h); err != nil {
			t.Fatal(err)
		}
		if _, err := io.WriteString(w, e.text); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func zipped(t testing.TB, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	if _, err := w.Write(b); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func layerOf(t testing.TB, entries ...entry) v1.Layer {
	t.Helper()
	b := tarOf(t, entries...)
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func imageOf(t testing.TB, cfg v1.Config, layers ...v1.Layer) v1.Image {
	t.Helper()
	img, err := mutate.AppendLayers(empty.Image, layers...)
	if err != nil {
		t.Fatal(err)
	}
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	f = f.DeepCopy()
	f.OS, f.Architecture, f.Config = "linux", runtime.GOARCH, cfg
	f.Created = v1.Time{Time: someTime}
	if img, err = mutate.ConfigFile(img, f); err != nil {
		t.Fatal(err)
	}
	return img
}

// rawLayer is a layer whose bytes are as they are.
func rawLayer(b []byte, kind types.MediaType) v1.Layer { return static.NewLayer(b, kind) }

func digestOf(t testing.TB, img interface{ Digest() (v1.Hash, error) }) string {
	t.Helper()
	h, err := img.Digest()
	if err != nil {
		t.Fatal(err)
	}
	return h.String()
}

// server is a registry on loopback that counts, and does what a test wants of it.
type server struct {
	*httptest.Server
	host string
	mu   sync.Mutex
	gets map[string]int // by path
	// before is called ahead of each request; true means that it has been answered.
	before func(w http.ResponseWriter, r *http.Request) bool
}

func serve(t testing.TB) *server {
	t.Helper()
	s := &server{gets: map[string]int{}}
	inner := registry.New(registry.Logger(log.New(io.Discard, "", 0)))
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		if r.Method == http.MethodGet {
			s.gets[r.URL.Path]++
		}
		before := s.before
		s.mu.Unlock()
		if before != nil && before(w, r) {
			return
		}
		inner.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	s.host = strings.TrimPrefix(s.URL, "http://")
	return s
}

func (s *server) on(fn func(w http.ResponseWriter, r *http.Request) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.before = fn
}

// got returns how often what is below /blobs/ or /manifests/ was asked for, and the
// most of one.
func (s *server) got(what string) (all, most int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for p, n := range s.gets {
		if strings.Contains(p, "/"+what+"/") {
			all += n
			most = max(most, n)
		}
	}
	return all, most
}

func (s *server) push(t testing.TB, repo string, img remote.Taggable) Ref {
	t.Helper()
	ref, err := name.ParseReference(s.host + "/" + repo)
	if err != nil {
		t.Fatal(err)
	}
	switch v := img.(type) {
	case v1.Image:
		err = remote.Write(ref, v)
	case v1.ImageIndex:
		err = remote.WriteIndex(ref, v)
	}
	if err != nil {
		t.Fatal(err)
	}
	s.mu.Lock()
	clear(s.gets)
	s.mu.Unlock()
	return parse(t, "docker://"+s.host+"/"+repo)
}

func parse(t testing.TB, s string) Ref {
	t.Helper()
	ref, err := ParseRef(s)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

func open(t testing.TB, dir string, opt Options) *Store {
	t.Helper()
	s, err := Open(dir, opt)
	if err != nil {
		t.Fatal(err)
	}
	s.pause = time.Millisecond
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func ensure(t testing.TB, s *Store, ref Ref) *Image {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	img, release, err := s.Ensure(ctx, ref, nil)
	if err != nil {
		t.Fatal(err)
	}
	release()
	return img
}

func refuse(t testing.TB, s *Store, ref Ref) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	img, _, err := s.Ensure(ctx, ref, nil)
	if err == nil {
		t.Fatalf("%s was accepted: %+v", ref, img)
	}
	if strings.ContainsRune(err.Error(), '\n') {
		t.Errorf("the error is not one line: %q", err)
	}
	return err
}

// nothingHalf fails if the store has more than its images.
func nothingHalf(t testing.TB, s *Store, allow ...string) {
	t.Helper()
	s.sweeps.Wait()
	needed := map[string]bool{}
	for _, i := range s.List() {
		for _, id := range i.ids {
			needed[s.path("layers/sha256", id)] = true
		}
	}
	for _, dir := range []string{"tmp", "trash", "blobs", "partial", "layers/sha256"} {
		found, err := os.ReadDir(s.path(dir))
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range found {
			path := s.path(dir, e.Name())
			if !needed[path] && !strings.Contains(" "+strings.Join(allow, " ")+" ", " "+dir+" ") {
				t.Errorf("%s is left", path)
			}
		}
	}
}

// tree is what a directory holds: a line for each name.
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	out := map[string]string{}
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		line := fmt.Sprintf("%o %d:%d", st.Mode, st.Uid, st.Gid)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			if st.Nlink > 1 && first[st.Ino] != "" {
				line += " =" + first[st.Ino]
			} else {
				first[st.Ino] = rel
			}
			line += fmt.Sprintf(" %q", b[:min(len(b), 100)])
		case unix.S_IFLNK:
			to, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += " -> " + to
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" %d/%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		for _, attr := range xattrs(t, path) {
			line += " " + attr
		}
		out[rel] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func xattrs(t testing.TB, path string) []string {
	t.Helper()
	buf := make([]byte, 4096)
	n, err := unix.Llistxattr(path, buf)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, attr := range strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00") {
		if attr == "" {
			continue
		}
		value := make([]byte, 4096)
		n, err := unix.Lgetxattr(path, attr, value)
		if err != nil {
			t.Fatal(err)
		}
		out = append(out, fmt.Sprintf("%s=%x", attr, value[:n]))
	}
	sort.Strings(out)
	return out
}

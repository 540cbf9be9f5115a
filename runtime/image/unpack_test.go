package image

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"golang.org/x/sys/unix"
)

// cell is a directory to unpack into, beside what must not change.
type cell struct {
	top, dir string
	before   map[string]string
}

func newCell(t testing.TB) *cell {
	t.Helper()
	c := &cell{top: t.TempDir()}
	c.dir = filepath.Join(c.top, "cell")
	for _, err := range []error{
		os.Mkdir(c.dir, 0o700), os.Mkdir(filepath.Join(c.top, "canary"), 0o755),
		os.WriteFile(filepath.Join(c.top, "canary", "file"), []byte("alive"), 0o644),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	c.before = c.outside(t)
	return c
}

func (c *cell) outside(t testing.TB) map[string]string {
	t.Helper()
	all := tree(t, c.top)
	for name := range all {
		if strings.HasPrefix(name, "cell/") {
			delete(all, name)
		}
	}
	return all
}

// unpack unpacks bytes into the cell and fails if anything outside changes.
func (c *cell) unpack(t testing.TB, layer []byte, l limits, dirs ...dirAttr) (unpacked, error) {
	t.Helper()
	r, err := decompress(bytes.NewReader(layer))
	h := sha256.New()
	if err == nil {
		_, _ = io.Copy(h, io.LimitReader(r, 64<<20)) // what is no layer has no digest
	}
	in, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer in.Close()
	if _, err := in.Write(layer); err != nil {
		t.Fatal(err)
	}
	if _, err := in.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	u, err := unpack(ctx, in, order{Dir: c.dir, DiffID: hex.EncodeToString(h.Sum(nil)), Limits: l, Dirs: dirs})
	if after := c.outside(t); !maps.Equal(after, c.before) {
		t.Fatalf("outside it was %v and is %v", c.before, after)
	}
	found, derr := os.ReadDir(c.dir)
	if derr != nil {
		t.Fatal(derr)
	}
	for _, e := range found {
		if e.Name() != "layer" {
			t.Errorf("%s was made beside the layer", e.Name())
		}
	}
	return u, err
}

func pax(e entry, records ...string) entry {
	e.PAXRecords = map[string]string{}
	for i := 0; i < len(records); i += 2 {
		e.PAXRecords[records[i]] = records[i+1]
	}
	return e
}

func mode(e entry, mode int64, uid, gid int) entry {
	e.Mode, e.Uid, e.Gid = mode, uid, gid
	return e
}

func typed(e entry, kind byte) entry {
	e.Typeflag = kind
	return e
}

const (
	dirLine  = "40755 0:0"
	capValue = "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"
)

// TestLayers are good and hostile ones, and what becomes of them. @ is the directory
// beside the cell that must not change.
func TestLayers(t *testing.T) {
	long := strings.Repeat("n", 255)
	for _, c := range []struct {
		name    string
		entries []entry
		want    map[string]string // besides the root
		links   []string          // that lead to other layers, perhaps
		err     string
	}{
		{name: "modes, owners and times", entries: []entry{
			mode(folder("d"), 0o1777, 1, 2), mode(file("d/s", "x"), 0o4755, 65535, 65535), mode(file("d/g", ""), 0o2755, 0, 5), mode(symlink("d/l", "/etc/x"), 0o777, 3, 4),
		}, want: map[string]string{"d": "41777 1:2", "d/s": `104755 65535:65535 "x"`, "d/g": `102755 0:5 ""`, "d/l": "120777 3:4 -> /etc/x"}},
		{name: "fifos but no devices", entries: []entry{
			folder("dev"), device("dev/null", tar.TypeChar), device("dev/sda", tar.TypeBlock), hardlink("dev/again", "dev/null"), hardlink("dev/more", "/dev/again"),
			typed(file("pipe", ""), tar.TypeFifo),
		}, want: map[string]string{"dev": dirLine, "pipe": "10644 0:0"}},
		{name: "a zero device would be a whiteout", entries: []entry{{tar.Header{Name: "a", Typeflag: tar.TypeChar}, ""}}, want: map[string]string{}},
		{name: "hard links", entries: []entry{file("a", "a"), hardlink("b", "a"), hardlink("c", "/b")},
			want: map[string]string{"a": `100644 0:0 "a"`, "b": `100644 0:0 =a "a"`, "c": `100644 0:0 =a "a"`}},
		{name: "a hard link to a symbolic one", entries: []entry{symlink("a", "@/file"), hardlink("b", "a")},
			want: map[string]string{"a": "120777 0:0 -> @/file", "b": "120777 0:0 -> @/file"}},
		{name: "attributes", entries: []entry{
			pax(file("a", ""), "SCHILY.xattr.user.x", "y", "SCHILY.xattr.security.capability", capValue),
			pax(folder("d"), "SCHILY.xattr.trusted.overlay.opaque", "y", "SCHILY.xattr.trusted.overlay.redirect", "/", "SCHILY.xattr.user.overlay.opaque", "y",
				"SCHILY.xattr.security.selinux", "x", "SCHILY.xattr.user.k", "v"),
		}, want: map[string]string{"a": fmt.Sprintf(`100644 0:0 "" security.capability=%x user.x=79`, capValue), "d": dirLine + " user.k=76"}},
		{name: "the root's own", entries: []entry{mode(folder("./"), 0o711, 5, 6), file("./a", "")}, want: map[string]string{".": "40711 5:6", "a": `100644 0:0 ""`}},
		{name: "whiteouts", entries: []entry{folder("d"), file("d/.wh.gone", ""), file(".wh.top", ""), file("d/.wh.gone", "")},
			want: map[string]string{"d": dirLine, "d/gone": "20000 0:0 0/0", "top": "20000 0:0 0/0"}},
		{name: "opaque directories", entries: []entry{folder("d"), file("d/.wh..wh..opq", ""), file("d/new", "n"), folder("e"), file("e/old", "o"), file("e/.wh..wh..opq", "")},
			want: map[string]string{"d": dirLine + " trusted.overlay.opaque=79", "d/new": `100644 0:0 "n"`, "e": dirLine + " trusted.overlay.opaque=79", "e/old": `100644 0:0 "o"`}},
		{name: "a whiteout takes away nothing of its own layer", entries: []entry{file("a", "a"), file(".wh.a", ""), folder("d"), file("d/x", "x"), file(".wh.d", "")},
			want: map[string]string{"a": `100644 0:0 "a"`, "d": dirLine + " trusted.overlay.opaque=79", "d/x": `100644 0:0 "x"`}},
		{name: "a directory in the place of a whiteout hides what was there", entries: []entry{file(".wh.d", ""), folder("d"), file("d/x", "x"), file(".wh.f", ""), file("f", "f")},
			want: map[string]string{"d": dirLine + " trusted.overlay.opaque=79", "d/x": `100644 0:0 "x"`, "f": `100644 0:0 "f"`}},
		{name: "what AUFS kept", entries: []entry{file(".wh..wh.aufs", ""), folder(".wh..wh.plnk"), file(".wh..wh.plnk/1.2", ""), file("a", "")},
			want: map[string]string{"a": `100644 0:0 ""`}},
		{name: "a global header is no file", entries: []entry{file("pax_global_header", "x"), {tar.Header{Name: "pax_global_header", Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"comment": "c"}}, ""}},
			want: map[string]string{"pax_global_header": `100644 0:0 "x"`}},
		{name: "opaque at the root", entries: []entry{file(".wh..wh..opq", ""), file("a", "")}, want: map[string]string{"a": `100644 0:0 ""`}},
		{name: "a whiteout of nothing", entries: []entry{file("d/.wh.", "")}, err: "invalid whiteout"},
		{name: "a whiteout of .", entries: []entry{file("d/.wh..", "")}, err: "invalid whiteout"},
		{name: "a whiteout of ..", entries: []entry{file("d/.wh...", "")}, err: "invalid whiteout"},
		{name: "names that leave", entries: []entry{file("../canary/file", "dead"), file("../../../../../../../../../../../@/file", "dead"), file("a/../../b", "b")},
			want: nil},
		{name: "absolute names", entries: []entry{file("@/file", "dead"), folder("@/new")}, want: nil},
		{name: "writing through a symbolic link", entries: []entry{symlink("l", "@"), file("l/file", "dead"), file("l/new", "dead")}, want: nil},
		{name: "writing through links that leave", entries: []entry{symlink("l", "../../../../.."), file("l/@/file", "dead"), symlink("m", "l/.."), file("m/x", "dead")}, want: nil},
		{name: "a directory through a symbolic link", entries: []entry{symlink("l", "@"), folder("l/"), mode(folder("l"), 0o777, 9, 9)}, want: map[string]string{"l": "40777 9:9"}},
		{name: "modes through a symbolic link", entries: []entry{symlink("l", "@/file"), mode(hardlink("h", "l"), 0o777, 9, 9)}, want: nil},
		{name: "a hard link to outside", entries: []entry{hardlink("h", "@/file")}, want: map[string]string{}, links: []string{"@/file"}},
		{name: "a hard link that leaves", entries: []entry{hardlink("h", "../../canary/file")}, want: map[string]string{}, links: []string{"canary/file"}},
		{name: "hard links to another layer", entries: []entry{hardlink("d/h", "x/y"), hardlink("i", "d/h"), hardlink("j", "x/y"), hardlink("k", "z"), file("z", "z"), hardlink("l", "z")},
			want: map[string]string{"l": `100644 0:0 "z"`, "z": `100644 0:0 =l "z"`}, links: []string{"x/y", "z"}},
		{name: "a hard link to what was removed", entries: []entry{file(".wh.a", ""), hardlink("h", "a")}, err: "what the layer has removed"},
		{name: "a whiteout, and what is below its name", entries: []entry{file("a/.wh.b", ""), file("a/b/c/d", "d"), file("a/.wh.c", "")},
			want: map[string]string{"a": dirLine, "a/b": dirLine + " trusted.overlay.opaque=79", "a/b/c": dirLine, "a/b/c/d": `100644 0:0 "d"`, "a/c": "20000 0:0 0/0"}},
		{name: "whiteouts in a directory that hides all", entries: []entry{folder("d"), file("d/.wh.x", ""), file("d/.wh..wh..opq", ""), file("d/e/.wh.y", ""), file("d/n", "n")},
			want: map[string]string{"d": dirLine + " trusted.overlay.opaque=79", "d/e": dirLine, "d/n": `100644 0:0 "n"`}},
		{name: "a hard link through a symbolic one", entries: []entry{symlink("l", "@"), hardlink("h", "l/file")}, err: "no such file"},
		{name: "a hard link, then writing to it", entries: []entry{symlink("l", "@/file"), hardlink("h", "l"), file("h", "dead")}, want: map[string]string{"l": "120777 0:0 -> @/file", "h": `100644 0:0 "dead"`}},
		{name: "a hard link to the root", entries: []entry{hardlink("h", "..")}, err: "operation not permitted"},
		{name: "a hard link to itself", entries: []entry{file("h", "h"), hardlink("h", "h")}, err: "no such file"},
		{name: "whiteouts through a symbolic link", entries: []entry{symlink("l", "@"), file("l/.wh.file", ""), file("l/.wh..wh..opq", "")}, want: nil},
		{name: "attributes through a symbolic link", entries: []entry{pax(symlink("l", "@/file"), "SCHILY.xattr.user.x", "y")}, want: map[string]string{"l": "120777 0:0 -> @/file"}},
		{name: "a name that is too long", entries: []entry{file(long+"n", "")}, err: "name too long"},
		{name: "a path that is too long", entries: []entry{file(strings.Repeat(long+"/", 20)+"f", "")}, err: "too long"},
		{name: "the longest name", entries: []entry{file(long, "")}, want: map[string]string{long: `100644 0:0 ""`}},
		{name: "twice the same", entries: []entry{file("a", "1"), mode(file("a", "2"), 0o600, 1, 1)}, want: map[string]string{"a": `100600 1:1 "2"`}},
		{name: "a file, then a directory", entries: []entry{file("a", "1"), folder("a"), file("a/b", "b")}, want: map[string]string{"a": dirLine, "a/b": `100644 0:0 "b"`}},
		{name: "a directory, then a file", entries: []entry{folder("a"), file("a/b", "b"), file("a", "1")}, want: map[string]string{"a": `100644 0:0 "1"`}},
		{name: "a file in a file", entries: []entry{file("a", "1"), file("a/b", "b")}, err: "not a directory"},
		{name: "a loop of links", entries: []entry{symlink("a", "b"), symlink("b", "a"), file("a/x", "x")}, err: "too many"},
		{name: "a user that is too large", entries: []entry{mode(file("a", ""), 0o644, 65536, 0)}, err: "only ids from 0 to 65535"},
		{name: "a group that is too large", entries: []entry{mode(file("a", ""), 0o644, 0, 1<<30)}, err: "only ids from 0 to 65535"},
		{name: "a root that is none", entries: []entry{symlink("./", "@")}, err: "the layer's root is no directory"},
		{name: "names of all bytes", entries: []entry{file("\xff\xfe\n", "x")}, want: map[string]string{"\xff\xfe\n": `100644 0:0 "x"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			cell := newCell(t)
			canary := filepath.Join(cell.top, "canary")
			at := func(s string) string { return strings.ReplaceAll(s, "@", canary) }
			for i := range c.entries {
				c.entries[i].Name, c.entries[i].Linkname = at(c.entries[i].Name), at(c.entries[i].Linkname)
			}
			b := tarOf(t, c.entries...)
			u, err := cell.unpack(t, b, defaultLimits)
			if c.err != "" {
				if err == nil || !strings.Contains(err.Error(), c.err) {
					t.Fatalf("the error is %v, and not %s", err, c.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if c.want == nil {
				return // it is enough that nothing else changed
			}
			if c.want["."] == "" {
				c.want["."] = dirLine
			}
			for name, line := range c.want {
				c.want[name] = at(line)
			}
			for i := range c.links {
				c.links[i] = strings.TrimPrefix(at(c.links[i]), "/")
			}
			if !slices.Equal(u.Links, c.links) {
				t.Errorf("the links are %q", u.Links)
			}
			same(t, tree(t, cell.dir+"/layer"), c.want)
			if u.Opaque != (c.name == "opaque at the root") {
				t.Errorf("opaque is %v", u.Opaque)
			}
		})
	}
}

func TestTimesAreKept(t *testing.T) {
	c := newCell(t)
	if _, err := c.unpack(t, tarOf(t, folder("./"), folder("d"), file("d/a", "a"), symlink("d/l", "a"), typed(file("d/p", ""), tar.TypeFifo)), defaultLimits); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"", "d", "d/a", "d/l", "d/p"} {
		fi, err := os.Lstat(filepath.Join(c.dir, "layer", name))
		if err != nil || !fi.ModTime().Equal(someTime) {
			t.Errorf("%q: %v %v", name, fi, err)
		}
	}
}

func TestLayersAreOfAnyCompression(t *testing.T) {
	b := tarOf(t, file("a", strings.Repeat("text ", 1000)))
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	for name, layer := range map[string][]byte{
		"none": b, "gzip": zipped(t, b), "zstd": w.EncodeAll(b, nil), "zstd, a frame to be skipped first": append([]byte("\x5a\x2a\x4d\x18\x04\x00\x00\x00size"), w.EncodeAll(b, nil)...), "more after the end": append(bytes.Clone(b), make([]byte, 100_000)...),
	} {
		c := newCell(t)
		if u, err := c.unpack(t, layer, defaultLimits); err != nil || u.Size != 5000 || u.Entries != 1 {
			t.Errorf("%s: %+v %v", name, u, err)
		}
	}
	for name, layer := range map[string][]byte{
		"cut gzip": zipped(t, b)[:100], "cut zstd": w.EncodeAll(b, nil)[:30], "cut tar": b[:700], "noise": bytes.Repeat([]byte("noise"), 500), "gzip of noise": zipped(t, bytes.Repeat([]byte("noise"), 500)),
	} {
		c := newCell(t)
		if u, err := c.unpack(t, layer, defaultLimits); err == nil {
			t.Errorf("%s: %+v", name, u)
		}
	}
}

func TestSparseFiles(t *testing.T) {
	// As GNU tar writes them.
	c := newCell(t)
	src := filepath.Join(t.TempDir(), "sparse")
	if err := os.WriteFile(src, []byte("begin"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(src, 1<<20); err != nil {
		t.Fatal(err)
	}
	for _, format := range []string{"gnu", "pax"} {
		b := output(t, "tar", "--sparse", "--format="+format, "-C", filepath.Dir(src), "-c", "sparse")
		if len(b) > 100_000 {
			t.Fatalf("%s: tar wrote %d bytes", format, len(b))
		}
		u, err := c.unpack(t, b, defaultLimits)
		if err != nil {
			t.Fatal(format, err)
		}
		got, err := os.ReadFile(c.dir + "/layer/sparse")
		if err != nil || len(got) != 1<<20 || string(got[:5]) != "begin" || u.Size != 1<<20 {
			t.Errorf("%s: %d bytes, %v, %+v", format, len(got), err, u)
		}
		if err := os.RemoveAll(c.dir + "/layer"); err != nil {
			t.Fatal(err)
		}
		// What a hole holds is not in the tar, but counts.
		small := defaultLimits
		small.Unpacked = 1 << 19
		if _, err := c.unpack(t, b, small); !errors.Is(err, ErrTooBig) {
			t.Errorf("%s: %v", format, err)
		}
		if err := os.RemoveAll(c.dir + "/layer"); err != nil {
			t.Fatal(err)
		}
	}
}

func TestBombsEndInAnError(t *testing.T) {
	zeros := make([]byte, 4<<20)
	w, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	small := defaultLimits
	small.Unpacked, small.Entries, small.Headers, small.Implied, small.Missing = 1<<20, 100, 64<<10, 50, 10_000
	var many, deep, long, wide []entry
	for n := range 101 {
		many = append(many, file(fmt.Sprint(n), ""))
	}
	for n := range 51 {
		deep = append(deep, file(fmt.Sprintf("d%d/f", n), ""))
	}
	for n := range 45 {
		long = append(long, file(fmt.Sprintf("%d%s/f", n, strings.Repeat("d", 250)), ""))
	}
	for n := range 100 {
		wide = append(wide, pax(file(fmt.Sprint(n), ""), "SCHILY.xattr.user.x", strings.Repeat("x", 1000)))
	}
	for name, layer := range map[string][]byte{
		"gzip":             zipped(t, tarOf(t, entry{tar.Header{Name: "zeros", Typeflag: tar.TypeReg}, string(zeros)})),
		"zstd":             w.EncodeAll(zeros, nil),
		"after the end":    zipped(t, append(tarOf(t, file("a", "")), zeros...)),
		"entries":          tarOf(t, many...),
		"directories":      tarOf(t, deep...),
		"long directories": tarOf(t, long...),
		"attributes":       tarOf(t, wide...),
		"one long header":  tarOf(t, pax(file("a", ""), "SCHILY.xattr.user.x", strings.Repeat("x", 300<<10))),
		"a huge file only": hugeHeader(t),
	} {
		c := newCell(t)
		if u, err := c.unpack(t, layer, small); !errors.Is(err, ErrTooBig) {
			t.Errorf("%s: %+v %v", name, u, err)
		}
	}
}

// hugeHeader is a tar with the header of a file of 8 EiB.
func hugeHeader(t *testing.T) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	if err := w.WriteHeader(&tar.Header{Name: "huge", Typeflag: tar.TypeReg, Size: 1<<63 - 1, Format: tar.FormatPAX}); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestAnUnpackerThatTakesTooMuchMemoryIsKilled(t *testing.T) {
	l := defaultLimits
	l.Memory = 48 << 20
	var entries []entry
	// Device files are made nowhere, so that no other limit is met; their names are kept.
	for n := range 800 {
		entries = append(entries, device(fmt.Sprint(n)+strings.Repeat("x", 100<<10), tar.TypeChar))
	}
	c := newCell(t)
	if u, err := c.unpack(t, tarOf(t, entries...), l); err == nil || !strings.Contains(err.Error(), "the unpacker died") || strings.Count(err.Error(), "\n") > 0 {
		t.Errorf("%+v %v", u, err)
	}
}

func TestTheUnpackerDiesWithTheDaemon(t *testing.T) {
	c := newCell(t)
	in, w, err := os.Pipe() // a layer that never comes
	if err != nil {
		t.Fatal(err)
	}
	defer w.Close()
	defer in.Close()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		_, err := unpack(ctx, in, order{Dir: c.dir, Limits: defaultLimits})
		ended <- err
	}()
	// It is at work when its directory is there.
	for deadline := time.Now().Add(time.Minute); ; {
		if _, err := os.Stat(c.dir + "/layer"); err == nil {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal("the unpacker does not begin")
		}
		time.Sleep(time.Millisecond)
	}
	pid := unpackerIn(t, c.dir)
	cancel()
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if err := unix.Kill(pid, 0); !errors.Is(err, unix.ESRCH) {
		t.Errorf("process %d: %v", pid, err)
	}
}

// unpackerIn returns the process whose root a directory is.
func unpackerIn(t *testing.T, dir string) int {
	t.Helper()
	var want, st unix.Stat_t
	if err := unix.Stat(dir, &want); err != nil {
		t.Fatal(err)
	}
	found, err := filepath.Glob("/proc/[0-9]*/root")
	if err != nil {
		t.Fatal(err)
	}
	for _, root := range found {
		if unix.Stat(root, &st) == nil && st.Dev == want.Dev && st.Ino == want.Ino {
			var pid int
			if _, err := fmt.Sscanf(root, "/proc/%d/root", &pid); err != nil {
				t.Fatal(err)
			}
			return pid
		}
	}
	t.Fatal("no process has its root there")
	return 0
}

// FuzzUnpack unpacks anything, and nothing outside may change.
func FuzzUnpack(f *testing.F) {
	for _, entries := range [][]entry{
		{file("a", "a"), folder("d"), symlink("d/l", "../a"), hardlink("h", "a"), file("d/.wh.x", ""), file("d/.wh..wh..opq", "")},
		{symlink("l", "/"), file("l/etc/x", "x"), symlink("l", ".."), file("l/../x", "x"), hardlink("h", "../../x")},
		{device("dev", tar.TypeChar), typed(file("p", ""), tar.TypeFifo), pax(file("x", ""), "SCHILY.xattr.user.x", "y"), mode(file("i", ""), 0o4755, 70000, 0)},
		{file("a/.wh.b", ""), file("a/b/c", ""), hardlink("h", "gone"), hardlink("i", "h"), file(".wh.x", ""), hardlink("y", "x"), file("x/z", "")},
		{file("../../../../etc/passwd", ""), file("/canary", ""), folder(".."), folder("."), file(".wh...", "")},
	} {
		b := tarOf(f, entries...)
		f.Add(b)
		f.Add(zipped(f, b))
	}
	small := defaultLimits
	small.Unpacked, small.Entries = 1<<20, 1000
	f.Fuzz(func(t *testing.T, b []byte) {
		c := newCell(t)
		if _, err := c.unpack(t, b, small); err != nil && strings.Contains(err.Error(), "died") {
			t.Error(err)
		}
	})
}

package image

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/containerd/v2/pkg/archive"
	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// UnpackerName is the name, as ps shows it, under which the program starts itself
// as its unpacker: whoever's argv[0] it is has to call RunUnpacker and nothing else.
const UnpackerName = "boxlited: unpacker"

// Descriptors of the unpacker.
const (
	unpackInput = 3 + iota // the layer
	unpackAlive            // ends when the daemon does
)

// layerRoot is where the layer goes, in what is all the file system that the unpacker
// has.
const layerRoot = "/layer"

// linksRoot has the files of lower layers that hard links of this one lead to.
const linksRoot = "/links"

// order is what the unpacker is told.
type order struct {
	Dir    string // its new root
	DiffID string // what the layer has to be, in hex
	Limits limits
	// What follows depends on the layers below.
	Dirs  []dirAttr // of directories that the layer has no entry for
	Drop  []string  // whiteouts of what is not there
	Links []string  // targets of hard links; the file of the first is /links/0, and so on
}

// dirAttr is what a directory is like that a layer needs and does not describe.
type dirAttr struct {
	Path     string
	Mode     uint32
	UID, GID int
}

// unpacked is what the unpacker answers.
type unpacked struct {
	Size    int64 // bytes of the files
	Entries int64
	// Opaque says that the layer hides all that is below it.
	Opaque bool
	// Implied are directories that the layer has no entry for.
	Implied []string
	// Whiteouts is how many names it takes away from the layers below.
	Whiteouts int
	// Links are targets of hard links that it has not itself. The links were left out.
	Links []string
	Error string
	Kind  string // of the error
	Errno int
}

// kinds are the errors that are told by name.
var kinds = map[string]error{"corrupt": ErrCorrupt, "big": ErrTooBig}

// RunUnpacker is the whole life of the unpacker process: it unpacks one layer and
// says on standard output what came of it. It returns the exit code.
//
// It first makes the layer's directory its root and lets go of everything else, in
// namespaces of its own. From then on there is no name for what is outside.
func RunUnpacker() int {
	if len(os.Args) != 2 || os.Args[1] != confined {
		return answer(fail(fmt.Errorf("confine the unpacker: %w", renounce())))
	}
	go func() {
		// The daemon never writes: this is its end.
		_, _ = os.NewFile(unpackAlive, "alive").Read(make([]byte, 1))
		os.Exit(1) //nolint:forbidigo // a main of its own, and nobody is left to tell
	}()
	var o order
	if err := json.NewDecoder(os.Stdin).Decode(&o); err != nil {
		return answer(unpacked{Error: "the unpacker is started by boxlited"})
	}
	if err := confine(&o); err != nil {
		return answer(fail(fmt.Errorf("confine the unpacker: %w", err)))
	}
	// Where no limit would help: it is killed for it, and the layer refused.
	debug.SetMemoryLimit(int64(o.Limits.Memory / 2))
	u := unpacker{
		order: o, seen: map[string]bool{}, skipped: map[string]bool{}, whited: map[string]bool{}, opaque: map[string]bool{},
		implied: map[string]bool{}, pending: map[string]bool{}, staged: map[string]string{}, counted: map[uint64]bool{},
	}
	for n, target := range o.Links {
		u.staged[target] = filepath.Join(linksRoot, strconv.Itoa(n))
	}
	if err := u.run(os.NewFile(unpackInput, "layer")); err != nil {
		return answer(fail(err))
	}
	return answer(u.result)
}

func fail(err error) unpacked {
	u := unpacked{Error: err.Error()}
	for kind, k := range kinds {
		if errors.Is(err, k) {
			u.Kind = kind
		}
	}
	var errno syscall.Errno
	if errors.As(err, &errno) {
		u.Errno = int(errno)
	}
	return u
}

func answer(u unpacked) int {
	if err := json.NewEncoder(os.Stdout).Encode(u); err != nil || u.Error != "" {
		return 1
	}
	return 0
}

// confine makes o.Dir the root of this process, which was started in namespaces of
// its own.
func confine(o *order) error {
	unix.Umask(0)
	for _, l := range []struct {
		what int
		max  uint64
	}{
		{unix.RLIMIT_DATA, o.Limits.Memory}, {unix.RLIMIT_CORE, 0}, {unix.RLIMIT_FSIZE, uint64(o.Limits.Unpacked)},
	} {
		if err := unix.Setrlimit(l.what, &unix.Rlimit{Cur: l.max, Max: l.max}); err != nil {
			return err
		}
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	if err := unix.Mount(o.Dir, o.Dir, "", unix.MS_BIND, ""); err != nil {
		return err
	}
	if err := unix.Mount("", o.Dir, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC, ""); err != nil {
		return err
	}
	if err := unix.Chdir(o.Dir); err != nil {
		return err
	}
	var inside, root unix.Stat_t
	if err := unix.Stat(".", &inside); err != nil {
		return err
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return err
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return err
	}
	if err := unix.Chdir("/"); err != nil {
		return err
	}
	// All that follows relies on it.
	if err := unix.Stat("/", &root); err != nil || root.Dev != inside.Dev || root.Ino != inside.Ino {
		return errors.New("the root is not the layer's directory")
	}
	return filterCalls()
}

// unpacker unpacks one layer.
type unpacker struct {
	order
	result  unpacked
	headers int64
	missing int64           // bytes of the paths of implied, and of links
	seen    map[string]bool // directories that have an entry
	skipped map[string]bool // devices
	whited  map[string]bool // what a whiteout took away from the layers below
	opaque  map[string]bool // directories that hide what is below them
	implied map[string]bool
	pending map[string]bool   // hard links that were left out, by their names and targets
	staged  map[string]string // files of lower layers, by the targets of links
	counted map[uint64]bool   // inodes of those whose bytes are in the size
	root    *tar.Header
	dir     *os.Root // of the layer
}

func (u *unpacker) run(layer io.Reader) error {
	logrus.SetLevel(logrus.PanicLevel) // its warnings are about what is skipped on purpose
	if err := os.Mkdir(layerRoot, 0o755); err != nil {
		return err
	}
	var err error
	if u.dir, err = os.OpenRoot(layerRoot); err != nil {
		return err
	}
	defer u.dir.Close()
	plain, err := decompress(layer)
	if err != nil {
		return errorf(ErrCorrupt, "the layer cannot be read: %w", err)
	}
	h := sha256.New()
	in := io.TeeReader(&bounded{plain, u.Limits.Unpacked, u.Limits.Unpacked}, h)
	if _, err := archive.Apply(context.Background(), layerRoot, in, archive.WithFilter(u.filter), archive.WithConvertWhiteout(u.whiteout)); err != nil {
		return err
	}
	// What follows the end of a tar counts for its digest.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return err
	}
	if got := hex.EncodeToString(h.Sum(nil)); got != u.DiffID {
		return errorf(ErrCorrupt, "the layer is sha256:%.12s, and the image says sha256:%.12s", got, u.DiffID)
	}
	return u.finish()
}

// filter is asked before each entry.
func (u *unpacker) filter(h *tar.Header) (bool, error) {
	l := &u.Limits
	size := int64(len(h.Name) + len(h.Linkname) + len(h.Uname) + len(h.Gname))
	for k, v := range h.PAXRecords {
		size += int64(len(k) + len(v))
	}
	u.headers += size + 64
	u.result.Entries++
	u.result.Size += max(h.Size, 0)
	switch {
	case u.result.Entries > l.Entries:
		return false, errorf(ErrTooBig, "the layer has more than %d entries", l.Entries)
	case size > l.Header || u.headers > l.Headers:
		return false, errorf(ErrTooBig, "the names and attributes in the layer are too long")
	case u.result.Size > l.Unpacked:
		return false, errorf(ErrTooBig, "the layer has more than %d bytes in files", l.Unpacked)
	case h.Uid < 0 || h.Gid < 0 || h.Uid > l.ID || h.Gid > l.ID:
		return false, fmt.Errorf("%.128q is owned by %d:%d: only ids from 0 to %d can be mapped into a box", h.Name, h.Uid, h.Gid, l.ID)
	case strings.ContainsRune(h.Name, 0) || strings.ContainsRune(h.Linkname, 0):
		return false, errorf(ErrCorrupt, "%.128q has a zero byte in its name", h.Name)
	}
	name := strings.TrimPrefix(filepath.Join("/", h.Name), "/")
	switch h.Typeflag {
	case tar.TypeXGlobalHeader:
		return false, nil
	case tar.TypeChar, tar.TypeBlock:
		u.skipped[name] = true
		return false, nil
	case tar.TypeGNUSparse, tar.TypeCont:
		h.Typeflag = tar.TypeReg
	case tar.TypeLink:
		if u.skipped[strings.TrimPrefix(filepath.Join("/", h.Linkname), "/")] {
			u.skipped[name] = true
			return false, nil
		}
	}
	delete(u.skipped, name)
	if h.Typeflag != tar.TypeLink {
		delete(u.pending, name)
	}
	for part := range strings.SplitSeq(name, "/") {
		if strings.HasPrefix(part, ".wh..wh.") && part != ".wh..wh..opq" {
			return false, nil // what AUFS kept for itself
		}
	}
	for k := range h.PAXRecords {
		if attr, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok && !keeps(attr) {
			delete(h.PAXRecords, k)
		}
	}
	if name == "" {
		if h.Typeflag != tar.TypeDir {
			return false, errorf(ErrCorrupt, "the layer's root is no directory")
		}
		u.root = h
		return false, nil
	}
	if h.Typeflag == tar.TypeDir {
		u.seen[name] = true
		if u.implied[name] {
			delete(u.implied, name)
			u.missing -= int64(len(name))
		}
	}
	if err := errors.Join(u.imply(name), u.uncover(name)); err != nil {
		return false, err
	}
	if h.Typeflag == tar.TypeLink {
		target := strings.TrimPrefix(filepath.Join("/", h.Linkname), "/")
		if left, err := u.link(name, target); left || err != nil {
			return false, err
		}
		keepCapability(h, filepath.Join(layerRoot, target))
	}
	return true, nil
}

// imply notes the directories that an entry is in.
func (u *unpacker) imply(name string) error {
	for dir := filepath.Dir(name); dir != "." && !u.seen[dir] && !u.implied[dir]; dir = filepath.Dir(dir) {
		u.implied[dir] = true
		u.missing += int64(len(dir))
	}
	l := &u.Limits
	switch {
	case u.missing > l.Missing:
		return errorf(ErrTooBig, "what the layer has no entry for has longer paths than %d bytes together", l.Missing)
	case len(u.implied) > l.Implied:
		return errorf(ErrTooBig, "the layer has more than %d directories without an entry of their own", l.Implied)
	}
	return nil
}

// uncover makes room for an entry below a name that a whiteout has taken away: what comes
// there is a directory, and a new one.
func (u *unpacker) uncover(name string) error {
	for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
		if path := filepath.Join(layerRoot, dir); u.whited[path] && isWhiteout(path) {
			return os.Remove(path)
		}
	}
	return nil
}

// link says whether a hard link is left out, because its target is neither in this layer
// nor at hand. A target of a lower layer becomes a file of this one, as a write to it does in
// overlayfs: so both names have one file.
func (u *unpacker) link(name, target string) (left bool, err error) {
	if u.pending[target] {
		u.pending[name] = true
		return true, nil
	}
	if path := filepath.Join(layerRoot, target); u.whited[path] && isWhiteout(path) {
		return false, errorf(ErrCorrupt, "%.128q is a hard link to what the layer has removed", name)
	}
	if _, err := u.dir.Lstat(target); !errors.Is(err, os.ErrNotExist) {
		return false, nil // what else is wrong with it, the library says
	}
	if err := u.imply(target); err != nil {
		return false, err
	}
	if path, ok := u.staged[target]; ok {
		if dir := filepath.Dir(target); dir != "." {
			if err := u.dir.MkdirAll(dir, 0o755); err != nil {
				return false, err
			}
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return false, err
		}
		if st, ok := fi.Sys().(*syscall.Stat_t); ok && !u.counted[st.Ino] { // one file may be there twice
			u.counted[st.Ino] = true
			u.result.Size += fi.Size()
		}
		return false, os.Rename(path, filepath.Join(layerRoot, target))
	}
	u.pending[name], u.pending[target] = true, true
	u.result.Links = append(u.result.Links, target)
	u.missing += int64(len(target))
	if len(u.result.Links) > u.Limits.Implied {
		return false, errorf(ErrTooBig, "the layer has more than %d hard links to files of others", u.Limits.Implied)
	}
	return true, nil
}

// keepCapability has a hard link say what its target has: the library gives the file the
// owner that the link has, and the kernel takes the capability away.
func keepCapability(h *tar.Header, target string) {
	const key = "SCHILY.xattr.security.capability"
	value := make([]byte, 64)
	n, err := unix.Lgetxattr(target, "security.capability", value)
	if _, has := h.PAXRecords[key]; err != nil || has {
		return // it has none
	}
	if h.PAXRecords == nil {
		h.PAXRecords = map[string]string{}
	}
	h.PAXRecords[key] = string(value[:n])
}

func isWhiteout(path string) bool {
	var st unix.Stat_t
	return unix.Lstat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == 0
}

// keeps reports whether an extended attribute of an image is kept: not what would
// speak to overlayfs, nor labels that only make sense on the host that set them.
func keeps(attr string) bool {
	switch {
	case strings.HasPrefix(attr, "user.overlay."):
		return false
	case strings.HasPrefix(attr, "user."), attr == "security.capability", strings.HasPrefix(attr, "system.posix_acl_"):
		return true
	}
	return false
}

// whiteout makes a whiteout of the image one of overlayfs. It takes away from the layers
// below only, so what this layer has itself stays, in whatever order they come.
func (u *unpacker) whiteout(h *tar.Header, path string) (bool, error) {
	dir, base := filepath.Split(path)
	hidden, ok := strings.CutPrefix(base, ".wh.")
	if !ok {
		return true, nil
	}
	if base == ".wh..wh..opq" {
		if filepath.Clean(dir) == layerRoot {
			u.result.Opaque = true // overlayfs has no such thing
			return false, nil
		}
		u.opaque[filepath.Clean(dir)] = true
		return false, opaque(filepath.Clean(dir))
	}
	u.whited[dir+hidden] = true
	if _, err := os.Lstat(dir + hidden); err == nil {
		return false, nil // see finish
	}
	if err := unix.Mknod(dir+hidden, unix.S_IFCHR, 0); err != nil {
		return false, fmt.Errorf("whiteout %.128q: %w", h.Name, err)
	}
	return false, nil
}

func opaque(dir string) error {
	if err := unix.Lsetxattr(dir, "trusted.overlay.opaque", []byte("y"), 0); err != nil {
		return fmt.Errorf("opaque directory: %w (the state directory needs a file system with trusted xattrs)", err)
	}
	return nil
}

// finish does what can only be done when all entries are there.
func (u *unpacker) finish() error {
	for path := range u.whited {
		fi, err := os.Lstat(path)
		if errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ENOTDIR) {
			continue // its directory went, and what is there now is not merged
		}
		if err != nil {
			return err
		}
		if fi.IsDir() {
			u.opaque[path] = true
			if err := opaque(path); err != nil {
				return err
			}
		}
	}
	if err := u.dropWhiteouts(); err != nil {
		return err
	}
	for _, d := range u.Dirs {
		path := filepath.Join(layerRoot, d.Path)
		if fi, err := os.Lstat(path); err != nil || !fi.IsDir() {
			continue
		}
		if err := errors.Join(os.Lchown(path, d.UID, d.GID), unix.Chmod(path, d.Mode)); err != nil {
			return err
		}
	}
	for dir := range u.implied {
		path := filepath.Join(layerRoot, dir)
		fi, err := os.Lstat(path)
		// It may be needed for a link that was left out.
		there := err == nil && fi.IsDir() || errors.Is(err, os.ErrNotExist) && len(u.result.Links) > 0
		if there && !u.whited[path] && !u.alone(path) {
			u.result.Implied = append(u.result.Implied, dir)
		}
	}
	if u.root == nil {
		u.result.Implied = append(u.result.Implied, ".")
		return nil
	}
	if err := os.Lchown(layerRoot, u.root.Uid, u.root.Gid); err != nil {
		return err
	}
	if err := unix.Chmod(layerRoot, uint32(u.root.Mode)&0o7777); err != nil {
		return err
	}
	for k, v := range u.root.PAXRecords {
		if attr, ok := strings.CutPrefix(k, "SCHILY.xattr."); ok {
			if err := unix.Lsetxattr(layerRoot, attr, []byte(v), 0); err != nil && !errors.Is(err, unix.ENOTSUP) {
				return err
			}
		}
	}
	return os.Chtimes(layerRoot, u.root.ModTime, u.root.ModTime)
}

// alone reports whether nothing of the layers below is seen in the directory that a path is
// in.
func (u *unpacker) alone(path string) bool {
	for dir := filepath.Dir(path); strings.HasPrefix(dir, layerRoot+"/"); dir = filepath.Dir(dir) {
		if u.opaque[dir] {
			return true
		}
	}
	return u.result.Opaque
}

// dropWhiteouts removes those that take nothing away. overlayfs hides a whiteout only in a
// directory that it puts together of several layers: else it is seen as a name of nothing.
func (u *unpacker) dropWhiteouts() error {
	drop := map[string]bool{}
	for _, name := range u.Drop {
		drop[filepath.Join(layerRoot, name)] = true
	}
	for path := range u.whited {
		switch {
		case !isWhiteout(path):
		case drop[path], u.alone(path):
			if err := os.Remove(path); err != nil {
				return err
			}
		default:
			u.result.Whiteouts++
		}
	}
	return nil
}

// packed reports whether decompress would take the beginning of something for compressed.
func packed(head []byte) bool {
	r, err := decompress(bytes.NewReader(head))
	_, plain := r.(*bufio.Reader)
	return err != nil || !plain
}

// decompress reads what is gzip, zstd or neither, by its first bytes.
func decompress(r io.Reader) (io.Reader, error) {
	b := bufio.NewReaderSize(r, 128<<10)
	head, err := b.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case len(head) >= 2 && head[0] == 0x1f && head[1] == 0x8b:
		return gzip.NewReader(b)
	case string(head) == "\x28\xb5\x2f\xfd", len(head) == 4 && head[0]&0xf0 == 0x50 && string(head[1:]) == "\x2a\x4d\x18": // or a frame to be skipped
		// A window of 128 MiB is that of zstd --long.
		return zstd.NewReader(b, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(128<<20), zstd.WithDecoderMaxMemory(512<<20))
	}
	return b, nil
}

// bounded is a reader that fails when there is more.
type bounded struct {
	r         io.Reader
	left, max int64
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errorf(ErrTooBig, "the layer unpacks to more than %d bytes", b.max)
	}
	if err != nil && !errors.Is(err, io.EOF) {
		err = errorf(ErrCorrupt, "the layer cannot be read: %w", err)
	}
	return n, err
}

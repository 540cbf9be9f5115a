package runtime

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	goruntime "runtime"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/reaper"
)

// The way to the files of a box that runs, for whoever is root on the host.
//
// The box is hostile and changes its files at the same time: it renames, swaps
// directories for symbolic links, mounts. Therefore
//
//   - no path is ever given to the kernel to be resolved as a whole. It is walked name by
//     name, from a descriptor of the box's root, and no symbolic link is followed. A walk
//     can only go down, so it ends at a file that the box could have named;
//   - what was found is held by a descriptor (O_PATH: finding it does nothing to it), looked
//     at through that, and opened through that if it is a regular file or a directory. A FIFO
//     or a device is never opened;
//   - a mount is not entered before its type is known to be one whose files are on this
//     machine, see localTypes. So no request reaches a server that need not answer, which
//     could be this daemon itself;
//   - nothing is done that root in the box may not do, see may. The daemon is root on the host,
//     and the box may have been given directories of the host in which its root is nobody.

// ErrEnded says that the run of the box that a file belongs to has ended.
var ErrEnded = errors.New("the run of the box has ended")

// rootOfHost offers the files of boxes of engine host too; test builds set it.
var rootOfHost bool

// rootIDs tells whether the files of a run with this configuration are offered, and
// which ids the box has on the host. Engine host has the host's files, which need no
// second way to them.
func (b *Box) rootIDs(c *Config) (ids idMap, offered bool) {
	if c.Engine == EngineContainer {
		return idMap{base: b.firstID.Load(), size: idsOfBox}, true
	}
	return everyID, rootOfHost
}

// idMap is the range of user and group ids on the host that a box has for its own.
type idMap struct{ base, size uint32 }

// everyID is that of a box whose ids are the host's.
var everyID = idMap{size: math.MaxUint32}

// overflowID is shown for an id that the box does not have, as the kernel does in
// a user namespace.
const overflowID = 65534

func (m idMap) has(host uint32) bool { return host-m.base < m.size }

func (m idMap) shown(host uint32) uint32 {
	if !m.has(host) {
		return overflowID
	}
	return host - m.base
}

func (m idMap) given(box uint32) (uint32, error) {
	if box >= m.size {
		return 0, unix.EINVAL // as in a user namespace
	}
	return m.base + box, nil
}

// rootSlot keeps the way to the files of the box's run, once it was asked for.
type rootSlot struct {
	mu   sync.Mutex
	run  *run
	root *Root
}

func (b *Box) rooted() (*run, idMap, error) {
	s := b.Snapshot()
	r, going := s.Run()
	cfg := s.Config
	if going {
		cfg = r.r.cfg
	}
	if cfg == nil {
		return nil, idMap{}, unix.ENOENT
	}
	ids, offered := b.rootIDs(cfg)
	switch {
	case !offered:
		return nil, ids, unix.ENOENT
	case !going || s.Status == StatusStarting || s.Status == StatusUnknown:
		return nil, ids, b.fail("root", ErrNoProcess)
	}
	return r.r, ids, nil
}

// OpenRoot returns the way to the files of the run that goes on: the same for all who
// ask. It costs nothing before it is used, and is closed when the run has ended. It gives
// ENOENT for a box whose files are not offered, and ErrNoProcess without a run.
func (b *Box) OpenRoot() (*Root, error) {
	r, ids, err := b.rooted()
	if err != nil {
		return nil, err
	}
	b.files.mu.Lock()
	defer b.files.mu.Unlock()
	if b.files.run != r {
		root := emptyRoot(ids)
		root.begin = func() error { return b.beginRoot(r, root) }
		b.files.run, b.files.root = r, root
	}
	return b.files.root, nil
}

// beginRoot finds the files of a run.
func (b *Box) beginRoot(r *run, root *Root) error {
	b.mu.Lock()
	proc := r.proc
	b.mu.Unlock()
	if proc == nil {
		return ErrNoProcess
	}
	pid, err := openCommand(b.rt.bootID, proc.Identity(), root.ids)
	if err != nil {
		return err
	}
	if err := root.attach(pid); err != nil {
		return errors.Join(err, unix.Close(pid))
	}
	go func() {
		select {
		case <-proc.Done():
		case <-b.rt.closing:
		}
		root.Close()
		if b.rt.opt.Observer != nil {
			b.rt.opt.Observer.RootClosed(b)
		}
	}()
	return nil
}

// openCommand returns /proc/PID of a box's command: of the oldest child of the shim,
// since what else becomes its child (probes, orphans) comes later. Of a box that has ids
// of its own it is the oldest that is in a user namespace of its own, child or grandchild:
// an OCI runtime that is still around has the host's files. Its init is not the command.
func openCommand(bootID string, shim reaper.Identity, ids idMap) (int, error) {
	executed := func(fd int) bool {
		return ids == everyID || !sameProgram("/proc/self/fd/"+strconv.Itoa(fd), "/proc/"+strconv.Itoa(shim.PID))
	}
	found, err := oldestChild(shim.PID, func(fd int) bool { return executed(fd) && (ids == everyID || !ourUsers(fd)) })
	if err == nil && found < 0 && ids != everyID {
		var parent int
		if parent, err = oldestChild(shim.PID, executed); err == nil && parent >= 0 {
			found, err = childOf(parent, func(fd int) bool { return !ourUsers(fd) })
			closeFD(parent)
		}
	}
	if err != nil || found < 0 {
		return -1, ErrNoProcess
	}
	// A pid that was the shim's all the time made it the parent of a process of its own.
	now, err := reaper.Identify(bootID, shim.PID)
	if err != nil || now.StartTicks != shim.StartTicks || (shim.Inode != 0 && now.Inode != 0 && now.Inode != shim.Inode) {
		closeFD(found)
		return -1, ErrNoProcess
	}
	return found, nil
}

// childOf returns the oldest child that is wanted of the process of /proc/PID dir.
func childOf(dir int, wanted func(fd int) bool) (int, error) {
	text, err := readProc(dir, "stat", 1<<10)
	if err != nil {
		return -1, err
	}
	number, _, _ := strings.Cut(text, " ")
	pid, err := strconv.Atoi(number)
	if err != nil {
		return -1, err
	}
	found, err := oldestChild(pid, wanted)
	if err != nil || found < 0 {
		return -1, err
	}
	if _, _, err := parentOf(dir); err != nil { // its pid may have been another's
		closeFD(found)
		return -1, err
	}
	return found, nil
}

// oldestChild returns /proc/PID of the oldest child of pid that is wanted, or -1.
func oldestChild(pid int, wanted func(fd int) bool) (int, error) {
	dir := "/proc/" + strconv.Itoa(pid)
	threads, err := os.ReadDir(dir + "/task")
	if err != nil {
		return -1, err
	}
	oldest, since := -1, uint64(math.MaxUint64)
	for _, thread := range threads {
		// A thread that has ended meanwhile has handed its children on.
		list, err := os.ReadFile(dir + "/task/" + thread.Name() + "/children")
		if err != nil {
			continue
		}
		for _, child := range strings.Fields(string(list)) {
			fd, err := unix.Open("/proc/"+child, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
			if err != nil {
				continue
			}
			parent, started, err := parentOf(fd)
			if err != nil || parent != pid || started >= since || !wanted(fd) {
				closeFD(fd)
				continue
			}
			if oldest >= 0 {
				closeFD(oldest)
			}
			oldest, since = fd, started
		}
	}
	return oldest, nil
}

// ourUsers reports whether the process of /proc/PID dir is in the daemon's user
// namespace, or may be.
func ourUsers(dir int) bool {
	var ours, its unix.Stat_t
	return unix.Stat("/proc/self/ns/user", &ours) != nil || unix.Fstatat(dir, "ns/user", &its, 0) != nil || ours.Dev == its.Dev && ours.Ino == its.Ino
}

// sameProgram reports whether two processes, given by their directories in /proc, have
// the same program: the init of a container has that of its shim, and no process of the box
// can have it.
func sameProgram(a, b string) bool {
	var sa, sb unix.Stat_t
	return unix.Stat(a+"/exe", &sa) == nil && unix.Stat(b+"/exe", &sb) == nil && sa.Dev == sb.Dev && sa.Ino == sb.Ino
}

// parentOf reads the parent and the start time, in ticks after boot, of a process.
func parentOf(dir int) (parent int, started uint64, err error) {
	text, err := readProc(dir, "stat", 1<<10)
	if err != nil {
		return 0, 0, err
	}
	// The command's name may hold anything.
	f := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(f) < 20 || f[0] == "Z" {
		return 0, 0, ErrNoProcess
	}
	if parent, err = strconv.Atoi(f[1]); err != nil {
		return 0, 0, err
	}
	started, err = strconv.ParseUint(f[19], 10, 64)
	return parent, started, err
}

// readProc reads a file of /proc/PID, up to max bytes.
func readProc(dir int, name string, max int64) (string, error) {
	fd, err := unix.Openat(dir, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(bufio.NewReaderSize(f, 32<<10), max))
	return string(text), err
}

// Root is the way to the files of one run of a box. Paths have no leading slash and
// no "." or ".."; "" is the root itself. Errors are ErrEnded once the run has ended,
// ErrNoProcess, and errnos.
type Root struct {
	ids   idMap
	begin func() error // attaches it; called with mu held
	// mu is held for reading by whatever uses what follows.
	mu               sync.RWMutex
	attached, closed bool
	proc             int   // /proc/PID of the command
	top              place // the root
	visits           slots

	filesMu sync.Mutex
	files   map[*openFile]struct{}

	mountsMu sync.Mutex
	mounts   map[uint64]bool // by unique id: whether a mount may be entered
}

func emptyRoot(ids idMap) *Root {
	return &Root{ids: ids, visits: make(slots, visitsOfBox), files: map[*openFile]struct{}{}, mounts: map[uint64]bool{}}
}

// attach makes it the way to the files that the process of /proc/PID proc sees, and
// owns proc then.
func (r *Root) attach(proc int) error {
	fd, err := unix.Openat(proc, "root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ESRCH) {
		err = ErrNoProcess // it has just ended
	}
	if err != nil {
		return err
	}
	r.proc, r.top = proc, place{fd: fd}
	err = statx(fd, &r.top.st)
	var host unix.Stat_t
	if err == nil && r.ids != everyID && unix.Stat("/", &host) == nil &&
		host.Ino == r.top.st.Ino && host.Dev == unix.Mkdev(r.top.st.Dev_major, r.top.st.Dev_minor) {
		err = ErrNoProcess // it has not left the host's files yet
	}
	if err == nil {
		var typ string
		if typ, err = r.mountType(r.top.st.Mnt_id); err == nil && !localTypes[typ] && typ != "overlay" {
			err = unix.EACCES
		}
	}
	if err != nil {
		return errors.Join(err, unix.Close(fd))
	}
	r.attached = true
	return nil
}

// Close gives up all descriptors, also of files that are still open: one of them
// would keep the mounts of a box that is gone.
func (r *Root) Close() {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	r.closed = true
	if r.attached {
		closeFD(r.top.fd)
		closeFD(r.proc)
	}
	r.mu.Unlock()
	r.filesMu.Lock()
	files := make([]*openFile, 0, len(r.files))
	for f := range r.files {
		files = append(files, f)
	}
	r.filesMu.Unlock()
	for _, f := range files {
		f.Close()
	}
}

// closeFD closes a descriptor whose close can lose nothing.
func closeFD(fd int) { _ = unix.Close(fd) }

// use runs fn while the descriptors of the root are certainly open.
func (r *Root) use(ctx context.Context, fn func() error) error {
	return r.visit(ctx, func() error { return r.useNow(fn) })
}

// visitsOfBox is how many requests to the files of one box are carried out at once. A
// box can make them take long, by what it does with a file at the same time; the others
// have the rest of the visitors.
const visitsOfBox = 6

// visit runs what asks the file system of the box. Who waits for his turn can be
// interrupted.
func (r *Root) visit(ctx context.Context, fn func() error) error {
	for _, slots := range []slots{r.visits, visitors} {
		select {
		case slots <- struct{}{}:
			defer func() { <-slots }()
		case <-ctx.Done():
			return unix.EINTR
		}
	}
	return fn()
}

func (r *Root) useNow(fn func() error) error {
	r.mu.RLock()
	if !r.attached && !r.closed {
		r.mu.RUnlock()
		if err := r.beginOnce(); err != nil {
			return err
		}
		r.mu.RLock()
	}
	defer r.mu.RUnlock()
	if r.closed {
		return ErrEnded
	}
	return fn()
}

func (r *Root) beginOnce() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.attached || r.closed {
		return nil
	}
	return r.begin()
}

// localTypes are the file systems whose files are on this machine and answer without
// anybody's help. Not here: what the kernel makes up (proc, sysfs, cgroup, devpts, …),
// what has a server (FUSE, NFS, 9p, …), autofs, and overlay, whose layers can be
// anything: only the root, which was made for the box, may be one.
var localTypes = map[string]bool{
	"bcachefs": true, "btrfs": true, "devtmpfs": true, "erofs": true, "exfat": true, "ext2": true, "ext3": true, "ext4": true, "f2fs": true,
	"iso9660": true, "jfs": true, "ramfs": true, "reiserfs": true, "squashfs": true, "tmpfs": true, "udf": true, "vfat": true, "xfs": true, "zfs": true,
}

// mountInfoMax bounds what is read to find a mount. A box with more of them gets none.
const mountInfoMax = 1 << 20

// mountType returns the type of a mount of the box by its number, or EACCES if the box's
// command does not see it. The caller has a descriptor in it, so that the number is
// nobody else's.
func (r *Root) mountType(id uint64) (string, error) {
	info, err := readProc(r.proc, "mountinfo", mountInfoMax)
	if err != nil {
		return "", err
	}
	prefix := strconv.FormatUint(id, 10) + " "
	for line := range strings.Lines(info) {
		if !strings.HasPrefix(line, prefix) || !strings.HasSuffix(line, "\n") {
			continue
		}
		_, back, _ := strings.Cut(line, " - ")
		typ, _, _ := strings.Cut(back, " ")
		return typ, nil
	}
	return "", unix.EACCES
}

// enters reports whether the mount of fd, whose number is id, may be entered.
func (r *Root) enters(fd int, id uint64) bool {
	var st unix.Statx_t
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC, unix.STATX_MNT_ID_UNIQUE, &st)
	unique := err == nil && st.Mask&unix.STATX_MNT_ID_UNIQUE != 0 // since Linux 6.8
	if unique {
		r.mountsMu.Lock()
		ok, known := r.mounts[st.Mnt_id]
		r.mountsMu.Unlock()
		if known {
			return ok
		}
	}
	typ, err := r.mountType(id)
	ok := err == nil && localTypes[typ]
	if unique && err == nil {
		r.mountsMu.Lock()
		defer r.mountsMu.Unlock()
		if len(r.mounts) >= 1024 {
			clear(r.mounts)
		}
		r.mounts[st.Mnt_id] = ok
	}
	return ok
}

// statx looks at what fd holds. It asks for nothing that is not known to the kernel
// already: fd may be in a mount that must not be entered.
func statx(fd int, st *unix.Statx_t) error {
	err := unix.Statx(fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_DONT_SYNC|unix.AT_NO_AUTOMOUNT, unix.STATX_BASIC_STATS|unix.STATX_MNT_ID, st)
	if err == nil && st.Mask&unix.STATX_MNT_ID == 0 {
		err = unix.ENOSYS
	}
	return err
}

// place is a file of the box, held by an O_PATH descriptor.
type place struct {
	fd int
	st unix.Statx_t
	// hidden: it is in a mount that is not entered. It looks empty, and nothing can
	// be done with it.
	hidden bool
}

func (p *place) is(kind uint16) bool { return !p.hidden && p.st.Mode&unix.S_IFMT == kind }

// owns reports whether root in the box has power over a file: both its ids are of the
// box, as capable_wrt_inode_uidgid in the kernel has it.
func (r *Root) owns(p *place) bool {
	return r.ids == everyID || r.ids.has(p.st.Uid) && r.ids.has(p.st.Gid)
}

// What may asks for; the bits are those that a file has for others.
const (
	mayRead   = 0o4
	mayWrite  = 0o2
	maySearch = 0o1
)

// may reports whether root in the box may use a file so.
func (r *Root) may(p *place, how uint16) bool {
	return !p.hidden && (r.owns(p) || p.st.Mode&how == how)
}

// step goes from a directory to one of its names. A mount that covers the name is
// entered.
func (r *Root) step(dir *place, name string) (*place, error) {
	switch {
	case name == "" || name == "." || name == ".." || strings.ContainsRune(name, '/'):
		return nil, unix.EINVAL
	case dir.hidden:
		return nil, unix.ENOENT
	case !dir.is(unix.S_IFDIR):
		return nil, unix.ESTALE // the box has swapped it
	case !r.may(dir, maySearch):
		return nil, unix.EACCES
	}
	how := unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	fd, err := again(func() (int, error) { return unix.Openat2(dir.fd, name, &how) })
	if err != nil {
		return nil, err
	}
	p := &place{fd: fd}
	switch err := statx(fd, &p.st); {
	case errors.Is(err, unix.EACCES): // somebody's FUSE mount
		p.hidden = true
		p.st.Mode = unix.S_IFDIR
	case err != nil:
		closeFD(fd)
		return nil, err
	case p.st.Mnt_id != dir.st.Mnt_id && !r.enters(fd, p.st.Mnt_id):
		p.hidden = true
	}
	return p, nil
}

// again makes a system call again when a signal cut it short.
func again[T any](call func() (T, error)) (T, error) {
	for {
		v, err := call()
		if !errors.Is(err, unix.EINTR) {
			return v, err
		}
	}
}

// at runs fn with what path names.
func (r *Root) at(ctx context.Context, path string, fn func(p *place) error) error {
	return r.use(ctx, func() error { return r.walk(ctx, path, fn) })
}

// walk is at for a caller in use. It ends with ctx: a path may have thousands of names.
func (r *Root) walk(ctx context.Context, path string, fn func(p *place) error) error {
	p := &r.top
	for len(path) > 0 {
		var name string
		name, path, _ = strings.Cut(path, "/")
		var next *place
		err := error(unix.EINTR)
		if ctx.Err() == nil {
			next, err = r.step(p, name)
		}
		if p != &r.top {
			closeFD(p.fd)
		}
		if err != nil {
			return err
		}
		p = next
	}
	if p != &r.top {
		defer closeFD(p.fd)
	}
	return fn(p)
}

// in runs fn with the directory that holds what path names, and its name there. The
// directory can be changed.
func (r *Root) in(ctx context.Context, path string, fn func(dir *place, name string) error) error {
	return r.use(ctx, func() error { return r.walkIn(ctx, path, fn) })
}

// walkIn is in for a caller in use.
func (r *Root) walkIn(ctx context.Context, path string, fn func(dir *place, name string) error) error {
	if path == "" {
		return unix.EBUSY
	}
	i := strings.LastIndexByte(path, '/')
	return r.walk(ctx, path[:max(i, 0)], func(dir *place) error {
		if !dir.hidden && !dir.is(unix.S_IFDIR) {
			return unix.ESTALE
		}
		if !r.may(dir, mayWrite|maySearch) {
			return unix.EACCES
		}
		return fn(dir, path[i+1:])
	})
}

// replaceable returns an error if root in the box may not remove or rename a name.
// Mount points stay: the kernel asks for mounts of the daemon's own namespace only.
func (r *Root) replaceable(dir *place, name string) error {
	p, err := r.step(dir, name)
	if err != nil {
		return err
	}
	defer closeFD(p.fd)
	if p.hidden || p.st.Mnt_id != dir.st.Mnt_id {
		return unix.EBUSY
	}
	if dir.st.Mode&unix.S_ISVTX != 0 && dir.st.Uid != r.ids.base && !r.owns(p) {
		return unix.EPERM
	}
	return nil
}

// RootInfo is what a file of a box shows. Ids are the box's.
type RootInfo struct {
	// Mode has the type, too. A FIFO looks like a socket: whoever opened it would wait
	// for the box, and the kernel does not ask the daemon whether to.
	Mode                uint32
	UID, GID            uint32
	Nlink               uint32
	Size, Blocks        uint64
	Blksize             uint32
	Ino                 uint64 // equal for equal files, and for no others
	Atime, Mtime, Ctime unix.StatxTimestamp
}

func (r *Root) info(p *place) RootInfo {
	st := &p.st
	i := RootInfo{
		Mode: uint32(st.Mode), UID: r.ids.shown(st.Uid), GID: r.ids.shown(st.Gid), Nlink: st.Nlink,
		Size: st.Size, Blocks: st.Blocks, Blksize: st.Blksize,
		Ino:   rootIno(unix.Mkdev(st.Dev_major, st.Dev_minor), st.Ino),
		Atime: st.Atime, Mtime: st.Mtime, Ctime: st.Ctime,
	}
	if p.hidden {
		i.Mode &= unix.S_IFMT
		if i.Mode == unix.S_IFDIR {
			i.Mode |= 0o555
		}
		i.UID, i.GID, i.Nlink, i.Size, i.Blocks = 0, 0, 2, 0, 0
	}
	i.Mode = shownType(i.Mode)
	return i
}

func shownType(mode uint32) uint32 {
	if mode&unix.S_IFMT == unix.S_IFIFO {
		return mode&^unix.S_IFMT | unix.S_IFSOCK
	}
	return mode
}

// rootIno makes one number of a device and an inode number. All files are shown on
// one device, and tools take equal numbers for a loop or for hard links; the numbers
// of the control filesystem itself are small.
func rootIno(dev, ino uint64) uint64 {
	x := ino + dev*0x9e3779b97f4a7c15
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return (x^x>>31)&(1<<62-1) | 1<<62
}

// Lstat tells what path is. It follows no symbolic link, as all methods.
func (r *Root) Lstat(ctx context.Context, path string) (info RootInfo, err error) {
	err = r.at(ctx, path, func(p *place) error {
		info = r.info(p)
		return nil
	})
	return info, err
}

// Readlink returns the text of a symbolic link.
func (r *Root) Readlink(ctx context.Context, path string) (text string, err error) {
	err = r.at(ctx, path, func(p *place) error {
		if !p.is(unix.S_IFLNK) {
			return unix.ESTALE
		}
		buf := make([]byte, unix.PathMax)
		n, err := unix.Readlinkat(p.fd, "", buf)
		text = string(buf[:max(n, 0)])
		return err
	})
	return text, err
}

// Statfs tells about the file system that path is on.
func (r *Root) Statfs(ctx context.Context, path string) (st unix.Statfs_t, err error) {
	err = r.at(ctx, path, func(p *place) error {
		if p.hidden {
			return nil
		}
		return unix.Fstatfs(p.fd, &st)
	})
	return st, err
}

// openFile is a descriptor that ends with the run.
type openFile struct {
	root *Root
	mu   sync.RWMutex // held for reading by whatever uses fd
	fd   int          // -1: closed
}

// keep makes fd end with the run. The caller is in use.
func (r *Root) keep(fd int) *openFile {
	f := &openFile{root: r, fd: fd}
	r.filesMu.Lock()
	defer r.filesMu.Unlock()
	r.files[f] = struct{}{}
	return f
}

func (f *openFile) use(ctx context.Context, fn func(fd int) error) error {
	return f.root.visit(ctx, func() error { return f.useNow(fn) })
}

// useNow is use for a caller that has its turn.
func (f *openFile) useNow(fn func(fd int) error) error {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.fd < 0 {
		return ErrEnded
	}
	return fn(f.fd)
}

// Close gives up the descriptor. What was written is with the kernel already.
func (f *openFile) Close() {
	f.root.filesMu.Lock()
	delete(f.root.files, f)
	f.root.filesMu.Unlock()
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.fd >= 0 {
		closeFD(f.fd)
		f.fd = -1
	}
}

// RootFile is an open regular file of a box.
type RootFile struct {
	*openFile
	writable bool
}

// openFlags are those of an open that have a meaning here.
const openFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC

// reopen opens what an O_PATH descriptor holds, and nothing else. The caller has
// made sure that it is a regular file or a directory. O_NONBLOCK: a process of the box
// may hold a lease on the file.
func reopen(fd, flags int) (int, error) {
	return again(func() (int, error) {
		return unix.Open("/proc/self/fd/"+strconv.Itoa(fd), flags|unix.O_NONBLOCK|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	})
}

func (r *Root) open(p *place, flags int) (*RootFile, error) {
	switch {
	case p.is(unix.S_IFLNK) || p.is(unix.S_IFDIR):
		return nil, unix.ESTALE
	case !p.is(unix.S_IFREG):
		return nil, unix.EACCES
	}
	how := uint16(mayRead)
	switch flags & unix.O_ACCMODE {
	case unix.O_WRONLY:
		how = mayWrite
	case unix.O_RDWR:
		how |= mayWrite
	}
	if flags&unix.O_TRUNC != 0 {
		how |= mayWrite
	}
	if !r.may(p, how) {
		return nil, unix.EACCES
	}
	fd, err := reopen(p.fd, flags&openFlags)
	if err != nil {
		return nil, err
	}
	return &RootFile{r.keep(fd), flags&unix.O_ACCMODE != unix.O_RDONLY}, nil
}

// Open opens a regular file; of flags, those of access, O_APPEND, O_TRUNC, O_SYNC and
// O_DSYNC count.
func (r *Root) Open(ctx context.Context, path string, flags int) (f *RootFile, err error) {
	err = r.at(ctx, path, func(p *place) error {
		f, err = r.open(p, flags)
		return err
	})
	return f, err
}

// ReadAt reads up to len(buf) bytes; fewer or none at the end of the file.
func (f *RootFile) ReadAt(ctx context.Context, buf []byte, off int64) (n int, err error) {
	err = f.use(ctx, func(fd int) error {
		n, err = again(func() (int, error) { return unix.Pread(fd, buf, off) })
		return err
	})
	return max(n, 0), err
}

// WriteAt writes at off, or at the end of a file that was opened with O_APPEND.
func (f *RootFile) WriteAt(ctx context.Context, buf []byte, off int64) (n int, err error) {
	err = f.use(ctx, func(fd int) error {
		n, err = again(func() (int, error) { return unix.Pwrite(fd, buf, off) })
		return err
	})
	return max(n, 0), err
}

// Seek finds data or a hole, as lseek(2) with SEEK_DATA and SEEK_HOLE.
func (f *RootFile) Seek(ctx context.Context, off int64, whence int) (at int64, err error) {
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, unix.EINVAL
	}
	err = f.use(ctx, func(fd int) error {
		at, err = unix.Seek(fd, off, whence)
		return err
	})
	return at, err
}

// Allocate is fallocate(2).
func (f *RootFile) Allocate(ctx context.Context, off, size int64, mode uint32) error {
	return f.use(ctx, func(fd int) error { return unix.Fallocate(fd, mode, off, size) })
}

// Sync is fsync(2).
func (f *openFile) Sync(ctx context.Context) error { return f.use(ctx, unix.Fsync) }

// Lstat tells what the file is, also when no name leads to it any more.
func (f *RootFile) Lstat(ctx context.Context) (info RootInfo, err error) {
	err = f.use(ctx, func(fd int) error {
		p := place{fd: fd}
		if err := statx(fd, &p.st); err != nil {
			return err
		}
		info = f.root.info(&p)
		return nil
	})
	return info, err
}

// Truncate sets the size.
func (f *RootFile) Truncate(ctx context.Context, size int64) error {
	if !f.writable {
		return unix.EINVAL
	}
	return f.use(ctx, func(fd int) error { return unix.Ftruncate(fd, size) })
}

// RootDir reads the names in a directory.
type RootDir struct {
	*openFile
	// hidden: it shows no names.
	hidden    bool
	dev       uint64
	buf, rest []byte
}

// RootEntry is a name in a directory.
type RootEntry struct {
	Name string
	Ino  uint64
	Mode uint32 // the type, 0 if it is not known
	Off  uint64 // where the next one is; for Seek
}

// ReadDir opens a directory.
func (r *Root) ReadDir(ctx context.Context, path string) (d *RootDir, err error) {
	err = r.at(ctx, path, func(p *place) error {
		switch {
		case p.hidden:
			d = &RootDir{openFile: &openFile{root: r, fd: -1}, hidden: true}
			return nil
		case !p.is(unix.S_IFDIR):
			return unix.ESTALE
		case !r.may(p, mayRead):
			return unix.EACCES
		}
		fd, err := reopen(p.fd, unix.O_RDONLY|unix.O_DIRECTORY)
		if err != nil {
			return err
		}
		d = &RootDir{openFile: r.keep(fd), dev: unix.Mkdev(p.st.Dev_major, p.st.Dev_minor), buf: make([]byte, 8<<10)}
		return nil
	})
	return d, err
}

// Next returns the next name, or io.EOF.
func (d *RootDir) Next(ctx context.Context) (e RootEntry, err error) {
	if d.hidden {
		return e, io.EOF
	}
	if len(d.rest) == 0 {
		err := d.use(ctx, func(fd int) error {
			n, err := again(func() (int, error) { return unix.Getdents(fd, d.buf) })
			d.rest = d.buf[:max(n, 0)]
			return err
		})
		if err != nil {
			return e, err
		}
		if len(d.rest) == 0 {
			return e, io.EOF
		}
	}
	// struct linux_dirent64: ino, off, length of the record, type, name.
	const head = 19
	size := int(binary.NativeEndian.Uint16(d.rest[16:]))
	name := string(d.rest[head:size])
	if end := strings.IndexByte(name, 0); end >= 0 {
		name = name[:end]
	}
	e = RootEntry{
		Name: name, Off: binary.NativeEndian.Uint64(d.rest[8:]),
		Ino: rootIno(d.dev, binary.NativeEndian.Uint64(d.rest)), Mode: shownType(uint32(d.rest[18]) << 12),
	}
	d.rest = d.rest[size:]
	return e, nil
}

// Seek goes to where an entry said that the next one is; 0 is the beginning.
func (d *RootDir) Seek(ctx context.Context, off uint64) error {
	if d.hidden {
		return nil
	}
	d.rest = nil
	return d.use(ctx, func(fd int) error {
		_, err := unix.Seek(fd, int64(off), io.SeekStart)
		return err
	})
}

// Sync is fsync(2) of the directory.
func (d *RootDir) Sync(ctx context.Context) error {
	if d.hidden {
		return nil
	}
	return d.openFile.Sync(ctx)
}

// as runs fn with the ids of whoever asks, as the host has them; one whom the box has no
// id for is its root. So what is made belongs to him; and a file system that belongs to the
// box's user namespace takes no new name from root on the host, whom it does not know.
func (r *Root) as(uid, gid uint32, fn func() error) error {
	host := func(id uint32) int {
		if n, err := r.ids.given(id); err == nil {
			return int(n)
		}
		return int(r.ids.base)
	}
	u, g := host(uid), host(gid)
	if u == 0 && g == 0 {
		return fn()
	}
	goruntime.LockOSThread()
	err := assume(u, g)
	if err == nil {
		err = fn()
	}
	if back := assume(0, 0); back != nil {
		return errors.Join(err, back) // the thread ends with its goroutine
	}
	goruntime.UnlockOSThread()
	return err
}

// assume gives the thread ids for the file system, and keeps its capabilities.
func assume(uid, gid int) error {
	// The calls give the old id back, and no error.
	_ = unix.Setfsgid(gid)
	_ = unix.Setfsuid(uid)
	if g, _ := unix.SetfsgidRetGid(-1); g != gid {
		return unix.EPERM
	}
	if u, _ := unix.SetfsuidRetUid(-1); u != uid {
		return unix.EPERM
	}
	head := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&head, &sets[0]); err != nil {
		return err
	}
	sets[0].Effective, sets[1].Effective = sets[0].Permitted, sets[1].Permitted
	return unix.Capset(&head, &sets[0])
}

// Create makes a regular file and opens it, or opens it if it is there already and
// flags does not say O_EXCL. uid and gid are who asks.
func (r *Root) Create(ctx context.Context, path string, flags int, mode, uid, gid uint32) (f *RootFile, info RootInfo, err error) {
	err = r.in(ctx, path, func(dir *place, name string) error {
		for range 8 { // the box may make it and remove it in turn
			var fd int
			err := r.as(uid, gid, func() error {
				// Only with O_EXCL is it certain that nothing of the box's is opened.
				how := unix.OpenHow{
					Flags:   uint64(flags&openFlags&^unix.O_TRUNC | unix.O_CREAT | unix.O_EXCL | unix.O_NOFOLLOW | unix.O_NONBLOCK | unix.O_NOCTTY | unix.O_CLOEXEC),
					Mode:    uint64(mode & 0o7777),
					Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS | unix.RESOLVE_NO_XDEV,
				}
				var err error
				fd, err = again(func() (int, error) { return unix.Openat2(dir.fd, name, &how) })
				return err
			})
			if err == nil {
				f = &RootFile{r.keep(fd), flags&unix.O_ACCMODE != unix.O_RDONLY}
				info, err = r.made(fd, mode)
				if err != nil {
					f.Close()
				}
				return err
			}
			if !errors.Is(err, unix.EEXIST) || flags&unix.O_EXCL != 0 {
				return err
			}
			p, err := r.step(dir, name)
			if errors.Is(err, unix.ENOENT) {
				continue
			}
			if err != nil {
				return err
			}
			defer closeFD(p.fd)
			if f, err = r.open(p, flags); err != nil {
				return err
			}
			info = r.info(p)
			return nil
		}
		return unix.ESTALE
	})
	return f, info, err
}

// made gives what was just made the mode that was asked for, whatever the daemon's
// umask is, and tells what it is.
func (r *Root) made(fd int, mode uint32) (RootInfo, error) {
	p := place{fd: fd}
	if err := statx(fd, &p.st); err != nil {
		return RootInfo{}, err
	}
	want := uint16(mode&0o7777) | p.st.Mode&unix.S_ISGID // a directory may inherit it
	if p.st.Mode&unix.S_IFMT != unix.S_IFLNK && p.st.Mode&0o7777 != want {
		if err := chmod(fd, uint32(want)); err != nil {
			return RootInfo{}, err
		}
		p.st.Mode = p.st.Mode&unix.S_IFMT | want
	}
	return r.info(&p), nil
}

func chmod(fd int, mode uint32) error {
	return unix.Fchmodat(unix.AT_FDCWD, "/proc/self/fd/"+strconv.Itoa(fd), mode, 0)
}

// make makes something by a call that gives no descriptor of it.
func (r *Root) make(ctx context.Context, path string, mode, uid, gid uint32, call func(dir int, name string) error) (info RootInfo, err error) {
	err = r.in(ctx, path, func(dir *place, name string) error {
		if err := r.as(uid, gid, func() error { return call(dir.fd, name) }); err != nil {
			return err
		}
		p, err := r.step(dir, name)
		if err != nil {
			return err
		}
		defer closeFD(p.fd)
		if p.hidden || !r.ids.has(p.st.Uid) {
			return unix.ESTALE // it is not what was made any more
		}
		info, err = r.made(p.fd, mode)
		return err
	})
	return info, err
}

// Mkdir makes a directory. uid and gid are who asks.
func (r *Root) Mkdir(ctx context.Context, path string, mode, uid, gid uint32) (RootInfo, error) {
	return r.make(ctx, path, mode, uid, gid, func(dir int, name string) error { return unix.Mkdirat(dir, name, mode&0o7777) })
}

// Symlink makes a symbolic link. uid and gid are who asks.
func (r *Root) Symlink(ctx context.Context, text, path string, uid, gid uint32) (RootInfo, error) {
	return r.make(ctx, path, 0, uid, gid, func(dir int, name string) error { return unix.Symlinkat(text, dir, name) })
}

// Link gives the file old one more name.
func (r *Root) Link(ctx context.Context, old, path string) (info RootInfo, err error) {
	err = r.at(ctx, old, func(p *place) error {
		if p.hidden || p.is(unix.S_IFDIR) || !r.owns(p) {
			return unix.EPERM
		}
		return r.walkIn(ctx, path, func(dir *place, name string) error {
			if err := r.as(0, 0, func() error { return unix.Linkat(p.fd, "", dir.fd, name, unix.AT_EMPTY_PATH) }); err != nil {
				return err
			}
			p := place{fd: p.fd}
			if err := statx(p.fd, &p.st); err != nil {
				return err
			}
			info = r.info(&p)
			return nil
		})
	})
	return info, err
}

// Remove removes a name: of an empty directory if dir is true, of anything else if not.
func (r *Root) Remove(ctx context.Context, path string, dir bool) error {
	flags := 0
	if dir {
		flags = unix.AT_REMOVEDIR
	}
	return r.in(ctx, path, func(d *place, name string) error {
		if err := r.replaceable(d, name); err != nil {
			return err
		}
		return unix.Unlinkat(d.fd, name, flags)
	})
}

// Rename is renameat2(2).
func (r *Root) Rename(ctx context.Context, old, path string, flags uint) error {
	if flags&^(unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE) != 0 {
		return unix.EINVAL
	}
	return r.in(ctx, old, func(from *place, oldName string) error {
		if err := r.replaceable(from, oldName); err != nil {
			return err
		}
		return r.walkIn(ctx, path, func(to *place, name string) error {
			if err := r.replaceable(to, name); err != nil && !errors.Is(err, unix.ENOENT) {
				return err
			}
			return r.as(0, 0, func() error { return unix.Renameat2(from.fd, oldName, to.fd, name, flags) })
		})
	})
}

// RootChange says what of a file is to change; nil is nothing.
type RootChange struct {
	UID, GID     *uint32
	Mode         *uint32
	Size         *int64
	Atime, Mtime *unix.Timespec
}

// Change changes a file.
func (r *Root) Change(ctx context.Context, path string, c RootChange) error {
	return r.at(ctx, path, func(p *place) error {
		if p.hidden {
			return unix.EPERM
		}
		// The owner comes first: a change of it takes setuid away.
		if c.UID != nil || c.GID != nil || c.Mode != nil || c.Atime != nil || c.Mtime != nil {
			if !r.owns(p) {
				return unix.EPERM
			}
		}
		if c.UID != nil || c.GID != nil {
			uid, gid := -1, -1
			for _, id := range []struct {
				given *uint32
				host  *int
			}{{c.UID, &uid}, {c.GID, &gid}} {
				if id.given == nil {
					continue
				}
				n, err := r.ids.given(*id.given)
				if err != nil {
					return err
				}
				*id.host = int(n)
			}
			if err := unix.Fchownat(p.fd, "", uid, gid, unix.AT_EMPTY_PATH); err != nil {
				return fmt.Errorf("chown: %w", err)
			}
		}
		if c.Mode != nil {
			if p.is(unix.S_IFLNK) {
				return unix.EOPNOTSUPP
			}
			if err := chmod(p.fd, *c.Mode&0o7777); err != nil {
				return fmt.Errorf("chmod: %w", err)
			}
		}
		if c.Size != nil {
			if err := r.truncate(p, *c.Size); err != nil {
				return fmt.Errorf("truncate: %w", err)
			}
		}
		if c.Atime != nil || c.Mtime != nil {
			times := []unix.Timespec{{Nsec: unix.UTIME_OMIT}, {Nsec: unix.UTIME_OMIT}}
			if c.Atime != nil {
				times[0] = *c.Atime
			}
			if c.Mtime != nil {
				times[1] = *c.Mtime
			}
			if err := unix.UtimesNanoAt(p.fd, "", times, unix.AT_EMPTY_PATH); err != nil {
				return fmt.Errorf("utimensat: %w", err)
			}
		}
		return nil
	})
}

func (r *Root) truncate(p *place, size int64) error {
	f, err := r.open(p, unix.O_WRONLY)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.useNow(func(fd int) error { return unix.Ftruncate(fd, size) })
}

package fsapi

import (
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/prometheus/client_golang/prometheus"
)

// counted is a filesystem whose requests are counted and timed, charged to their user, and
// admitted by the lane. A request that is not listed here never comes, or comes once: the
// kernel does not make it again once it was answered with ENOSYS.
type counted struct {
	fuse.RawFileSystem
	lane      *lane
	budget    *budget
	openFiles prometheus.Gauge
	rare      prometheus.ObserverVec

	lookup, getattr, setattr, mkdir, rmdir, statfs timer
	open, read, wait, write, flush, fsync, release timer
	opendir, readdir, readdirplus, releasedir      timer
}

func count(fs fuse.RawFileSystem, m *metrics, l *lane, b *budget) fuse.RawFileSystem {
	// Looked up once, and not for each request.
	t := func(operation string) timer { return timer{m.requests.WithLabelValues(operation)} }
	return &counted{
		RawFileSystem: fs, lane: l, budget: b, openFiles: m.openFiles, rare: m.requests,
		lookup: t("lookup"), getattr: t("getattr"), setattr: t("setattr"), mkdir: t("mkdir"), rmdir: t("rmdir"), statfs: t("statfs"),
		open: t("open"), read: t("read"), wait: t("wait"), write: t("write"), flush: t("flush"), fsync: t("fsync"), release: t("release"),
		opendir: t("opendir"), readdir: t("readdir"), readdirplus: t("readdirplus"), releasedir: t("releasedir"),
	}
}

// timer observes how long a request took.
type timer struct{ prometheus.Observer }

func (t timer) since(began time.Time) { t.Observe(time.Since(began).Seconds()) }

// waited is the result of a read that may block. It is counted apart from the others.
type waited struct{ fuse.ReadResult }

// charge counts a request against its user's budget, until done.
func (c *counted) charge(uid uint32, bytes int) (done func(), errno syscall.Errno) {
	if uid == 0 {
		return func() {}, 0
	}
	cost := int64(requestBytes + bytes)
	if errno := c.budget.take(uid, amount{bytes: cost}); errno != 0 {
		return nil, errno
	}
	return func() { c.budget.give(uid, amount{bytes: cost}) }, 0
}

// admit charges a request that only reads, and has it wait for the lane.
func (c *counted) admit(uid uint32, bytes int) (done func(), errno syscall.Errno) {
	if uid == 0 {
		return func() {}, 0
	}
	end, errno := c.charge(uid, bytes)
	if errno != 0 {
		return nil, errno
	}
	leave := c.lane.read(uid)
	return func() { leave(); end() }, 0
}

// opening admits a request that opens a file or directory. handle is the kernel's number for
// that, once it is open.
func (c *counted) opening(uid uint32, handle *uint64, open func() fuse.Status) fuse.Status {
	if uid == 0 {
		return open()
	}
	done, errno := c.admit(uid, 0)
	if errno != 0 {
		return fuse.Status(errno)
	}
	defer done()
	if errno := c.budget.take(uid, amount{files: 1}); errno != 0 {
		return fuse.Status(errno)
	}
	status := open()
	if !status.Ok() {
		c.budget.give(uid, amount{files: 1})
		return status
	}
	c.budget.opened(uid, *handle)
	return status
}

func (c *counted) seldom(operation string, began time.Time) {
	timer{c.rare.WithLabelValues(operation)}.since(began)
}

func (c *counted) Lookup(cancel <-chan struct{}, header *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	defer c.lookup.since(time.Now())
	done, errno := c.admit(header.Uid, 0)
	if errno != 0 {
		return fuse.Status(errno)
	}
	defer done()
	return c.RawFileSystem.Lookup(cancel, header, name, out)
}

func (c *counted) GetAttr(cancel <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer c.getattr.since(time.Now())
	done, errno := c.admit(in.Uid, 0)
	if errno != 0 {
		return fuse.Status(errno)
	}
	defer done()
	return c.RawFileSystem.GetAttr(cancel, in, out)
}

func (c *counted) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	defer c.setattr.since(time.Now())
	return c.RawFileSystem.SetAttr(cancel, in, out)
}

func (c *counted) Mkdir(cancel <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	defer c.mkdir.since(time.Now())
	markMode(in)
	return c.RawFileSystem.Mkdir(cancel, in, name, out)
}

func (c *counted) Rmdir(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	defer c.rmdir.since(time.Now())
	return c.RawFileSystem.Rmdir(cancel, header, name)
}

func (c *counted) StatFs(cancel <-chan struct{}, header *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	defer c.statfs.since(time.Now())
	done, errno := c.admit(header.Uid, 0)
	if errno != 0 {
		return fuse.Status(errno)
	}
	defer done()
	return c.RawFileSystem.StatFs(cancel, header, out)
}

func (c *counted) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer c.open.since(time.Now())
	status := c.opening(in.Uid, &out.Fh, func() fuse.Status { return c.RawFileSystem.Open(cancel, in, out) })
	if status.Ok() {
		c.openFiles.Inc()
	}
	return status
}

func (c *counted) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	began := time.Now()
	done, errno := c.admit(in.Uid, len(buf))
	if errno != 0 {
		return nil, fuse.Status(errno)
	}
	defer done()
	result, status := c.RawFileSystem.Read(cancel, in, buf)
	if w, ok := result.(waited); ok {
		c.wait.since(began)
		return w.ReadResult, status
	}
	c.read.since(began)
	return result, status
}

// Write comes only after a Writev that was answered with ENOSYS.
func (c *counted) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	defer c.write.since(time.Now())
	done, errno := c.charge(in.Uid, len(data))
	if errno != 0 {
		return 0, fuse.Status(errno)
	}
	defer done()
	return c.RawFileSystem.Write(cancel, in, data)
}

// Writev comes first for every write. If it is answered with ENOSYS, go-fuse calls Write.
func (c *counted) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	began := time.Now()
	bytes := 0
	for _, part := range data {
		bytes += len(part)
	}
	done, errno := c.charge(in.Uid, bytes)
	if errno != 0 {
		c.write.since(began)
		return 0, fuse.Status(errno)
	}
	defer done()
	n, status := c.RawFileSystem.Writev(cancel, in, data)
	if status != fuse.ENOSYS { // else it comes again, as a Write
		c.write.since(began)
	}
	return n, status
}

func (c *counted) Flush(cancel <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	defer c.flush.since(time.Now())
	return c.RawFileSystem.Flush(cancel, in)
}

func (c *counted) Fsync(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	defer c.fsync.since(time.Now())
	return c.RawFileSystem.Fsync(cancel, in)
}

func (c *counted) Release(cancel <-chan struct{}, in *fuse.ReleaseIn) {
	defer c.release.since(time.Now())
	c.openFiles.Dec()
	c.budget.released(in.Fh)
	c.RawFileSystem.Release(cancel, in)
}

func (c *counted) OpenDir(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	defer c.opendir.since(time.Now())
	return c.opening(in.Uid, &out.Fh, func() fuse.Status { return c.RawFileSystem.OpenDir(cancel, in, out) })
}

func (c *counted) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	defer c.readdir.since(time.Now())
	done, errno := c.admit(in.Uid, 0)
	if errno != 0 {
		return fuse.Status(errno)
	}
	defer done()
	return c.RawFileSystem.ReadDir(cancel, in, out)
}

func (c *counted) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	defer c.readdirplus.since(time.Now())
	done, errno := c.admit(in.Uid, 0)
	if errno != 0 {
		return fuse.Status(errno)
	}
	defer done()
	return c.RawFileSystem.ReadDirPlus(cancel, in, out)
}

func (c *counted) ReleaseDir(in *fuse.ReleaseIn) {
	defer c.releasedir.since(time.Now())
	c.budget.released(in.Fh)
	c.RawFileSystem.ReleaseDir(in)
}

// The requests that follow are refused, or come from few programs. There are series of them
// only once one has come.

func (c *counted) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	defer c.seldom("lseek", time.Now())
	done, errno := c.admit(in.Uid, 0)
	if errno != 0 {
		return fuse.Status(errno)
	}
	defer done()
	return c.RawFileSystem.Lseek(cancel, in, out)
}

func (c *counted) Ioctl(cancel <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, out *fuse.IoctlOut, outbuf []byte) fuse.Status {
	defer c.seldom("ioctl", time.Now())
	done, errno := c.admit(in.Uid, 0)
	if errno != 0 {
		return fuse.Status(errno)
	}
	defer done()
	return c.RawFileSystem.Ioctl(cancel, in, inbuf, out, outbuf)
}

func (c *counted) Unlink(cancel <-chan struct{}, header *fuse.InHeader, name string) fuse.Status {
	defer c.seldom("unlink", time.Now())
	return c.RawFileSystem.Unlink(cancel, header, name)
}

func (c *counted) Rename(cancel <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	defer c.seldom("rename", time.Now())
	return c.RawFileSystem.Rename(cancel, in, from, to)
}

func (c *counted) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	defer c.seldom("create", time.Now())
	status := c.RawFileSystem.Create(cancel, in, name, out)
	if status.Ok() {
		c.openFiles.Inc()
	}
	return status
}

func (c *counted) Symlink(cancel <-chan struct{}, header *fuse.InHeader, to, name string, out *fuse.EntryOut) fuse.Status {
	defer c.seldom("symlink", time.Now())
	return c.RawFileSystem.Symlink(cancel, header, to, name, out)
}

func (c *counted) Link(cancel <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	defer c.seldom("link", time.Now())
	return c.RawFileSystem.Link(cancel, in, name, out)
}

func (c *counted) Mknod(cancel <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	defer c.seldom("mknod", time.Now())
	return c.RawFileSystem.Mknod(cancel, in, name, out)
}

func (c *counted) Readlink(cancel <-chan struct{}, header *fuse.InHeader) ([]byte, fuse.Status) {
	defer c.seldom("readlink", time.Now())
	done, errno := c.admit(header.Uid, 0)
	if errno != 0 {
		return nil, fuse.Status(errno)
	}
	defer done()
	return c.RawFileSystem.Readlink(cancel, header)
}

func (c *counted) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	defer c.seldom("fallocate", time.Now())
	return c.RawFileSystem.Fallocate(cancel, in)
}

func (c *counted) FsyncDir(cancel <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	defer c.seldom("fsyncdir", time.Now())
	return c.RawFileSystem.FsyncDir(cancel, in)
}

func (c *counted) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	defer c.seldom("copy_file_range", time.Now())
	return c.RawFileSystem.CopyFileRange(cancel, in)
}

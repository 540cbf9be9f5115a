package fsapi

import (
	"context"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"github.com/prometheus/client_golang/prometheus"
)

// What users other than root may hold of the daemon. There is no bound for root: what root
// does to itself is no attack. A user is a uid. Somebody who makes user namespaces may have
// 65,536 of them, so there is a bound for all users together, too.
const (
	userFiles = 16 << 10 // open files and directories
	allFiles  = 64 << 10
	userBytes = 64 << 20 // of memory: texts that open files show, and requests that go on
	allBytes  = 256 << 20
	// Commands that wait have a bound of their own: they last as long as their grace, without
	// a process or an open file, and may not take what requests need.
	userOrders = userBytes / 4
	allOrders  = allBytes / 4
	// requestBytes is what a request costs besides what it reads or writes: a goroutine
	// and its buffers.
	requestBytes = 16 << 10
)

// amount is what a user holds.
type amount struct {
	files  int
	bytes  int64
	orders int64 // bytes of commands that wait
}

func (a amount) plus(b amount) amount {
	return amount{a.files + b.files, a.bytes + b.bytes, a.orders + b.orders}
}

func (a amount) minus(b amount) amount {
	return amount{a.files - b.files, a.bytes - b.bytes, a.orders - b.orders}
}

// budget knows what each user holds.
type budget struct {
	noFiles, noBytes prometheus.Counter // requests that were refused

	mu    sync.Mutex // guards what follows; nothing is waited for under it
	all   amount
	users map[uint32]amount // those who hold anything
	open  map[uint64]uint32 // whose an open file is, by its handle; root's are not in it
}

func newBudget(refused *prometheus.CounterVec) *budget {
	return &budget{
		noFiles: refused.WithLabelValues("files"), noBytes: refused.WithLabelValues("bytes"),
		users: map[uint32]amount{}, open: map[uint64]uint32{},
	}
}

// take gives a user more to hold, or says why not.
func (b *budget) take(uid uint32, a amount) syscall.Errno {
	if uid == 0 {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	his, all := b.users[uid].plus(a), b.all.plus(a)
	switch {
	case his.files > userFiles || all.files > allFiles:
		b.noFiles.Inc()
		return syscall.ENFILE
	case his.bytes > userBytes || all.bytes > allBytes,
		his.orders > userOrders || all.orders > allOrders:
		b.noBytes.Inc()
		return syscall.EDQUOT
	}
	b.users[uid], b.all = his, all
	return 0
}

// give gives back what was taken.
func (b *budget) give(uid uint32, a amount) {
	if uid == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.giveLocked(uid, a)
}

func (b *budget) giveLocked(uid uint32, a amount) {
	b.all = b.all.minus(a)
	his := b.users[uid].minus(a)
	if his == (amount{}) {
		delete(b.users, uid)
	} else {
		b.users[uid] = his
	}
}

// opened notes who has opened a file. The kernel does not name the user when the file is
// released.
func (b *budget) opened(uid uint32, handle uint64) {
	if uid == 0 {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.open[handle] = uid
}

// released gives back an open file. It comes before the handle may stand for another.
func (b *budget) released(handle uint64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if uid, ok := b.open[handle]; ok {
		delete(b.open, handle)
		b.giveLocked(uid, amount{files: 1})
	}
}

// lease is memory that an open file holds until its release.
type lease struct {
	budget *budget
	uid    uint32
	bytes  int64
}

// lease takes memory for the user who makes the request.
func (b *budget) lease(ctx context.Context, bytes int) (lease, syscall.Errno) {
	l := lease{b, caller(ctx).UID, int64(bytes)}
	return l, b.take(l.uid, amount{bytes: l.bytes})
}

// end gives it back.
func (l lease) end() {
	if l.budget != nil {
		l.budget.give(l.uid, amount{bytes: l.bytes})
	}
}

// nameBytes is what a name in a list of names takes.
const nameBytes = 64

// list reads a directory that may have many names.
func (f *FS) list(ctx context.Context, entries []fuse.DirEntry) (fs.DirStream, syscall.Errno) {
	l, errno := f.budget.lease(ctx, nameBytes*len(entries))
	if errno != 0 {
		return nil, errno
	}
	return &leasedList{fs.NewListDirStream(entries), l}, 0
}

type leasedList struct {
	fs.DirStream
	lease lease
}

// Seekdir goes to where a name was.
func (l *leasedList) Seekdir(ctx context.Context, off uint64) syscall.Errno {
	s, ok := l.DirStream.(fs.FileSeekdirer)
	if !ok {
		return syscall.ENOTSUP
	}
	return s.Seekdir(ctx, off)
}

// Close ends the reading.
func (l *leasedList) Close() {
	l.DirStream.Close()
	l.lease.end()
}

//go:build linux && (amd64 || arm64)

package shim

import (
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
)

const (
	// holderSteps is how many descriptors are looked at before the shim turns to its other
	// work.
	holderSteps = 256
	// holderShare bounds the part of the time that searches take which do not find what
	// they look for: one in so many.
	holderShare = 20
)

// holderSearch looks for processes of the box that have sockets, by their inodes. The
// shim is the init of a pid namespace whose /proc it has: it sees the processes of the
// box, and no others.
//
// A box may have 10,000 processes, and one of them a million descriptors: the search goes
// on a few at a time. Who has been found once is only looked at. Nothing is allocated.
type holderSearch struct {
	running bool
	begun   int64 // in the shim's own CPU time: it may be stopped meanwhile
	wanted  *owners
	found   [maxOwners]bool
	missing int
	denied  bool // some could not be looked at
	procs   dirReader
	tasks   dirReader // the threads of a process of which the first has ended
	fds     dirReader
	entries int // that fds has had
	pid     int
	tid     int

	known [8]holder // those who had a socket the last time
	next  int       // the one that is forgotten next

	// Until then there is no other search, after one that has not found everything; and
	// what that has said is believed.
	until  int64
	absent uint32 // a socket that nobody of the box had; 0: it is not known
	blind  bool   // not all could be looked at
}

// holder is a process that has a socket.
type holder struct {
	inode   uint32
	tid, fd int
}

// verdict of a search.
type heldBy int

const (
	heldUnknown heldBy = iota // it goes on, or could not look everywhere
	heldLate                  // there was no time for it
	heldByBox
	heldByOthers
)

// begin looks for the holders of all of o, which stays as it is until the end.
func (h *holderSearch) begin(o *owners, now int64) heldBy {
	*h = holderSearch{known: h.known, next: h.next, until: h.until, absent: h.absent, blind: h.blind, wanted: o, begun: clock(unix.CLOCK_PROCESS_CPUTIME_ID)}
	resting := now < h.until
	for i, inode := range o.list[:o.n] {
		if inode == h.absent && inode != 0 && resting {
			return heldByOthers
		}
		h.found[i] = h.stillHeld(inode)
		if !h.found[i] {
			h.missing++
		}
	}
	switch {
	case h.missing == 0:
		return heldByBox
	case resting && h.blind:
		return heldUnknown
	case resting:
		return heldLate
	}
	if !h.procs.open([]byte("/proc\x00"), unix.AT_FDCWD) {
		return heldUnknown
	}
	h.running = true
	return heldUnknown
}

// stillHeld looks whether a process has a socket that it had before.
func (h *holderSearch) stillHeld(inode uint32) bool {
	for _, k := range h.known {
		if k.inode != inode || inode == 0 {
			continue
		}
		var path [48]byte
		b := strconv.AppendInt(append(path[:0], "/proc/"...), int64(k.tid), 10)
		b = strconv.AppendInt(append(b, "/fd/"...), int64(k.fd), 10)
		if got, _ := socketAt(unix.AT_FDCWD, append(b, 0)); got == inode {
			return true
		}
	}
	return false
}

// step goes on with a search. It runs until it knows, or knows that it will not.
func (h *holderSearch) step(now int64) heldBy {
	for range holderSteps {
		if !h.fds.opened {
			if !h.nextTask() {
				return h.over(now)
			}
			continue
		}
		name := h.fds.read()
		if name == nil {
			h.denied = h.denied || !h.fds.whole()
			h.fds.close()
			h.leaveTask()
			continue
		}
		if number(name) < 0 {
			continue
		}
		h.entries++
		inode, errno := socketAt(h.fds.fd, name[:len(name)+1]) // its NUL follows
		h.denied = h.denied || errno != 0 && !vanished(errno)
		if inode == 0 {
			continue
		}
		for i, want := range h.wanted.list[:h.wanted.n] {
			if want != inode || h.found[i] {
				continue
			}
			h.found[i] = true
			h.missing--
			h.known[h.next] = holder{inode: inode, tid: h.tid, fd: number(name)}
			h.next = (h.next + 1) % len(h.known)
		}
		if h.missing == 0 {
			h.stop()
			return heldByBox
		}
	}
	return heldUnknown
}

// nextTask opens the descriptors of the next process, or of the next thread of one. It
// returns false when there is none.
func (h *holderSearch) nextTask() bool {
	from := &h.procs
	if h.tasks.opened {
		from = &h.tasks
	}
	name := from.read()
	if name == nil {
		h.denied = h.denied || !from.whole()
		if from == &h.procs {
			return false
		}
		h.tasks.close()
		return true
	}
	h.tid, h.entries = number(name), 0
	if from == &h.procs {
		h.pid = h.tid
	} else if h.tid == h.pid {
		return true // it has been looked at
	}
	if h.tid > 1 {
		var path [24]byte
		h.open(&h.fds, append(append(path[:0], name...), "/fd\x00"...), from.fd)
	}
	return true
}

// leaveTask goes on to the threads of a process, where the first of them has nothing: it
// may have ended, which leaves the process to the others. They have the same descriptors.
func (h *holderSearch) leaveTask() {
	switch {
	case h.tasks.opened && h.entries > 0:
		h.tasks.close()
	case h.entries == 0 && h.tid == h.pid:
		var path [32]byte
		h.open(&h.tasks, append(strconv.AppendInt(path[:0], int64(h.pid), 10), "/task\x00"...), h.procs.fd)
	}
}

func (h *holderSearch) open(d *dirReader, path []byte, at int) {
	if !d.open(path, at) {
		h.denied = h.denied || !vanished(d.errno)
	}
}

// over ends a search that has been everywhere, and has not found everything.
func (h *holderSearch) over(now int64) heldBy {
	h.giveUp(now)
	if h.denied {
		h.blind = true
		return heldUnknown
	}
	for i, inode := range h.wanted.list[:h.wanted.n] {
		if !h.found[i] {
			h.absent = inode
		}
	}
	return heldByOthers
}

// giveUp ends a search that has not found everything.
func (h *holderSearch) giveUp(now int64) {
	h.stop()
	h.until, h.absent, h.blind = now+holderShare*(clock(unix.CLOCK_PROCESS_CPUTIME_ID)-h.begun), 0, false
}

func (h *holderSearch) stop() {
	h.running = false
	h.procs.close()
	h.tasks.close()
	h.fds.close()
}

// socketAt returns the inode of the socket that a link of a /proc/PID/fd is, or 0. The name
// has a NUL at its end.
func socketAt(dir int, name []byte) (uint32, unix.Errno) {
	var text [32]byte
	n, _, errno := unix.Syscall6(unix.SYS_READLINKAT, uintptr(dir), uintptr(unsafe.Pointer(&name[0])), uintptr(unsafe.Pointer(&text[0])), uintptr(len(text)), 0, 0)
	const prefix = "socket:["
	if errno != 0 || int(n) <= len(prefix) || string(text[:len(prefix)]) != prefix || text[n-1] != ']' {
		return 0, errno
	}
	return uint32(max(number(text[len(prefix):n-1]), 0)), 0
}

// number reads a number, or gives -1.
func number(text []byte) int {
	n := 0
	for _, c := range text {
		if c < '0' || c > '9' || n > 1<<40 {
			return -1
		}
		n = n*10 + int(c-'0')
	}
	if len(text) == 0 {
		return -1
	}
	return n
}

// dirReader reads the names in a directory, one after the other.
type dirReader struct {
	fd      int
	opened  bool
	errno   unix.Errno
	buf     [2048]byte
	at, end int
}

// open opens a directory. The path has a NUL at its end.
func (d *dirReader) open(path []byte, at int) bool {
	fd, _, errno := unix.Syscall6(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&path[0])), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0, 0, 0)
	d.errno, d.opened = errno, errno == 0
	d.fd, d.at, d.end = int(fd), 0, 0
	return d.opened
}

// vanished reports whether an error in /proc says that what was looked at has ended. Any
// other, as that there are no descriptors left, says nothing of what was not seen.
func vanished(errno unix.Errno) bool { return errno == unix.ENOENT || errno == unix.ESRCH }

func (d *dirReader) close() {
	if d.opened {
		sys.Close(d.fd)
		d.opened = false
	}
}

// whole reports whether the end of the names was that of all there are.
func (d *dirReader) whole() bool { return d.errno == 0 || vanished(d.errno) }

// read returns the next name, which has a NUL behind it, or nil at the end.
func (d *dirReader) read() []byte {
	const lengthAt, nameAt = 16, 19 // of linux_dirent64
	if d.at >= d.end {
		n, err := sys.Retry(func() (int, error) { return unix.Getdents(d.fd, d.buf[:]) })
		if n <= 0 || err != nil {
			d.errno = toErrno(err)
			return nil
		}
		d.at, d.end = 0, n
	}
	entry := d.buf[d.at:d.end]
	size := int(entry[lengthAt]) | int(entry[lengthAt+1])<<8
	d.at += size
	name := entry[nameAt:size]
	for i, c := range name {
		if c == 0 {
			return name[:i]
		}
	}
	return name[:0]
}

package runtime

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"

	"github.com/boxlitefs/boxlite/reaper/procfs"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// A shim sees no process but those of its box. Who it is that listens on a port where the
// box should is found here, once for each such socket, and aside: there may be a hundred
// thousand descriptors to look at.

// listener is who has a socket that a box was probed for, and has not.
type listener struct {
	inode uint64
	words string // empty while it is looked for
}

// looking is held by who looks through /proc.
var looking sync.Mutex

// nameListener puts into a report whose socket it is that has answered instead of the box;
// later, if that is not known yet.
func (c *check) nameListener(report *ProbeReport) {
	inode, ok := wire.ForeignSocket(report.Reason)
	if !ok {
		return
	}
	if l := c.r.listener.Load(); l != nil && l.inode == inode {
		if l.words != "" {
			report.Reason = l.words
		}
		return
	}
	c.r.listener.Store(&listener{inode: inode})
	b, r := c.b, c.r
	// Nothing is written: the end of the daemon need not wait for it.
	go func() {
		looking.Lock()
		words := b.rt.holderOf(inode)
		looking.Unlock()
		if b.rt.life.Err() != nil {
			return
		}
		r.listener.Store(&listener{inode: inode, words: words})
		if last := r.probe.Load(); last != nil && last.Reason == report.Reason {
			named := *last
			named.Reason = words
			if r.probe.CompareAndSwap(last, &named) {
				b.infoChanged()
			}
		}
	}()
}

// holderOf says who has a socket. It stops looking when the runtime ends, and says nothing.
func (rt *Runtime) holderOf(inode uint64) string {
	procs, err := os.ReadDir("/proc")
	if err != nil {
		return fmt.Sprintf("another listens there, and it is not known who: %v", err)
	}
	link := fmt.Sprintf("socket:[%d]", inode)
	for _, p := range procs {
		if rt.life.Err() != nil {
			return ""
		}
		pid, err := strconv.Atoi(p.Name())
		if err != nil {
			continue
		}
		dir := "/proc/" + p.Name() + "/fd/"
		fds, err := os.ReadDir(dir)
		if err != nil {
			continue // it has ended
		}
		for _, fd := range fds {
			if rt.life.Err() != nil {
				return ""
			}
			if to, err := os.Readlink(dir + fd.Name()); err == nil && to == link {
				return "another listens there: " + rt.processWords(pid)
			}
		}
	}
	return "another listens there, who has no process on this host"
}

// processWords tells of a process, with the box that it is of.
func (rt *Runtime) processWords(pid int) string {
	name, err := procfs.Of(pid).Comm()
	if err != nil {
		name = "ended"
	}
	words := fmt.Sprintf("pid %d (%s)", pid, oneLine(strings.TrimSpace(name)))
	shims := map[int]string{}
	for _, b := range rt.Boxes() {
		if s := b.Snapshot(); s.PID > 0 {
			shims[s.PID] = b.Name()
		}
	}
	// An orphan of a box is its shim's child.
	const generations = 1000
	for range generations {
		stat, err := procfs.Of(pid).Stat()
		if err != nil || stat.Parent == 0 {
			break
		}
		pid = stat.Parent
		if box, ok := shims[pid]; ok {
			return words + fmt.Sprintf(" of box %q", box)
		}
	}
	return words + ", of no box"
}

// infoChanged tells those who watch info.json.
func (b *Box) infoChanged() {
	if o := b.rt.opt.Observer; o != nil {
		o.BoxChanged(b, FieldInfo)
	}
}

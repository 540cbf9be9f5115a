//go:build linux && (amd64 || arm64)

package shim

import (
	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/wire"
)

// A box that has no network of its own shares its ports with all others and with the
// host. That somebody answers there says nothing of the box, unless it is one of its
// processes that listens.

const (
	reasonNobody = "nobody of this host listens there"
	reasonWhose  = "it was not found in time whether a process of this box listens there"
)

// peerSearch finds out whether it is the box that a probe talks to. It is made for the
// first probe that needs it, and kept.
type peerSearch struct {
	owners  owners
	holders holderSearch
	mute    bool // that it does not work here was said
	buf     [8 << 10]byte
}

// searching reports whether a probe that is connected has not been told yet to whom.
func (p *probe) searching() bool { return p.peer != nil && p.peer.holders.running }

// meetPeer goes on with a probe that is connected, if it is to the box.
func (p *probe) meetPeer(s *supervisor) {
	if !s.sharedNet {
		p.talk(s)
		return
	}
	if p.peer == nil {
		p.peer = new(peerSearch)
	}
	own, peer, errno := connectionOf(p.fd)
	if errno != 0 {
		p.unconnected(s, errno) // it was reset already
		return
	}
	x := p.peer
	switch err := x.owners.find(own, peer, x.buf[:]); {
	case err != nil:
		if !x.mute {
			say("it cannot be told whose the ports of the host are: " + err.Error())
			x.mute = true
		}
		p.talk(s)
	case x.owners.n == 0:
		p.finish(wire.ProbeResult{Code: 1, Reason: reasonNobody})
	default:
		p.judgePeer(s, x.holders.begin(&x.owners, monotonic()))
	}
}

// judgePeer acts on what was found of the peer so far.
func (p *probe) judgePeer(s *supervisor, v heldBy) {
	switch {
	case v == heldByOthers:
		p.finish(wire.ProbeResult{Code: 1, Reason: wire.ForeignReason(p.peer.holders.absent)})
	case v == heldLate:
		p.finish(wire.ProbeResult{Code: 1, Reason: reasonWhose})
	case p.searching():
		// It is ready to be written to, which epoll would tell all the time.
		ev := unix.EpollEvent{Fd: int32(p.fd)}
		if err := unix.EpollCtl(s.epfd, unix.EPOLL_CTL_MOD, p.fd, &ev); err != nil {
			p.finish(wire.ProbeResult{Code: 1, Reason: err.Error()})
		}
	default: // the box's, or it is not known, where the shim may not look at all of it
		p.talk(s)
	}
}

// searchPeer goes on with a search.
func (p *probe) searchPeer(s *supervisor, now int64) {
	p.judgePeer(s, p.peer.holders.step(now))
	p.conclude(s)
}

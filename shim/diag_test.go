//go:build linux && (amd64 || arm64)

package shim

import (
	"net"
	"os"
	"testing"

	"golang.org/x/sys/unix"
)

// inodeOf returns the inode of the socket of a listener or a connection.
func inodeOf(t *testing.T, s interface{ File() (*os.File, error) }) uint32 {
	t.Helper()
	f := must(s.File())
	defer closeFile(f)
	var st unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return uint32(st.Ino)
}

func TestTheKernelTellsWhoListens(t *testing.T) {
	for name, c := range map[string]struct{ listen, dial string }{
		"IPv4":           {"127.0.0.1:0", "127.0.0.1"},
		"any IPv4":       {"0.0.0.0:0", "127.0.0.1"},
		"any":            {"[::]:0", "127.0.0.1"},
		"another of lo":  {"127.1.2.3:0", "127.1.2.3"},
		"IPv6":           {"[::1]:0", "::1"},
		"any, by IPv6":   {"[::]:0", "::1"},
		"mapped to IPv6": {"127.0.0.1:0", "::ffff:127.0.0.1"},
	} {
		t.Run(name, func(t *testing.T) {
			ln := as[*net.TCPListener](must(net.Listen("tcp", c.listen)))
			defer closeFile(ln)
			_, port, err := net.SplitHostPort(ln.Addr().String())
			if err != nil {
				t.Fatal(err)
			}
			conn := as[*net.TCPConn](must(net.Dial("tcp", net.JoinHostPort(c.dial, port))))
			defer closeFile(conn)
			f := must(conn.File())
			defer closeFile(f)
			own, peer, errno := connectionOf(int(f.Fd()))
			if errno != 0 {
				t.Fatal(errno)
			}
			var o owners
			var buf [8 << 10]byte
			if err := o.find(own, peer, buf[:]); err != nil {
				t.Fatal(err)
			}
			if want := inodeOf(t, ln); o.n != 1 || o.list[0] != want {
				t.Fatalf("%d sockets, %v, and not %d", o.n, o.list[:o.n], want)
			}
			// Nobody listens any more: who has accepted it is asked for.
			accepted := as[*net.TCPConn](must(ln.Accept()))
			defer closeFile(accepted)
			closeFile(ln)
			if err := o.find(own, peer, buf[:]); err != nil {
				t.Fatal(err)
			}
			if want := inodeOf(t, accepted); o.n != 1 || o.list[0] != want {
				t.Errorf("%d sockets, %v, and not %d that has accepted it", o.n, o.list[:o.n], want)
			}
		})
	}
}

func TestWhomTheKernelPrefers(t *testing.T) {
	lo4 := [16]byte{127, 0, 0, 1}
	lo6 := [16]byte{15: 1}
	peer4, peer6 := endpoint{addr: lo4, v4: true}, endpoint{addr: lo6}
	for _, c := range []struct {
		s      diagSocket
		r4, r6 int
	}{
		{diagSocket{state: tcpListen, v4: true, addr: lo4}, 10, 0},
		{diagSocket{state: tcpListen, v4: true}, 2, 0},
		{diagSocket{state: tcpListen, addr: lo6}, 0, 9},
		{diagSocket{state: tcpListen}, 1, 1},
		{diagSocket{state: tcpListen, v6only: true}, 0, 1},
		{diagSocket{state: tcpListen, addr: peer4.mapped()}, 9, 0},
		{diagSocket{state: tcpListen, v4: true, addr: lo4, device: loopback}, 11, 0},
		{diagSocket{state: tcpListen, v4: true, addr: lo4, device: loopback + 1}, 0, 0},
		{diagSocket{state: tcpListen, v4: true, addr: [16]byte{10, 0, 0, 1}}, 0, 0},
		{diagSocket{state: 1, v4: true, addr: lo4}, 0, 0},
	} {
		if r4, r6 := c.s.rank(&peer4), c.s.rank(&peer6); r4 != c.r4 || r6 != c.r6 {
			t.Errorf("%+v: %d and %d, not %d and %d", c.s, r4, r6, c.r4, c.r6)
		}
	}
	var o owners
	for i, rank := range []int{1, 2, 1, 2} {
		o.add(uint32(10+i), rank)
	}
	if o.n != 2 || o.list[0] != 11 || o.list[1] != 13 {
		t.Errorf("%+v", o)
	}
	for i := range uint32(maxOwners) {
		o.add(i, 2)
	}
	if o.n != maxOwners {
		t.Errorf("%d", o.n)
	}
}

// The search is of the test's own /proc here: it has all processes of the machine.
func TestHoldersAreFoundAFewAtATime(t *testing.T) {
	ln := as[*net.TCPListener](must(net.Listen("tcp", "127.0.0.1:0")))
	defer closeFile(ln)
	o := owners{n: 1}
	o.list[0] = inodeOf(t, ln)
	h := new(holderSearch)
	defer h.stop()
	finish := func(v heldBy) (heldBy, int) {
		steps := 0
		for h.running {
			steps++
			v = h.step(monotonic())
		}
		return v, steps
	}
	if v, steps := finish(h.begin(&o, monotonic())); v != heldByBox || steps == 0 {
		t.Fatalf("%v after %d steps", v, steps)
	}
	if v := h.begin(&o, monotonic()); v != heldByBox {
		t.Fatalf("once more: %v", v)
	}
	if n := testing.AllocsPerRun(10, func() { h.begin(&o, monotonic()) }); n != 0 {
		t.Errorf("%v allocations to look at who is known", n)
	}
	closeFile(ln)
	if v, _ := finish(h.begin(&o, monotonic())); v != heldByOthers || h.absent != o.list[0] {
		t.Fatalf("nobody has it: %v, %d", v, h.absent)
	}
	if v := h.begin(&o, h.until-1); v != heldByOthers || h.running {
		t.Errorf("soon after: %v", v)
	}
	if n := testing.AllocsPerRun(1, func() { finish(h.begin(&o, h.until)) }); n != 0 {
		t.Errorf("%v allocations in a whole search", n)
	}
}

func FuzzDiag(f *testing.F) {
	f.Add(appendDiagRequest(nil, unix.AF_INET, &endpoint{port: 80}, nil))
	f.Add([]byte("\x10\x00\x00\x00\x03\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"))
	answer := make([]byte, unix.SizeofNlMsghdr+diagAnswerSize+8)
	answer[0], answer[4], answer[unix.SizeofNlMsghdr+diagAnswerSize] = byte(len(answer)), sockDiagByFamily, 5
	f.Add(answer)
	f.Fuzz(func(t *testing.T, b []byte) {
		n := 0
		_, _ = parseDiag(b, func(s *diagSocket) {
			n++
			s.rank(&endpoint{v4: true, addr: [16]byte{127, 0, 0, 1}})
		})
		if n > len(b)/(unix.SizeofNlMsghdr+diagAnswerSize) {
			t.Errorf("%d sockets in %d bytes", n, len(b))
		}
	})
}

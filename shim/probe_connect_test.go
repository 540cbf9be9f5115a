package shim

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

func as[T any](v any) T {
	t, ok := v.(T)
	if !ok {
		panic(fmt.Sprintf("%T", v))
	}
	return t
}

// serve listens on address until the test has ended, and handles each connection
// with handle. It returns the port.
func serve(t testing.TB, address string, handle func(net.Conn)) uint16 {
	t.Helper()
	ln, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer closeFile(c)
				handle(c)
			}()
		}
	}()
	port := uint16(as[*net.TCPAddr](ln.Addr()).Port)
	servers.Store(port, ln)
	t.Cleanup(func() { servers.Delete(port); _ = ln.Close(); <-done })
	return port
}

// servers are the listeners of serve, by their ports.
var servers sync.Map

// lend has a process of the box hold the listener that it is probed for, if that is one of
// serve: else it would be another's.
func (b *box) lend() {
	b.t.Helper()
	ln, ok := servers.Load(b.spec.Probe.Port)
	if !ok || b.spec.PrivateNet {
		return
	}
	f := must(as[*net.TCPListener](ln).File())
	defer closeFile(f)
	fd := int(f.Fd()) // which makes it blocking, for all who have it, as Start does
	cmd := exec.Command("nsenter", "--pid=/proc/"+strconv.Itoa(b.h.PID)+"/ns/pid", "sleep", "1000")
	cmd.ExtraFiles = []*os.File{f}
	if err := errors.Join(cmd.Start(), unix.SetNonblock(fd, true)); err != nil {
		b.t.Fatal(err)
	}
	go func() { _ = cmd.Wait() }() // it ends with the box, whose end waits for it to reap its child
	children := fmt.Sprintf("/proc/%d/task/%d/children", cmd.Process.Pid, cmd.Process.Pid)
	for end := time.Now().Add(patience); ; {
		if pids, err := os.ReadFile(children); err == nil && len(pids) > 0 {
			return
		}
		if time.Now().After(end) {
			b.t.Fatal("nobody of the box holds the listener")
		}
		time.Sleep(time.Millisecond)
	}
}

// answer reads a request and sends text.
func answer(c net.Conn, text string) {
	readRequest(c)
	// The probe may have hung up.
	_, _ = io.WriteString(c, text)
}

func readRequest(c net.Conn) string {
	var request []byte
	for b := make([]byte, 4096); !strings.HasSuffix(string(request), "\r\n\r\n"); {
		n, err := c.Read(b)
		request = append(request, b[:n]...)
		if err != nil {
			break
		}
	}
	return string(request)
}

// hold keeps a connection open until the other end closes it.
func hold(c net.Conn) { _, _ = io.Copy(io.Discard, c) }

// closedPort is a port that nobody listens on, neither of IPv4 nor of IPv6, until
// the test has ended.
func closedPort(t testing.TB) uint16 {
	t.Helper()
	fd := must(unix.Socket(unix.AF_INET6, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	t.Cleanup(func() { sys.Close(fd) })
	// Of both, as IPV6_V6ONLY is 0.
	if err := errors.Join(unix.SetsockoptInt(fd, unix.IPPROTO_IPV6, unix.IPV6_V6ONLY, 0), unix.Bind(fd, &unix.SockaddrInet6{})); err != nil {
		t.Fatal(err)
	}
	return uint16(as[*unix.SockaddrInet6](must(unix.Getsockname(fd))).Port)
}

// fullPort is a port that does not answer to one more connection.
func fullPort(t testing.TB) uint16 {
	t.Helper()
	fd := must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0))
	t.Cleanup(func() { sys.Close(fd) })
	local := &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}
	if err := errors.Join(unix.Bind(fd, local), unix.Listen(fd, 0)); err != nil {
		t.Fatal(err)
	}
	local.Port = as[*unix.SockaddrInet4](must(unix.Getsockname(fd))).Port
	for range 10 {
		c := must(unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0))
		t.Cleanup(func() { sys.Close(c) })
		if err := unix.Connect(c, local); err != nil && !errors.Is(err, unix.EINPROGRESS) {
			t.Fatal(err)
		}
		out := []unix.PollFd{{Fd: int32(c), Events: unix.POLLOUT}}
		if n := must(sys.Retry(func() (int, error) { return unix.Poll(out, 100) })); n == 0 {
			return uint16(local.Port)
		}
	}
	t.Fatal("the queue is never full")
	return 0
}

func (b *box) probeOnce(p wire.Probe) wire.ProbeResult {
	b.t.Helper()
	b.spec.Probe = p
	return b.mustStart().line().probe()
}

func TestProbeTCP(t *testing.T) {
	v4 := serve(t, "127.0.0.1:0", hold)
	v6 := serve(t, "[::1]:0", hold)
	refused := closedPort(t)
	for name, c := range map[string]struct {
		probe wire.Probe
		want  wire.ProbeResult
	}{
		"open":           {wire.Probe{Port: v4}, wire.ProbeResult{}},
		"open, by name":  {wire.Probe{Port: v4, Addr: "127.0.0.1"}, wire.ProbeResult{}},
		"only IPv6":      {wire.Probe{Port: v6}, wire.ProbeResult{}},
		"IPv6":           {wire.Probe{Port: v6, Addr: "::1"}, wire.ProbeResult{}},
		"not IPv4":       {wire.Probe{Port: v6, Addr: "127.0.0.1"}, wire.ProbeResult{Code: 1, Reason: "connection refused"}},
		"mapped":         {wire.Probe{Port: v4, Addr: "::ffff:127.0.0.1"}, wire.ProbeResult{}},
		"refused":        {wire.Probe{Port: refused}, wire.ProbeResult{Code: 1, Reason: "connection refused"}},
		"does not reply": {wire.Probe{Port: fullPort(t), TimeoutNs: 2e8}, wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonConnecting}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "/bin/sleep", "1000")
			c.probe.Kind = wire.ProbeTCP
			if c.probe.TimeoutNs == 0 {
				c.probe.TimeoutNs = int64(patience)
			}
			b.spec.Probe = c.probe
			b.mustStart()
			l := b.line()
			for range 2 {
				r := l.probe()
				expectResult(t, r, c.want)
				if c.want.TimedOut && (r.Duration < time.Duration(c.probe.TimeoutNs) || r.Duration > 2*time.Second) {
					t.Errorf("it took %v", r.Duration)
				}
			}
		})
	}
}

// The service sees an orderly end, and no error.
func TestProbeTCPEndsInOrder(t *testing.T) {
	got := make(chan error, 1)
	port := serve(t, "127.0.0.1:0", func(c net.Conn) {
		_, err := c.Read(make([]byte, 1))
		got <- err
	})
	b := newBox(t, "/bin/sleep", "1000")
	expectResult(t, b.probeOnce(wire.Probe{Kind: wire.ProbeTCP, Port: port, TimeoutNs: int64(patience)}), wire.ProbeResult{})
	if err := <-got; !errors.Is(err, io.EOF) {
		t.Errorf("got %v", err)
	}
}

// A closed port among those that connections begin from is no service, although a
// socket can connect to it: to itself.
func TestProbeIsNotConnectedToItself(t *testing.T) {
	b := newBox(t, "/bin/sh", "-c", "echo 40001 40001 >/proc/sys/net/ipv4/ip_local_port_range && echo ready; exec sleep 1000")
	b.spec.PrivateNet = true
	b.spec.Probe = wire.Probe{Kind: wire.ProbeTCP, Port: 40001, Addr: "127.0.0.1", TimeoutNs: int64(patience)}
	b.mustStart()
	b.awaitLog("ready")
	expectResult(t, b.line().probe(), wire.ProbeResult{Code: 1, Reason: "connection refused"})
}

func TestProbeHTTP(t *testing.T) {
	const timeout = 300 * time.Millisecond
	ok := func(text string) func(net.Conn) { return func(c net.Conn) { answer(c, text) } }
	open := func(text string) func(net.Conn) { return func(c net.Conn) { answer(c, text); hold(c) } }
	for name, c := range map[string]struct {
		handle func(net.Conn)
		want   wire.ProbeResult
	}{
		"200":            {ok("HTTP/1.1 200 OK\r\nX: y\r\n\r\nbody\x00"), wire.ProbeResult{Output: []byte("body\x00")}},
		"204":            {ok("HTTP/1.0 204 No Content\r\n\r\n"), wire.ProbeResult{}},
		"302":            {ok("HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n"), wire.ProbeResult{}},
		"399":            {ok("HTTP/1.1 399\r\n\r\n"), wire.ProbeResult{}},
		"199":            {ok("HTTP/1.1 199 x\r\n\r\n"), wire.ProbeResult{Code: 1, Reason: reasonInterim}},
		"404":            {ok("HTTP/1.1 404 Not Found\r\n\r\nnot here"), wire.ProbeResult{Code: 1, Reason: "HTTP status 404", Output: []byte("not here")}},
		"500":            {ok("HTTP/1.1 500 Oh\r\n\r\n"), wire.ProbeResult{Code: 1, Reason: "HTTP status 500"}},
		"503, kept open": {open("HTTP/1.1 503 Busy\r\n\r\nwait"), wire.ProbeResult{Code: 1, Reason: "HTTP status 503", Output: []byte("wait")}},
		"200, kept open": {open("HTTP/1.1 200 OK\r\n\r\nbody"), wire.ProbeResult{Output: []byte("body")}},
		"line feeds":     {ok("HTTP/1.1 200\nA: b\n\nbody"), wire.ProbeResult{Output: []byte("body")}},
		"cut head":       {ok("HTTP/1.1 200 OK\r\nA: b"), wire.ProbeResult{}},
		"cut status":     {ok("HTTP/1.1 200 OK"), wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"nothing":        {ok(""), wire.ProbeResult{Code: 1, Reason: reasonEmpty}},
		"garbage":        {open("SSH-2.0-x\r\n"), wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"almost":         {open("HTTP/1.1 2O0 OK\r\n\r\n"), wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"four digits":    {open("HTTP/1.1 2000 OK\r\n\r\n"), wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"lower case":     {open("http/1.1 200 OK\r\n\r\n"), wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"silent":         {hold, wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonWaiting}},
		"half a head":    {open("HTTP/1.1 200 OK\r\nA: "), wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonWaiting}},
		"huge body":      {ok("HTTP/1.1 200 OK\r\n\r\n" + strings.Repeat("x", 10<<20)), wire.ProbeResult{Output: []byte(strings.Repeat("x", wire.MaxProbeOutput))}},
		"huge head":      {ok("HTTP/1.1 200 OK\r\nX: " + strings.Repeat("x", 10<<20)), wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"large head":     {ok("HTTP/1.1 404 OK\r\nX: " + strings.Repeat("x", 60<<10) + "\r\n\r\nb"), wire.ProbeResult{Code: 1, Reason: "HTTP status 404", Output: []byte("b")}},
		"piecemeal": {func(c net.Conn) {
			readRequest(c)
			for _, b := range []byte("HTTP/1.1 404 No\r\n\r\n") {
				_, _ = c.Write([]byte{b})
				time.Sleep(time.Millisecond)
			}
			_, _ = c.Write([]byte("bo"))
			_, _ = c.Write([]byte("dy"))
		}, wire.ProbeResult{Code: 1, Reason: "HTTP status 404", Output: []byte("body")}},
		"trickle": {func(c net.Conn) {
			for err := error(nil); err == nil; time.Sleep(20 * time.Millisecond) {
				_, err = c.Write([]byte("HTTP/1.1 200 OK\r\nX: yyyyyyyyyyyyyyyyyyyyyy")[:1])
			}
		}, wire.ProbeResult{Code: 1, Reason: reasonNotHTTP}},
		"trickling head": {func(c net.Conn) {
			for _, b := range []byte("HTTP/1.1 200 OK\r\n" + strings.Repeat("X: y\r\n", 100)) {
				if _, err := c.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		}, wire.ProbeResult{TimedOut: true, Code: 1, Reason: reasonWaiting}},
		"before it was asked": {func(c net.Conn) { _, _ = io.WriteString(c, "HTTP/1.1 503 Busy\r\n\r\n") }, wire.ProbeResult{Code: 1, Reason: "HTTP status 503"}},
		"reset": {func(c net.Conn) {
			readRequest(c)
			_ = as[*net.TCPConn](c).SetLinger(0)
		}, wire.ProbeResult{Code: 1, Reason: "connection reset by peer"}},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "/bin/sleep", "1000")
			p := wire.Probe{Kind: wire.ProbeHTTP, Port: serve(t, "127.0.0.1:0", c.handle), Request: "GET / HTTP/1.0\r\n\r\n", TimeoutNs: int64(timeout)}
			if !c.want.TimedOut {
				p.TimeoutNs = int64(patience)
			}
			b.spec.Probe = p
			b.mustStart()
			l := b.line()
			for range 2 {
				began := time.Now()
				r := l.probe()
				expectResult(t, r, c.want)
				if took := time.Since(began); took > 3*time.Second || c.want.TimedOut && r.Duration < timeout {
					t.Errorf("it took %v, or %v in all", r.Duration, took)
				}
			}
			l.quiet()
		})
	}
}

// A request that the connection does not take at once is sent as it goes.
func TestProbeHTTPOfALargeRequest(t *testing.T) {
	b := newBox(t, "/usr/bin/python3", "-c", `
import socket, time
for name in "tcp_wmem", "tcp_rmem":
    with open("/proc/sys/net/ipv4/" + name, "w") as f: f.write("4096 4096 4096")
s = socket.socket(); s.bind(("127.0.0.1", 41234)); s.listen(); print("ready", flush=True)
c, _ = s.accept()
time.sleep(0.05) # all buffers are full by then
got = b""
while not got.endswith(b"\r\n\r\n"):
    more = c.recv(1 << 20)
    if not more: break
    got += more
whole = got == b"GET / HTTP/1.0\r\nX: " + b"0123456789" * 10000 + b"\r\n\r\n"
c.sendall(b"HTTP/1.0 %d x\r\n\r\n" % (200 if whole else 400))
c.close()
time.sleep(1000)
`)
	b.spec.PrivateNet = true
	request := "GET / HTTP/1.0\r\nX: " + strings.Repeat("0123456789", 10_000) + "\r\n\r\n"
	b.spec.Probe = wire.Probe{Kind: wire.ProbeHTTP, Port: 41234, Request: request, TimeoutNs: int64(patience)}
	b.mustStart()
	b.awaitLog("ready")
	expectResult(t, b.line().probe(), wire.ProbeResult{})
}

func TestProbeInAPrivateNetwork(t *testing.T) {
	b := newBox(t, "/usr/bin/python3", "-c", `
import socket
s = socket.socket(); s.bind(("127.0.0.1", 41234)); s.listen(); print("ready", flush=True)
while True:
    c, _ = s.accept()
    if c.recv(100): c.sendall(b"HTTP/1.0 200 OK\r\n\r\nhere")
    c.close()
`)
	b.spec.PrivateNet = true
	b.spec.Probe = wire.Probe{Kind: wire.ProbeHTTP, Port: 41234, Request: "GET / HTTP/1.0\r\n\r\n", TimeoutNs: int64(patience)}
	b.mustStart()
	b.awaitLog("ready")
	expectResult(t, b.line().probe(), wire.ProbeResult{Output: []byte("here")})
	// The same from the host's network; and an address that only the host reaches.
	outside := newBox(t, "/bin/sleep", "1000")
	expectResult(t, outside.probeOnce(b.spec.Probe), wire.ProbeResult{Code: 1, Reason: "connection refused"})
	inside := newBox(t, "/bin/sleep", "1000")
	inside.spec.PrivateNet = true
	expectResult(t, inside.probeOnce(wire.Probe{Kind: wire.ProbeTCP, Addr: "192.0.2.1", Port: 80, TimeoutNs: int64(patience)}), wire.ProbeResult{Code: 1, Reason: "network is unreachable"})
}

// A line that goes while a probe waits for the network takes the probe with it.
func TestLineThatIsHungUpEndsItsConnection(t *testing.T) {
	ended := make(chan struct{})
	port := serve(t, "127.0.0.1:0", func(c net.Conn) { readRequest(c); hold(c); ended <- struct{}{} })
	b := newBox(t, "/bin/sleep", "1000")
	b.spec.Probe = wire.Probe{Kind: wire.ProbeHTTP, Port: port, Request: "GET / HTTP/1.0\r\n\r\n", TimeoutNs: int64(time.Hour)}
	b.mustStart()
	l := b.line()
	l.begin()
	l.close()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Error("the connection is still there")
	}
}

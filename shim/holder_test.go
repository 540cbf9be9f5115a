//go:build linux && (amd64 || arm64)

package shim

import (
	"bufio"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

func (h *holderSearch) finish(v heldBy) heldBy {
	for h.running {
		v = h.step(monotonic())
	}
	return v
}

func TestASearchThatDoesNotFinishIsBounded(t *testing.T) {
	// Not to be gone through in one step.
	for range holderSteps + 1 {
		f := must(os.Open(os.DevNull))
		defer closeFile(f)
	}
	s := supervisor{probe: probe{peer: new(peerSearch)}}
	h := &s.probe.peer.holders
	defer h.stop()
	begin := func(inode uint32, now int64) heldBy {
		o := owners{n: 1}
		o.list[0] = inode
		return h.begin(&o, now)
	}
	const nobodys, anothers = 1, 2
	now := monotonic()
	v := begin(nobodys, now)
	if v == heldUnknown && h.running {
		v = h.step(now)
	}
	if v != heldUnknown || !h.running {
		t.Fatalf("%v: it is over", v)
	}
	s.probe.end(&s) // its time is over
	if h.running || h.until <= now {
		t.Fatalf("it goes on, or took no time: %d, %d", h.until, now)
	}
	for _, inode := range []uint32{nobodys, anothers} {
		if v := begin(inode, h.until-1); v != heldLate || h.running {
			t.Errorf("soon after: %v", v)
		}
	}
	if v := h.finish(begin(nobodys, h.until)); v != heldByOthers {
		t.Errorf("then: %v", v)
	}
	// One that may not look everywhere costs as much.
	h.blind, h.absent = true, 0
	if v := begin(nobodys, h.until-1); v != heldUnknown || h.running {
		t.Errorf("that is blind: %v", v)
	}
}

// mainEnds makes of the test a process whose first thread ends at once, and which lives on
// until its stdin is closed.
const mainEnds = "SHIM_TEST_MAIN_ENDS"

func init() {
	if os.Getenv(mainEnds) == "" {
		return
	}
	go func() {
		for {
			stat, err := os.ReadFile("/proc/self/stat")
			if err != nil {
				os.Exit(1)
			}
			if strings.Contains(string(stat), ") Z ") {
				break
			}
			time.Sleep(time.Millisecond)
		}
		_, _ = os.Stdout.WriteString("gone\n")
		_, _ = os.Stdin.Read(make([]byte, 1))
		os.Exit(0)
	}()
	runtime.LockOSThread() // an init is run by the first thread
	_, _, _ = unix.Syscall(unix.SYS_EXIT, 0, 0, 0)
}

func TestWhoseMainThreadHasEndedIsFound(t *testing.T) {
	ln := as[*net.TCPListener](must(net.Listen("tcp", "127.0.0.1:0")))
	defer closeFile(ln)
	o := owners{n: 1}
	o.list[0] = inodeOf(t, ln)
	f := must(ln.File())
	defer closeFile(f)
	cmd := exec.Command("/proc/self/exe")
	cmd.Env = append(os.Environ(), mainEnds+"=1")
	cmd.ExtraFiles = []*os.File{f}
	stdin := must(cmd.StdinPipe())
	stdout := must(cmd.StdoutPipe())
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		closeFile(stdin)
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}()
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil {
		t.Fatalf("%q: %v", line, err)
	}
	closeFile(f)
	closeFile(ln)
	h := new(holderSearch)
	defer h.stop()
	if v := h.finish(h.begin(&o, monotonic())); v != heldByBox {
		t.Errorf("%v", v)
	}
	// It is known from there on.
	if v := h.begin(&o, monotonic()); v != heldByBox || h.running {
		t.Errorf("once more: %v", v)
	}
}

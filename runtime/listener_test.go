package runtime

import (
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"

	"github.com/boxlitefs/boxlite/runtime/config"
)

// The end of the daemon must not wait until every descriptor of the host was looked at.
func TestASearchForAListenerEndsWithTheRuntime(t *testing.T) {
	l, err := net.ListenTCP("tcp", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1)})
	must(t, err)
	defer func() { must(t, l.Close()) }()
	raw, err := l.SyscallConn()
	must(t, err)
	var st syscall.Stat_t
	var serr error
	must(t, raw.Control(func(fd uintptr) { serr = syscall.Fstat(int(fd), &st) }))
	must(t, serr)

	rt := testRuntime(t)
	rt.life, rt.end = context.WithCancel(t.Context())
	if words := rt.holderOf(st.Ino); !strings.Contains(words, fmt.Sprintf("pid %d ", syscall.Getpid())) {
		t.Errorf("it is %q", words)
	}
	c := &check{b: newBox(rt, "b"), r: newRun(1, "id", &config.Config{}, nil)}
	looking.Lock() // by another search, which takes long
	report := &ProbeReport{Reason: fmt.Sprintf("it is no process of this box that listens there: socket %d", st.Ino)}
	c.nameListener(report)
	if c.r.listener.Load() == nil {
		t.Error("it is not looked for")
	}
	rt.work.Wait()
	rt.end()
	looking.Unlock()
	if words := rt.holderOf(st.Ino); words != "" {
		t.Errorf("after the end it is %q", words)
	}
}

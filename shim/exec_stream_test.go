package shim

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/wire"
)

func TestExecStreamsTakeAndGiveAll(t *testing.T) {
	b := sleeper(t)
	c := b.exec("e1", nil, "cat")
	c.writes()
	data := make([]byte, 10<<20)
	rng := rand.NewChaCha8([32]byte{1})
	_, _ = rng.Read(data)
	var work sync.WaitGroup
	work.Go(func() {
		if _, err := c.in.Write(data); err != nil {
			t.Error(err)
		}
		closeFile(c.in)
		c.ask(wire.OpExecEOF, 0)
	})
	hash, n := sha256.New(), 0
	buf := make([]byte, 64<<10)
	for n < len(data) {
		m, err := c.out.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		hash.Write(buf[:m])
		n += m
	}
	work.Wait()
	if want := sha256.Sum256(data); !bytes.Equal(hash.Sum(nil), want[:]) {
		t.Error("not what was written")
	}
	if r := c.record(); r.Code != 0 {
		t.Errorf("%+v", r)
	}
}

// What was not read is there for the next daemon, also when the command has ended.
func TestExecOutputOutlivesItsReader(t *testing.T) {
	b := sleeper(t)
	c := b.exec("e1", nil, "sh", "-c", "echo one; read x; echo two")
	buf := make([]byte, 4)
	if _, err := io.ReadFull(c.out, buf); err != nil || string(buf) != "one\n" {
		t.Fatalf("%q, %v", buf, err)
	}
	for _, f := range []*os.File{c.out, c.errOut} {
		closeFile(f)
	}
	must(c.in.WriteString("\n"))
	c.record()
	closeFile(c.in)
	out := must(os.OpenFile(filepath.Join(c.dir, wire.ExecStdout), os.O_RDONLY|unix.O_NONBLOCK, 0))
	defer closeFile(out)
	expect(t, "rest", c.rest(out), "two\n")
	if r := c.ask(wire.OpExecForget, 0); r.Errno != 0 {
		t.Errorf("%+v", r)
	}
	if r := c.ask(wire.OpExecState, 0); r.Errno != unix.ENOENT {
		t.Errorf("%+v", r)
	}
}

// What a terminal has left when its command ends is not lost, though nobody reads.
func TestExecTTYKeepsTheRest(t *testing.T) {
	b := sleeper(t)
	// More than the pipe takes, and not more than that and the terminal do.
	c := b.exec("e1", func(x *wire.ExecSpec) { x.TTY = true }, "sh", "-c", "stty raw; seq 100000 109650")
	if r := c.record(); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	if out := c.rest(c.out); len(out) != 9651*7 || !strings.HasSuffix(out, "\n109650\n") {
		t.Errorf("%d bytes that end with %q", len(out), out[max(0, len(out)-20):])
	}
}

func TestExecTTY(t *testing.T) {
	b := sleeper(t)
	tty := func(x *wire.ExecSpec) { x.TTY = true }
	c := b.exec("e1", tty, "sh", "-c", `stty size; tty; stty -echo; echo ready; read x; echo "got $x"; ps -o tpgid= -p $$ >&2; cat`)
	var all strings.Builder
	buf := make([]byte, 4096)
	for !strings.Contains(all.String(), "ready\r\n") {
		n, err := c.out.Read(buf)
		if err != nil {
			t.Fatalf("%v after %q", err, all.String())
		}
		all.Write(buf[:n])
	}
	must(c.in.WriteString("hello\nline\n"))
	closeFile(c.in)
	c.ask(wire.OpExecEOF, 0)
	if r := c.record(); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	out := all.String() + c.rest(c.out)
	if !strings.HasPrefix(out, "24 80\r\n/dev/pts/") || !strings.Contains(out, "got hello\r\n") || !strings.HasSuffix(out, "line\r\n") {
		t.Errorf("%q", out)
	}
	expect(t, "stderr", c.rest(c.errOut), "")
	c = b.exec("e2", tty, "sh", "-c", "seq 1 20000; echo end")
	// Its output has no room in the pipe: it waits for a reader, and nobody else does.
	b.ask(wire.Request{Op: wire.OpState})
	all.Reset()
	for !strings.Contains(all.String(), "end\r\n") {
		n, err := c.out.Read(buf)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(buf[:n])
	}
	if lines := strings.Count(all.String(), "\n"); lines != 20001 {
		t.Errorf("%d lines", lines)
	}
	c.record()
	b.alone()
}

// A frozen or slow reader of one exec holds up nobody else.
func TestExecFullPipe(t *testing.T) {
	b := sleeper(t)
	c := b.exec("e1", nil, "yes")
	until(t, "the pipe is full", func() bool {
		return strings.Contains(readStat(t, c.reply.PID, "wchan"), "pipe")
	})
	if r := b.exec("e2", nil, "true").record(); r.Code != 0 {
		t.Errorf("%+v", r)
	}
	c.ask(wire.OpExecKill, 0)
	c.record()
}

// An exec that lives on without its stdin costs nothing: nobody is waited for who reads it.
func TestTheStdinThatNobodyReadsIsGivenUp(t *testing.T) {
	b := sleeper(t)
	b.exec("e1", nil, "sh", "-c", "exec sleep 1000 </dev/null")
	until(t, "its stdin is given up", func() bool {
		ends := 0 // of the FIFO; the shim's own writer stays
		for _, e := range must(os.ReadDir(fmt.Sprintf("/proc/%d/fd", b.h.PID))) {
			if to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", b.h.PID, e.Name())); err == nil && strings.HasSuffix(to, "/"+wire.ExecStdin) {
				ends++
			}
		}
		return ends == 1
	})
}

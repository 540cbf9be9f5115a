package shim

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/shim/client"
	"github.com/boxlitefs/boxlite/shim/sys"
	"github.com/boxlitefs/boxlite/shim/wire"
)

func TestLogIsWhole(t *testing.T) {
	const size = 5_000_000
	b := newBox(t, "/usr/bin/python3", "-c", fmt.Sprintf(`
import random, sys
random.seed(1)
sys.stdout.buffer.write(random.randbytes(%d))`, size))
	b.mustStart()
	b.wait()
	sum, err := exec.Command("/usr/bin/python3", "-c", fmt.Sprintf(`
import random, hashlib
random.seed(1)
print(hashlib.sha256(random.randbytes(%d)).hexdigest(), end="")`, size)).Output()
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "sha256", fmt.Sprintf("%x", sha256.Sum256([]byte(b.log()))), string(sum))
	info, err := os.Stat(filepath.Join(b.path, wire.LogName(0)))
	if err != nil || info.Mode() != 0o640 || info.Size() != size {
		t.Errorf("%v, %v", info, err)
	}
}

func TestStdoutAndStderrKeepTheirOrder(t *testing.T) {
	b := sh(t, `for i in 1 2 3; do echo out $i; echo err $i >&2; done`)
	expect(t, "log", b.output(), "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n")
}

// TestTheLastOutputIsKept is a command that wrote and ended after the loop had
// last looked at the pipe.
func TestTheLastOutputIsKept(t *testing.T) {
	path := t.TempDir()
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(dir)
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC|unix.O_NONBLOCK); err != nil {
		t.Fatal(err)
	}
	defer sys.Close(p[0])
	defer sys.Close(p[1])
	if _, err := unix.Write(p[1], []byte("last words")); err != nil {
		t.Fatal(err)
	}
	dirfd := int(dir.Fd())
	s := supervisor{spec: &wire.Spec{Run: "r"}, dirfd: dirfd, status: 3 << 8, log: logWriter{dirfd: dirfd, pipe: p[0], null: -1, max: wire.MinLogMax, fd: -1}}
	s.run()
	if code := s.finish(); code != 3 {
		t.Errorf("code %d", code)
	}
	sys.Close(s.log.fd)
	expect(t, "log", string(must(os.ReadFile(filepath.Join(path, wire.LogName(0))))), "last words")
}

// TestDrainIsBounded drains a pipe that others keep full.
func TestDrainIsBounded(t *testing.T) {
	dir, err := os.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer closeFile(dir)
	var p [2]int
	if err := unix.Pipe2(p[:], unix.O_CLOEXEC); err != nil {
		t.Fatal(err)
	}
	const capacity = 1 << 20
	if _, err := unix.FcntlInt(uintptr(p[1]), unix.F_SETPIPE_SZ, capacity); err != nil {
		t.Fatal(err)
	}
	out := os.NewFile(uintptr(p[1]), "pipe")
	full := make(chan struct{})
	var flood sync.WaitGroup
	flood.Go(func() {
		block := make([]byte, 64<<10)
		for written := 0; ; written += len(block) {
			if written == capacity {
				close(full)
			}
			if _, err := out.Write(block); err != nil {
				return
			}
		}
	})
	<-full
	w := logWriter{dirfd: int(dir.Fd()), pipe: p[0], null: -1, max: wire.MinLogMax, fd: -1}
	drained := make(chan struct{})
	go func() { w.drain(0); close(drained) }()
	select {
	case <-drained:
		if n := w.base + w.size; n != capacity {
			t.Errorf("%d bytes of %d", n, capacity)
		}
	case <-time.After(patience):
		t.Error("it does not end")
	}
	sys.Close(p[0])
	flood.Wait()
	<-drained
	_ = out.Close()
	sys.Close(w.fd)
}

// TestLogRotation looks at the files all the time while they are written: they
// never take more than their bound, and always hold the end of the stream.
func TestLogRotation(t *testing.T) {
	const lines, max = 60_000, 10_000
	b := newBox(t, "/usr/bin/seq", "-f", "%06.0f", strconv.Itoa(lines))
	b.spec.LogMax = max
	b.mustStart()
	done := make(chan struct{})
	var looker sync.WaitGroup
	looker.Add(1)
	go func() {
		defer looker.Done()
		for {
			total := int64(0)
			entries, err := os.ReadDir(b.path)
			if err != nil {
				t.Error(err)
				return
			}
			for _, e := range entries {
				if _, ok := wire.ParseLogName(e.Name()); !ok {
					continue
				}
				if info, err := e.Info(); err == nil {
					if info.Size() > max {
						t.Errorf("%s has %d bytes", e.Name(), info.Size())
					}
					total += info.Size()
				}
			}
			select {
			case <-done:
				return
			default:
			}
		}
	}()
	b.wait()
	close(done)
	looker.Wait()
	bases, sizes := b.logFiles()
	if len(bases) != 2 || sizes[0] != max || bases[0]%max != 0 || bases[1]+sizes[1] != lines*7 {
		t.Errorf("files %v of %v", bases, sizes)
	}
	log := b.log()
	for i := 0; i < len(log); i++ {
		off := bases[0] + int64(i)
		want := fmt.Sprintf("%06d\n", off/7+1)[off%7]
		if log[i] != want {
			t.Fatalf("byte %d is %q, not %q", off, log[i], want)
		}
	}
}

func TestANewRunGoesOnInTheLog(t *testing.T) {
	dir := t.TempDir()
	for i := range 3 {
		b := newBoxIn(t, dir, "/bin/echo", strings.Repeat(strconv.Itoa(i), 3000-1))
		b.spec.LogMax = wire.MinLogMax
		b.output()
	}
	// A larger bound is taken up in the newest file, too.
	b := newBoxIn(t, dir, "/bin/echo", strings.Repeat("3", 2999))
	b.spec.LogMax = 2 * wire.MinLogMax
	b.output()
	bases, sizes := b.logFiles()
	if len(bases) != 2 || bases[0] != wire.MinLogMax || sizes[0] != wire.MinLogMax || bases[1]+sizes[1] != 12_000 {
		t.Errorf("files %v of %v", bases, sizes)
	}
	want := strings.Repeat("0", 2999) + "\n" + strings.Repeat("1", 2999) + "\n" + strings.Repeat("2", 2999) + "\n" + strings.Repeat("3", 2999) + "\n"
	expect(t, "log", b.log(), want[bases[0]:])
}

// tinyDir is a directory on a file system of that many bytes.
func tinyDir(t *testing.T, size int) string {
	t.Helper()
	dir := t.TempDir()
	if err := unix.Mount("tiny", dir, "tmpfs", 0, fmt.Sprintf("size=%d", size)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
	return dir
}

func TestFullDisk(t *testing.T) {
	dir := tinyDir(t, 1<<20)
	b := newBoxIn(t, dir, "/bin/sh", "-c", `head -c 3000000 /dev/zero; echo alive >/dev/shm/$BOXTAG; while [ -e /dev/shm/$BOXTAG ]; do sleep 0.01; done; sleep 0.3; echo after; exit 4`)
	flag := "/dev/shm/" + strings.TrimPrefix(b.tag, "BOXTAG=")
	defer func() { _ = os.Remove(flag) }()
	b.mustStart()
	until(t, "the box is not held up", func() bool { _, err := os.Stat(flag); return err == nil })
	kept := len(b.log())
	// Room is made by truncating, as a person does it who needs some.
	ballast := filepath.Join(dir, wire.LogName(0))
	if err := os.Truncate(ballast, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(flag); err != nil {
		t.Fatal(err)
	}
	if ws := b.wait(); ws.ExitStatus() != 4 || b.record().Code != 4 {
		t.Errorf("status %#x", ws)
	}
	data, err := os.ReadFile(ballast)
	if err != nil {
		t.Fatal(err)
	}
	tail := strings.TrimLeft(string(data), "\x00")
	expect(t, "log", tail, fmt.Sprintf("boxlite: %d bytes of log lost: no space left on device\nafter\n", 3_000_000-kept))
}

func TestWatchLogEnds(t *testing.T) {
	b := sh(t, "exec cat").mustStart()
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	w, err := client.WatchLog(ctx, b.dir)
	if err == nil {
		defer closeFile(w)
		for err == nil {
			err = w.Next(ctx)
		}
	}
	if !errors.Is(err, io.EOF) && !errors.Is(err, unix.ECONNREFUSED) && !errors.Is(err, io.ErrUnexpectedEOF) && !errors.Is(err, unix.ECONNRESET) {
		t.Errorf("got %v", err)
	}
	b = sh(t, "exec sleep 1000").mustStart()
	if w, err = client.WatchLog(ctx, b.dir); err != nil {
		t.Fatal(err)
	}
	defer closeFile(w)
	short, cancelShort := context.WithTimeout(ctx, 20*time.Millisecond)
	defer cancelShort()
	if err := w.Next(short); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

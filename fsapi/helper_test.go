package fsapi

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/boxlitefs/boxlite/fsapi/inotify"
	"github.com/boxlitefs/boxlite/runtime"
	"github.com/boxlitefs/boxlite/runtime/image"
)

// asNotifier is the name under which the test binary is its own notifier.
const asNotifier = "fsapi.test: notifier"

func TestMain(m *testing.M) {
	if os.Args[0] == asNotifier {
		if err := inotify.Run(3, os.Args[1:]); err != nil {
			panic(err)
		}
		return
	}
	if os.Args[0] == image.UnpackerName {
		os.Exit(image.RunUnpacker())
	}
	os.Exit(m.Run())
}

// spawned is the notifier that was started last.
var spawned atomic.Pointer[os.Process]

func spawnTest(conn *os.File, args []string) (*os.Process, error) {
	p, err := os.StartProcess("/proc/self/exe", append([]string{asNotifier}, args...), &os.ProcAttr{
		Dir: "/", Files: []*os.File{os.Stderr, os.Stderr, os.Stderr, conn}, Sys: &syscall.SysProcAttr{Setsid: true},
	})
	spawned.Store(p)
	return p, err
}

// notified mounts a filesystem with a notifier that works.
func notified(t *testing.T) (*FS, *runtime.Runtime, string) {
	t.Helper()
	f, rt := open(t)
	f.NotifyBy(spawnTest)
	return f, rt, mounted(t, f, rt)
}

func mounted(t *testing.T, f *FS, rt *runtime.Runtime) string {
	t.Helper()
	mnt := t.TempDir()
	m, err := f.Serve(rt, mnt)
	must(t, err)
	t.Cleanup(func() { unmount(t, f, m) })
	await(t, "the notifier", func() bool {
		p := f.notifier.process.Load()
		return f.notifier.spawn == nil || p != nil && p.Thread() != 0
	})
	return mnt
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("gave up after 10 s: waiting for %s", what)
		}
	}
}

// run is a client, which is a process of its own: see size.
func run(t *testing.T, argv ...string) error {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, argv[0], argv[1:]...).CombinedOutput()
	if ctx.Err() != nil {
		t.Fatalf("%v hangs", argv)
	}
	if err != nil {
		return fmt.Errorf("%v: %w: %s", argv, err, out)
	}
	return nil
}

// watch returns what inotifywait says of paths, line by line, once it watches.
func watch(t *testing.T, paths ...string) <-chan string {
	t.Helper()
	cmd := exec.Command("inotifywait", append([]string{"-m", "--format", "%w %e %f"}, paths...)...)
	out, err := cmd.StdoutPipe()
	must(t, err)
	errs, err := cmd.StderrPipe()
	must(t, err)
	must(t, cmd.Start())
	lines := make(chan string, 1000)
	drained := make(chan struct{})
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		<-drained
		_ = cmd.Wait()
	})
	said := bufio.NewReader(errs)
	for {
		line, err := said.ReadString('\n')
		if err != nil {
			t.Fatalf("inotifywait: %v", err)
		}
		if strings.HasPrefix(line, "Watches established") {
			break
		}
	}
	go func() {
		defer close(drained)
		defer close(lines)
		for s := bufio.NewScanner(out); s.Scan(); {
			lines <- strings.TrimSpace(s.Text())
		}
	}()
	go func() { _, _ = io.Copy(io.Discard, said) }()
	return lines
}

// see waits until each of the lines has come.
func see(t *testing.T, lines <-chan string, want ...string) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	var got []string
	for len(want) > 0 {
		select {
		case line, more := <-lines:
			if !more {
				t.Fatalf("inotifywait ended: got %q, want %q", got, want)
			}
			got = append(got, line)
			want = slices.DeleteFunc(want, func(w string) bool { return w == line })
		case <-timeout:
			t.Fatalf("got %q, still want %q", got, want)
		}
	}
}

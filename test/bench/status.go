package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"sync"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	// statusReads are the cycles of one round. Which core the server is woken on decides half of
	// a cycle's time and changes now and then: many short rounds even that out.
	statusReads   = 500
	statusClients = 4 // clients at once, in the second part
)

// benchStatus compares open+read+close of a status file with the same on two libfuse filesystems
// and on a file of the kernel's own.
func benchStatus(ctx context.Context, b *bench) error {
	d, err := b.startDaemon(ctx)
	if err != nil {
		return err
	}
	if err := d.populate(ctx, b, 0, 1, true, "sleep", "1000"); err != nil {
		return err
	}
	multi, err := b.startHello("multi")
	if err != nil {
		return err
	}
	single, err := b.startHello("single")
	if err != nil {
		return err
	}
	kernel, removeKernel, err := b.kernfsFile()
	if err != nil {
		return err
	}
	if err := b.uses("pkg-config", "--modversion", "fuse3"); err != nil {
		return err
	}
	b.used[len(b.used)-1] = "libfuse " + b.used[len(b.used)-1] + " (hello_ll.c)"

	files := []struct{ name, path string }{
		{"boxlite", d.path(d.names()[0], "status")},
		{"libfuse, multi-threaded", filepath.Join(multi.mount, "status")},
		{"libfuse, one thread", filepath.Join(single.mount, "status")},
		{"kernfs", kernel},
	}
	servers, err := d.processes()
	if err != nil {
		return err
	}
	servers = append(servers, multi.pid, single.pid)
	rounds := b.roundsOr("status", 101)
	for _, part := range []struct {
		name    string
		clients int
		oneCore bool
	}{
		{"", 1, false},
		{fmt.Sprintf(", %d clients at once", statusClients), statusClients, false},
		{", clients and servers on one core", 1, true},
	} {
		b.say("status: open, read, close%s", part.name)
		var sides []side
		for _, f := range files {
			sides = append(sides, side{f.name, func() (time.Duration, error) {
				return cycles(f.path, part.clients, statusReads/part.clients)
			}})
		}
		free := func() error { return nil }
		if part.oneCore {
			if free, err = onOneCore(servers); err != nil {
				return err
			}
		}
		series, err := b.interleave(ctx, rounds, sides...)
		err = errors.Join(err, free())
		if err != nil {
			return err
		}
		for i := 1; i < len(files); i++ {
			r := ratios(series[0], series[i])
			l := line{
				what:  "open, read, close of `status`" + part.name,
				ours:  duration(median(series[0])),
				peer:  fmt.Sprintf("%s: %s", files[i].name, duration(median(series[i]))),
				ratio: spread(r),
			}
			if part.name == "" && i == 1 {
				l.goal, l.met = "≤ 1", verdict(atMost(1).over(median(r), ""))
			}
			b.table.add(l)
		}
	}
	return errors.Join(d.stop(), multi.stop(), single.stop(), removeKernel())
}

// cycles returns the time per cycle of clients that each do so many, at once.
func cycles(path string, clients, each int) (time.Duration, error) {
	var (
		begin   = make(chan struct{})
		waiting sync.WaitGroup
		results = make(chan error, clients)
	)
	waiting.Add(clients)
	for range clients {
		go func() {
			runtime.LockOSThread()
			defer runtime.UnlockOSThread()
			waiting.Done()
			<-begin
			results <- readMany(path, each)
		}()
	}
	waiting.Wait()
	start := time.Now()
	close(begin)
	var errs []error
	for range clients {
		errs = append(errs, <-results)
	}
	return time.Since(start) / time.Duration(clients*each), errors.Join(errs...)
}

func readMany(path string, count int) error {
	var buffer [4096]byte
	for range count {
		n, err := readOnce(path, buffer[:])
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		if n == 0 {
			return fmt.Errorf("%s: empty", path)
		}
	}
	return nil
}

// onOneCore makes these processes and this one share a core, until free is called. Where the
// others are woken is no luck then: what is left is the work of a cycle.
func onOneCore(pids []int) (free func() error, err error) {
	pids = append([]int{os.Getpid()}, pids...)
	var all unix.CPUSet
	if err := unix.SchedGetaffinity(os.Getpid(), &all); err != nil {
		return nil, err
	}
	var one unix.CPUSet
	for cpu := range len(all) * int(unsafe.Sizeof(all[0])) * 8 {
		if all.IsSet(cpu) {
			one.Set(cpu)
			break
		}
	}
	if err := setAffinity(pids, &one); err != nil {
		return nil, err
	}
	return func() error { return setAffinity(pids, &all) }, nil
}

func setAffinity(pids []int, set *unix.CPUSet) error {
	for _, pid := range pids {
		threads, err := os.ReadDir(proc(pid, "task"))
		if err != nil {
			return err
		}
		for _, thread := range threads {
			tid, err := strconv.Atoi(thread.Name())
			if err != nil {
				return err
			}
			if err := unix.SchedSetaffinity(tid, set); err != nil && !gone(err) {
				return fmt.Errorf("affinity of thread %d: %w", tid, err)
			}
		}
	}
	return nil
}

// A hello is a hello_ll that runs.
type hello struct {
	mount string
	pid   int
	stop  func() error
}

func (b *bench) startHello(threads string) (*hello, error) {
	h := &hello{mount: filepath.Join(b.dir, "hello-"+threads)}
	if err := os.Mkdir(h.mount, 0o755); err != nil {
		return nil, err
	}
	cmd := exec.Command(b.bin("hello_ll"), threads, h.mount)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	h.pid = cmd.Process.Pid
	h.stop = sync.OnceValue(func() error { return terminate(cmd, 5*time.Second) })
	b.onEnd(h.stop)
	if word, err := bufio.NewReader(out).ReadString('\n'); err != nil || word != "ready\n" {
		return nil, fmt.Errorf("hello_ll %s did not get ready: %w", threads, err)
	}
	return h, nil
}

// terminate ends a child with SIGTERM, and with SIGKILL if that does not do; then it is an error.
func terminate(cmd *exec.Cmd, bound time.Duration) error {
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	var killErr error
	forced := make(chan struct{})
	timer := time.AfterFunc(bound, func() {
		defer close(forced)
		killErr = errors.Join(fmt.Errorf("%s ignored SIGTERM", cmd.Path), cmd.Process.Kill())
	})
	err := cmd.Wait()
	if timer.Stop() {
		return err
	}
	<-forced
	return errors.Join(killErr, err)
}

// kernfsFile returns a small file of the kernel's own, of one word if there is a cgroup2 mount,
// and what removes it.
func (b *bench) kernfsFile() (path string, remove func() error, err error) {
	mounts, err := readMounts()
	if err != nil {
		return "", nil, err
	}
	for _, m := range mounts {
		if m.kind != "cgroup2" {
			continue
		}
		group := filepath.Join(m.point, fmt.Sprintf("boxlite-bench-status-%d", os.Getpid()))
		if err := os.Mkdir(group, 0o755); errors.Is(err, unix.EROFS) {
			continue
		} else if err != nil {
			return "", nil, err
		}
		remove = sync.OnceValue(func() error { return os.Remove(group) })
		b.onEnd(remove)
		b.used = append(b.used, "kernfs: cgroup.type")
		return filepath.Join(group, "cgroup.type"), remove, nil
	}
	b.used = append(b.used, "kernfs: uevent_seqnum")
	return "/sys/kernel/uevent_seqnum", func() error { return nil }, nil
}

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

func proc(pid int, file string) string {
	return fmt.Sprintf("/proc/%d/%s", pid, file)
}

// gone says that the process or thread ended while its /proc entry was looked at.
func gone(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// children returns the children of a process; one that is gone has none.
func children(pid int) ([]int, error) {
	files, err := filepath.Glob(proc(pid, "task/*/children"))
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, file := range files {
		text, err := os.ReadFile(file)
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for word := range strings.FieldsSeq(string(text)) {
			child, err := strconv.Atoi(word)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", file, err)
			}
			pids = append(pids, child)
		}
	}
	return pids, nil
}

// descendants returns the processes below a process, parents before children.
func descendants(pid int) ([]int, error) {
	all, err := children(pid)
	if err != nil {
		return nil, err
	}
	for i := 0; i < len(all); i++ {
		more, err := children(all[i])
		if err != nil {
			return nil, err
		}
		all = append(all, more...)
	}
	return all, nil
}

// named returns those of the processes whose command has this name.
func named(pids []int, name string) ([]int, error) {
	var found []int
	for _, pid := range pids {
		comm, err := os.ReadFile(proc(pid, "comm"))
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if strings.TrimSpace(string(comm)) == name {
			found = append(found, pid)
		}
	}
	return found, nil
}

// running returns those of the processes that run this program.
func running(pids []int, program string) ([]int, error) {
	var found []int
	for _, pid := range pids {
		exe, err := os.Readlink(proc(pid, "exe"))
		if gone(err) {
			continue
		}
		if err != nil {
			return nil, err
		}
		if exe == program {
			found = append(found, pid)
		}
	}
	return found, nil
}

// awaitTree waits until so many processes of this name are below a process.
func awaitTree(ctx context.Context, pid int, name string, count int) error {
	return await(ctx, 10*time.Second, func() (bool, error) {
		below, err := descendants(pid)
		if err != nil {
			return false, err
		}
		found, err := named(below, name)
		return len(found) == count, err
	}, "%d processes %q below process %d", count, name, pid)
}

// await asks until the condition holds, for as long as the bound allows.
func await(ctx context.Context, bound time.Duration, holds func() (bool, error), format string, args ...any) error {
	deadline := time.Now().Add(bound)
	for {
		ok, err := holds()
		if err != nil || ok {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("not seen in %v: %s", bound, fmt.Sprintf(format, args...))
		}
		if err := pause(ctx, 2*time.Millisecond); err != nil {
			return err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}

// field returns a number of a file with lines "Name:   123 …".
func field(file, name string) (int64, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(text) {
		rest, ok := bytes.CutPrefix(line, []byte(name+":"))
		if !ok {
			continue
		}
		words := bytes.Fields(rest)
		if len(words) == 0 {
			break
		}
		return strconv.ParseInt(string(words[0]), 10, 64)
	}
	return 0, fmt.Errorf("%s: no %s", file, name)
}

// pss returns the proportional share of memory of the processes together, in KiB.
func pss(pids []int) (int64, error) {
	var sum int64
	for _, pid := range pids {
		n, err := field(proc(pid, "smaps_rollup"), "Pss")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// rss returns the resident memory of the processes together, in KiB.
func rss(pids []int) (int64, error) {
	var sum int64
	for _, pid := range pids {
		n, err := field(proc(pid, "status"), "VmRSS")
		if err != nil {
			return 0, err
		}
		sum += n
	}
	return sum, nil
}

// settled reads a value until three reads in a row, 200 ms apart, agree. A value that does
// not come to rest within 20 s is returned as it is, and said to be so.
func settled(ctx context.Context, read func() (int64, error)) (value int64, atRest bool, err error) {
	same := 0
	for deadline := time.Now().Add(20 * time.Second); time.Now().Before(deadline); {
		now, err := read()
		if err != nil {
			return 0, false, err
		}
		if now == value {
			same++
		} else {
			value, same = now, 1
		}
		if same == 3 {
			return value, true, nil
		}
		if err := pause(ctx, 200*time.Millisecond); err != nil {
			return 0, false, err
		}
	}
	return value, false, nil
}

// activity is what a process has used since it began.
type activity struct {
	switches int64         // context switches of its threads: each is one wake-up
	cpu      time.Duration // on a processor, to the nanosecond
	ticks    int64         // the same as utime+stime say it, in ticks of 10 ms
}

func (a activity) add(b activity) activity {
	return activity{a.switches + b.switches, a.cpu + b.cpu, a.ticks + b.ticks}
}

func (a activity) sub(b activity) activity {
	return activity{a.switches - b.switches, a.cpu - b.cpu, a.ticks - b.ticks}
}

// activityOf sums up the processes. Threads that have ended are in ticks only.
func activityOf(pids []int) (activity, error) {
	var sum activity
	for _, pid := range pids {
		ticks, err := cpuTicks(pid)
		if err != nil {
			return activity{}, err
		}
		sum.ticks += ticks
		threads, err := os.ReadDir(proc(pid, "task"))
		if err != nil {
			return activity{}, err
		}
		for _, thread := range threads {
			dir := proc(pid, "task/"+thread.Name())
			one, err := threadActivity(dir)
			if gone(err) {
				continue
			}
			if err != nil {
				return activity{}, err
			}
			sum = sum.add(one)
		}
	}
	return sum, nil
}

func threadActivity(dir string) (activity, error) {
	asked, err := field(dir+"/status", "voluntary_ctxt_switches")
	if err != nil {
		return activity{}, err
	}
	forced, err := field(dir+"/status", "nonvoluntary_ctxt_switches")
	if err != nil {
		return activity{}, err
	}
	text, err := os.ReadFile(dir + "/schedstat")
	if err != nil {
		return activity{}, err
	}
	onCPU, _, _ := strings.Cut(string(text), " ")
	ns, err := strconv.ParseInt(onCPU, 10, 64)
	if err != nil {
		return activity{}, fmt.Errorf("%s/schedstat: %w", dir, err)
	}
	return activity{switches: asked + forced, cpu: time.Duration(ns)}, nil
}

// cpuTicks returns utime+stime of a process.
func cpuTicks(pid int) (int64, error) {
	text, err := os.ReadFile(proc(pid, "stat"))
	if err != nil {
		return 0, err
	}
	// The command's name, in parentheses, may hold anything; the fields after it are numbers, and
	// the first of them is field 3.
	end := bytes.LastIndexByte(text, ')')
	words := strings.Fields(string(text[end+1:]))
	if end < 0 || len(words) < 13 {
		return 0, fmt.Errorf("%s: cannot be read", proc(pid, "stat"))
	}
	user, err := strconv.ParseInt(words[14-3], 10, 64)
	if err != nil {
		return 0, err
	}
	system, err := strconv.ParseInt(words[15-3], 10, 64)
	return user + system, err
}

// mountsBelow returns the mount points inside a directory, innermost first.
func mountsBelow(dir string) ([]string, error) {
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	var points []string
	for _, m := range mounts {
		if strings.HasPrefix(m.point, dir+"/") {
			points = append(points, m.point)
		}
	}
	slices.Reverse(points)
	return points, nil
}

type mount struct {
	point, kind string
}

func readMounts() ([]mount, error) {
	file, err := os.Open("/proc/self/mounts")
	if err != nil {
		return nil, err
	}
	defer file.Close() // nothing was written
	var mounts []mount
	lines := bufio.NewScanner(file)
	for lines.Scan() {
		words := strings.Fields(lines.Text())
		if len(words) >= 3 {
			mounts = append(mounts, mount{point: words[1], kind: words[2]})
		}
	}
	return mounts, lines.Err()
}

// endChildren kills and reaps the children of this process until it has none, and names
// those that were alive.
func endChildren(bound time.Duration) (alive []string, err error) {
	for deadline := time.Now().Add(bound); ; {
		pids, err := children(os.Getpid())
		if err != nil || len(pids) == 0 {
			return alive, err
		}
		if time.Now().After(deadline) {
			return alive, fmt.Errorf("processes %v do not end", pids)
		}
		for _, pid := range pids {
			var status unix.WaitStatus
			reaped, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
			if err != nil {
				return alive, fmt.Errorf("wait for process %d: %w", pid, err)
			}
			if reaped == pid {
				continue
			}
			comm, err := os.ReadFile(proc(pid, "comm"))
			if err != nil {
				return alive, err
			}
			name := fmt.Sprintf("%s (%d)", strings.TrimSpace(string(comm)), pid)
			if !slices.Contains(alive, name) {
				alive = append(alive, name)
			}
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				return alive, fmt.Errorf("kill process %d: %w", pid, err)
			}
		}
		if err := pause(context.Background(), time.Millisecond); err != nil {
			return alive, err
		}
	}
}

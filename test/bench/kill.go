package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// The tree that is killed: a shell and three sleepers, one of them in a session of its own.
const (
	killTree     = "sleep 1000 & sleep 1000 & setsid sleep 1000 & wait"
	killSleepers = 3
)

// benchKill compares `kill` with a C program that kills and reaps the same tree in the same
// namespaces. Both trees are known to be up before the clock starts.
func benchKill(ctx context.Context, b *bench) error {
	d, err := b.startDaemon(ctx)
	if err != nil {
		return err
	}
	if err := d.create("tree", "sh", "-c", killTree); err != nil {
		return err
	}
	peer, err := b.startKiller()
	if err != nil {
		return err
	}
	b.used = append(b.used, "killtree.c")

	series, err := b.interleave(ctx, b.roundsOr("kill", 51),
		side{"boxlite", func() (time.Duration, error) {
			if err := d.ctl("tree", "start"); err != nil {
				return 0, err
			}
			text, err := load(d.path("tree", "pid"))
			if err != nil {
				return 0, err
			}
			pid, err := strconv.Atoi(text)
			if err != nil {
				return 0, fmt.Errorf("pid: %w", err)
			}
			if err := awaitTree(ctx, pid, "sleep", killSleepers); err != nil {
				return 0, err
			}
			begin := time.Now()
			if err := d.ctl("tree", "kill"); err != nil {
				return 0, err
			}
			took := time.Since(begin)
			if _, err := os.Stat(proc(pid, "")); !errors.Is(err, os.ErrNotExist) {
				return 0, fmt.Errorf("process %d is still there after kill: %w", pid, err)
			}
			return took, nil
		}},
		side{"killtree", func() (time.Duration, error) {
			pid, err := peer.ask("start")
			if err != nil {
				return 0, err
			}
			if err := awaitTree(ctx, int(pid), "sleep", killSleepers); err != nil {
				return 0, err
			}
			ns, err := peer.ask("kill")
			return time.Duration(ns), err
		}},
	)
	if err != nil {
		return err
	}
	ours, r := median(series[0]), ratios(series[0], series[1])
	b.table.add(line{
		what:  fmt.Sprintf("force-stop a tree of %d processes, until `kill` returns", killSleepers+2),
		ours:  duration(ours),
		peer:  "C, SIGKILL and waitpid of the same tree: " + duration(median(series[1])),
		ratio: spread(r),
		goal:  "≤ 2 and < 10 ms",
		met: verdict(atMost(2).over(median(r), ""),
			below(10).over(float64(ours)/float64(time.Millisecond), " ms")),
	})
	return errors.Join(d.stop(), peer.stop())
}

// A killer is a killtree that runs.
type killer struct {
	in   io.Writer
	out  *bufio.Reader
	stop func() error
}

func (b *bench) startKiller() (*killer, error) {
	cmd := exec.Command(b.bin("killtree"), killTree)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	k := &killer{in: in, out: bufio.NewReader(out)}
	k.stop = sync.OnceValue(func() error {
		if err := in.Close(); err != nil {
			return err
		}
		return cmd.Wait()
	})
	b.onEnd(k.stop)
	return k, nil
}

func (k *killer) ask(step string) (int64, error) {
	if _, err := fmt.Fprintln(k.in, step); err != nil {
		return 0, err
	}
	answer, err := k.out.ReadString('\n')
	if err != nil {
		return 0, err
	}
	return strconv.ParseInt(strings.TrimSpace(answer), 10, 64)
}

package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"slices"
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
	b.used = append(b.used, "killtree.c")
	d, err := b.startDaemon(ctx)
	if err != nil {
		return err
	}
	tree := fmt.Sprintf("force-stop a tree of %d processes, until `kill` returns", killSleepers+2)
	err = b.killOne(ctx, d, tree, killTree, killSleepers, b.roundsOr("kill", 51), goals{
		text: "≤ 2 and < 10 ms", ratio: atMost(2), ms: below(10),
	})
	if err == nil {
		err = b.killOne(ctx, d, "force-stop one process, alone", "exec sleep 1000", 1, b.roundsOr("kill alone", 51), goals{})
	}
	if err == nil {
		b.say("kill: 1,000 boxes")
		err = d.populate(ctx, b, 0, killCrowd, true, "sleep", "1000")
	}
	if err == nil {
		what := fmt.Sprintf("force-stop one process, beside %s running boxes", thousands(killCrowd))
		err = b.killOne(ctx, d, what, "exec sleep 1000", 1, b.roundsOr("kill beside 1,000", 51), goals{})
	}
	if err == nil {
		err = b.killAll(ctx, d)
	}
	return errors.Join(err, d.stop())
}

const killCrowd = 1000

// goals are those of a line; the zero value has none.
type goals struct {
	text      string
	ratio, ms goal
}

// killOne adds a line about killing a box that runs script, which ends up as so many sleepers.
func (b *bench) killOne(ctx context.Context, d *daemon, what, script string, sleepers, rounds int, g goals) error {
	box := fmt.Sprintf("kill-%d", len(d.names()))
	if err := d.create(box, "sh", "-c", script); err != nil {
		return err
	}
	peer, err := b.startKiller(script)
	if err != nil {
		return err
	}
	series, err := b.interleave(ctx, rounds,
		side{"boxlite", func() (time.Duration, error) {
			pid, err := d.start(box)
			if err != nil {
				return 0, err
			}
			if err := awaitTree(ctx, pid, "sleep", sleepers); err != nil {
				return 0, err
			}
			begin := time.Now()
			if err := d.ctl(box, "kill"); err != nil {
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
			if err := awaitTree(ctx, int(pid), "sleep", sleepers); err != nil {
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
	l := line{
		what:  what,
		ours:  duration(ours),
		peer:  "C, SIGKILL and waitpid of the same: " + duration(median(series[1])),
		ratio: spread(r),
		goal:  g.text,
	}
	if g.text != "" {
		l.met = verdict(g.ratio.over(median(r), ""), g.ms.over(float64(ours)/float64(time.Millisecond), " ms"))
	}
	b.table.add(l)
	return peer.stop()
}

// killAll adds a line about killing all boxes of the crowd at once, by a client of four threads.
func (b *bench) killAll(ctx context.Context, d *daemon) error {
	peer, err := b.startKiller("exec sleep 1000")
	if err != nil {
		return err
	}
	boxes := slices.DeleteFunc(d.names(), func(box string) bool { return !strings.HasPrefix(box, "box-") })
	series, err := b.interleave(ctx, b.roundsOr("kill of 1,000", 5),
		side{"boxlite", func() (time.Duration, error) {
			start := func(box string) error { b.alive(); return d.ctl(box, "start") }
			if err := d.parallel(ctx, boxes, start); err != nil {
				return 0, err
			}
			begin := time.Now()
			if err := d.parallel(ctx, boxes, func(box string) error { return d.ctl(box, "kill") }); err != nil {
				return 0, err
			}
			took := time.Since(begin)
			left, err := d.shims(0)
			if err == nil && len(left) > 0 {
				err = fmt.Errorf("%d shims are left", len(left))
			}
			return took, err
		}},
		side{"killtree", func() (time.Duration, error) {
			for range boxes {
				b.alive()
				pid, err := peer.ask("start")
				if err != nil {
					return 0, err
				}
				if err := awaitTree(ctx, int(pid), "sleep", 1); err != nil {
					return 0, err
				}
			}
			ns, err := peer.ask("kill")
			return time.Duration(ns), err
		}},
	)
	if err != nil {
		return err
	}
	b.table.add(line{
		what:  fmt.Sprintf("force-stop %s boxes, by 4 clients, until all `kill`s have returned", thousands(killCrowd)),
		ours:  duration(median(series[0])),
		peer:  "C, SIGKILL to all and waitpid for each: " + duration(median(series[1])),
		ratio: spread(ratios(series[0], series[1])),
	})
	return peer.stop()
}

// A killer is a killtree that runs.
type killer struct {
	in   io.Writer
	out  *bufio.Reader
	stop func() error
}

func (b *bench) startKiller(script string) (*killer, error) {
	cmd := exec.Command(b.bin("killtree"), script)
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

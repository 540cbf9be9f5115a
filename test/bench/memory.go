package main

import (
	"context"
	"fmt"
	"strings"
	"time"
)

// crowd is how many supervisors are alive when their memory is read: shared pages count once.
const crowd = 100

// benchShimMemory compares what each supervisor adds to a process that it supervises.
func benchShimMemory(ctx context.Context, b *bench) error {
	ours, err := b.shimMemory(ctx, "")
	if err != nil {
		return err
	}
	first := true
	for _, s := range []struct {
		name    string
		measure func(context.Context, *bench) (float64, error)
	}{
		{"containerd-shim-runc-v2", containerdMemory},
		{"s6-supervise", s6Memory},
		{"tini", tiniMemory},
	} {
		b.say("shim: %d of %s", crowd, s.name)
		peer, err := s.measure(ctx, b)
		if err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
		l := line{
			what:  fmt.Sprintf("PSS of a supervisor of `sleep`, %d alive", crowd),
			ours:  kib(ours),
			peer:  fmt.Sprintf("%s: %s", s.name, kib(peer)),
			ratio: number(ours / peer),
		}
		if first {
			l.goal, l.met = "< 800 KiB", verdict(below(800).over(ours, " KiB"))
			first = false
		}
		b.table.add(l)
	}
	return nil
}

// shimMemory returns what a box with one process has of memory beside that, in KiB: nothing but
// its shim may be there. more is added to the configuration.
func (b *bench) shimMemory(ctx context.Context, more string) (float64, error) {
	d, err := b.startDaemon(ctx)
	if err != nil {
		return 0, err
	}
	d.more = more
	if err := d.populate(ctx, b, 0, crowd, true, "sleep", "1000"); err != nil {
		return 0, err
	}
	shims, err := d.shims(crowd)
	if err != nil {
		return 0, err
	}
	for _, shim := range shims {
		if err := awaitAlone(ctx, shim); err != nil {
			return 0, err
		}
	}
	each, err := b.pssEach(ctx, shims, crowd)
	if err != nil {
		return 0, err
	}
	return each, d.stop()
}

// awaitAlone waits until there is one process below another.
func awaitAlone(ctx context.Context, pid int) error {
	return await(ctx, 10*time.Second, func() (bool, error) {
		below, err := descendants(pid)
		return len(below) == 1, err
	}, "one process below process %d", pid)
}

// pssEach returns the PSS of the processes in KiB, divided by the boxes that they serve.
func (b *bench) pssEach(ctx context.Context, pids []int, boxes int) (float64, error) {
	sum, atRest, err := settled(ctx, func() (int64, error) { return pss(pids) })
	if err != nil {
		return 0, err
	}
	if !atRest {
		b.say("the memory of %d processes did not come to rest", len(pids))
	}
	return float64(sum) / float64(boxes), nil
}

// benchDaemonMemory shows what the daemon keeps for a box, configured only and running.
func benchDaemonMemory(ctx context.Context, b *bench) error {
	for _, kind := range []struct {
		name  string
		start bool
	}{{"configured", false}, {"running", true}} {
		if err := b.daemonMemory(ctx, kind.name, kind.start); err != nil {
			return fmt.Errorf("%s boxes: %w", kind.name, err)
		}
	}
	return nil
}

func (b *bench) daemonMemory(ctx context.Context, kind string, start bool) error {
	d, err := b.startDaemon(ctx)
	if err != nil {
		return err
	}
	// An idle daemon has not touched all of its program yet; what it then reads from its
	// file is charged to the boxes too.
	sizes := []int{0, crowd, 1000}
	resident := make([]float64, len(sizes))
	var shares, sums []string
	for i, size := range sizes {
		b.say("memory: %d %s boxes", size, kind)
		if i > 0 {
			if err := d.populate(ctx, b, sizes[i-1], size, start, "sleep", "1000"); err != nil {
				return err
			}
		}
		pids, err := d.processes()
		if err != nil {
			return err
		}
		now, atRest, err := settled(ctx, func() (int64, error) { return rss(pids) })
		if err != nil {
			return err
		}
		if !atRest {
			b.say("the memory of the daemon did not come to rest")
		}
		share, err := pss(pids)
		if err != nil {
			return err
		}
		resident[i] = float64(now)
		sums = append(sums, thousands(now))
		shares = append(shares, thousands(share))
	}
	last := len(sizes) - 1
	each := (resident[last] - resident[0]) / float64(sizes[last])
	slope := (resident[last] - resident[1]) / float64(sizes[last]-sizes[1])
	b.table.add(line{
		what: fmt.Sprintf("RSS of the daemon at 0 / %d / %s %s boxes (PSS %s)", crowd, thousands(int64(sizes[last])), kind, strings.Join(shares, " / ")),
		ours: fmt.Sprintf("%s KiB: %s a box (%s from %d on)", strings.Join(sums, " / "), kib(each), kib(slope), crowd),
		goal: "< 20 KiB a box",
		met:  verdict(below(20).over(each, " KiB")),
	})
	return d.stop()
}

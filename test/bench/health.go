package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

const (
	unchecked = "health_check: {disabled: true}\n"
	// The mission measured its checks so: at 900 µs each.
	probeInterval = 100 * time.Millisecond
	probeTime     = 10 * time.Second

	healthCrowd = 1000
	crowdTime   = 30 * time.Second // the default interval: each box is probed once
	deathRounds = 200
)

func benchHealth(ctx context.Context, b *bench) error {
	if err := benchProbes(ctx, b); err != nil {
		return err
	}
	d, err := b.startDaemon(ctx)
	if err != nil {
		return err
	}
	b.say("health: %d boxes", healthCrowd)
	if err := d.populate(ctx, b, 0, healthCrowd, true, "sleep", "1000"); err != nil {
		return err
	}
	if err := benchCrowdHealth(ctx, b, d); err != nil {
		return err
	}
	if err := benchDeath(ctx, b, d); err != nil {
		return err
	}
	return d.stop()
}

// spent is the processor time of the daemon, its helpers and its shims over a time.
func (d *daemon) spent(ctx context.Context, over time.Duration) (daemon, shims time.Duration, err error) {
	own, err := d.processes()
	if err != nil {
		return 0, 0, err
	}
	all, err := d.shims(0)
	if err != nil {
		return 0, 0, err
	}
	var before, after [2]activity
	for _, sum := range []*[2]activity{&before, &after} {
		if sum == &after {
			if err := pause(ctx, over); err != nil {
				return 0, 0, err
			}
		}
		for i, pids := range [][]int{own, all} {
			if sum[i], err = activityOf(pids); err != nil {
				return 0, 0, err
			}
		}
	}
	return after[0].sub(before[0]).cpu, after[1].sub(before[1]).cpu, nil
}

// benchProbes tells what a probe of one box costs: with checks against without, beside a C
// program that is woken by a timer as often and sends a packet there and back.
func benchProbes(ctx context.Context, b *bench) error {
	d, err := b.startDaemon(ctx)
	if err != nil {
		return err
	}
	every := fmt.Sprintf("interval: %s", probeInterval)
	kinds := []struct{ name, more string }{
		{"off", unchecked},
		{"ping", "health_check: {" + every + "}\n"},
		{"command", "health_check: {" + every + ", command: [\"true\"]}\n"},
	}
	for _, k := range kinds {
		d.more = k.more
		if err := d.create(k.name, "sleep", "1000"); err != nil {
			return err
		}
	}
	const probes = int(probeTime / probeInterval)
	costs := make([][]float64, len(kinds)) // µs a probe, round by round; of "off": in that time
	var least, ratios []float64
	for range b.roundsOr("health", 3) {
		b.say("health: the C limit")
		limit, err := pingpong(ctx, b, probes)
		if err != nil {
			return err
		}
		least = append(least, limit)
		for i, k := range kinds {
			b.say("health: %s", k.name)
			if err := d.ctl(k.name, "start"); err != nil {
				return err
			}
			if err := pause(ctx, time.Second); err != nil { // what the start left to do
				return err
			}
			daemon, shims, err := d.spent(ctx, probeTime)
			if err != nil {
				return err
			}
			if err := d.ctl(k.name, "kill"); err != nil {
				return err
			}
			costs[i] = append(costs[i], float64((daemon+shims).Microseconds())/float64(probes))
		}
		last := len(ratios)
		ratios = append(ratios, (costs[1][last]-costs[0][last])/limit)
	}
	for i, k := range kinds[1:] {
		cost := make([]float64, len(least))
		for r := range cost {
			cost[r] = costs[i+1][r] - costs[0][r]
		}
		l := line{
			what: fmt.Sprintf("processor time of a probe (%s), on against off, at an interval of 100 ms over 10 s", k.name),
			ours: number(median(cost)) + " µs",
		}
		if k.name == "ping" {
			l.peer = fmt.Sprintf("C, woken by a timer, a packet there and back: %s µs", number(median(least)))
			l.ratio, l.goal, l.met = spread(ratios), "≤ 30 µs", verdict(atMost(30).over(median(cost), " µs"))
		}
		b.table.add(l)
	}
	return d.stop()
}

// pingpong returns the processor time, in µs, that the C limit takes for each of so many pings.
func pingpong(ctx context.Context, b *bench, count int) (float64, error) {
	out, err := exec.CommandContext(ctx, b.bin("pingpong"), strconv.FormatInt(probeInterval.Microseconds(), 10), strconv.Itoa(count)).Output()
	if err != nil {
		return 0, fmt.Errorf("pingpong: %w", err)
	}
	ns, err := strconv.ParseFloat(strings.TrimSpace(string(out)), 64)
	return ns / 1000, err
}

// benchCrowdHealth tells what the checks of many boxes cost that nobody has configured.
func benchCrowdHealth(ctx context.Context, b *bench, d *daemon) error {
	if err := pause(ctx, 2*time.Second); err != nil { // the starts' garbage
		return err
	}
	daemon, shims, err := d.spent(ctx, crowdTime)
	if err != nil {
		return err
	}
	share := 100 * (daemon + shims).Seconds() / crowdTime.Seconds()
	b.table.add(line{
		what: fmt.Sprintf("%s running boxes with the checks that they have by default: of one core", thousands(healthCrowd)),
		ours: fmt.Sprintf("%s %% (daemon %s, shims %s in 30 s)", number(share), duration(daemon), duration(shims)),
		goal: "< 0.1 %",
		met:  verdict(below(0.1).over(share, " %")),
	})
	return nil
}

// benchDeath times from a kill -9 of a shim until a watcher of the box's status has read that it
// is stopped, beside a crowd.
func benchDeath(ctx context.Context, b *bench, d *daemon) error {
	const box = "mortal"
	if err := d.create(box, "sleep", "1000"); err != nil {
		return err
	}
	rounds := b.roundsOr("death", deathRounds)
	var seen []time.Duration
	for i := range rounds {
		if i%20 == 0 {
			b.say("health: death %d of %d", i, rounds)
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		took, err := d.death(box)
		if err != nil {
			return err
		}
		seen = append(seen, took)
	}
	ms := make([]float64, len(seen))
	for i, s := range seen {
		ms[i] = s.Seconds() * 1000
	}
	p99 := quantile(ms, 0.99)
	b.table.add(line{
		what: fmt.Sprintf("kill -9 of a shim until an inotify watcher of `status` has read `stopped`, beside %s running boxes", thousands(healthCrowd)),
		ours: fmt.Sprintf("%s ms, p99 %s ms", number(median(ms)), number(p99)),
		goal: "p99 < 20 ms",
		met:  verdict(below(20).over(p99, " ms")),
	})
	return nil
}

// death starts a box, watches it, and kills its shim.
func (d *daemon) death(box string) (took time.Duration, err error) {
	pid, err := d.start(box)
	if err != nil {
		return 0, err
	}
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if _, err := unix.InotifyAddWatch(fd, d.path(box, "status"), unix.IN_MODIFY); err != nil {
		return 0, err
	}
	began := time.Now()
	if err := unix.Kill(pid, unix.SIGKILL); err != nil {
		return 0, err
	}
	buffer := make([]byte, 4096)
	for {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}
		n, err := unix.Poll(poll, 5000)
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, err
		}
		if n == 0 && err == nil {
			return 0, errors.New("the watcher saw nothing for 5 s")
		}
		if n > 0 {
			if _, err := unix.Read(fd, buffer); err != nil {
				return 0, err
			}
			// What it is told first may be that the box runs.
			if status, err := load(d.path(box, "status")); err != nil || status == "stopped" {
				return time.Since(began), err
			}
		}
	}
}

package main

import (
	"context"
	"fmt"
	"time"
)

const (
	idleBoxes = 100
	idleTime  = 10 * time.Second
)

// benchIdle counts how often the daemon and its shims wake up while nobody asks for anything.
func benchIdle(ctx context.Context, b *bench) error {
	d, err := b.startDaemon(ctx)
	if err != nil {
		return err
	}
	d.more = unchecked // a due probe is no idleness
	if err := d.populate(ctx, b, 0, idleBoxes, true, "sleep", "1000"); err != nil {
		return err
	}
	daemon, err := d.processes()
	if err != nil {
		return err
	}
	shims, err := d.shims(idleBoxes)
	if err != nil {
		return err
	}
	groups := []struct {
		what string
		pids []int
	}{
		{fmt.Sprintf("wake-ups in %.0f s of an idle daemon with %d running boxes, checks disabled", idleTime.Seconds(), idleBoxes), daemon},
		{fmt.Sprintf("the same of all %d shims together", idleBoxes), shims},
		{"the same of one shim", shims[:1]},
	}
	// What the starts left to do (garbage, timers) is not idleness yet.
	_, atRest, err := settled(ctx, func() (int64, error) {
		a, err := activityOf(daemon)
		more, moreErr := activityOf(shims)
		if err == nil {
			err = moreErr
		}
		return a.switches + more.switches, err
	})
	if err != nil {
		return err
	}
	if !atRest {
		b.say("idle: daemon and shims never came to rest")
	}

	before := make([]activity, len(groups))
	for i, g := range groups {
		if before[i], err = activityOf(g.pids); err != nil {
			return err
		}
	}
	if err := pause(ctx, idleTime); err != nil {
		return err
	}
	used := make([]activity, len(groups))
	for i, g := range groups {
		after, err := activityOf(g.pids)
		if err != nil {
			return err
		}
		used[i] = after.sub(before[i])
	}
	for i, g := range groups {
		b.table.add(line{
			what: g.what,
			ours: fmt.Sprintf("%d (%s of CPU; utime+stime %d ms)", used[i].switches, duration(used[i].cpu), 10*used[i].ticks),
			goal: "0",
			met:  verdict(atMost(0).over(float64(used[i].switches), " wake-ups")),
		})
	}
	return d.stop()
}

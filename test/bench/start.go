package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// benchStart compares a box's whole life with bubblewrap's: `start` written and closed (the
// box runs), then `wait/stopped` read (it has ended and nothing is left).
func benchStart(ctx context.Context, b *bench) error {
	d, err := b.startDaemon(ctx)
	if err != nil {
		return err
	}
	if err := d.create("true", "true"); err != nil {
		return err
	}
	bwrap, err := newSpawner("bwrap", "--unshare-pid", "--dev-bind", "/", "/", "--proc", "/proc", "true")
	if err != nil {
		return err
	}
	bwrapSame, err := newSpawner("bwrap", "--unshare-pid", "--unshare-ipc", "--unshare-uts",
		"--dev-bind", "/", "/", "--proc", "/proc", "true")
	if err != nil {
		return err
	}
	if err := b.uses("bwrap", "--version"); err != nil {
		return err
	}

	var running []time.Duration
	series, err := b.interleave(ctx, b.roundsOr("start", 101),
		side{"boxlite", func() (time.Duration, error) {
			begin := time.Now()
			if err := d.ctl("true", "start"); err != nil {
				return 0, err
			}
			started := time.Since(begin)
			code, err := load(d.path("true", "wait/stopped"))
			took := time.Since(begin)
			if err == nil && code != "0" {
				err = fmt.Errorf("wait/stopped says %q, want 0", code)
			}
			running = append(running, started)
			return took, err
		}},
		side{"bwrap", bwrap.run},
		side{"bwrap with the same namespaces", bwrapSame.run},
	)
	if err != nil {
		return err
	}
	ours := duration(median(series[0]))
	for i, peer := range []string{"bwrap --unshare-pid", "bwrap --unshare-pid --unshare-ipc --unshare-uts"} {
		r := ratios(series[0], series[i+1])
		l := line{
			what:  "start a box that runs `true`, until its end is known",
			ours:  ours,
			peer:  fmt.Sprintf("`%s`: %s", peer, duration(median(series[i+1]))),
			ratio: spread(r),
		}
		if i == 0 {
			l.goal, l.met = "≤ 1", verdict(atMost(1).over(median(r), ""))
		} else {
			l.what += ", same namespaces"
		}
		b.table.add(l)
	}
	b.table.add(line{what: "of that, until it runs (the close of `ctl`)", ours: duration(median(running))})
	return d.stop()
}

// A spawner starts a program and waits for its end, by vfork, exec and wait4 alone.
type spawner struct {
	path string
	argv []string
	attr *os.ProcAttr
}

func newSpawner(argv ...string) (*spawner, error) {
	path, err := exec.LookPath(argv[0])
	if err != nil {
		return nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	// The file stays open as long as the bench runs.
	return &spawner{path, argv, &os.ProcAttr{Files: []*os.File{null, null, os.Stderr}}}, nil
}

func (s *spawner) run() (time.Duration, error) {
	begin := time.Now()
	process, err := os.StartProcess(s.path, s.argv, s.attr)
	if err != nil {
		return 0, err
	}
	state, err := process.Wait()
	took := time.Since(begin)
	if err == nil && !state.Success() {
		err = fmt.Errorf("%s: %v", s.argv[0], state)
	}
	return took, err
}

// uses notes a peer and its version, which is the first line that the command prints.
func (b *bench) uses(program string, argv ...string) error {
	out, err := exec.Command(program, argv...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", program, strings.Join(argv, " "), err, out)
	}
	version, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	b.used = append(b.used, version)
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// conmons is how many containers of podman are alive when the memory of their conmons is read.
const conmons = 20

// A containerBench is what the lines about containers have in common: a room for the peers, and a
// root of busybox, as it is and as an image.
type containerBench struct {
	*bench
	room        *room
	root, image string
	d           *daemon
	same, runc  *oci // with the configuration of ours
	plain       *oci // with that of `crun spec`
	podman      *podman
}

// benchContainer compares containers with what other programs make of the same files.
func benchContainer(ctx context.Context, b *bench) error {
	c := &containerBench{bench: b, root: filepath.Join(b.dir, "busybox"), image: filepath.Join(b.dir, "busybox.tar")}
	var err error
	if c.room, err = b.newRoom(); err != nil {
		return err
	}
	b.onEnd(func() error { return removeGroups(benchGroup()) })
	for _, peer := range [][]string{{"crun"}, {"runc"}, {"podman"}} {
		if err := b.uses(peer[0], "--version"); err != nil {
			return err
		}
	}
	if err := makeRoot(c.root); err != nil {
		return err
	}
	if err := writeImage(c.image, c.root); err != nil {
		return err
	}
	if c.d, err = b.startDaemon(ctx); err != nil {
		return err
	}
	for _, step := range []func(context.Context) error{c.prepare, c.starts, c.kills, c.execs} {
		if err := step(ctx); err != nil {
			return err
		}
	}
	if err := c.d.stop(); err != nil {
		return err
	}
	return errors.Join(c.memory(ctx), c.room.close())
}

// prepare makes the boxes, and the bundles of the OCI runtimes.
func (c *containerBench) prepare(context.Context) error {
	c.d.more = "engine: container\nrootfs: " + c.root + "\n"
	if err := c.d.create("rootfs", "sleep", "1000"); err != nil {
		return err
	}
	c.d.more = "engine: container\nimage: docker-archive:" + c.image + "\n"
	if err := c.d.create("image", "sleep", "1000"); err != nil {
		return err
	}
	c.d.more = ""
	if err := c.d.create("host", "sleep", "1000"); err != nil {
		return err
	}
	shim, err := c.d.start("rootfs")
	if err != nil {
		return err
	}
	for _, peer := range []struct {
		oci     **oci
		runtime string
	}{{&c.same, "crun"}, {&c.runc, "runc"}} {
		bundle := filepath.Join(c.dir, "same-"+peer.runtime)
		err := likeOurs(shim, bundle, c.root)
		if err == nil {
			*peer.oci, err = c.room.newOCI(peer.runtime, bundle)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", peer.runtime, err)
		}
	}
	bundle := filepath.Join(c.dir, "default-crun")
	if err := c.room.byDefault(bundle, c.root); err != nil {
		return err
	}
	if c.plain, err = c.room.newOCI("crun", bundle); err != nil {
		return err
	}
	for _, peer := range []*oci{c.same, c.runc, c.plain} {
		c.onEnd(peer.endLeft)
	}
	return c.d.ctl("rootfs", "kill")
}

// box is an engine that is a box of ours.
func (c *containerBench) box(name string) engine {
	return engine{
		name: "boxlite, " + name,
		start: func() (time.Duration, error) {
			begin := time.Now()
			err := c.d.ctl(name, "start")
			return time.Since(begin), err
		},
		end: func() error { return c.d.ctl(name, "kill") },
	}
}

// starting is a side that is timed while it starts, and ends before the next one does.
func (e engine) starting(name string) side {
	return side{name, func() (time.Duration, error) {
		took, err := e.start()
		if err == nil {
			err = e.end()
		}
		return took, err
	}}
}

func (c *containerBench) starts(ctx context.Context) error {
	c.say("container: start")
	var err error
	if c.podman, err = c.newPodman(c.room, c.image); err != nil {
		return fmt.Errorf("podman: %w", err)
	}
	ctr, err := c.newContainerd(ctx, c.room, c.image)
	if err != nil {
		return fmt.Errorf("containerd: %w", err)
	}
	const what = "start a container of busybox, until it runs"
	peers := []struct {
		what, peer string
		ours       int
		goal       string
		bound      goal
		engine     engine
	}{
		{what, "`crun run`, same configuration", 0, "≤ 1.5", atMost(1.5), c.same.engine},
		{what, "`runc run`, same configuration", 0, "", goal{}, c.runc.engine},
		{what, "`crun run` as by `crun spec`: no seccomp, no user namespace", 0, "", goal{}, c.plain.engine},
		{what, "`podman run`", 0, "", goal{}, c.podman.engine},
		{what, "`ctr run`", 0, "≤ 0.2", atMost(0.2), *ctr},
		{what + ", of an image", "`crun run`, same configuration", 1, "", goal{}, c.same.engine},
	}
	ours := []engine{c.box("rootfs"), c.box("image")}
	var sides []side
	for _, e := range ours {
		sides = append(sides, e.starting(e.name))
	}
	for _, p := range peers {
		if p.ours == 0 {
			sides = append(sides, p.engine.starting(p.peer))
		}
	}
	series, err := c.interleave(ctx, c.roundsOr("start of a container", 31), sides...)
	if err != nil {
		return err
	}
	for i, p := range peers {
		theirs := series[len(ours)+i%(len(peers)-1)]
		r := ratios(series[p.ours], theirs)
		l := line{
			what: p.what, ours: duration(median(series[p.ours])),
			peer: p.peer + ": " + duration(median(theirs)), ratio: spread(r), goal: p.goal,
		}
		if p.goal != "" {
			l.met = verdict(p.bound.over(median(r), ""))
		}
		c.table.add(l)
	}
	return nil
}

// ending is a side that is timed while it ends.
func (c *containerBench) ending(ctx context.Context, box string) side {
	return side{box, func() (time.Duration, error) {
		shim, err := c.d.start(box)
		if err != nil {
			return 0, err
		}
		if err := awaitTree(ctx, shim, "sleep", 1); err != nil {
			return 0, err
		}
		begin := time.Now()
		if err := c.d.ctl(box, "kill"); err != nil {
			return 0, err
		}
		took := time.Since(begin)
		if _, err := os.Stat(proc(shim, "")); !errors.Is(err, os.ErrNotExist) {
			return 0, fmt.Errorf("process %d is still there after kill: %w", shim, err)
		}
		return took, nil
	}}
}

func (c *containerBench) kills(ctx context.Context) error {
	c.say("container: kill")
	series, err := c.interleave(ctx, c.roundsOr("kill of a container", 31),
		c.ending(ctx, "rootfs"),
		c.ending(ctx, "host"),
		side{"crun kill", func() (time.Duration, error) {
			if _, err := c.same.start(); err != nil {
				return 0, err
			}
			return c.same.stop()
		}},
	)
	if err != nil {
		return err
	}
	for i, peer := range []string{"a box of engine host", "`crun kill KILL`, its end, `crun delete`"} {
		c.table.add(line{
			what:  "force-stop a container, until `kill` returns",
			ours:  duration(median(series[0])),
			peer:  peer + ": " + duration(median(series[i+1])),
			ratio: spread(ratios(series[0], series[i+1])),
		})
	}
	return nil
}

// execs compares a command in a running container: here from the mkdir of its directory to the
// rmdir, with what it has printed.
func (c *containerBench) execs(ctx context.Context) error {
	c.say("container: exec")
	if err := c.d.ctl("rootfs", "start"); err != nil {
		return err
	}
	if _, err := c.same.start(); err != nil {
		return err
	}
	dir := c.d.path("rootfs", "exec/e1")
	series, err := c.interleave(ctx, c.roundsOr("exec", 51),
		side{"boxlite", func() (time.Duration, error) {
			begin := time.Now()
			if err := unix.Mkdir(dir, 0o755); err != nil {
				return 0, fmt.Errorf("mkdir of an exec: %w", err)
			}
			if err := store(dir+"/cmd", unix.O_TRUNC, "true\n"); err != nil {
				return 0, c.d.explain("rootfs", err)
			}
			code, err := load(dir + "/wait/stopped")
			if err == nil && code != "0" {
				err = fmt.Errorf("wait/stopped of an exec says %q, want 0", code)
			}
			if err != nil {
				return 0, err
			}
			if _, err := load(dir + "/stdout"); err != nil {
				return 0, err
			}
			if err := unix.Rmdir(dir); err != nil {
				return 0, fmt.Errorf("rmdir of an exec: %w", err)
			}
			return time.Since(begin), nil
		}},
		side{"crun exec", func() (time.Duration, error) { return c.room.timed(c.same.exe) }},
	)
	if err != nil {
		return err
	}
	c.table.add(line{
		what:  "run `true` in a running container, with mkdir, its output, and rmdir",
		ours:  duration(median(series[0])),
		peer:  "`crun exec`: " + duration(median(series[1])),
		ratio: spread(ratios(series[0], series[1])),
	})
	return errors.Join(c.d.ctl("rootfs", "kill"), c.same.end())
}

// memory compares what stays beside a container's own processes: of ours the shim alone.
func (c *containerBench) memory(ctx context.Context) error {
	c.say("container: memory")
	ours, err := c.shimMemory(ctx, "engine: container\nrootfs: "+c.root+"\n")
	if err != nil {
		return err
	}
	shim, err := containerdMemory(ctx, c.bench)
	if err != nil {
		return fmt.Errorf("containerd-shim-runc-v2: %w", err)
	}
	conmon, err := c.conmonMemory(ctx)
	if err != nil {
		return fmt.Errorf("conmon: %w", err)
	}
	for _, peer := range []struct {
		name string
		each float64
	}{{"containerd-shim-runc-v2", shim}, {fmt.Sprintf("conmon, %d alive", conmons), conmon}} {
		c.table.add(line{
			what:  fmt.Sprintf("PSS of all that stays beside a container's `sleep`, %d alive", crowd),
			ours:  kib(ours),
			peer:  fmt.Sprintf("%s: %s", peer.name, kib(peer.each)),
			ratio: number(ours / peer.each),
		})
	}
	return nil
}

func (c *containerBench) conmonMemory(ctx context.Context) (float64, error) {
	var pids []int
	var removals []func() error
	for i := range conmons {
		c.alive()
		name := fmt.Sprintf("c%d", i)
		run, err := newSpawner(c.podman.create(name)...)
		if err == nil {
			_, err = c.room.timed(run)
		}
		if err != nil {
			return 0, err
		}
		remove := sync.OnceValue(func() error { return c.podman.remove(name) })
		removals = append(removals, remove)
		c.onEnd(remove)
		pid, err := c.podman.conmon(name)
		if err != nil {
			return 0, err
		}
		pids = append(pids, pid)
	}
	each, err := c.pssEach(ctx, pids, conmons)
	errs := []error{err}
	for _, remove := range removals {
		c.alive()
		errs = append(errs, remove())
	}
	return each, errors.Join(errs...)
}

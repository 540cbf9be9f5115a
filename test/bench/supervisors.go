package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// s6Memory returns the PSS in KiB of an s6-supervise that keeps a sleep.
func s6Memory(ctx context.Context, b *bench) (float64, error) {
	out, err := exec.Command("dpkg-query", "-W", "-f", "s6 ${Version}", "s6").Output()
	if err != nil {
		return 0, fmt.Errorf("dpkg-query: %w", err)
	}
	b.used = append(b.used, string(out))
	return b.supervisorMemory(ctx, func(i int) (*exec.Cmd, error) {
		dir := filepath.Join(b.dir, "s6", fmt.Sprint(i))
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return nil, err
		}
		script := "#!/bin/sh\nexec sleep 1000\n"
		return exec.Command("s6-supervise", dir), os.WriteFile(filepath.Join(dir, "run"), []byte(script), 0o755)
	})
}

// tiniMemory returns the PSS in KiB of a tini that keeps a sleep.
func tiniMemory(ctx context.Context, b *bench) (float64, error) {
	if err := b.uses("tini", "--version"); err != nil {
		return 0, err
	}
	return b.supervisorMemory(ctx, func(int) (*exec.Cmd, error) {
		return exec.Command("tini", "-s", "--", "sleep", "1000"), nil
	})
}

// supervisorMemory starts a crowd of supervisors that stay in the foreground, each with a sleep
// below it, and ends them again by SIGTERM, which takes the sleep along.
func (b *bench) supervisorMemory(ctx context.Context, command func(int) (*exec.Cmd, error)) (float64, error) {
	var cmds []*exec.Cmd
	stop := sync.OnceValue(func() error {
		var errs []error
		for _, cmd := range cmds {
			err := terminate(cmd, 5*time.Second)
			if exit := (*exec.ExitError)(nil); errors.As(err, &exit) && !cmd.ProcessState.Success() {
				// tini passes on how its child ended: by the SIGTERM that was asked for.
				if exit.ExitCode() == 128+int(syscall.SIGTERM) {
					err = nil
				}
			}
			errs = append(errs, err)
		}
		return errors.Join(errs...)
	})
	b.onEnd(stop)
	var pids []int
	for i := range crowd {
		cmd, err := command(i)
		if err != nil {
			return 0, err
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := cmd.Start(); err != nil {
			return 0, err
		}
		cmds = append(cmds, cmd)
		pids = append(pids, cmd.Process.Pid)
	}
	for _, pid := range pids {
		if err := awaitTree(ctx, pid, "sleep", 1); err != nil {
			return 0, err
		}
	}
	each, err := b.pssEach(ctx, pids, crowd)
	if err != nil {
		return 0, err
	}
	return each, stop()
}

// containerdMemory returns the PSS in KiB of a containerd-shim that keeps a container with one
// process. The shims are started and driven as containerd does it, without containerd.
func containerdMemory(ctx context.Context, b *bench) (float64, error) {
	program, err := b.own("containerd-shim-runc-v2")
	if err != nil {
		return 0, err
	}
	version, err := exec.Command(program, "-v").Output()
	if err != nil {
		return 0, err
	}
	for l := range strings.Lines(string(version)) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(l), "Version:"); ok {
			b.used = append(b.used, "containerd-shim-runc-v2 "+strings.TrimSpace(v))
		}
	}
	set, err := newContainers(b, program)
	if err != nil {
		return 0, err
	}
	stop := sync.OnceValue(set.stop)
	b.onEnd(stop)
	for i := range crowd {
		if err := ctx.Err(); err != nil {
			return 0, err
		}
		b.alive()
		if err := set.start(ctx, i); err != nil {
			return 0, fmt.Errorf("container %d: %w", i, err)
		}
	}
	each, err := b.pssEach(ctx, set.pids(), crowd)
	if err != nil {
		return 0, err
	}
	return each, stop()
}

package main

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// An engine runs one container at a time by somebody else's program.
type engine struct {
	name string
	// start returns when the container runs, end when nothing of it is left.
	start func() (time.Duration, error)
	end   func() error
}

// benchImage is the name of the image that writeImage makes.
const benchImage = "bench/busybox:1"

// makeRoot makes the files of a container: busybox under the names that are used.
func makeRoot(dir string) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	program, err := os.ReadFile(busybox)
	if err != nil {
		return err
	}
	for _, name := range []string{"bin", "dev", "etc", "proc", "sys", "tmp"} {
		if err := os.MkdirAll(filepath.Join(dir, name), 0o755); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "bin/busybox"), program, 0o755); err != nil {
		return err
	}
	for _, name := range []string{"sh", "sleep", "true"} {
		if err := os.Symlink("busybox", filepath.Join(dir, "bin", name)); err != nil {
			return err
		}
	}
	return os.WriteFile(filepath.Join(dir, "etc/passwd"), []byte("root:x:0:0::/root:/bin/sh\n"), 0o644)
}

// shiftRoot gives all files to another owner.
func shiftRoot(dir string, owner int) error {
	return filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(path, owner, owner)
	})
}

// writeImage makes an archive of an image, as docker save does, of a directory.
func writeImage(file, root string) error {
	var layer bytes.Buffer
	files := tar.NewWriter(&layer)
	if err := errors.Join(files.AddFS(os.DirFS(root)), files.Close()); err != nil {
		return err
	}
	digest := func(data []byte) string {
		sum := sha256.Sum256(data)
		return hex.EncodeToString(sum[:])
	}
	type m = map[string]any
	config, err := json.Marshal(m{
		"architecture": "amd64", "os": "linux",
		"config": m{"Cmd": []string{"sleep", "1000"}, "Env": []string{"PATH=/bin"}},
		"rootfs": m{"type": "layers", "diff_ids": []string{"sha256:" + digest(layer.Bytes())}},
	})
	if err != nil {
		return err
	}
	configName, layerName := digest(config)+".json", digest(layer.Bytes())+".tar"
	manifest, err := json.Marshal([]m{{"Config": configName, "RepoTags": []string{benchImage}, "Layers": []string{layerName}}})
	if err != nil {
		return err
	}
	var archive bytes.Buffer
	all := tar.NewWriter(&archive)
	for _, f := range []struct {
		name string
		data []byte
	}{{configName, config}, {layerName, layer.Bytes()}, {"manifest.json", manifest}} {
		if err := all.WriteHeader(&tar.Header{Name: f.name, Mode: 0o644, Size: int64(len(f.data))}); err != nil {
			return err
		}
		if _, err := all.Write(f.data); err != nil {
			return err
		}
	}
	return errors.Join(all.Close(), os.WriteFile(file, archive.Bytes(), 0o644))
}

// An oci is an engine that is an OCI runtime, with nothing around it.
type oci struct {
	engine
	room                   *room
	bundle, id, pidFile    string
	command                []string
	run, kill, remove, exe *spawner
}

// newOCI prepares the runtime for the bundle.
func (r *room) newOCI(runtime, bundle string) (*oci, error) {
	o := &oci{
		room: r, bundle: bundle, id: filepath.Base(bundle),
		pidFile: filepath.Join(bundle, "pid"),
		command: []string{runtime, "--root", "/run/" + filepath.Base(bundle)},
	}
	var errs []error
	spawn := func(argv ...string) *spawner {
		s, err := newSpawner(append(append([]string{}, o.command...), argv...)...)
		errs = append(errs, err)
		return s
	}
	o.run = spawn("run", "--detach", "--bundle", bundle, "--pid-file", o.pidFile, o.id)
	o.kill = spawn("kill", o.id, "KILL")
	o.remove = spawn("delete", "-f", o.id)
	o.exe = spawn("exec", o.id, "true")
	o.engine = engine{
		start: func() (time.Duration, error) { return r.timed(o.run) },
		end: func() error {
			_, err := o.stop()
			return err
		},
	}
	return o, errors.Join(errs...)
}

// stop force-stops the container, and returns how long it took until nothing was left.
func (o *oci) stop() (time.Duration, error) {
	text, err := os.ReadFile(o.pidFile)
	if err != nil {
		return 0, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return 0, err
	}
	pidfd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return 0, fmt.Errorf("process %d: %w", pid, err)
	}
	begin := time.Now()
	_, err = o.room.timed(o.kill)
	if err == nil {
		err = awaitReadable(pidfd)
	}
	if err == nil {
		_, err = o.room.timed(o.remove)
	}
	took := time.Since(begin)
	// It is a child of the bench once the runtime has ended, which need not be now.
	if err == nil {
		err = awaitGone(context.Background(), pid)
	}
	return took, errors.Join(err, unix.Close(pidfd), os.Remove(o.pidFile))
}

// endLeft ends a container that a failure has left behind.
func (o *oci) endLeft() error {
	_, err := os.Stat(o.pidFile)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return errors.Join(err, o.end())
}

// awaitReadable waits until a pidfd says that its process has ended.
func awaitReadable(pidfd int) error {
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, 10_000)
		switch {
		case n > 0:
			return nil
		case err == nil:
			return errors.New("the container does not end")
		case !errors.Is(err, unix.EINTR):
			return err
		}
	}
}

// likeOurs makes a bundle of the configuration that a running container of ours has, with a root
// that has its owners already. It returns the first id of the container.
func likeOurs(shim int, bundle, root string) error {
	private := proc(shim, "root/run/box")
	text, err := os.ReadFile(filepath.Join(private, "config.json"))
	if err != nil {
		return err
	}
	config := map[string]any{}
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&config); err != nil {
		return err
	}
	var known struct {
		Linux struct {
			UIDMappings []struct{ HostID int }
		}
	}
	if err := json.Unmarshal(text, &known); err != nil {
		return err
	}
	if len(known.Linux.UIDMappings) == 0 {
		return errors.New("the container has no ids of its own")
	}
	linux, ok := config["linux"].(map[string]any)
	if !ok {
		return errors.New("the configuration has no section linux")
	}
	spaces, _ := linux["namespaces"].([]any) // none are none
	for _, s := range spaces {
		space, _ := s.(map[string]any) // looked up in nil is nothing
		delete(space, "path")          // of the shim's own: the peer makes one
	}
	linux["cgroupsPath"] = "/" + benchGroup() + "/" + filepath.Base(bundle)
	delete(config, "annotations")
	config["root"] = map[string]any{"path": filepath.Join(bundle, "root")}
	mounts, _ := config["mounts"].([]any) // none are none
	for _, m := range mounts {
		mount, _ := m.(map[string]any) // looked up in nil is nothing
		if source, _ := mount["source"].(string); strings.HasPrefix(source, "/run/box/") {
			mount["source"] = filepath.Join(bundle, strings.TrimPrefix(source, "/run/box/"))
		}
	}
	if err := writeBundle(bundle, root, config); err != nil {
		return err
	}
	if err := os.CopyFS(filepath.Join(bundle, "files"), os.DirFS(filepath.Join(private, "files"))); err != nil {
		return err
	}
	for _, dir := range []string{"root", "files"} {
		if err := shiftRoot(filepath.Join(bundle, dir), known.Linux.UIDMappings[0].HostID); err != nil {
			return err
		}
	}
	return nil
}

// byDefault makes a bundle of the configuration that crun proposes.
func (r *room) byDefault(bundle, root string) error {
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		return err
	}
	if _, err := r.run("crun", "spec", "--bundle", bundle); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return err
	}
	var config map[string]any
	if err := json.Unmarshal(text, &config); err != nil {
		return err
	}
	process, ok := config["process"].(map[string]any)
	if !ok {
		return errors.New("the configuration has no section process")
	}
	process["terminal"], process["args"] = false, []string{"sleep", "1000"}
	linux, ok := config["linux"].(map[string]any)
	if !ok {
		return errors.New("the configuration has no section linux")
	}
	linux["cgroupsPath"] = "/" + benchGroup() + "/" + filepath.Base(bundle)
	config["root"] = map[string]any{"path": filepath.Join(bundle, "root")}
	return writeBundle(bundle, root, config)
}

func writeBundle(bundle, root string, config map[string]any) error {
	text, err := json.Marshal(config)
	if err != nil {
		return err
	}
	return errors.Join(
		os.MkdirAll(bundle, 0o755),
		os.WriteFile(filepath.Join(bundle, "config.json"), text, 0o644),
		copyRoot(filepath.Join(bundle, "root"), root),
	)
}

// copyRoot copies what makeRoot has made, with its links.
func copyRoot(to, from string) error {
	out, err := exec.Command("cp", "-a", from, to).CombinedOutput()
	if err != nil {
		return fmt.Errorf("copy of %s: %w: %s", from, err, out)
	}
	return nil
}

// A podman is a podman with its files in a directory of the bench's.
type podman struct {
	engine
	room    *room
	command []string
}

// newPodman loads the image. Its limits are those that a root without CAP_SYS_RESOURCE may set.
func (b *bench) newPodman(r *room, image string) (*podman, error) {
	runtime, err := exec.LookPath("crun")
	if err != nil {
		return nil, err
	}
	dir := filepath.Join(b.dir, "podman")
	p := &podman{room: r, command: []string{
		"podman", "--root", dir, "--runroot", "/run/podman", "--tmpdir", "/run/libpod", "--storage-driver=overlay",
		"--cgroup-manager=cgroupfs", "--events-backend=none", "--runtime", runtime,
	}}
	// It makes this whatever it is told.
	const parent = "libpod_parent"
	foreign, err := hasGroup(parent)
	if err != nil {
		return nil, err
	}
	if !foreign {
		b.onEnd(func() error { return removeGroups(parent) })
	}
	if _, err := r.run(p.with("load", "-q", "-i", image)...); err != nil {
		return nil, err
	}
	run, err := newSpawner(p.create("one")...)
	p.engine = engine{
		name:  "podman run",
		start: func() (time.Duration, error) { return r.timed(run) },
		end:   func() error { return p.remove("one") },
	}
	return p, err
}

func (p *podman) with(argv ...string) []string {
	return append(append([]string{}, p.command...), argv...)
}

func (p *podman) create(name string) []string {
	return p.with("run", "-d", "--name", name, "--network=none", "--cgroups=no-conmon", "--cgroup-parent=/"+benchGroup(),
		"--ulimit=nofile=1024:1024", "--ulimit=nproc=1024:1024", "localhost/"+benchImage, "sleep", "1000")
}

// conmon returns the pid of the conmon of a container.
func (p *podman) conmon(name string) (int, error) {
	file, err := p.room.run(p.with("inspect", "-f", "{{.ConmonPidFile}}", name)...)
	if err != nil {
		return 0, err
	}
	text, err := p.room.run("cat", file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(text)
}

// remove removes a container, and waits for its conmon.
func (p *podman) remove(name string) error {
	pid, err := p.conmon(name)
	if err == nil {
		_, err = p.room.run(p.with("rm", "-f", "-t", "0", name)...)
	}
	if err == nil {
		err = awaitGone(context.Background(), pid)
	}
	return err
}

// newContainerd starts a containerd of the bench's own, and returns the engine that ctr is with it.
func (b *bench) newContainerd(ctx context.Context, r *room, image string) (*engine, error) {
	dir := filepath.Join(b.dir, "containerd")
	if err := os.Mkdir(dir, 0o711); err != nil {
		return nil, err
	}
	// What is left out needs a network, or a file system that is not there.
	config := `version = 2
root = "` + dir + `/root"
state = "/run/containerd/state"
disabled_plugins = ["io.containerd.grpc.v1.cri", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs"]
[grpc]
address = "` + containerdSocket + `"
`
	file := filepath.Join(dir, "config.toml")
	if err := os.WriteFile(file, []byte(config), 0o644); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return nil, err
	}
	defer log.Close() // containerd writes it, through its own descriptor
	program, err := b.own("containerd")
	if err != nil {
		return nil, err
	}
	ctr, err := b.own("ctr")
	if err != nil {
		return nil, err
	}
	cmd := exec.Command(program, "-c", file)
	cmd.Stdout, cmd.Stderr = log, log
	// It looks for its shim there.
	cmd.Env = append(os.Environ(), "PATH="+filepath.Dir(program)+":"+os.Getenv("PATH"))
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := r.do(cmd.Start); err != nil {
		return nil, err
	}
	b.onEnd(sync.OnceValue(func() error { return terminate(cmd, 10*time.Second) }))
	command := []string{ctr, "-a", containerdSocket, "-n", benchGroup()}
	with := func(argv ...string) []string { return append(append([]string{}, command...), argv...) }
	err = await(ctx, 20*time.Second, func() (bool, error) {
		_, err := r.run(with("version")...)
		return err == nil, nil
	}, "containerd answers")
	if err == nil {
		_, err = r.run(with("image", "import", image)...)
	}
	if err != nil {
		return nil, err
	}
	run, err := newSpawner(with("run", "-d", "docker.io/"+benchImage, "one")...)
	return &engine{
		name:  "ctr run",
		start: func() (time.Duration, error) { return r.timed(run) },
		end: func() error {
			below, err := descendants(os.Getpid())
			if err != nil {
				return err
			}
			const comm = "containerd-shim" // the kernel keeps 15 characters
			shims, err := named(below, comm)
			if err != nil {
				return err
			}
			// It complains of an exit code that is not 0.
			if _, err := r.run(with("task", "kill", "-s", "KILL", "one")...); err != nil {
				return err
			}
			if err := await(ctx, 10*time.Second, func() (bool, error) {
				list, err := r.run(with("task", "ls")...)
				return strings.Contains(list, "STOPPED"), err
			}, "the container has ended"); err != nil {
				return err
			}
			if _, err := r.run(with("task", "rm", "one")...); err != nil && !strings.Contains(err.Error(), "exit code 137") && !strings.Contains(err.Error(), "exit status 137") {
				return err
			}
			if _, err := r.run(with("container", "rm", "one")...); err != nil {
				return err
			}
			for _, pid := range shims {
				if err := awaitGone(ctx, pid); err != nil {
					return err
				}
			}
			return nil
		},
	}, err
}

// awaitGone waits for the end of a process, which may have become a child of the bench or not.
func awaitGone(ctx context.Context, pid int) error {
	return await(ctx, 10*time.Second, func() (bool, error) {
		var status unix.WaitStatus
		got, err := unix.Wait4(pid, &status, unix.WNOHANG, nil)
		if err != nil && !errors.Is(err, unix.ECHILD) {
			return false, err
		}
		_, gone := os.Stat(proc(pid, ""))
		return got == pid || errors.Is(gone, os.ErrNotExist), nil
	}, "the end of process %d", pid)
}

const containerdSocket = "/run/containerd/containerd.sock"

// own returns a program that scripts/bench has got, or else the one on PATH.
func (b *bench) own(name string) (string, error) {
	program := b.bin(name)
	_, err := os.Stat(program)
	if errors.Is(err, os.ErrNotExist) {
		return exec.LookPath(name)
	}
	return program, err
}

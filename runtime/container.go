package runtime

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/boxlitefs/boxlite/runtime/atomicfile"
	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/image"
	"github.com/boxlitefs/boxlite/runtime/oci"
	"github.com/boxlitefs/boxlite/runtime/status"
	"github.com/boxlitefs/boxlite/runtime/userdb"
	"github.com/boxlitefs/boxlite/shim/wire"
)

// changesDir is where, in a box's directory, its changes to an image or directory
// are, each in a directory of its own: they fit no other.
const changesDir = "changes"

// root finds, and makes where it is missing, what the root of the run's container is
// made of.
func (b *Box) root(ctx context.Context, r *run) (*oci.Root, error) {
	if r.cfg.Image != "" {
		return b.imageRoot(ctx, r)
	}
	dir, err := filepath.EvalSymlinks(r.cfg.Rootfs)
	if err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	}
	if fi, err := os.Stat(dir); err != nil {
		return nil, fmt.Errorf("rootfs: %w", err)
	} else if !fi.IsDir() {
		return nil, fmt.Errorf("rootfs: %s is no directory", dir)
	}
	for _, hidden := range append([]string{b.rt.opt.State}, b.rt.opt.Mask...) {
		if dir == "/" || hidden == dir || strings.HasPrefix(hidden, dir+"/") {
			return nil, fmt.Errorf("rootfs: %s holds %s, which no box may see", dir, hidden)
		}
	}
	if err := b.useImage(""); err != nil {
		return nil, err
	}
	root := &oci.Root{Layers: []string{dir}}
	if r.cfg.Overlay {
		sum := sha256.Sum256([]byte(dir))
		root.Upper, err = b.changes(r, "rootfs-"+hex.EncodeToString(sum[:8]), dir)
	}
	return root, err
}

// imageRoot pulls the run's image if it is not here, and returns what it makes. The box
// uses the image from now on, until its container is made from another.
func (b *Box) imageRoot(ctx context.Context, r *run) (*oci.Root, error) {
	ref, err := image.ParseRef(r.cfg.Image)
	if err != nil {
		return nil, err
	}
	told := -1
	say := func(p image.Progress) {
		detail := fmt.Sprintf("image: %s: %d of %d layers, %d of %d bytes", p.Step, p.Done, p.Layers, p.Bytes, p.Total)
		b.explain(r, detail, func(t *tx) {
			if p.Done != told {
				told = p.Done
				t.event("image", fmt.Sprintf("step=%s layers=%d/%d bytes=%d/%d", p.Step, p.Done, p.Layers, p.Bytes, p.Total))
			}
		})
	}
	get := map[string]func(context.Context, image.Ref, func(image.Progress)) (*image.Image, func(), error){
		config.PullMissing: b.rt.images.Ensure, config.PullNewer: b.rt.images.Newest, config.PullAlways: b.rt.images.Refresh,
	}[r.cfg.Pull]
	img, release, err := get(ctx, ref, say)
	if img == nil {
		b.explain(r, "", nil)
		return nil, err
	}
	defer release()
	var note func(*tx)
	if err != nil {
		b.log("start").WithField("image", img.Name).WithError(err).Warn("the image that is here is used: a newer one cannot be had")
		note = func(t *tx) { t.event("image", "step=kept name="+img.Name+" reason="+strconv.Quote(err.Error())) }
	}
	b.explain(r, "", note)
	if err := b.useImage(img.Digest); err != nil {
		return nil, err
	}
	root := &oci.Root{Image: img}
	for _, dir := range slices.Backward(img.Layers) {
		root.Layers = append(root.Layers, dir)
	}
	if len(root.Layers) == 0 {
		return nil, fmt.Errorf("image: %s has no layers", ref)
	}
	root.Upper, err = b.changes(r, imageKey(img.Digest), root.Layers[0])
	return root, err
}

// explain says what a run that is being started waits for. note may add to it.
func (b *Box) explain(r *run, detail string, note func(*tx)) {
	if err := b.update("start", func(t *tx) error {
		if b.run == r && (t.Status == status.Starting || detail == "") {
			t.Detail = detail
			if note != nil {
				note(t)
			}
		}
		return nil
	}); err != nil {
		b.log("start").WithError(err).Debug("progress not told")
	}
}

// useImage notes, on disk, from which image the box's container is made, or "" that it is
// from none: it cannot be removed while that runs.
func (b *Box) useImage(digest string) error {
	b.save.Lock()
	defer b.save.Unlock()
	b.mu.Lock()
	last := b.record.Image
	b.mu.Unlock()
	if last == digest {
		return nil
	}
	defer b.rt.imageTexts.uses.Add(1)
	err := b.saveNow(atomicfile.Atomic, func(s *stateRecord) { s.Image = digest })
	if err != nil {
		// The next start has to try it again.
		b.mu.Lock()
		b.record.Image = last
		b.mu.Unlock()
	}
	return err
}

// changes returns the directory that takes the box's changes of what key names, and
// makes it if need be. Its root looks like like.
func (b *Box) changes(r *run, key, like string) (string, error) {
	dir, err := b.pin()
	if err != nil {
		return "", err
	}
	defer dir.Close()
	name := filepath.Join(changesDir, key)
	fi, err := os.Stat(like)
	if err != nil {
		return "", err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok {
		return "", fmt.Errorf("%s: no owner", like)
	}
	upper := filepath.Join(name, "upper")
	if _, err := dir.Lstat(upper); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return filepath.Join(b.dir, name), err
	}
	// The upper directory comes last and whole: it is looked for.
	made := filepath.Join(name, "new")
	err = errors.Join(dir.MkdirAll(filepath.Join(name, "work"), 0o700), dir.RemoveAll(made), dir.Mkdir(made, 0o700))
	if err == nil {
		err = errors.Join(dir.Chown(made, int(r.firstID+st.Uid), int(r.firstID+st.Gid)), dir.Chmod(made, fi.Mode()&(fs.ModePerm|fs.ModeSticky)))
	}
	if err == nil {
		err = dir.Rename(made, upper)
	}
	return filepath.Join(b.dir, name), err
}

// container makes s the spec of a container.
func (b *Box) container(ctx context.Context, r *run, s *wire.Spec) error {
	c := r.cfg
	name, path, err := oci.Find(c.Runtime)
	if err == nil {
		err = b.claimIDs(r)
	}
	var root *oci.Root
	if err == nil {
		root, err = b.root(ctx, r)
	}
	if err != nil {
		return err
	}
	if r.layers, err = root.ImageLayers(); err != nil {
		return err
	}
	x := oci.Container{Config: c, Root: root, Runtime: name, Path: path, FirstID: r.firstID, Capabilities: b.rt.bounding, Group: r.group}
	if s.Probe.Kind == wire.ProbeCommand {
		x.Probe = s.Probe.Argv
	}
	made, err := x.Make(ctx)
	if err != nil {
		return err
	}
	p := made.Process
	s.Argv, s.Workdir = p.Args, p.Cwd
	s.UID, s.GID = r.firstID+p.User.UID, r.firstID+p.User.GID
	s.StopSignal = p.StopSignal
	for _, m := range c.Mounts {
		s.Mounts = append(s.Mounts, wire.Mount{Source: m.Source, Target: m.Target, ReadOnly: m.ReadOnly})
	}
	if !made.InCgroup {
		s.Cgroups = nil
	}
	if err := b.keepProcess(p); err != nil {
		return err
	}
	r.effective = effectiveOf(p)
	s.Container, r.filter, err = made.Seal(&b.rt.filters)
	return err
}

// containedExec is execSpec for a container.
func (b *Box) containedExec(r *run, cmd *config.Exec, who userdb.User) (*wire.ExecSpec, error) {
	c := r.cfg
	made, err := b.readBackProcess()
	if err == nil && len(made.Args) == 0 {
		err = fs.ErrNotExist
	}
	if err != nil {
		return nil, fmt.Errorf("the process of the container is not known: %w", err)
	}
	p := made.Exec(&c.Security, cmd, who)
	first := b.firstID.Load()
	x := &wire.ExecSpec{
		Argv: p.Args, Env: p.Env, Workdir: p.Cwd, UID: first + p.User.UID, GID: first + p.User.GID,
		TimeoutNs: cmd.Timeout.Nanoseconds(), TTY: cmd.TTY,
	}
	x.Process, err = json.Marshal(p)
	return x, err
}

// profileOf returns the profile of a container, and empty for engine host.
func profileOf(c *config.Config) string {
	if c.Engine != config.EngineContainer {
		return ""
	}
	return c.Security.Profile
}

// learnFilter keeps the seccomp filter of a run that has just begun, if it was not
// known. Without it the next start takes as long as this one.
func (b *Box) learnFilter(r *run) {
	if r.filter == nil {
		return
	}
	err := b.rt.filters.Learn(*r.filter, r.proc, b.name)
	// The command may have ended already, or the runtime keep no such file.
	if err != nil && !errors.Is(err, os.ErrNotExist) && !errors.Is(err, os.ErrProcessDone) && !errors.Is(err, syscall.ESRCH) {
		b.log("start").WithError(err).Warn("the compiled seccomp profile is not kept")
	}
}

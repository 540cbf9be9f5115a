package runtime

import (
	"context"
	"fmt"
	"path"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/config"
	"github.com/boxlitefs/boxlite/runtime/image"
	"github.com/boxlitefs/boxlite/runtime/oci"
	"github.com/boxlitefs/boxlite/runtime/userdb"
)

// hostUser resolves `user[:group]` on this host.
func hostUser(ctx context.Context, name string) (userdb.User, error) {
	u, err := userdb.Host().Lookup(ctx, name)
	if err != nil {
		return u, fmt.Errorf("user %q: %w", name, err)
	}
	return u, nil
}

// usersOf is the root as the command of a container will see it.
func usersOf(root *oci.Root, mounts []config.Mount) *userdb.Root {
	r := &userdb.Root{Layers: root.Layers, Mounts: map[string]string{}}
	if root.Upper != "" {
		r.Layers = append([]string{filepath.Join(root.Upper, "upper")}, root.Layers...)
	}
	for _, m := range mounts {
		r.Mounts[path.Clean(m.Target)] = m.Source
	}
	return r
}

// execUser resolves the user of an exec; of a container it is only asked for one that the
// exec has of its own.
func (b *Box) execUser(r *run, cmd *config.Exec) (u userdb.User, err error) {
	ctx := b.rt.life // it is bounded, but the daemon's end is not to wait for it
	switch {
	case r.cfg.Engine != config.EngineContainer && cmd.User == "":
		u, err = hostUser(ctx, r.cfg.User)
	case r.cfg.Engine != config.EngineContainer:
		u, err = hostUser(ctx, cmd.User)
	case cmd.User != "":
		u, err = b.userInRunning(ctx, r, cmd.User)
	}
	if err != nil {
		return u, fmt.Errorf("%w: %w", ErrInvalid, err)
	}
	return u, nil
}

// userInRunning resolves a user by the files of the container that runs.
func (b *Box) userInRunning(ctx context.Context, r *run, name string) (userdb.User, error) {
	fd, err := b.openCommand(r, b.ownIDs())
	if err != nil {
		return userdb.User{}, err
	}
	defer func() { _ = unix.Close(fd) }()
	return oci.User(ctx, &userdb.Root{Layers: []string{fmt.Sprintf("/proc/self/fd/%d/root", fd)}}, name)
}

// setsHome reports whether HOME is the box's own, and not that of a user.
func setsHome(c *config.Config, img *image.Image) bool {
	if _, set := c.Env["HOME"]; set {
		return true
	}
	_, set := imageEnv(img)["HOME"]
	return set
}

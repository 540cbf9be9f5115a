package runtime

import (
	"context"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/boxlitefs/boxlite/runtime/config"
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
